"""What of a learner changes in training, and so what a checkpoint has to hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minirl.errors import RunError
from minirl.loops import Learner
from minirl.techniques.base import OnlinePhase, Pairs, Phase, PreferencePhase, SupervisedPhase


def moves(phases: Sequence[Phase]) -> bool:
    """Whether the reference is ever anything but the policy at the start: then a checkpoint has to hold it."""
    return any(
        isinstance(phase, PreferencePhase)
        or (isinstance(phase, OnlinePhase) and phase.reference_decay < 1)
        or (isinstance(phase, SupervisedPhase) and phase.from_policy)
        for phase in phases
    )


def side_tensors(learner: Learner, moving_reference: bool) -> dict[str, Tensor]:
    """All that a learner knows besides its policy: pairs, memory, sampler, and the reference if it moves."""
    tensors: dict[str, Tensor] = {}
    if moving_reference:
        trained = {name for name, p in learner.policy.model.named_parameters() if p.requires_grad}
        for name, parameter in learner.reference.model.named_parameters():
            if name in trained:
                tensors[f"reference/{name}"] = parameter
    if learner.pairs is not None:
        pairs = learner.pairs
        tensors |= {"pairs/ids": pairs.ids, "pairs/own": pairs.own, "pairs/confidence": pairs.confidence}
    tensors |= {f"memory/{name}": value for name, value in learner.memory.items()}
    if learner.sampler:
        tensors |= {f"sampler/{name}": value for name, value in learner.sampler.state().items()}
    return tensors


@torch.no_grad()
def restore_side(learner: Learner, tensors: dict[str, Tensor]) -> None:
    """Undo :func:`side_tensors`. Raises KeyError or :class:`RunError` if something lacks."""
    for name, parameter in learner.reference.model.named_parameters():
        if f"reference/{name}" in tensors:
            parameter.copy_(tensors[f"reference/{name}"])
    learner.pairs = None
    if "pairs/ids" in tensors:  # what they cost and their statistics are in the records already
        ids, own, confidence = (tensors[f"pairs/{name}"] for name in ("ids", "own", "confidence"))
        device = learner.policy.device
        learner.pairs = Pairs(ids.to(device), own.to(device), confidence.to(device), generated_tokens=0)
    memory = {name.removeprefix("memory/"): value for name, value in tensors.items() if name.startswith("memory/")}
    learner.memory = {name: value.to(learner.policy.device) for name, value in memory.items()}
    if learner.sampler:
        known = {name.removeprefix("sampler/"): value for name, value in tensors.items() if name.startswith("sampler/")}
        if known.keys() != learner.sampler.state().keys():
            raise RunError("it does not hold what the sampler knows")
        learner.sampler.load(known)


def checkpoint_tensors(learner: Learner, moving_reference: bool) -> dict[str, Tensor]:
    """All that training changes. A reference that does not move does not, nor do weights that are not trained: a run
    starts from them."""
    tensors = side_tensors(learner, moving_reference)
    for name, parameter in learner.policy.model.named_parameters():
        if parameter.requires_grad:
            tensors[f"model/{name}"] = parameter.detach()
            for key, value in learner.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = value
    return tensors


@torch.no_grad()
def restore(learner: Learner, tensors: dict[str, Tensor]) -> None:
    """Undo :func:`checkpoint_tensors`. Raises KeyError or :class:`RunError` if something lacks."""
    restore_side(learner, tensors)
    for name, parameter in learner.policy.model.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.copy_(tensors[f"model/{name}"])
        keys = [key.split("/")[1] for key in tensors if key.startswith("optimizer/") and key.endswith(f"/{name}")]
        learner.optimizer.state[parameter] = {
            key: tensors[f"optimizer/{key}/{name}"].to(parameter.device, copy=True) for key in keys
        }
