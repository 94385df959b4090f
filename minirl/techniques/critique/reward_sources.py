"""Who may be the judge? Five sources of reward, side by side.

After Shao et al. 2025, arXiv 2506.10947, who trained the same models on true, voted, random and wrong rewards and found
that what a reward is worth depends on the model that is paid.

All arms are the same policy gradient on the same problems, each in two phrasings, with equally many answers. They
differ in who says what an answer is worth:

========= ====================================================================================================
judge     an answer is worth
========= ====================================================================================================
truth     1 if it is right
majority  1 if it has the majority result of the answers to its prompt (:mod:`co_reward <.co_reward>`, ``self``)
cross     1 if it has the majority result of the answers to the other phrasing (Co-Reward)
self      1 if the policy of this moment, asked for a critique of it, finds ``+`` likelier than ``-``
critic    the same, asked of a critic that stays what it is: the base that ``critic`` names
coin      1 if it is right, but the other way round with probability 1 − ``accuracy``
credulous 1 if a careless critic of the task's accepts it, who shares the misconceptions of those the base has
          read and gives in to each with probability 1 − ``accuracy``
========= ====================================================================================================

The last two are dials for the question how good a judge has to be. A coin is wrong anywhere; the credulous one is wrong
where the policy is wrong. What a judge is worth is not its accuracy, but what it says where the policy errs.

Nothing that the judges say is generated: their verdicts are read off as probabilities, so all arms write equally many
tokens.

Departures from the paper
-------------------------
1. Other judges: critics and a vote across two phrasings instead of rewards for a format or for a wrong label.
2. Leave-one-out baseline and KL to the frozen base instead of GRPO, whose clipping can teach by itself.
3. The dials are ours: the paper has random rewards, and labels that are all right or all wrong.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.votes import evaluate_votes as evaluate
from minirl.evaluation.votes import result, vote_rewards
from minirl.policy.models import Policy
from minirl.rollouts.critiques import load_actor, p_true
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.phrasings import both_phrasings
from minirl.tasks import Item, Task
from minirl.tasks.chain import MISCONCEIVED
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["JudgedRL", "coin_rewards", "evaluate", "judge_metrics", "learning"]

Judge = Literal["truth", "majority", "cross", "self", "critic", "coin", "credulous"]
LAST = 10  # updates over which the end of training is averaged


def coin_rewards(scores: Tensor, accuracy: float, rng: random.Random) -> Tensor:
    """1 where an answer is right and 0 where not (``scores`` [B]), turned round with probability 1 − ``accuracy``."""
    right = (scores == 1).tolist()
    return torch.tensor([float(good == (rng.random() < accuracy)) for good in right])


def credulous_rewards(
    task: Task, items: Sequence[Item], answers: Sequence[str], accuracy: float, rng: random.Random
) -> Tensor:
    """1 where a critic that gives in to a misconception with probability 1 − ``accuracy`` accepts an answer, [B]."""
    criticise, rate = task.careless_critique, (1 - accuracy) / MISCONCEIVED  # type: ignore[attr-defined]
    said = [criticise(item, text, rng, rate) for item, text in zip(items, answers, strict=True)]
    return torch.tensor([float(critique == "+") for critique in said])


def judge_metrics(rewards: Tensor, scores: Tensor) -> dict[str, float]:
    """``judge``: the share of answers of which the judge says what is true; ``judge_balanced``: the mean of that over
    right and over wrong answers (one half if there are none of a kind). Both [B]; a judge says 1 or 0."""
    right = scores == 1
    agrees = (rewards == right.float()).float()
    kinds = [agrees[kind].mean().item() if kind.any() else 0.5 for kind in (right, ~right)]
    return {"judge": agrees.mean().item(), "judge_balanced": sum(kinds) / 2}


class JudgedRL(Method):
    """Policy gradient on what ``judge`` says. ``accuracy`` is for ``coin`` and ``credulous``, ``critic`` (a base) for
    the judge of that name."""

    name: ClassVar[str] = "judged_rl"
    judge: Judge
    critic: str | None = None
    accuracy: float | None = Field(default=None, ge=0, le=1)
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if (self.judge == "critic") != (self.critic is not None):
            raise ConfigError("critic: name the base that judges with 'judge: critic', and only there")
        if (self.judge in ("coin", "credulous")) != (self.accuracy is not None):
            raise ConfigError("accuracy: belongs to 'judge: coin' and 'judge: credulous', and they need it")
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: the control is 'judge: coin' with 'accuracy: 0.5'")
        if train.prompts % 2 or train.turns != 1:
            raise ConfigError("train.prompts must be even (two phrasings of a problem) and train.turns 1")
        judged = partial(self.judged_episodes, samples=train.samples, temperature=train.temperature)
        return [OnlinePhase("RL", train.updates, self.credit, roll_out=judged)]

    def judged_episodes(
        self, policy: Policy, task: Task, items: list[Item], *, generator: torch.Generator, **how: Any
    ) -> Rollouts:
        """Answers to half of the ``items`` in both phrasings; ``scores`` [B, 2] are the truth and the judge's word."""
        rollouts = both_phrasings(policy, task, items, generator=generator, correlation=0.0, **how)
        rewards = self.rewards(policy, task, rollouts, random.Random(generator.initial_seed()))
        return replace(rollouts, scores=torch.stack([rollouts.scores[:, 0], rewards], dim=1))

    def rewards(self, policy: Policy, task: Task, rollouts: Rollouts, rng: random.Random) -> Tensor:
        """What the judge says of every row's answer, [B]: 1 or 0."""
        scores, answers = rollouts.scores[:, 0], [texts[0] for texts in rollouts.answers]
        if self.judge == "truth":
            return (scores == 1).float()
        if self.judge == "coin":
            return coin_rewards(scores, self.accuracy or 0.0, rng).to(scores.device)
        if self.judge == "credulous":
            return credulous_rewards(task, rollouts.items, answers, self.accuracy or 0.0, rng).to(scores.device)
        if self.judge in ("self", "critic"):
            asked = load_actor(self.critic, str(policy.device)) if self.critic else policy
            return (p_true(asked, task, rollouts.items, answers) > 0.5).float()
        said = [result(item, text) for item, text in zip(rollouts.items, answers, strict=True)]
        groups = [said[start : start + rollouts.samples] for start in range(0, len(said), rollouts.samples)]
        return vote_rewards(groups, cross=self.judge == "cross").flatten().to(scores.device)

    def credit(self, rollouts: Rollouts) -> Credit:
        scores, rewards = rollouts.scores.unbind(1)
        credit = turn_credit(rollouts, rewards[:, None], (self.beta,), gamma=1.0)
        beyond = rewards.mean().item() - scores.mean().item()
        credit.stats.update(judge_metrics(rewards, scores), illusion=beyond)
        return credit


def learning(records: list[dict[str, Any]]) -> dict[str, float]:
    """How right the judge was at the first update (``judge_balanced@start``) and at the end, and by how much the reward
    exceeded the truth then (``illusion@end``), over the last updates."""
    end = records[-LAST:]
    mean = {key: sum(record[key] for record in end) / len(end) for key in ("judge", "judge_balanced", "illusion")}
    start = {f"{key}@start": records[0][key] for key in ("judge", "judge_balanced")}
    return {**start, **{f"{key}@end": value for key, value in mean.items()}}
