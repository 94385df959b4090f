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

import random
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.votes import evaluate_votes as evaluate
from minirl.evaluation.votes import majority, result
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, Task
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["CoReward", "both_phrasings", "evaluate", "vote_rewards"]


def vote_rewards(results: list[list[str]], cross: bool) -> Tensor:
    """Rewards [P, G] of the ``results`` of G answers to each of P prompts, prompts 2i and 2i + 1 being two phrasings of
    one problem: 1 where a result is the majority of the other phrasing (``cross``) or of its own; a majority that is
    empty pays nobody."""
    labels = [majority(said) for said in results]
    partner = [labels[i ^ 1] if cross else labels[i] for i in range(len(labels))]
    rows = zip(results, partner, strict=True)
    return torch.tensor([[float(name == label != "") for name in said] for said, label in rows])


class CoReward(Method):
    """Policy gradient on votes instead of truth. ``label``: the vote on the other phrasing, or on the prompt itself."""

    name: ClassVar[str] = "co_reward"
    label: Literal["cross", "self"] = "cross"
    correlation: float = Field(default=0.0, ge=0, le=1)
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.prompts % 2:
            raise ConfigError(f"train.prompts {train.prompts} is odd: every problem is asked in two phrasings")
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: a vote is on single attempts; set it to 1")
        rolls: Any = partial(
            both_phrasings, samples=train.samples, temperature=train.temperature, correlation=self.correlation
        )
        return [OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores, roll_out=rolls)]

    def credit(self, rollouts: Rollouts) -> Credit:
        said = [result(item, texts[0]) for item, texts in zip(rollouts.items, rollouts.answers, strict=True)]
        groups = [said[start : start + rollouts.samples] for start in range(0, len(said), rollouts.samples)]
        rewards = vote_rewards(groups, self.label == "cross").view(-1, 1).to(rollouts.scores.device)
        credit = turn_credit(rollouts, rewards, (self.beta,), gamma=1.0)
        first = rollouts.items[:: rollouts.samples]
        right = [majority(group) == result(item, item.answer) for item, group in zip(first, groups, strict=True)]
        credit.stats["label_accuracy"] = sum(right) / len(right)
        return credit


def both_phrasings(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    generator: torch.Generator,
    samples: int,
    temperature: float,
    correlation: float,
) -> Rollouts:
    """Answers to half of the ``items`` (so that as many are made as elsewhere) in both phrasings, side by side. Raises
    :class:`ConfigError` for a task that cannot be rephrased."""
    if not hasattr(task, "rephrased"):
        raise ConfigError(f"task {task.name!r} cannot be rephrased; 'tally' can")
    rng = random.Random(generator.initial_seed())
    prompts = []
    for item in items[: len(items) // 2]:
        prompts += [item, item if rng.random() < correlation else task.rephrased(item)]
    return roll_out(policy, task, prompts, samples=samples, generator=generator, temperature=temperature)
