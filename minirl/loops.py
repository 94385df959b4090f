"""The training loops that techniques plug into.

A technique describes itself as a list of phases (:mod:`minirl.techniques.base`). The loops do the rest and no
mathematics: sample problems → roll out → credit → loss (:mod:`minirl.batches`) → optimiser step → a record of metrics.

Loops are generators: one record per update, and between two records the :class:`Learner` is in a state that can be
saved. All randomness of update u is derived from (seed, u), so a resumed run draws what the undisturbed one would.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minirl import ranks
from minirl.batches import Batch, Loss, online_batch, precision, preference_batch, supervised_batch
from minirl.config import TaskConfig, TrainConfig
from minirl.errors import TrainingError
from minirl.objectives.policy_gradient import Objective, policy_gradient
from minirl.policy.models import Policy, follow
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.samplers import Problems, Rule
from minirl.tasks import Item, get
from minirl.techniques.base import (
    Credit,
    OnlinePhase,
    Pairs,
    Phase,
    PreferencePhase,
    SupervisedPhase,
    Teacher,
    episodes,
)

Record = dict[str, Any]


class Learner:
    """A policy being trained, its reference, and the optimiser; all that a checkpoint has to hold."""

    def __init__(
        self, policy: Policy, task: TaskConfig, train: TrainConfig, seed: int, sampler: Rule | None = None
    ) -> None:
        self.policy, self.task, self.level = policy, get(task.name), task.level
        self.train, self.seed = train, seed
        self.sampler: Problems | None = None
        if sampler:
            self.sampler = Problems(sampler, self.task, self.level, derive_seed(seed, "problems"))
        self.reference = policy.frozen_copy()
        self.pairs: Pairs | None = None  # what the current preference phase learns from
        self.memory: dict[str, Tensor] = {}  # what the current online phase knows from earlier updates
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.updates_done = 0
        self.generated_tokens = 0

    def problems(self, update: int, count: int) -> list[Item]:
        """The ``count`` training items of ``update``: fresh ones of the level, or what the sampler chooses."""
        if self.sampler:
            return self.sampler.draw(update, count, self.progress(update), self.generator(update, "sampler"))
        seed = derive_seed(self.seed, "problems")
        return self.task.items(seed, range(update * count, (update + 1) * count), self.level)

    def progress(self, update: int) -> float:
        """Share of training that is done before ``update``: of the tokens if they are limited, else of the updates."""
        of_updates = update / self.train.updates
        return max(of_updates, self.generated_tokens / self.train.tokens) if self.train.tokens else of_updates

    def generator(self, update: int, purpose: str) -> torch.Generator:
        """Random numbers that depend on (run seed, update, purpose) and on nothing that happened before."""
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, update))

    def step(self, losses: Iterator[Tensor]) -> dict[str, float]:
        """One optimiser step on the sum of ``losses`` of all ranks, which are backpropagated one after the other.

        Raises :class:`TrainingError` if the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * min(1.0, (self.updates_done + 1) / (self.train.warmup + 1))
        self.optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        ranks.add_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.train.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"update {self.updates_done + 1}: the gradient is {norm}. The policy on disk is the last checkpoint. "
                f"Lower train.learning_rate; the same command again reaches the same update, with seed {self.seed}."
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
            elif isinstance(phase, SupervisedPhase):
                records = supervised(learner, phase, first, last)
            else:
                records = preference(learner, phase, last)
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
    roll_out, stats_of = phase.roll_out or episodes(train), phase.stats or rollout_stats
    if phase.memory and learner.memory:
        phase.memory.load(learner.memory)
    for update in range(learner.updates_done, last):
        if train.tokens and learner.generated_tokens >= train.tokens:
            return
        items, noise = learner.problems(update, train.prompts), learner.generator(update, "sampling")
        rollouts = roll_out(learner.policy, learner.task, items, generator=noise)
        learner.generated_tokens += rollouts.generated_tokens()
        stats = stats_of(rollouts)
        if phase.shuffle_scores:
            order = torch.randperm(len(rollouts.items), generator=learner.generator(update, "shuffle"))
            rollouts.scores = rollouts.scores[order.to(rollouts.scores.device)]
        if learner.sampler:
            stats |= learner.sampler.observe(rollouts, learner.generator(update, "observe"))
        credit = phase.credit(rollouts)
        teacher = phase.teacher(learner.policy, learner.task, rollouts) if phase.teacher else None
        sequences = credit.sequences or rollouts
        for _ in range(train.passes):
            losses: dict[str, float] = {}  # of the last pass
            norm = learner.step(policy_losses(learner, sequences, credit, phase.objective, losses, teacher, phase.loss))
        follow(learner.reference, learner.policy, phase.reference_decay)
        learner.updates_done += 1
        if phase.memory:
            stats |= phase.memory.learned(learner.policy) or {}
            learner.memory = phase.memory.state() if learner.updates_done < last else {}
        yield {**stats, **credit.stats, **ranks.add(losses), **norm}


