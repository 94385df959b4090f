"""The rivals that several techniques are measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator

from minirl.config import TrainConfig, nearest
from minirl.errors import ConfigError, TrainingError
from minirl.objectives.advantages import Baseline
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.policy.logprobs import pad_rows
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
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


class PairSFT(Method):
    """Supervised fine-tuning on correction pairs (Welleck et al. 2022, arXiv 2211.00053, as used by SCoRe).

    The base answers every training problem many times; each wrong answer is paired with a right one to the same
    problem, and the policy learns to write the right one after the wrong one. The first attempt is context only. As
    many single attempts are generated as the online methods generate attempts.
    """

    name: ClassVar[str] = "pair_sft"

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [SupervisedPhase("SFT", train.updates, self.collect)]

    def collect(self, learner: Learner) -> Examples:
        """Sample from the reference and build the pairs. Raises :class:`TrainingError` if there are none."""
        train, policy = learner.train, learner.reference
        rows: list[list[int]] = []
        learn: list[list[int]] = []
        spent = 0
        for update in range(train.updates):
            rollouts = roll_out(
                policy,
                learner.task,
                learner.problems(update, train.prompts),
                samples=train.samples * train.turns,
                generator=learner.generator(update, "collect"),
                temperature=train.temperature,
            )
            spent += rollouts.generated_tokens()
            if self.shuffle_scores:
                order = torch.randperm(len(rollouts.items), generator=learner.generator(update, "shuffle"))
                rollouts.scores = rollouts.scores[order]
            pairs = correction_pairs(rollouts, train.samples * train.turns)
            replies = policy.encode_feedback(
                [learner.task.feedback(rollouts.items[w], rollouts.answers[w][0], train.feedback) for w, _ in pairs]
            )
            for (wrong, right), reply in zip(pairs, replies, strict=True):
                context, second = attempt_ids(rollouts, wrong), attempt_ids(rollouts, right, own_only=True)
                rows.append([*context, *reply, *second])
                learn.append([0] * (len(rows[-1]) - len(second)) + [1] * len(second))
        if not rows:
            raise TrainingError("the base never gave both a right and a wrong answer to one problem: no pairs to learn")
        ids, _ = pad_rows(rows, policy.pad_id, policy.device)
        return Examples(ids, pad_rows(learn, 0, policy.device)[0].bool(), spent)


def correction_pairs(rollouts: Rollouts, samples: int) -> list[tuple[int, int]]:
    """Rows (wrong, right) of attempts at the same prompt; every wrong attempt once, right ones in rotation."""
    pairs = []
    scores = rollouts.scores[:, 0].view(-1, samples).tolist()
    for g, group in enumerate(scores):
        right = [g * samples + i for i, score in enumerate(group) if score > 0]
        wrong = [g * samples + i for i, score in enumerate(group) if score == 0]
        if right:
            pairs += [(row, right[i % len(right)]) for i, row in enumerate(wrong)]
    return pairs


def attempt_ids(rollouts: Rollouts, row: int, own_only: bool = False) -> list[int]:
    """Token ids of a single-turn row, without padding: prompt and attempt, or the attempt alone."""
    turns = rollouts.turn[row].tolist()
    last = max(t for t, turn in enumerate(turns) if turn != CONTEXT)
    return [
        i for i, turn in zip(rollouts.ids[row].tolist()[: last + 1], turns, strict=False) if turn >= 0 or not own_only
    ]
