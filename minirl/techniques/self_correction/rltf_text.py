"""RLTF: expanding the capabilities of reinforcement learning via text feedback.

Song et al. 2026, arXiv 2602.02482. In training somebody reads the model's attempt y₀ and says in words what is wrong
with it (c₀); in use nobody does. How can the first attempt gain from feedback that comes after it? Where no attempt
ever succeeds a reward teaches nothing, but the attempt *after* feedback, y₁, does succeed. Two ways to learn from that:

- **Self-distillation** (RLTF-SD): learn to say y₁ at once, without having read y₀ and c₀. Its weight is how much better
  it is than what the model says by itself, A = r₁ − mean r₀: the baseline comes from the *first* attempts. The mean of
  the second attempts would call a right y₁ average where feedback makes all of them right, and teach nothing there.
- **Feedback modelling** (RLTF-FM): learn to predict c₀. Whoever knows what will be said knows what is wrong.

Both come on top of policy gradient on the rewards of y₀ and y₁.

Departures from the paper
-------------------------
1. A model of 0.2 M parameters, and facts instead of puzzles: a key has a code that nothing in the prompt gives away.
   Feedback says which letters belong where; the base reads such feedback with fair success.
2. The second attempt is trained with its own reward, and with the group of second attempts as baseline. Advantages of
   this part are GRPO's, the loss is REINFORCE's: every batch is used once, so no ratio differs from 1.
3. Self-distillation uses no importance ratio: it is advantage-weighted regression on the sequence (problem, y₁).
4. Feedback modelling predicts all that stands between the attempts: c₀, and the problem once more.

========== ======================= ======================================================
symbol     config                  meaning
========== ======================= ======================================================
r₀, r₁     –                       scores [B, 2] of the attempts before and after feedback
A          baseline                r₁ − mean over the group of r₀ (``first``) or r₁ (``second``)
–          self_distillation       weight of RLTF-SD, 0 leaves it out
λ          feedback_modelling      weight of RLTF-FM, 0 leaves it out
========== ======================= ======================================================
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.correction import evaluate_correction as evaluate
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes, turn_credit

__all__ = ["RLTF", "distillation_advantages", "evaluate", "feedback_tokens", "without_feedback"]


def distillation_advantages(scores: Tensor, samples: int, baseline: Literal["first", "second"]) -> Tensor:
    """A = r₁ − mean over the group of r₀ (or, as the ablation has it, of r₁): scores [B, 2] → [B]."""
    compared = scores[:, 0 if baseline == "first" else 1]
    return scores[:, 1] - compared.view(-1, samples).mean(1).repeat_interleave(samples)


def without_feedback(rollouts: Rollouts) -> Rollouts:
    """The sequences (problem, y₁): the second attempt as if it had been the first."""
    prompt = rollouts.own.cumsum(1) == 0
    return rollouts.keep(prompt | (rollouts.turn == 1))


def feedback_tokens(rollouts: Rollouts) -> Tensor:
    """[B, L] bool: the tokens of c₀, which stand between the two attempts."""
    after_first = (rollouts.turn == 0).cumsum(1) == (rollouts.turn == 0).sum(1, keepdim=True)
    before_second = (rollouts.turn == 1).cumsum(1) == 0
    return after_first & before_second & (rollouts.turn == CONTEXT)


class RLTF(Method):
    """RLTF's hyper-parameters. In training an arm may be given feedback of another ``grade`` than the shared settings
    say: one that tells nothing is the control."""

    name: ClassVar[str] = "rltf"
    self_distillation: float = Field(default=0.0, ge=0)
    feedback_modelling: float = Field(default=0.0, ge=0)
    baseline: Literal["first", "second"] = "first"
    beta: float = Field(default=0.0, ge=0)
    grade: str | None = None

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.turns != 2:
            raise ConfigError(f"train.turns: RLTF is about an attempt before and one after feedback, not {train.turns}")
        rolls = episodes(train, feedback=self.grade or train.feedback)
        return [OnlinePhase("RLTF", train.updates, self.credit, self.shuffle_scores, roll_out=rolls)]

    def credit(self, rollouts: Rollouts) -> Credit:
        """Advantages of three kinds of tokens: the attempts', those of y₁ as a first attempt, and the feedback's."""
        credit = turn_credit(rollouts, rollouts.scores, (self.beta, self.beta), 0.0, "group_normalised")
        advantages, kl, sequences = credit.advantages, credit.kl, rollouts
        if self.feedback_modelling:
            said = feedback_tokens(rollouts)
            advantages = torch.where(said, self.feedback_modelling, advantages)
            sequences = rollouts.keep(torch.ones_like(said), turn=torch.where(said, 0, rollouts.turn))
        if self.self_distillation:
            gain = distillation_advantages(rollouts.scores, rollouts.samples, self.baseline)
            distilled = without_feedback(rollouts)
            weight = self.self_distillation * gain[:, None] * distilled.own
            sequences = Rollouts.join([sequences, distilled])
            width = sequences.ids.shape[1]
            advantages = torch.cat([_widened(advantages, width), _widened(weight, width)])
            kl = torch.cat([_widened(kl, width), torch.zeros(len(gain), width, device=kl.device)])
        return Credit(advantages, kl, credit.stats, sequences)


def _widened(tensor: Tensor, width: int) -> Tensor:
    """[B, L] → [B, width], padded with 0."""
    return F.pad(tensor, (0, width - tensor.shape[1]))
