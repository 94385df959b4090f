"""What an update learns from, and the loss of a part of it: the same functions on every engine.

A :class:`Batch` is made once an update, from rollouts, from examples to imitate or from pairs of which one is
preferred. Engines split its rows as their memory asks for, and add up what the loss says of each part: the normalisers
are those of the whole batch, so the sum does not depend on the split.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from minirl.config import TrainConfig
from minirl.objectives.distillation import align, distillation
from minirl.objectives.kl import EXACT_UP_TO, estimated_kl, exact_kl, kl_penalty
from minirl.objectives.policy_gradient import Objective, Totals, policy_gradient, token_weights
from minirl.objectives.preference import sequence_logprobs
from minirl.objectives.supervised import cross_entropy
from minirl.policy.logprobs import entropy, token_logprobs
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Examples, Pairs, Teacher

Rows = Mapping[str, Tensor]
Loss = tuple[Tensor, dict[str, float]]  # of some rows, and what they add to the statistics of the batch


@dataclass(frozen=True)
class Batch:
    """Tensors with the same number of rows, and the loss of some of them: ``loss(policy, reference, rows, group)``.

    ``group`` neighbouring rows have the same prompt, which is then computed once.
    """

    rows: dict[str, Tensor]
    loss: Callable[[Policy, Policy, Rows, int], Loss]

    def __len__(self) -> int:
        return len(self.rows["ids"])

    def take(self, some: Tensor | slice) -> dict[str, Tensor]:
        return {name: tensor[some] for name, tensor in self.rows.items()}


def precision(train: TrainConfig, device: torch.device) -> AbstractContextManager:
    """The context of a :attr:`Batch.loss`: matrix products in the 16 bits of ``train.autocast``, or as they are.

    Weights, gradients, residuals and log-probs stay in float32. What was sampled was sampled in float32, so a ratio of
    policies is not quite 1 before the first step. That is no error: it corrects for the difference, as for any other.
    """
    return torch.autocast(device.type, getattr(torch, train.autocast)) if train.autocast else nullcontext()


def online_batch(
    train: TrainConfig,
    rollouts: Rollouts,
    credit: Credit,
    objective: Objective,
    teacher: Teacher | None = None,
    loss_of: Callable[..., Loss] = policy_gradient,
) -> Batch:
    """``rollouts`` to learn from with their ``credit``, and what a ``teacher`` says of them: tensors [B, L]."""
    rows = {"ids": rollouts.ids, "turn": rollouts.turn, "logprobs": rollouts.logprobs}
    rows |= {"advantages": credit.advantages, "kl": credit.kl}
    if teacher is not None:
        rows |= {"teacher_ids": teacher.ids, "teacher_own": teacher.own, "teacher_known": teacher.known}
        loss_taught = partial(teacher_loss, tokens=max(1, int(teacher.own[teacher.known].sum())), beta=teacher.beta)
    loss = partial(
        online_loss,
        train=train,
        objective=objective,
        loss_of=loss_of,
        totals=Totals(len(rollouts.items), max(1, rollouts.generated_tokens()), rollouts.longest),
        shared=rollouts.shared,
        turns=rollouts.scores.shape[1],
        penalised=bool(credit.kl.any()),  # else there is no need to ask the reference
        taught=None if teacher is None else loss_taught,
    )
    return Batch(rows, loss)


def online_loss(
    policy: Policy,
    reference: Policy,
    rows: Rows,
    group: int,
    *,
    train: TrainConfig,
    objective: Objective,
    loss_of: Callable[..., Loss],
    totals: Totals,
    shared: int,
    turns: int,
    penalised: bool,
    taught: Callable[..., Loss] | None,
) -> Loss:
    """Objective, KL penalty and distillation of some rows of a batch whose first ``shared`` tokens are nobody's own.

    Logged besides the parts of the loss: ``entropy`` per own token, and ``kl@t``, the divergence from the reference
    summed over attempt t, per episode.
    """
    # Position t predicts token t + 1, and nothing before position ``shared`` predicts a token of the policy's own.
    ids, columns = rows["ids"], slice(shared + 1, None)
    turn, sampled, advantages, coefficients = (
        rows[name][:, columns] for name in ("turn", "logprobs", "advantages", "kl")
    )
    own = turn >= 0
    logits = policy.logits(ids[:, :-1], group, shared) / train.temperature
    logprobs = token_logprobs(logits, ids[:, columns])
    loss, parts = loss_of(logprobs, sampled, advantages, own, objective, totals)
    if penalised:
        with torch.no_grad():
            reference_logits = reference.logits(ids[:, :-1], group, shared) / train.temperature
        if train.kl == "exact" or (train.kl is None and logits.shape[-1] <= EXACT_UP_TO):
            kl = exact_kl(logits, reference_logits)
        else:
            # Nothing may overflow at a token that does not count: NaN there would survive any mask.
            theirs = token_logprobs(reference_logits, ids[:, columns]).where(own, 0.0)
            kl = estimated_kl(logprobs.where(own, 0.0), theirs, train.kl or "k2")
        weights = token_weights(own, objective.weight, totals)
        loss = loss + kl_penalty(kl, coefficients, weights, own)
        for t in range(turns):
            parts[f"kl@{t + 1}"] = kl.detach()[turn == t].sum().item() / totals.episodes
    if taught is not None and rows["teacher_known"].any():
        divergence, said = taught(reference, rows, logits, own, train.temperature)
        loss, parts = loss + divergence, {**parts, **said}
    parts["entropy"] = entropy(logits.detach())[own].sum().item() / totals.tokens
    return loss, parts


def teacher_loss(
    reference: Policy, rows: Rows, logits: Tensor, own: Tensor, temperature: float, *, tokens: int, beta: float
) -> Loss:
    """The divergence of ``logits`` [B, L, V] at own tokens [B, L] from what the reference says there after the context
    of the teacher; the mean over the ``tokens`` of the batch that have a teacher."""
    known = rows["teacher_known"]
    ids, their_own = rows["teacher_ids"][known], rows["teacher_own"][known]
    with torch.no_grad():
        teacher_logits = reference.logits(ids[:, :-1])
    ours, theirs, mask = align(logits[known], own[known], teacher_logits / temperature, their_own[:, 1:])
    return distillation(ours, theirs, mask, tokens, beta=beta)


def supervised_batch(examples: Examples, chosen: Tensor) -> Batch:
    """The ``chosen`` ones of ``examples``: tensors [B, L]."""
    rows = {"ids": examples.ids[chosen], "learn": examples.learn[chosen]}
    return Batch(rows, partial(supervised_loss, tokens=int(rows["learn"][:, 1:].sum())))


def supervised_loss(policy: Policy, _reference: Policy, rows: Rows, _group: int, *, tokens: int) -> Loss:
    """The cross-entropy of some rows, over the ``tokens`` that are learned in all of the batch."""
    ids = rows["ids"]
    return cross_entropy(token_logprobs(policy.logits(ids[:, :-1]), ids[:, 1:]), rows["learn"][:, 1:], tokens)


def preference_batch(pairs: Pairs, chosen: Tensor, loss_of: Callable[..., Loss]) -> Batch:
    """The ``chosen`` ones of ``pairs``: tensors [P, 2, L], the preferred completion first."""
    both = {"ids": pairs.ids.unflatten(0, (-1, 2))[chosen], "own": pairs.own.unflatten(0, (-1, 2))[chosen]}
    rows = {**both, "confidence": pairs.confidence[chosen]}
    return Batch(rows, partial(preference_loss, loss_of=loss_of, pairs=len(chosen)))


def preference_loss(
    policy: Policy, reference: Policy, rows: Rows, _group: int, *, loss_of: Callable[..., Loss], pairs: int
) -> Loss:
    """``loss_of`` some pairs' log-ratios to the reference; all of the batch are ``pairs``."""
    ids, own = rows["ids"].flatten(0, 1), rows["own"].flatten(0, 1)[:, 1:]
    with torch.no_grad():
        theirs = token_logprobs(reference.logits(ids[:, :-1]), ids[:, 1:])
    ratios = sequence_logprobs(token_logprobs(policy.logits(ids[:, :-1]), ids[:, 1:]) - theirs, own)
    return loss_of(ratios[::2], ratios[1::2], rows["confidence"], normaliser=pairs)
