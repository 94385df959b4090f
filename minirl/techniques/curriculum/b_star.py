"""B-STaR: self-taught rounds that watch whether they still explore, and whether their reward still tells good from bad.

Zeng et al. 2024, arXiv 2412.17256. In rejection fine-tuning a policy answers the same problems round after round, and
learns what a reward lets through: there must be several right answers among the samples (*exploration*), and little
else (*exploitation*). The temperature T of sampling and the threshold τ on the reward steer this. Of problem i let n_i
different answers be selected (reward above τ), n'_i of them right; ``enough`` are n* right ones::

    balance score = mean over problems of min(n'_i / n*, 1) · n'_i / n_i            (0 where nothing is selected)

Before every round T and τ are those with the highest score on a few problems whose answers are known. Then all problems
are answered at T, and the policy is fine-tuned on the at most n* different answers with the highest rewards above τ.

Departures from the paper
-------------------------
1. The reward is the truth plus an error of each answer (:func:`judged`), not a check plus a fifth of a process reward.
2. A coarse grid, none of sample sizes, the same few problems in every round; the optimiser is never reset.
3. ``pick: random``, fixed T or τ, and ``compensate`` (what did not go into choosing is drawn to learn from) are ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from minirl.config import TrainConfig
from minirl.errors import ConfigError, TrainingError
from minirl.evaluation.coverage import evaluate_coverage as evaluate
from minirl.evaluation.rounds import over_rounds, watched
from minirl.policy.logprobs import pad_rows
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.techniques.base import Examples, Method, Phase, SupervisedPhase, episodes
from minirl.techniques.baselines import prompt_and_attempt

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["BStar", "balance", "best_setting", "evaluate", "judged", "learning", "selected"]

TEMPERATURES = (0.7, 1.0, 1.3, 1.6)
THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 1.1)
SAMPLES = 8  # answers to a problem with which a temperature is tried
LOGGED = ("temperature", "threshold", "balance", "selected", "precision")
Judged = tuple[float, bool, int]  # of a different answer: reward, whether it is right, its row


def balance(right: Sequence[int], chosen: Sequence[int], enough: int) -> float:
    """The balance score of problems of which ``chosen`` answers were selected and ``right`` of these are right."""
    parts = [min(r / enough, 1) * r / n if n else 0.0 for r, n in zip(right, chosen, strict=True)]
    return sum(parts) / len(parts)


def selected(answers: Sequence[Judged], threshold: float, enough: int) -> list[Judged]:
    """Of the different ``answers`` to a problem the at most n* with the highest rewards above the threshold."""
    return sorted((answer for answer in answers if answer[0] > threshold), reverse=True)[:enough]


def score(kept: Sequence[Sequence[Judged]], enough: int) -> float:
    """The balance score of what was selected of every problem."""
    return balance([sum(is_right for _, is_right, _ in one) for one in kept], [len(one) for one in kept], enough)


def best_setting(
    tried: Mapping[float, Sequence[Sequence[Judged]]], thresholds: Sequence[float], enough: int
) -> tuple[float, float]:
    """T and τ with the highest score, of equal ones the first. ``tried``: by T, different answers to each problem."""
    grid = [(temperature, threshold) for temperature in tried for threshold in thresholds]
    return max(grid, key=lambda at: score([selected(one, at[1], enough) for one in tried[at[0]]], enough))


def judged(item: Item, text: str, error: float) -> float:
    """An answer's reward: its score plus noise of this standard deviation, always the same for the same answer."""
    return get(item.task).score(item, text) + random.Random(f"judge/{item.prompt}/{text}").gauss(0, error)


