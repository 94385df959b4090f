"""SPO: no reward model; an answer is worth the share of the policy's other answers that it beats.

Swamy et al. 2024, arXiv 2401.04056 (Self-Play Preference Optimization). RLHF first fits a reward r to comparisons by
P(y beats y') = σ(r(y) − r(y')), then maximises it. Where preferences go in a circle no r explains them: RL on the best
fit goes for one member of the circle, and another one beats it. SPO asks for the policy that no answer beats, the
*minimax winner*, an equilibrium of the game in which two answer and the judge picks. The game is symmetric, so one
policy can play both sides, by any RL. Of G samples of π for a prompt, each earns

    r(y_i) = 1/(G − 1) Σ_{j ≠ i} [the judge prefers y_i to y_j]        on average P(y_i beats an answer of π)

Payoffs move with the policy: what wins is what beats the answers it gives *now*. So the last policy may go round and
round. What theory promises is the average of all policies on the way. A KL to the base damps the circling, and then the
last policy is near the equilibrium, too.

Departures from the paper
-------------------------
1. Answers are one letter, and the judge is a win matrix over kinds of letters. Arms only see its noisy verdicts;
   how far a policy can be beaten is computed exactly.
2. REINFORCE with a leave-one-out baseline instead of PPO or SAC, which the paper uses for control tasks.
3. An answer is compared with its own group, not with a queue of earlier trajectories, too.
4. The rival's reward model is as good as can be: one score a kind. ``fixed`` is fitted once, to comparisons of the
   base's answers, ``refit`` to those of each batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import attempt_all
from minirl.evaluation.preferences import (
    Game,
    Mixture,
    bradley_terry,
    chosen_classes,
    judged,
    probe,
    win_counts,
    win_matrix,
)
from minirl.evaluation.preferences import evaluate_preferences as evaluate
from minirl.policy.models import Policy, load_policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, Task
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["SPO", "Judged", "evaluate", "learning", "reward_model", "win_shares"]


@dataclass
class Judged(Rollouts):
    """Rollouts with what they earned, ``rewards`` [B], and ``stats`` of the policy that wrote them."""

    rewards: Tensor
    stats: dict[str, float]


def win_shares(verdicts: Tensor) -> Tensor:
    """SPO's reward [N, G]: the share of the other answers that each one beat, by ``verdicts`` [N, G, G]."""
    size = verdicts.shape[-1]
    return (verdicts * (1 - torch.eye(size))).sum(-1) / (size - 1)


class SPO(Method):
    """Policy gradient on comparisons of the policy's own answers. ``reward``: the share of ``wins``, or the score of a
    Bradley–Terry model, ``fixed`` or ``refit``. ``game``: whose preferences; with ``judge: coin`` nobody is asked.
    ``beta``: the KL to the base."""

    name: ClassVar[str] = "spo"
    reward: Literal["wins", "fixed", "refit"] = "wins"
    game: Game = "circle"
    judge: Literal["true", "coin"] = "true"
    beta: float = Field(default=0.1, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: SPO sees no scores; the control is 'judge: coin'")
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: single answers are compared; set it to 1")
        mixture, asked = Mixture(), train.updates * train.prompts
        rolls: Any = partial(self.play, mixture, asked, samples=train.samples, temperature=train.temperature)
        return [OnlinePhase("RL", train.updates, self.credit, roll_out=rolls, memory=mixture, stats=noted)]

    def evaluation(self) -> dict[str, Any]:
        return super().evaluation() | ({"game": self.game} if self.game != "circle" else {})

    def play(self, mixture: Mixture, asked: int, policy: Policy, task: Task, items: list[Item], **how: Any) -> Judged:
        """The policy's answers, each compared with the others to the same prompt."""
        rollouts = roll_out(policy, task, items, **how)
        chosen, level = chosen_classes(task, rollouts), items[0].level
        verdicts = judged(win_matrix("coin" if self.judge == "coin" else self.game), chosen, how["generator"])
        if self.reward == "wins":
            rewards = win_shares(verdicts)
        elif self.reward == "refit":
            rewards = bradley_terry(win_counts(verdicts, chosen))[chosen]
        else:
            rewards = reward_model(policy.name, task, items[0].seed, level, self.game, asked, how["samples"])[chosen]
        stats = probe(policy, task, level, self.game, mixture, how["temperature"])
        return Judged(**vars(rollouts), rewards=rewards.flatten(), stats=stats)

    def credit(self, rollouts: Rollouts) -> Credit:
        assert isinstance(rollouts, Judged)
        rewards = rollouts.rewards[:, None].to(rollouts.scores.device)
        return turn_credit(rollouts, rewards, (self.beta,), gamma=1.0)


def noted(rollouts: Rollouts) -> dict[str, float]:
    """What :meth:`SPO.play` noted, to be logged."""
    assert isinstance(rollouts, Judged)
    return rollouts.stats


@lru_cache(maxsize=8)
def reward_model(base: str, task: Task, seed: int, level: int, game: Game, asked: int, samples: int) -> Tensor:
    """Bradley–Terry scores [C] fitted to comparisons of ``samples`` answers of the base to ``asked`` prompts each."""
    items = task.items(seed, range(-asked, 0), level)  # before the first one trained on
    rollouts = attempt_all(load_policy(base), task, items, seed=seed, samples=samples)
    chosen, generator = chosen_classes(task, rollouts), torch.Generator().manual_seed(seed)
    return bradley_terry(win_counts(judged(win_matrix(game), chosen, generator), chosen))


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the probes: ``average``, the exploitability of the average of all policies on the way, and ``late``, the mean
    exploitability of those of the second half."""
    late = [float(record["exploitability"]) for record in records[len(records) // 2 :]]
    return {"average": float(records[-1]["average"]), "late": sum(late) / len(late)}
