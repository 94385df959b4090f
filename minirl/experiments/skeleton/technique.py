"""New idea: TODO one line that says what it does.

TODO authors and year, arXiv TODO. TODO the idea in one paragraph: what goes wrong without it, what it changes, and why
that should help.

Departures from the paper
-------------------------
1. A model of 0.1 to 0.5 M parameters trained from scratch on procedural problems; exact match is the reward.
2. TODO every other way in which this code is not the paper, numbered.

========== =========== ===================================================================
symbol     config      meaning
========== =========== ===================================================================
r          –           scores [B, turns] of the attempts, in [0, 1]
β          beta        coefficient of the KL penalty that ties the policy to the base
========== =========== ===================================================================
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.evaluation.attempts import evaluate_attempts as evaluate  # how the runner evaluates this technique
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["NewIdea", "evaluate", "rewards"]


def rewards(scores: Tensor) -> Tensor:
    """Scores [B, turns] → rewards [B, turns]. TODO the idea as a small pure function; so far it is the baseline."""
    return scores.clone()


class NewIdea(Method):
    """The hyper-parameters. ``beta`` is the coefficient of the KL penalty."""

    name: ClassVar[str] = "new_idea"
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores)]

    def credit(self, rollouts: Rollouts) -> Credit:
        """Advantage of every token: the attempt's reward against the mean of the others at the same prompt."""
        return turn_credit(rollouts, rewards(rollouts.scores), (self.beta,) * rollouts.scores.shape[1], gamma=1.0)
