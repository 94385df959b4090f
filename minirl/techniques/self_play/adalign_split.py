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
3. All departures of ``adalign``: a KL to a reference that follows the policy, its β and γ, moves that are none, the
   mean of c, ``other: stranger``. There is no buffer of past selves here.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.splits import by_row
from minirl.evaluation.splits import evaluate_splits as evaluate
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import play
from minirl.tasks import Item, Task
from minirl.tasks.trust_split import TrustSplit
from minirl.techniques.base import Phase
from minirl.techniques.self_play.adalign import SEATS, AdAlign, alignment, per_seat

__all__ = ["AdAlignSplit", "alignment", "evaluate", "game_stats", "per_seat", "same_hands"]


class AdAlignSplit(AdAlign):
    """``adalign`` in Trust-and-Split; ``games`` are played of every deal, and compared with each other."""

    name: ClassVar[str] = "adalign_split"
    gamma: float = Field(default=0.8, gt=0, le=1)
    games: PositiveInt = 8

    def phases(self, train: TrainConfig) -> list[Phase]:
        (phase,) = super().phases(train)
        if self.pool or self.games < 2 or train.prompts % self.games:
            raise ConfigError(f"train.prompts {train.prompts}: must be a multiple of games, 2 or more; pool must be 0")
        settings = {"games": self.games, "turns": train.turns, "temperature": train.temperature}
        return [replace(phase, roll_out=partial(same_hands, **settings), stats=game_stats)]  # type: ignore[arg-type, type-var]


def same_hands(
    policy: Policy, task: Task, items: Sequence[Item], *, generator: torch.Generator, games: int, turns: int,
    temperature: float,
) -> Rollouts:  # fmt: skip
    """``games`` games of the policy with itself for every ``games``-th item, both players of each; the rows of a deal
    have the same ``group``."""
    if not isinstance(task, TrustSplit) or turns != task.turns(items[0].level):
        raise ConfigError(
            f"train.turns {turns}: set it to the moves of a player in the game, which has to be trust_split"
        )
    played = [item for item in items[::games] for _ in range(games)]
    rollouts = play(
        task, played, [(policy, policy)] * len(played), learner=policy, generator=generator, temperature=temperature
    )
    rollouts.group = torch.arange(len(rollouts.items), device=rollouts.group.device) // (SEATS * games)
    return rollouts


def game_stats(rollouts: Rollouts) -> dict[str, float]:
    """The learner's reward a round, how often it leaves the coins to the other one, how often it tells the truth."""
    return {name: sum(values) / len(values) for name, values in by_row(rollouts).items()}
