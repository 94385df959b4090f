"""UFO: a simple "try again" can elicit multi-turn LLM reasoning.

Liu et al. 2025, arXiv 2507.14295. *Unary feedback as observation*: turn a data set of single questions into episodes of
up to T attempts. After a wrong answer the environment says "try again", and never anything else; a right one ends the
episode. A model trained on single answers and asked again repeats itself; one trained on such episodes learns to look
at what it has said and say something else.

The reward is γ^(t−1) for success at attempt t, so that early success is worth more, minus
λ (1 − E / t) where E is the number of different answers among the t that were given.

Departures from the paper
-------------------------
1. A model of 0.2 M parameters trained from scratch, and BUCKET, where the optimum is known in closed form.
2. REINFORCE with a leave-one-out baseline per turn instead of PPO with a learned value: attempts of the same turn at
   the same problem are compared with each other, as far as they were made.
3. The penalty is paid with the last attempt of an episode. All earlier ones are credited with it, too.
4. E counts answers only: what could not be right for any problem of the kind does not count as different.

========== ============= ===========================================================
symbol     config        meaning
========== ============= ===========================================================
γ          gamma         discount per attempt
λ          repetition    weight of the repetition penalty
T          train.turns   most attempts of an episode
========== ============= ===========================================================
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from minirl.config import TrainConfig
from minirl.evaluation.attempts import evaluate_attempts as evaluate
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import get
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes, turn_credit

__all__ = ["UFO", "different_answers", "evaluate", "unary_rewards"]


def unary_rewards(scores: Tensor, made: Tensor, different: Tensor, gamma: float, repetition: float) -> Tensor:
    """γ^(t−1) where attempt t is right, and −λ (1 − E/t) with the last attempt that was made.

    ``scores`` [B, T]; ``made`` [B] attempts, of which ``different`` [B] were different answers; the rewards are [B, T].
    Three different wrong answers cost nothing, the same one three times costs 2/3 λ.
    """
    discount = gamma ** torch.arange(scores.shape[1], device=scores.device)
    last = one_hot(made - 1, scores.shape[1])
    return scores * discount - repetition * (1 - different / made)[:, None] * last


def different_answers(rollouts: Rollouts, admissible_only: bool = True) -> Tensor:
    """How many different answers each episode has: [B]. What is no answer at all to its problem does not count, or the
    policy would earn variety with nonsense."""
    counts = []
    for item, said in zip(rollouts.items, rollouts.answers, strict=True):
        task = get(item.task)
        counts.append(len({task.read(text) for text in said if not admissible_only or task.admissible(item, text)}))
    return torch.tensor(counts, device=rollouts.scores.device)


class UFO(Method):
    """UFO's hyper-parameters; ``beta`` is the KL coefficient of every attempt. With ``admissible_only`` false, nonsense
    counts as a different answer, too: an ablation that shows what a reward is for.
    """

    name: ClassVar[str] = "ufo"
    gamma: float = Field(default=0.5, ge=0, le=1)
    repetition: float = Field(default=0.1, ge=0)
    admissible_only: bool = True
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        rolls = episodes(train, until_solved=True)
        return [OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores, roll_out=rolls)]

    def credit(self, rollouts: Rollouts) -> Credit:
        different = different_answers(rollouts, self.admissible_only)
        rewards = unary_rewards(rollouts.scores, rollouts.alive.sum(1), different, self.gamma, self.repetition)
        kl = (self.beta,) * rewards.shape[1]
        return turn_credit(rollouts, rewards, kl, gamma=1.0)
