"""RAFT: imitate the best of your own answers, again and again.

Dong et al. 2023, arXiv 2304.06767. Of K answers to a problem x the one with the highest reward is kept,

    y*(x) = argmax over y₁ … y_K ~ π(· | x) of r(x, y),

and the policy learns to write y* by maximum likelihood; then the next K answers come from the policy that has learned.
Only the order of rewards matters, nothing is compared with an average, and no answer is ever pushed down. RAFT++ (Xiong
et al. 2025, arXiv 2504.11343) uses a batch for several steps with care: with the ratio ρ = π / π_old of a token,

    RAFT     −log π         RAFT++   −min(ρ, 1 + ε),

both over the tokens of kept answers. The gradients are equal at ρ = 1, and that of RAFT++ ends where ρ passes 1 + ε.

Departures from the paper
-------------------------
1. A round is small: a dozen problems and a few gradient steps. The paper's has two thousand problems and two epochs.
2. No reward for staying near the start; the paper has one as an option.
3. ``best_of`` may be smaller than the number of samples of a problem: then the best of every K of them is kept, so
   that arms with different K write equally many answers to the same problems.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.coverage import evaluate_coverage as evaluate
from minirl.objectives.policy_gradient import Objective
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, OnlinePhase, Phase, SupervisedPhase
from minirl.techniques.baselines import AnswerSFT, prompt_and_attempt

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["Raft", "best_of", "evaluate", "only"]


def best_of(scores: Tensor, k: int) -> Tensor:
    """Of ``scores`` [B], the row of the highest of every ``k`` neighbours: [B / k]. Of equal ones the first, which is
    no worse a choice than any: the order of samples means nothing."""
    first = torch.arange(0, len(scores), k, device=scores.device)
    return scores.view(-1, k).argmax(1) + first


def only(rollouts: Rollouts, rows: Tensor) -> Rollouts:
    """The episodes ``rows`` [n] of ``rollouts`` and no others."""
    chosen = rows.tolist()
    return replace(
        rollouts,
        **{name: getattr(rollouts, name)[rows] for name in ("ids", "turn", "logprobs", "scores", "group")},
        answers=[rollouts.answers[row] for row in chosen],
        items=[rollouts.items[row] for row in chosen],
    )


class Raft(AnswerSFT):
    """Imitation of the best of every ``best_of`` answers, all samples of a problem if not given. ``clipped`` is RAFT++,
    where a token whose probability has risen by the factor 1 + ``clip_high`` is let go. ``once``: all answers come from
    the base, and are imitated in minibatches: the same selection without the next round."""

    name: ClassVar[str] = "raft"
    best_of: int | None = Field(default=None, ge=2)
    clipped: bool = False
    clip_high: float = Field(default=0.2, gt=0)
    once: bool = False

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: the best is chosen among single attempts; set it to 1")
        if self.best_of and train.samples % self.best_of:
            raise ConfigError(f"best_of {self.best_of}: {train.samples} samples are not whole groups of that many")
        if self.once and self.clipped:
            raise ConfigError(
                "clipped: where all answers come from the base there is no ratio to clip; drop it or 'once'"
            )
        if self.once:
            return [SupervisedPhase("SFT", train.updates, self.collect)]
        objective = Objective(surrogate="clip" if self.clipped else "log", weight="token", clip_high=self.clip_high)
        return [OnlinePhase("RAFT", train.updates, self.credit, self.shuffle_scores, objective)]

    def best(self, rollouts: Rollouts) -> Tensor:
        """Rows that are kept."""
        return best_of(rollouts.scores[:, 0], self.best_of or rollouts.samples)

    def examples(self, learner: Learner, rollouts: Rollouts, update: int) -> list[tuple[list[int], list[int]]]:  # noqa: ARG002
        return [prompt_and_attempt(rollouts, row) for row in self.best(rollouts).tolist()]

    def credit(self, rollouts: Rollouts) -> Credit:
        """What is learned from are the kept answers alone. An advantage of 1 on each of their tokens, and the mean over
        these tokens: that policy gradient is maximum likelihood."""
        kept = only(rollouts, self.best(rollouts))
        ones = kept.own.float()
        return Credit(ones, torch.zeros_like(ones), {"kept": kept.scores.mean().item()}, sequences=kept)