def policy_losses(
    learner: Learner,
    rollouts: Rollouts,
    credit: Credit,
    objective: Objective,
    stats: dict[str, float],
    teacher: Teacher | None = None,
    loss_of: Callable[..., Loss] = policy_gradient,
) -> Iterator[Tensor]:
    """:func:`batch_losses` of an online update on ``rollouts``, the sequences to learn from."""
    batch = online_batch(learner.train, rollouts, credit, objective, teacher, loss_of)
    size = piece(len(batch), rollouts.samples, learner.train.micro_batches * ranks.here().count)
    return batch_losses(learner, batch, size, stats, min(size, rollouts.samples))


def batch_losses(
    learner: Learner, batch: Batch, size: int, stats: dict[str, float], group: int = 1
) -> Iterator[Tensor]:
    """The loss of every micro-batch of this rank, of at most ``size`` rows; they add up to the loss of the batch, whose
    statistics end up in ``stats``."""
    for some in ranks.share(torch.arange(len(batch), device=batch.rows["ids"].device).split(size)):
        with precision(learner.train, batch.rows["ids"].device):
            loss, parts = batch.loss(learner.policy, learner.reference, batch.take(some), group)
        accumulate(stats, parts)
        yield loss


def accumulate(stats: dict[str, float], parts: dict[str, float]) -> None:
    """Add what a micro-batch contributes to each of ``stats``."""
    for name, value in parts.items():
        stats[name] = stats.get(name, 0.0) + value


def piece(episodes: int, samples: int, micro_batches: int) -> int:
    """Rows of a micro-batch: whole groups or an even part of one, because neighbours share the work on their prompt."""
    rows = math.ceil(episodes / micro_batches)
    if rows >= samples:
        return samples * math.ceil(rows / samples)
    return max(size for size in range(1, rows + 1) if samples % size == 0)


def supervised(learner: Learner, phase: SupervisedPhase, first: int, last: int) -> Iterator[Record]:
    """Imitation updates ``learner.updates_done`` … ``last`` − 1 on minibatches of ``phase.collect``'s examples.

    The examples depend on the reference, which stands still meanwhile, and the seed alone, so a resumed run collects
    the same ones again.
    """
    stats: dict[str, float] = {}
    if learner.updates_done == first and phase.from_policy:
        follow(learner.reference, learner.policy, 0.0)
    examples = phase.collect(learner)
    if learner.updates_done == first:
        learner.generated_tokens += examples.generated_tokens
        stats = examples.stats
    batch = learner.train.prompts * learner.train.samples
    size = math.ceil(batch / (learner.train.micro_batches * ranks.here().count))
    for update in range(learner.updates_done, last):
        rows = torch.randint(len(examples.ids), (batch,), generator=learner.generator(update, "minibatch"))
        losses: dict[str, float] = {}
        norm = learner.step(batch_losses(learner, supervised_batch(examples, rows), size, losses))
        learner.updates_done += 1
        yield {**stats, **norm, **ranks.add(losses)}
        stats = {}


def preference(learner: Learner, phase: PreferencePhase, last: int) -> Iterator[Record]:
    """Updates ``learner.updates_done`` … ``last`` − 1 on minibatches of ``phase.collect``'s pairs.

    The pairs come from a policy that is gone after the first update, so the learner keeps them until the phase ends.
    """
    stats: dict[str, float] = {}
    if learner.pairs is None:
        learner.pairs = phase.collect(learner)
        follow(learner.reference, learner.policy, 0.0)
        learner.generated_tokens += learner.pairs.generated_tokens
        stats = learner.pairs.stats
    pairs, size = learner.pairs, max(1, learner.train.prompts * learner.train.samples // 2)
    part = math.ceil(size / (learner.train.micro_batches * ranks.here().count))
    for update in range(learner.updates_done, last):
        chosen = torch.randint(len(pairs.confidence), (size,), generator=learner.generator(update, "minibatch"))
        losses: dict[str, float] = {}
        batch = preference_batch(pairs, chosen, phase.loss)
        norm = learner.step(batch_losses(learner, batch, part, losses))
        learner.updates_done += 1
        if learner.updates_done == last:
            learner.pairs = None
        yield {**stats, **norm, **ranks.add(losses)}
        stats = {}


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
