"""What a technique hands to the loops.

A technique is a :class:`Method`: a config of its own hyper-parameters that can name its training phases. An
:class:`OnlinePhase` says how to roll out and how to turn a batch of rollouts into :class:`Credit` (how good every token
was, how strongly it is tied to the reference, what a teacher would have written); a :class:`SupervisedPhase` says
which sequences to imitate, a :class:`PreferencePhase` which of two completions is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from minirl.config import Strict, TrainConfig
from minirl.objectives.advantages import Baseline, advantages, return_to_go, spread_over_tokens
from minirl.objectives.policy_gradient import OBJECTIVES, Objective, policy_gradient
from minirl.rollouts.episodes import Rollouts, roll_out

if TYPE_CHECKING:
    from minirl.loops import Learner  # loops import this module
    from minirl.policy.models import Policy
    from minirl.tasks import Task


@dataclass(frozen=True)
class Teacher:
    """What the reference policy reads in order to teach: the same own tokens, after another context.

    ``ids`` [B, M] and ``own`` [B, M] have the own tokens of row b as the sequences learned from do, in the same order.
    Rows outside ``known`` [B] have no teacher. ``beta`` is that of :func:`minirl.objectives.distillation.divergence`.
    """

    ids: Tensor
    own: Tensor
    known: Tensor
    beta: float


@dataclass(frozen=True)
class Credit:
    """What a technique says of a batch of rollouts, token by token.

    ``advantages`` [B, L] of the tokens; ``kl`` [B, L] are the coefficients of KL(π ‖ π_ref). ``stats`` are logged. What
    is learned from are the rollouts, unless there are other ``sequences`` made from them (then these are [B, L]).
    """

    advantages: Tensor
    kl: Tensor
    stats: dict[str, float] = field(default_factory=dict)
    sequences: Rollouts | None = None


@dataclass(frozen=True)
class OnlinePhase:
    """``updates`` policy-gradient updates on fresh rollouts, credited by ``credit``, with the loss ``objective``. A
    ``loss`` that is none of that family has the same arguments.

    ``roll_out(policy, task, items, generator=…)`` makes the rollouts, by default as the shared settings say
    (:func:`episodes`). With ``teacher(policy, task, rollouts)``, the mean divergence from what the reference says after
    that context is added to the loss.
    After every update the reference moves the share ``1 - reference_decay`` of the way to the policy: 1 freezes it.
    ``memory`` is for what the phase must know from earlier updates; ``stats`` of the rollouts are logged, by default
    how many attempts were right.
    ``shuffle_scores`` permutes the scores among the episodes of a batch first: the control in which everything is as
    it was, except that reward no longer depends on what was written.
    """

    name: str
    updates: int
    credit: Callable[[Rollouts], Credit]
    shuffle_scores: bool = False
    objective: Objective = OBJECTIVES["reinforce"]
    reference_decay: float = 1.0
    roll_out: Callable[..., Rollouts] | None = None
    teacher: Callable[[Policy, Task, Rollouts], Teacher] | None = None
    memory: Memory | None = None
    stats: Callable[[Rollouts], dict[str, float]] | None = None
    loss: Callable[..., tuple[Tensor, dict[str, float]]] = policy_gradient


class Memory(Protocol):
    """What a phase knows from earlier updates: moving baselines, policies of the past. Every checkpoint holds it, so
    that a resumed run goes on as if nothing had happened."""

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Be what :meth:`state` said."""

    def learned(self, policy: Policy) -> dict[str, float] | None:
        """The policy has just been updated. What is to be logged of that, if anything."""


@dataclass(frozen=True)
class SupervisedPhase:
    """``updates`` steps of imitation. ``collect`` makes the examples once, from the frozen reference policy;
    ``from_policy`` moves the reference to the policy first: a round of self-training."""

    name: str
    updates: int
    collect: Callable[[Learner], Examples]
    from_policy: bool = False


@dataclass(frozen=True)
class Examples:
    """Sequences to imitate: ids [N, L] right-padded, ``learn`` [N, L] bool, and what generating them cost in tokens.
    ``stats`` of making them are logged once."""

    ids: Tensor
    learn: Tensor
    generated_tokens: int
    stats: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferencePhase:
    """``updates`` steps on pairs of completions of which one is preferred, each on a minibatch of half as many pairs as
    the shared settings make rollouts. ``collect`` makes the pairs once, from the policy as it is when the phase begins;
    then the reference moves to that policy. ``loss(chosen, rejected, confidence, normaliser=…)`` reads their log-ratios
    to the reference, [P] each (:mod:`minirl.objectives.preference`)."""

    name: str
    updates: int
    collect: Callable[[Learner], Pairs]
    loss: Callable[..., tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Pairs:
    """Completions to compare: rows 2i and 2i + 1 of ``ids`` [2P, L] are the chosen and the rejected one of pair i,
    right-padded; ``own`` [2P, L] bool marks the tokens of completions; ``confidence`` [P] says how sure the preference
    is. ``stats`` of making them are logged once; ``generated_tokens`` is what they cost."""

    ids: Tensor
    own: Tensor
    confidence: Tensor
    generated_tokens: int
    stats: dict[str, float] = field(default_factory=dict)


Phase = OnlinePhase | SupervisedPhase | PreferencePhase


def episodes(train: TrainConfig, **changes: Any) -> Callable[..., Rollouts]:
    """:func:`~minirl.rollouts.episodes.roll_out` with the shared settings of a run, except for ``changes``."""
    shared = {name: getattr(train, name) for name in ("turns", "samples", "temperature", "feedback")}
    return partial(roll_out, **{**shared, **changes})


class Method(Strict):
    """One way to train. Subclasses add their hyper-parameters as fields; ``name`` is what configs call them.

    ``shuffle_scores`` turns any method into its own control: the same rollouts and updates, but which episode gets
    which score is random. ``independent`` has the trained policy make its attempts at evaluation without seeing the
    earlier ones, where the technique's ``evaluate`` can do so: more samples, the trivial rival of a second look.
    ``sampler`` says which problems come next (:mod:`minirl.rollouts.samplers`), in place of the experiment's.
    """

    name: ClassVar[str]
    shuffle_scores: bool = False
    independent: bool = False
    sampler: dict[str, Any] | str | None = None

    def phases(self, train: TrainConfig) -> list[Phase]:
        """The phases of a run with the shared settings ``train``; their updates add up to ``train.updates``."""
        raise NotImplementedError

    def evaluation(self) -> dict[str, Any]:
        """Arguments of the technique's ``evaluate`` that this arm needs to be other than the shared settings say."""
        return {"independent": True} if self.independent else {}


def turn_credit(
    rollouts: Rollouts,
    rewards: Tensor,
    kl: tuple[float, ...],
    gamma: float,
    baseline: Baseline = "leave_one_out",
) -> Credit:
    """Credit for rewards per attempt [B, turns]: advantage of the return-to-go, KL coefficient by turn.

    Every token of an attempt gets the attempt's advantage; ``baseline`` compares it with attempts at the same prompt
    and turn, as far as they were made.
    """
    returns = return_to_go(rewards, gamma)
    per_turn = advantages(returns, rollouts.samples, baseline, rollouts.alive)
    coefficients = torch.tensor(kl, device=rewards.device).expand_as(rewards)
    return Credit(
        advantages=spread_over_tokens(per_turn, rollouts.turn),
        kl=spread_over_tokens(coefficients, rollouts.turn),
        stats={"return": returns[:, 0].mean().item()},
    )
