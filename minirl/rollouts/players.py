"""Players of games who follow a plan: ``{view: {move: probability}}``."""

import random
from collections.abc import Mapping

from minirl.rollouts.games import Mover
from minirl.tasks.game import Game


def equilibrium(bluff: float = 1 / 6) -> dict[str, dict[str, float]]:
    """Kuhn poker's equilibria, one for every rate at which the first player bets the jack, 0 to 1/3."""
    bets = {
        **{"K1J": bluff, "K1Q": 0.0, "K1K": 3 * bluff, "K1Jpb": 0.0, "K1Qpb": bluff + 1 / 3, "K1Kpb": 1.0},
        **{"K2Jp": 1 / 3, "K2Qp": 0.0, "K2Kp": 1.0, "K2Jb": 0.0, "K2Qb": 1 / 3, "K2Kb": 1.0},
    }
    return {view: {"p": 1 - p, "b": p} for view, p in bets.items()}


def follower(strategy: Mapping[str, Mapping[str, float]]) -> Mover:
    """Who moves as ``strategy`` says."""

    def move(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:
        options = strategy[game.view(deal, moves, player)]
        (chosen,) = rng.choices(list(options), list(options.values()))
        return chosen

    return move
