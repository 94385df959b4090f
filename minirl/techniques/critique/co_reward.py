"""Co-Reward: a vote on the same problem in other words is the label.

Zhang et al. 2025, arXiv 2508.00410. Without any ground truth, a policy can be paid for giving the answer that most of
its samples give. It then learns to agree with itself, mistakes included. Co-Reward asks every problem twice, x and a
rephrased x', and pays across: an answer to x is worth 1 if it has the majority result of the answers to *x'*, and the
other way round::

    y(x) = majority of G answers to x      r(answer to x) = 1[result = y(x')]      r(answer to x') = 1[result = y(x)]

A mistake that depends on the wording does not find itself confirmed. The dial is how far the errors of both phrasings
are correlated: at 1 the cross vote is a vote of other samples on the same text, and the advantage must be gone.

Departures from the paper
-------------------------
1. A rephrased problem has its operations in another order (``task.rephrased``), which is exact; in the paper a
   language model rephrases.
2. Leave-one-out baseline and KL to the frozen base instead of GRPO's normalisation.
3. ``correlation`` is ours: the share of problems whose second phrasing is the first one again.

A policy that gives the same result to every problem is paid in full by this vote, too; what keeps it from that is where
it starts, and the KL to the base.
"""

from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.votes import evaluate_votes as evaluate
from minirl.evaluation.votes import majority, result, vote_rewards
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.phrasings import both_phrasings
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["CoReward", "both_phrasings", "evaluate", "vote_rewards"]


class CoReward(Method):
    """Policy gradient on votes instead of truth. ``label``: the vote on the other phrasing, or on the prompt itself."""

    name: ClassVar[str] = "co_reward"
    label: Literal["cross", "self"] = "cross"
    correlation: float = Field(default=0.0, ge=0, le=1)
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: Co-Reward sees no scores; the control is a correlation of 1")
        if train.prompts % 2:
            raise ConfigError(f"train.prompts {train.prompts} is odd: every problem is asked in two phrasings")
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: a vote is on single attempts; set it to 1")
        rolls: Any = partial(
            both_phrasings, samples=train.samples, temperature=train.temperature, correlation=self.correlation
        )
        return [OnlinePhase("RL", train.updates, self.credit, roll_out=rolls)]

    def credit(self, rollouts: Rollouts) -> Credit:
        said = [result(item, texts[0]) for item, texts in zip(rollouts.items, rollouts.answers, strict=True)]
        groups = [said[start : start + rollouts.samples] for start in range(0, len(said), rollouts.samples)]
        rewards = vote_rewards(groups, self.label == "cross").view(-1, 1).to(rollouts.scores.device)
        credit = turn_credit(rollouts, rewards, (self.beta,), gamma=1.0)
        first = rollouts.items[:: rollouts.samples]
        right = [majority(group) == result(item, item.answer) for item, group in zip(first, groups, strict=True)]
        credit.stats["label_accuracy"] = sum(right) / len(right)
        return credit
