"""RefCritic: a critic that is paid for judging, and for refinements where it judged a wrong attempt wrong.

Tang et al. 2025, arXiv 2507.15024. A critic reads a problem x and an attempt y and writes a critique c. Of what c says
only the verdict can be checked against the truth; whether the rest of it is any good shows when the one who made the
attempt reads it and tries K times again, y'₁ … y'_K::

    r(c) = 1[verdict(c) = correct(y)]  +  λ · 1[y wrong and called wrong] · mean_k 1[y'_k right]

The first term alone pays ``-a`` and ``-b`` alike for any wrong attempt. The second pays for the step at which it pays
to begin again, which is the first wrong one: nobody ever says which step that is, and yet the critic learns to name it.

Departures from the paper
-------------------------
1. A critique is two signs: a verdict and the letter of a step; the paper's critics think at length, after a cold start
   on filtered critiques. Our cold start is the base, which has read critiques by careless people.
2. Leave-one-out baseline and KL to the base. The formula above is our account of the paper's two rewards from a
   summary; we have not read whether the paper weighs them (λ).
3. The actor is frozen, and the critic's own base.

The same as in Critique-RL (:mod:`minirl.techniques.critique.critique_rl`) except for the reward: there help is paid for
right attempts, too, where not to object is help enough, and judging comes first.
"""

from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.evaluation.critiques import evaluate_critic as evaluate
from minirl.rollouts.critiques import critic_episodes
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["RefCritic", "critic_rewards", "evaluate"]


def critic_rewards(before: Tensor, verdict: Tensor, after: Tensor, weight: float) -> Tensor:
    """r(c) of every critique, [B]: ``before`` is 1 for a right attempt, ``verdict`` 1 for the right verdict, ``after``
    the share of right refinements."""
    return verdict + weight * (1 - before) * verdict * after


class RefCritic(Method):
    """A critic for the frozen ``actor``, a base, which makes ``refinements`` new attempts after every critique; with 0
    of them only the verdict is paid. ``weight`` is λ."""

    name: ClassVar[str] = "refcritic"
    actor: str
    refinements: NonNegativeInt = 4
    weight: float = Field(default=1.0, ge=0)
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        how: Any = {"samples": train.samples, "temperature": train.temperature, "refinements": self.refinements}
        rolls = partial(critic_episodes, actor=self.actor, **how)
        return [OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores, roll_out=rolls)]

    def credit(self, rollouts: Rollouts) -> Credit:
        before, verdict, after = rollouts.scores.unbind(1)
        rewards = torch.zeros_like(rollouts.scores)
        rewards[:, 1] = critic_rewards(before, verdict, after, self.weight if self.refinements else 0.0)
        credit = turn_credit(rollouts, rewards, (self.beta,) * 3, gamma=0.0)
        credit.stats.update(verdict=verdict.mean().item(), refined=after.mean().item())
        return credit

    def evaluation(self) -> dict[str, Any]:
        return {**super().evaluation(), "actor": self.actor}