class BStar(Method):
    """``rounds`` of rejection fine-tuning on ``problems`` each; the first ``tries`` of them serve to choose T, τ."""

    name: ClassVar[str] = "b_star"
    temperature: PositiveFloat | None = None
    threshold: float | None = None
    pick: Literal["balance", "random"] = "balance"
    rounds: PositiveInt = 4
    problems: PositiveInt = 96
    tries: PositiveInt = 12
    enough: PositiveInt = 3
    error: float = Field(default=0.25, ge=0)
    compensate: bool = True

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: rewards are judged here; the control is 'pick: random'")
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: what is learned are single attempts; set it to 1")
        if self.tries > self.problems:
            raise ConfigError(f"tries {self.tries}: a round has {self.problems} problems")
        ends = [train.updates * t // self.rounds for t in range(self.rounds + 1)]
        lengths = enumerate(end - start for start, end in pairwise(ends))
        return [SupervisedPhase(f"round {t + 1}", n, partial(self.collect, t=t), from_policy=True) for t, n in lengths]

    def collect(self, learner: Learner, t: int) -> Examples:
        """What the policy of round ``t`` selects of its own answers. Raises :class:`TrainingError` if that is none."""
        items = sorted(learner.problems(t, self.problems), key=lambda item: item.index)
        temperature, threshold, tried, spent = self.setting(learner, items[: self.tries], t)
        more = self.compensate * (len(TEMPERATURES) * self.tries * SAMPLES - tried) // self.problems
        draw, policy = episodes(learner.train, samples=learner.train.samples + more), learner.reference
        drawn = draw(policy, learner.task, items, temperature=temperature, generator=learner.generator(t, "collect"))
        kept = [selected(answers, threshold, self.enough) for answers in self.judge(drawn)]
        if not (chosen := [one for answers in kept for one in answers]):
            raise TrainingError(f"round {t + 1}: no reward is above {threshold}; lower the threshold")
        precision = sum(is_right for _, is_right, _ in chosen) / len(chosen)
        found = (temperature, threshold, score(kept, self.enough), len(chosen) / len(items), precision)
        stats = dict(zip(LOGGED, found, strict=True)) | watched(policy, learner.task, learner.level, SAMPLES)
        rows = [prompt_and_attempt(drawn, row) for _, _, row in chosen]
        ids, _ = pad_rows([context + target for context, target in rows], policy.pad_id, policy.device)
        learn, _ = pad_rows([[0] * len(context) + [1] * len(target) for context, target in rows], 0, policy.device)
        return Examples(ids, learn.bool(), spent + drawn.generated_tokens(), stats)

    def setting(self, learner: Learner, items: list[Item], t: int) -> tuple[float, float, int, int]:
        """T and τ of round ``t``, and how many answers to ``items``, and tokens, it took to choose them."""
        temperatures = TEMPERATURES if self.temperature is None else (self.temperature,)
        thresholds = THRESHOLDS if self.threshold is None else (self.threshold,)
        noise, draw = learner.generator(t, "setting"), episodes(learner.train, samples=SAMPLES)
        if self.pick == "random" or len(temperatures) == len(thresholds) == 1:
            first, second = (int(torch.randint(len(each), (), generator=noise)) for each in (temperatures, thresholds))
            return temperatures[first], thresholds[second], 0, 0
        drawn = {T: draw(learner.reference, learner.task, items, temperature=T, generator=noise) for T in temperatures}
        chosen = best_setting({T: self.judge(made) for T, made in drawn.items()}, thresholds, self.enough)
        made = drawn.values()
        return *chosen, sum(len(one.items) for one in made), sum(one.generated_tokens() for one in made)

    def judge(self, rollouts: Rollouts) -> list[list[Judged]]:
        """The different answers to every problem, judged; of equal ones the first."""
        found: list[dict[str, Judged]] = [{} for _ in rollouts.items[:: rollouts.samples]]
        for row, (item, said) in enumerate(zip(rollouts.items, rollouts.answers, strict=True)):
            right = rollouts.scores[row, 0].item() == 1
            found[row // rollouts.samples].setdefault(said[0], (judged(item, said[0], self.error), right, row))
        return [list(different.values()) for different in found]


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of what every round chose and selected the mean over the rounds, and how it rose (:func:`over_rounds`)."""
    return over_rounds(records, LOGGED)
