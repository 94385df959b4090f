"""NFT: supervised learning that learns from wrong answers, too.

Chen et al. 2025, arXiv 2505.18116. Rejection sampling fine-tuning (RFT) imitates the right answers and throws the wrong
ones away. But the wrong ones say where the policy was: with r the share of right answers to a problem,

    π_old = r π⁺ + (1 − r) π⁻,        so        π⁻ = (π_old − r π⁺) / (1 − r).

If the policy π is to become π⁺, then wrong answers are samples from what is left, and likely ones if π is as it should
be: they teach π by maximum likelihood as well. Per token, with R = π / π_old,

    right   −log R        wrong   −log max( (1 − r R) / (1 − r), ε )

(:func:`minirl.objectives.negative_aware.nft`). With a prompt's weight of 1 − r its gradient at R = 1 is that of GRPO
without division by the standard deviation: no advantage was put in, it comes out.

Departures from the paper
-------------------------
1. The weight of a problem is 1 − r unless configured; the paper has √((1 − r)/r) as well, which is GRPO's.
2. r comes from the answers that are learned from, sixteen to a problem as in the paper; no overlong or format rules.
3. A batch is used for several gradient steps on all of it, where the paper takes minibatches of a larger one.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.coverage import evaluate_coverage as evaluate
from minirl.objectives.negative_aware import PromptWeight, nft
from minirl.objectives.policy_gradient import Objective, Totals
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["NFT", "evaluate", "outcomes"]


def outcomes(advantages: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are right [B] and the rate r of their problem [B], from centred advantages [B, L] of their own tokens:
    1 − r of a right answer, −r of a wrong one. Where all are equal, both are 0, and r = 0 is what NFT drops."""
    row = advantages.gather(1, own.int().argmax(1, keepdim=True))[:, 0]  # at the first own token
    correct = row > 0
    return correct, torch.where(correct, 1 - row, -row)


class NFT(Method):
    """Maximum likelihood on right answers and, with ``negative_weight``, on wrong ones. 0 leaves RFT."""

    name: ClassVar[str] = "nft"
    negative_weight: float = Field(default=1.0, ge=0)
    prompt_weight: PromptWeight = "centred"
    floor: float = Field(default=1.0, gt=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: a rate is that of single attempts; set it to 1")
        return [OnlinePhase("NFT", train.updates, self.credit, self.shuffle_scores, loss=self.loss)]

    def credit(self, rollouts: Rollouts) -> Credit:
        right = (rollouts.scores == 1).float()
        return turn_credit(rollouts, right, (0.0,), gamma=1.0, baseline="group_mean")

    def loss(
        self,
        logprobs: Tensor,
        sampled: Tensor,
        advantages: Tensor,
        own: Tensor,
        objective: Objective,  # noqa: ARG002  # of a policy gradient, which this is not
        totals: Totals,
    ) -> tuple[Tensor, dict[str, float]]:
        """The mean over all own tokens of the batch."""
        correct, rates = outcomes(advantages, own)
        how = self.model_dump(include={"prompt_weight", "negative_weight", "floor"})
        return nft(logprobs, sampled, correct, rates, own, totals.tokens, **how)
