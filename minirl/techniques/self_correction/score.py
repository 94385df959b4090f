"""SCoRe: training language models to self-correct via reinforcement learning.

Kumar et al. 2024, arXiv 2409.12917. An episode has two attempts: the model answers, is told to look again (a nudge
that says nothing about correctness), and answers again. Plain RL on the sum of both rewards makes the first attempt as
good as it can get and then repeats it, because that is the easiest way to earn both rewards. SCoRe takes that road
away twice:

- **Stage I** (eq. 3) rewards only the second attempt while a strong KL penalty holds the first attempt where it was:
  the mistakes stay, so that there is something to correct.
- **Stage II** (eq. 4) rewards both attempts and adds to the second a bonus for progress, α · (r₂ − r₁): turning wrong
  into right earns more than being right twice, turning right into wrong costs as much.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters trained from scratch on additions instead of Gemini on MATH; exact match is the reward.
   The nudge between the attempts restates the problem.
2. The baseline of REINFORCE is the mean of the other attempts at the same prompt and turn (leave-one-out, as in
   Ahmadian et al. 2024, which the paper follows), on groups of ``train.samples``.
3. The KL penalty is a term of the loss, exact over the small vocabulary, instead of a part of the reward.
4. α, β₁, β₂, the learning rate and the share of stage I are chosen for this scale. The paper has α = 10; here a bonus
   that large makes the first attempt wrong on purpose (the notebook shows the sweep).
5. With ``gamma`` 1 the first attempt is credited with everything that follows, the bonus included, as the objective
   says. ``gamma`` 0 credits each attempt with its own reward alone.

========== =========== ===================================================================
symbol     config      meaning
========== =========== ===================================================================
r₁, r₂     –           scores [B, 2] of the two attempts, in {0, 1}
α          alpha       weight of the progress bonus in stage II
β₁         beta_1      KL coefficient of both attempts, in both stages
β₂         beta_2      additional KL coefficient of the first attempt in stage I
========== =========== ===================================================================
"""

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.correction import evaluate_correction as evaluate  # how the runner evaluates this technique
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["Score", "evaluate", "stage_one_rewards", "stage_two_rewards"]


def stage_one_rewards(scores: Tensor) -> Tensor:
    """Eq. 3: only the second attempt counts. Scores [B, 2] → rewards [B, 2]."""
    return torch.stack([torch.zeros_like(scores[:, 0]), scores[:, 1]], dim=1)


def stage_two_rewards(scores: Tensor, alpha: float) -> Tensor:
    """Eq. 4: both attempts count, the second with a bonus for progress. Scores [B, 2] → rewards [B, 2].

    ============== ============== ==========================
    attempts       reward of y₂   in words
    ============== ============== ==========================
    wrong → wrong  0              nothing gained
    wrong → right  1 + α          corrected
    right → wrong  −α             spoiled
    right → right  1              kept
    ============== ============== ==========================
    """
    first, second = scores.unbind(1)
    return torch.stack([first, second + alpha * (second - first)], dim=1)


class Score(Method):
    """SCoRe's hyper-parameters; ``stage_1`` is the share of updates spent in stage I (0 leaves it out)."""

    name: ClassVar[str] = "score"
    alpha: float = Field(default=10.0, ge=0)
    beta_1: float = Field(default=0.01, ge=0)
    beta_2: float = Field(default=0.1, ge=0)
    stage_1: float = Field(default=0.5, ge=0, lt=1)
    gamma: float = Field(default=1.0, ge=0, le=1)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.turns != 2:
            raise ConfigError(f"train.turns: SCoRe is about two attempts, not {train.turns}")
        first = round(self.stage_1 * train.updates)
        return [
            OnlinePhase("stage I", first, partial(self.credit, stage=1), self.shuffle_scores),
            OnlinePhase("stage II", train.updates - first, partial(self.credit, stage=2), self.shuffle_scores),
        ]

    def credit(self, rollouts: Rollouts, stage: int) -> Credit:
        """Rewards and KL coefficients of one stage, as credit for tokens."""
        if stage == 1:
            rewards, kl = stage_one_rewards(rollouts.scores), (self.beta_1 + self.beta_2, self.beta_1)
        else:
            rewards, kl = stage_two_rewards(rollouts.scores, self.alpha), (self.beta_1, self.beta_1)
        return turn_credit(rollouts, rewards, kl, self.gamma)
