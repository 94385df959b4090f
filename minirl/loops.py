"""The training loops that techniques plug into.

A technique describes itself as a list of phases (:mod:`minirl.techniques.base`). The loops do the rest and no
mathematics: sample problems → roll out → credit →
objective → optimiser step → one record of metrics.

Loops are generators: one record per update, and between two records the :class:`Learner` is in a state that can be
saved. All randomness of update u is derived from (seed, u), so a resumed run draws what the undisturbed one would.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minirl.config import TaskConfig, TrainConfig
from minirl.errors import TrainingError
from minirl.objectives.distillation import align, distillation
from minirl.objectives.kl import EXACT_UP_TO, estimated_kl, exact_kl, kl_penalty
from minirl.objectives.policy_gradient import Objective, Totals, policy_gradient, token_weights
from minirl.objectives.supervised import cross_entropy
from minirl.policy.logprobs import entropy, token_logprobs
from minirl.policy.models import Policy, follow
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.techniques.base import Credit, OnlinePhase, Phase, SupervisedPhase, Teacher, episodes

Record = dict[str, Any]


class Learner:
    """A policy being trained, its reference, and the optimiser; all that a checkpoint has to hold."""

    def __init__(self, policy: Policy, task: TaskConfig, train: TrainConfig, seed: int) -> None:
        self.policy, self.task, self.level = policy, get(task.name), task.level
        self.train, self.seed = train, seed
        self.reference = policy.frozen_copy()
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.updates_done = 0
        self.generated_tokens = 0

    def problems(self, update: int, count: int) -> list[Item]:
        """The ``count`` training items of ``update``; every update sees fresh ones."""
        seed = derive_seed(self.seed, "problems")
        return self.task.items(seed, range(update * count, (update + 1) * count), self.level)

    def generator(self, update: int, purpose: str) -> torch.Generator:
        """Random numbers that depend on (run seed, update, purpose) and on nothing that happened before."""
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, update))

    def step(self, losses: Iterator[Tensor]) -> dict[str, float]:
        """One optimiser step on the sum of ``losses``, which are backpropagated one after the other.

        Raises :class:`TrainingError` if the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * min(1.0, (self.updates_done + 1) / (self.train.warmup + 1))
        self.optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.train.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"update {self.updates_done + 1}: the gradient is {norm}. The policy on disk is the last checkpoint. "
                f"Lower train.learning_rate, or rerun with --resume to reach the same update with seed {self.seed}."
            )
        self.optimizer.step()
        return {"grad_norm": norm}


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any parts, well mixed: neighbouring run seeds share nothing."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def run_phases(learner: Learner, phases: list[Phase]) -> Iterator[Record]:
    """All phases in turn, one record per update, continuing where ``learner.updates_done`` says."""
    first = 0
    for phase in phases:
        last = first + phase.updates
        if learner.updates_done < last:
            if isinstance(phase, OnlinePhase):
                records = online(learner, phase, last)
            else:
                records = supervised(learner, phase, first, last)
            for record in records:
                yield {
                    "update": learner.updates_done,
                    "phase": phase.name,
                    "generated_tokens": learner.generated_tokens,
                    **record,
                }
        first = last


def online(learner: Learner, phase: OnlinePhase, last: int) -> Iterator[Record]:
    """Policy-gradient updates ``learner.updates_done`` … ``last`` − 1 on fresh rollouts."""
    train = learner.train
    roll_out = phase.roll_out or episodes(train)
    for update in range(learner.updates_done, last):
        items, noise = learner.problems(update, train.prompts), learner.generator(update, "sampling")
        rollouts = roll_out(learner.policy, learner.task, items, generator=noise)
        learner.generated_tokens += rollouts.generated_tokens()
        stats = rollout_stats(rollouts)
        if phase.shuffle_scores:
            order = torch.randperm(len(rollouts.items), generator=learner.generator(update, "shuffle"))
            rollouts.scores = rollouts.scores[order.to(rollouts.scores.device)]
        credit = phase.credit(rollouts)
        teacher = phase.teacher(learner.policy, learner.task, rollouts) if phase.teacher else None
        sequences = credit.sequences or rollouts
        for _ in range(train.passes):
            losses: dict[str, float] = {}  # of the last pass
            norm = learner.step(policy_losses(learner, sequences, credit, phase.objective, losses, teacher))
        follow(learner.reference, learner.policy, phase.reference_decay)
        learner.updates_done += 1
        yield {**stats, **credit.stats, **losses, **norm}


