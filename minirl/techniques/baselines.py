"""The rivals that several techniques are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator

from minirl.config import TrainConfig, nearest
from minirl.errors import ConfigError, TrainingError
from minirl.evaluation.levels import Probe
from minirl.objectives.advantages import Baseline
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.policy.logprobs import pad_rows
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Examples, Method, OnlinePhase, Phase, SupervisedPhase, episodes, turn_credit

if TYPE_CHECKING:
    from minirl.loops import Learner


class MultiTurnRL(Method):
    """Policy gradient on the summed reward of all attempts: the plain way to train, on one turn or several.

    ``objective`` is a loss of :data:`minirl.objectives.policy_gradient.OBJECTIVES`, with its clips unless others are
    given; ``baseline`` one of :func:`minirl.objectives.advantages.advantages`. An arm may have its own number of
    ``turns`` in training; it then gets as many more or fewer samples, so that all arms make equally many attempts. With
    ``until_solved`` an episode ends with a right answer.
    """

    name: ClassVar[str] = "multi_turn_rl"
    objective: str = "reinforce"
    baseline: Baseline = "leave_one_out"
    clip_low: float | None = Field(default=None, ge=0, le=1)
    clip_high: float | None = Field(default=None, ge=0)
    beta: float = Field(default=0.01, ge=0)
    gamma: float = Field(default=1.0, ge=0, le=1)
    turns: PositiveInt | None = None
    until_solved: bool = False

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in OBJECTIVES:
            raise ValueError(f"unknown objective.{nearest(value, OBJECTIVES)}")
        return value

    def phases(self, train: TrainConfig) -> list[Phase]:
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        changes = {name: clip for name, clip in clips.items() if clip is not None}
        objective = OBJECTIVES[self.objective].model_copy(update=changes)
        turns = self.turns or train.turns
        samples, left = divmod(train.samples * train.turns, turns)
        if left or samples < 2:
            raise ConfigError(f"turns: {train.samples} × {train.turns} attempts do not make groups of {turns} turns")
        rolls = episodes(train, turns=turns, samples=samples, until_solved=self.until_solved)
        return [
            OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores, objective, roll_out=rolls),
        ]

    def credit(self, rollouts: Rollouts) -> Credit:
        kl = (self.beta,) * rollouts.scores.shape[1]
        return turn_credit(rollouts, rollouts.scores, kl, self.gamma, self.baseline)


class WatchedRL(MultiTurnRL):
    """The same, and every ``watch`` updates the policy is put to ``probes`` problems at each of ``levels`` of ``task``
    that neither train nor evaluate it (:class:`~minirl.evaluation.levels.Probe`): learning can be seen per level."""

    name: ClassVar[str] = "watched_rl"
    task: str
    levels: tuple[PositiveInt, ...] = Field(min_length=1)
    watch: PositiveInt = 5
    probes: PositiveInt = 64

    def phases(self, train: TrainConfig) -> list[Phase]:
        (phase,) = super().phases(train)
        assert isinstance(phase, OnlinePhase)
        return [replace(phase, memory=Probe(self.task, self.levels, self.probes, self.watch))]


class AnswerSFT(Method):
    """Supervised fine-tuning on the base's own right answers (rejection sampling; one round of STaR or RAFT).

    The base makes as many attempts as the online methods do; the policy learns to write the right ones after the
    problem.
    """

    name: ClassVar[str] = "answer_sft"

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [SupervisedPhase("SFT", train.updates, self.collect)]

    def collect(self, learner: Learner) -> Examples:
        """Sample from the reference and build the examples. Raises :class:`TrainingError` if there are none."""
        rows: list[list[int]] = []
        learn: list[list[int]] = []
        spent = 0
        for update in range(learner.train.updates):
            rollouts = self.attempts(learner, update)
            spent += rollouts.generated_tokens()
            for context, target in self.examples(learner, rollouts, update):
                rows.append(context + target)
                learn.append([0] * len(context) + [1] * len(target))
        if not rows:
            raise TrainingError("nothing to learn from: no problem got the right and wrong answers that examples need")
        policy = learner.reference
        ids, _ = pad_rows(rows, policy.pad_id, policy.device)
        return Examples(ids, pad_rows(learn, 0, policy.device)[0].bool(), spent)

    def attempts(self, learner: Learner, update: int) -> Rollouts:
        """As many single attempts of the reference as an online method would make in this update."""
        roll_out = episodes(learner.train, turns=1, samples=learner.train.samples * learner.train.turns)
        items, noise = learner.problems(update, learner.train.prompts), learner.generator(update, "collect")
        rollouts = roll_out(learner.reference, learner.task, items, generator=noise)
        if self.shuffle_scores:
            rollouts.scores = rollouts.scores[
                torch.randperm(len(rollouts.items), generator=learner.generator(update, "shuffle"))
            ]
        return rollouts

    def examples(self, learner: Learner, rollouts: Rollouts, update: int) -> list[tuple[list[int], list[int]]]:  # noqa: ARG002
        """(context, what to learn to write after it) as token ids, from one batch of attempts."""
        right = (rollouts.scores[:, 0] == 1).nonzero().flatten().tolist()
        return [prompt_and_attempt(rollouts, row) for row in right]


class PairSFT(AnswerSFT):
    """Supervised fine-tuning on correction pairs (Welleck et al. 2022, arXiv 2211.00053, as used by SCoRe).

    Each wrong answer of the base is paired with a right one to the same problem, and the policy learns to write the
    right one after the wrong one and the feedback on it, of the grade that the shared settings say or of an arm's own.
    The first attempt is context only.
    """

    name: ClassVar[str] = "pair_sft"
    grade: str | None = None

    def evaluation(self) -> dict[str, Any]:
        return super().evaluation() | ({"feedback": self.grade} if self.grade else {})

    def examples(self, learner: Learner, rollouts: Rollouts, update: int) -> list[tuple[list[int], list[int]]]:
        policy, grade = learner.reference, self.grade or learner.train.feedback
        chains = self.pairs(rollouts, learner.generator(update, "pairs"))
        read = sorted({row for *before, _ in chains for row in before})
        said = [learner.task.feedback(rollouts.items[row], rollouts.answers[row][0], grade) for row in read]
        replies = dict(zip(read, policy.encode_feedback(said), strict=True))
        found = []
        for *before, last in chains:
            context, target = prompt_and_attempt(rollouts, last)
            for row in before:
                attempt = prompt_and_attempt(rollouts, row)[1]
                closing = [policy.stop_id] * (attempt[-1] != policy.stop_id)  # of one that was cut off
                context += [*attempt, *closing, *replies[row]]
            found.append((context, target))
        return found

    def pairs(self, rollouts: Rollouts, generator: torch.Generator) -> Sequence[tuple[int, ...]]:  # noqa: ARG002
        """Rows of attempts at one problem, in the order in which they are read; the last one is learned."""
        return correction_pairs(rollouts)


def correction_pairs(rollouts: Rollouts) -> list[tuple[int, int]]:
    """Rows (wrong, right) of attempts at the same prompt; every wrong attempt once, right ones in rotation."""
    pairs = []
    samples = rollouts.samples
    scores = rollouts.scores[:, 0].view(-1, samples).tolist()
    for g, group in enumerate(scores):
        right = [g * samples + i for i, score in enumerate(group) if score == 1]
        wrong = [g * samples + i for i, score in enumerate(group) if score < 1]
        if right:
            pairs += [(row, right[i % len(right)]) for i, row in enumerate(wrong)]
    return pairs


def prompt_and_attempt(rollouts: Rollouts, row: int) -> tuple[list[int], list[int]]:
    """Token ids of a single-turn row: the prompt, and the attempt."""
    ids, own = rollouts.ids[row], rollouts.own[row]
    return ids[: int(own.int().argmax())].tolist(), ids[own].tolist()
