"""Critique-RL: a critic learns first to tell right from wrong, and then to be of help.

Xi et al. 2025, arXiv 2510.24320. An actor π is frozen. The critic reads a problem x and an attempt y of the actor and
writes a critique c, a verdict and where the attempt goes wrong; the actor reads c and writes y'. What is the critic
paid for? For what it causes, 1[y' right], it learns to be helpful, and not to be *discriminating*: where the actor
takes a false alarm calmly, an objection to everything costs nothing. So there are two stages::

    I    r = 1[verdict(c) = correct(y)]                                KL to the base
    II   r = 1[y' right] + β₁ · 1[verdict(c) = correct(y)]             KL to the critic of stage I

``first: 0`` leaves stage I out: with ``discriminate: 0`` the indirect reward alone, with ``discriminate: 1`` the plain
sum of both.

Departures from the paper
-------------------------
1. A critique is two signs, ``-b``: a verdict and the first wrong step. Such critiques, true and false ones, are what
   the actor has read behind attempts in its training: told ``+`` it repeats itself, told ``-b`` it keeps what stands
   before step b and does that step with care. What is no critique leaves the attempt as it is.
2. Actor and critic start from the same base; the critic's imperfections are those of the people it has read.
3. Before stage II one update in which the reference moves to the policy: our way to write "KL to stage I".
"""

from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field

from minirl.config import TrainConfig
from minirl.evaluation.critiques import evaluate_critic as evaluate
from minirl.rollouts.critiques import critic_episodes
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["CritiqueRL", "evaluate"]


class CritiqueRL(Method):
    """A critic for the frozen ``actor``, a base. ``discriminate`` is β₁, the weight of the right verdict beside the
    refined answer; ``first`` is the share of the updates that stage I gets."""

    name: ClassVar[str] = "critique_rl"
    actor: str
    first: float = Field(default=0.5, ge=0, le=1)
    discriminate: float = Field(default=0.2, ge=0)
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        one = round(self.first * train.updates)
        rolls = partial(critic_episodes, actor=self.actor, samples=train.samples, temperature=train.temperature)
        verdict, both = partial(self.credit, verdict=1.0, help_=0.0), partial(self.credit, verdict=self.discriminate)
        stages: list[Phase] = []
        if one:
            told = partial(rolls, refinements=0)
            stages += [OnlinePhase("discriminate", one - 1, verdict, self.shuffle_scores, roll_out=told)]
            stages += [
                OnlinePhase("anchor", 1, verdict, self.shuffle_scores, roll_out=told, reference_decay=0.0),
            ]
        return [*stages, OnlinePhase("help", train.updates - one, both, self.shuffle_scores, roll_out=rolls)]

    def credit(self, rollouts: Rollouts, verdict: float, help_: float = 1.0) -> Credit:
        """The reward of a critique, its turn being 1: verdict · 1[verdict is right] + help · 1[refinement is right]."""
        _, right, refined = rollouts.scores.unbind(1)
        rewards = torch.zeros_like(rollouts.scores)
        rewards[:, 1] = verdict * right + help_ * refined
        credit = turn_credit(rollouts, rewards, (self.beta,) * 3, gamma=0.0)
        credit.stats.update(verdict=right.mean().item(), refined=refined.mean().item())
        return credit

    def evaluation(self) -> dict[str, Any]:
        return {**super().evaluation(), "actor": self.actor}