def policy_losses(
    learner: Learner,
    rollouts: Rollouts,
    credit: Credit,
    objective: Objective,
    stats: dict[str, float],
    teacher: Teacher | None = None,
) -> Iterator[Tensor]:
    """The loss of every micro-batch; they add up to the loss of the whole batch, whose values end up in ``stats``.

    ``rollouts`` are the sequences to learn from. The normalisers are those of the whole batch: token weights do not
    depend on the split. Logged besides the loss: ``entropy`` per own token, and ``kl@t``, the divergence from the
    reference summed over attempt t, per episode.
    """
    policy, train, samples = learner.policy, learner.train, rollouts.samples
    totals = Totals(len(rollouts.items), max(1, rollouts.generated_tokens()), rollouts.longest)
    penalised = bool(credit.kl.any())  # else there is no need to ask the reference
    shared, size = rollouts.shared, piece(totals.episodes, samples, train.micro_batches)
    group = min(size, samples)
    for rows in torch.arange(totals.episodes, device=rollouts.ids.device).split(size):
        # Position t predicts token t + 1, and nothing before position ``shared`` predicts a token of the policy's own.
        ids, columns = rollouts.ids[rows], slice(shared + 1, None)
        own, turns = rollouts.own[rows, columns], rollouts.turn[rows, columns]
        logits = policy.logits(ids[:, :-1], group, shared) / train.temperature
        logprobs = token_logprobs(logits, ids[:, columns])
        sampled, advantages = rollouts.logprobs[rows, columns], credit.advantages[rows, columns]
        loss, parts = policy_gradient(logprobs, sampled, advantages, own, objective, totals)
        if penalised:
            with torch.no_grad():
                reference_logits = learner.reference.logits(ids[:, :-1], group, shared) / train.temperature
            if train.kl == "exact" or (train.kl is None and logits.shape[-1] <= EXACT_UP_TO):
                kl = exact_kl(logits, reference_logits)
            else:
                # Nothing may overflow at a token that does not count: NaN there would survive any mask.
                theirs = token_logprobs(reference_logits, ids[:, columns]).where(own, 0.0)
                kl = estimated_kl(logprobs.where(own, 0.0), theirs, train.kl or "k2")
            weights = token_weights(own, objective.weight, totals)
            loss = loss + kl_penalty(kl, credit.kl[rows, columns], weights, own)
            for turn in range(rollouts.scores.shape[1]):
                parts[f"kl@{turn + 1}"] = kl.detach()[turns == turn].sum().item() / totals.episodes
        if teacher is not None:
            taught, said = teacher_loss(learner, teacher, rows, logits, own)
            loss, parts = loss + taught, {**parts, **said}
        parts["entropy"] = entropy(logits.detach())[own].sum().item() / totals.tokens
        for name, value in parts.items():
            stats[name] = stats.get(name, 0.0) + value
        yield loss


def teacher_loss(
    learner: Learner, teacher: Teacher, rows: Tensor, logits: Tensor, own: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """The divergence of ``logits`` [B, L, V] at own tokens [B, L] of ``rows`` from what the reference says there after
    the teacher's context; the mean over all tokens of the batch that have a teacher."""
    tokens = max(1, int(teacher.own[teacher.known].sum()))
    known = teacher.known[rows]
    if not known.any():
        return logits.new_zeros(()), {}
    ids, their_own = teacher.ids[rows][known], teacher.own[rows][known]
    with torch.no_grad():
        teacher_logits = learner.reference.logits(ids[:, :-1])
    ours, theirs, mask = align(logits[known], own[known], teacher_logits / learner.train.temperature, their_own[:, 1:])
    return distillation(ours, theirs, mask, tokens, beta=teacher.beta)


def piece(episodes: int, samples: int, micro_batches: int) -> int:
    """Rows of a micro-batch: whole groups or an even part of one, because neighbours share the work on their prompt."""
    rows = math.ceil(episodes / micro_batches)
    if rows >= samples:
        return samples * math.ceil(rows / samples)
    return max(size for size in range(1, rows + 1) if samples % size == 0)


def supervised(learner: Learner, phase: SupervisedPhase, first: int, last: int) -> Iterator[Record]:
    """Imitation updates ``learner.updates_done`` … ``last`` − 1 on minibatches of ``phase.collect``'s examples.

    The examples depend on the frozen reference and the seed alone, so a resumed run collects the same ones again.
    """
    examples = phase.collect(learner)
    if learner.updates_done == first:
        learner.generated_tokens += examples.generated_tokens
    batch = learner.train.prompts * learner.train.samples
    for update in range(learner.updates_done, last):
        rows = torch.randint(len(examples.ids), (batch,), generator=learner.generator(update, "minibatch"))
        ids, learn = examples.ids[rows], examples.learn[rows, 1:]
        losses: dict[str, float] = {}

        def loss(ids: Tensor = ids, learn: Tensor = learn, losses: dict[str, float] = losses) -> Iterator[Tensor]:
            logprobs = token_logprobs(learner.policy.logits(ids[:, :-1]), ids[:, 1:])
            value, stats = cross_entropy(logprobs, learn, int(learn.sum()))
            losses.update(stats)
            yield value

        norm = learner.step(loss())
        learner.updates_done += 1
        yield {**norm, **losses}


def rollout_stats(rollouts: Rollouts) -> dict[str, float]:
    """``accuracy@t`` per turn and, with several turns, ``copy_rate``: last attempt equal to the one before.

    Of an episode that ended early the last score stays. The copy rate is over the episodes that had a second attempt.
    """
    turns = torch.arange(rollouts.scores.shape[1], device=rollouts.scores.device)
    latest = (turns * rollouts.alive).cummax(1).values  # [B, turns]: the last attempt made by then
    scores = rollouts.scores.gather(1, latest)
    stats = {f"accuracy@{t + 1}": score for t, score in enumerate(scores.mean(0).tolist())}
    copied = [answers[-1] == answers[-2] for answers in rollouts.answers if len(answers) > 1]
    if copied:
        stats["copy_rate"] = sum(copied) / len(copied)
    return stats
