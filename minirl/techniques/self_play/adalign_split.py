"""Advantage Alignment where need is private: Trust-and-Split.

Piche et al. 2025, arXiv 2511.19405. The credit is that of :mod:`minirl.techniques.self_play.adalign`. What is new is
the game, which the paper introduces (:mod:`minirl.tasks.trust_split`): whoever needs the coins more should have them,
only words can say who that is, and the one who should leave them alone gets nothing for it, except that the roles
change from round to round.

And luck: who holds winning hands gets more, whatever it does. So games are compared with games of the same hands, as
the paper does whose groups start from the same state: ``games`` of every deal, and A is the return-to-go less its mean
over the other games of that deal. A message is a move like any other. What it brings comes with the claims.

Departures from the paper
-------------------------
1. A coin is worth 3 to the one with the winning hand, not 10; there are two coins, not ten; eight rounds. Both players
   speak once a round and at the same time, a character, instead of in turn and in language.
2. The base has read games of people with habits (:mod:`minirl.tasks.splitting_habits`); the paper's model is kind.
3. The departures of ``adalign``: a KL for the entropy bonus, another β, moves that are none, the mean of c, the weight
   γ^t, ``other: stranger``. But here half of the deals are played against past selves, as in the paper, since without
   them a policy that is fair to itself forgets that there are grabbers; and the reference stays where it is.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.splits import by_row
from minirl.evaluation.splits import evaluate_splits as evaluate
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import play
from minirl.rollouts.opponents import Pool
from minirl.tasks import Item, Task
from minirl.tasks.trust_split import TrustSplit
from minirl.techniques.base import OnlinePhase, Phase
from minirl.techniques.self_play.adalign import SEATS, AdAlign, alignment, per_seat

__all__ = ["AdAlignSplit", "alignment", "evaluate", "game_stats", "per_seat", "same_hands"]


class AdAlignSplit(AdAlign):
    """``adalign`` in Trust-and-Split; ``games`` are played of every deal, and compared with each other. As in the paper
    half of the deals are played against one of ``pool`` past selves, unless that is 0."""

    name: ClassVar[str] = "adalign_split"
    beta: float = Field(default=6.0, ge=0)
    gamma: float = Field(default=0.8, gt=0, le=1)
    kl: float = Field(default=0.6, ge=0)
    decay: float = Field(default=1.0, ge=0, le=1)
    pool: NonNegativeInt = 8
    every: PositiveInt = 5
    games: PositiveInt = 8

    def phases(self, train: TrainConfig) -> list[Phase]:
        (phase,) = super().phases(train)
        assert isinstance(phase, OnlinePhase) and isinstance(phase.memory, Pool | None)
        if self.games < 2 or train.prompts % (self.games * (2 if self.pool else 1)):
            raise ConfigError(f"train.prompts {train.prompts}: a multiple of games, or of 2 · games if there is a pool")
        settings: dict[str, Any] = {"games": self.games, "turns": train.turns, "temperature": train.temperature}
        return [replace(phase, roll_out=partial(same_hands, pool=phase.memory, **settings), stats=game_stats)]


def same_hands(
    policy: Policy, task: Task, items: Sequence[Item], *, generator: torch.Generator, games: int, turns: int,
    temperature: float, pool: Pool | None = None,
) -> Rollouts:  # fmt: skip
    """Both players of ``games`` games of the policy with itself for every ``games``-th item; or, if ``pool`` has
    members, for half of these items ``games`` from either seat against one of them. The rows of a deal have the same
    ``group``."""
    if not isinstance(task, TrustSplit) or turns != task.turns(items[0].level):
        raise ConfigError(f"train.turns {turns}: set it to a player's moves in the game, which has to be trust_split")
    deals = items[::games]
    half = len(deals) // 2 if pool else len(deals)
    played, seats = [item for item in deals[:half] for _ in range(games)], [(policy, policy)] * half * games
    if pool:
        member = pool.member(policy, random.Random(generator.initial_seed()).randrange(len(pool)))
        played += [item for item in deals[half:] for _ in range(SEATS * games)]
        seats += [(policy, member), (member, policy)] * games * (len(deals) - half)
    rollouts = play(task, played, seats, learner=policy, generator=generator, temperature=temperature)
    rollouts.group = torch.arange(len(rollouts.items), device=rollouts.group.device) // (SEATS * games)
    return rollouts


def game_stats(rollouts: Rollouts) -> dict[str, float]:
    """The learner's reward a round, how often it leaves the coins to the other one, how often it tells the truth."""
    return {name: sum(values) / len(values) for name, values in by_row(rollouts).items()}
