"""Two seats, one policy: rollouts of self-play in several games at once."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F

from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import play, random_mover
from minirl.tasks import Item, Task, get
from minirl.tasks.game import Game


def self_play(
    policy: Policy,
    task: Task,  # noqa: ARG001
    items: list[Item],
    *,
    games: Mapping[str, int],
    opponent: Literal["self", "random"] = "self",
    samples: int = 2,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rollouts:
    """Two rows for every item, which is a deal of each of ``games`` (name → level) in turn: both seats of a game of the
    policy against itself, or either seat of a game against a player who draws its moves."""
    parts = []
    for first, (name, level) in enumerate(games.items()):
        game = get(name)
        assert isinstance(game, Game), f"{name} is no game"
        deals = [game.item(item.seed, item.index, level) for item in items[first :: len(games)]]
        seats: list = [(policy, policy)] * len(deals)
        if opponent == "random":
            deals = [deal for deal in deals for _ in range(samples)]
            seats = [(policy, random_mover), (random_mover, policy)] * len(seats)
        parts.append(play(game, deals, seats, learner=policy, generator=generator, temperature=temperature))
    turns = max(part.scores.shape[1] for part in parts)
    for part in parts:
        part.scores = F.pad(part.scores, (0, turns - part.scores.shape[1]))
    return Rollouts.join(parts)
