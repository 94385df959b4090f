"""What a policy plays in small games, read off its probabilities, and what it has played in the course of training.

================== ===========================================================================================
metric             meaning, after the name of the game
================== ===========================================================================================
``exploitability`` that of :mod:`minirl.evaluation.games`: 0 at a Nash equilibrium
``average``        exploitability of the average of all strategies so far
``value``          what the first player gets a game if it sits on both seats; −1/18 in Kuhn poker at an equilibrium
``random``         what it wins a game against a player who draws legal moves, mean over both seats
``illegal``        chance that a game against itself ends with a move that is not legal
``optimal``        Nim: probability of the move that wins, over won positions, each weighed by how often players
                   who draw their moves get there
================== ===========================================================================================
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from minirl.evaluation.games import (
    Strategy,
    average_strategy,
    exploitability,
    illegal,
    strategy_of,
    uniform_strategy,
    values,
    views,
)
from minirl.policy.models import Policy
from minirl.tasks import get
from minirl.tasks.game import INVALID, Game
from minirl.tasks.nim import Nim

DOUBLE = torch.float64  # as Python counts: what comes back from a checkpoint is the same number


def game_of(name: str) -> Game:
    """The game of this name."""
    game = get(name)
    assert isinstance(game, Game), f"{name} is no game"
    return game


def optimal(game: Nim, level: int, strategy: Strategy) -> float:
    """Mean probability of the winning move; positions count as often as random play reaches them."""
    found = weight = 0.0
    pending = [(deal, "", p) for deal, p in game.deals(level).items()]
    while pending:
        deal, moves, reach = pending.pop()
        legal = game.legal(deal, moves)
        best = game.best(game.left(deal, moves))
        if len(best) < len(legal) or len(legal) == 1:  # with one move left it is the winning one; else the game is lost
            (player,) = game.to_move(deal, moves)
            found += reach * strategy[game.view(deal, moves, player)].get(best, 0.0)
            weight += reach
        for move in legal:
            if game.to_move(deal, moves + move):
                pending.append((deal, moves + move, reach / len(legal)))
    return found / weight


def value(game: Game, level: int, strategy: Strategy) -> float:
    """What the first player gets a game."""
    return values(game, level, [strategy] * game.players)[0]


def against_random(game: Game, level: int, strategy: Strategy) -> float:
    """What ``strategy`` wins a game against a player who draws legal moves, mean over seats."""
    other = uniform_strategy(game, level)
    won = 0.0
    for seat in range(game.players):
        table = [strategy if player == seat else other for player in range(game.players)]
        won += values(game, level, table)[seat]
    return won / game.players


def game_metrics(name: str, level: int, strategy: Strategy) -> dict[str, float]:
    """All metrics of the table above but ``average``, which is that of one strategy here."""
    game = game_of(name)
    found = {"exploitability": exploitability(game, level, strategy)}
    found |= {"average": found["exploitability"], "random": against_random(game, level, strategy)}
    found |= {"value": value(game, level, strategy), "illegal": illegal(game, level, strategy)}
    if isinstance(game, Nim):
        found["optimal"] = optimal(game, level, strategy)
    return {f"{name}_{metric}": value for metric, value in found.items()}


class Past:
    """The strategies of a policy after its first update and every ``every`` updates from then on, in each of ``games``
    (name → level), and what they are worth: ``measured``. Part of a memory of an online phase."""

    def __init__(self, games: Mapping[str, int], every: int) -> None:
        self.games, self.every, self.updates = dict(games), every, 0
        self.strategies: dict[str, list[Strategy]] = {name: [] for name in games}
        self.measured: dict[str, float] = {}

    def learned(self, policy: Policy) -> None:
        """The policy has been updated: maybe time to read its strategies."""
        if self.updates % self.every == 0:
            for name, level in self.games.items():
                self.strategies[name].append(strategy_of(policy, game_of(name), level))
            self.measured = self._measure()
        self.updates += 1

    def _measure(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, level in self.games.items():
            game, known = game_of(name), self.strategies[name]
            if not known:
                continue
            if isinstance(game, Nim):  # all is seen: there is a best move, and nothing to average
                found[f"{name}_optimal"] = optimal(game, level, known[-1])
            else:
                found[f"{name}_exploitability"] = exploitability(game, level, known[-1])
                found[f"{name}_value"] = value(game, level, known[-1])
                found[f"{name}_average"] = exploitability(game, level, average_strategy(game, level, known))
        return found

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return {"updates": torch.tensor(self.updates)} | {
            name: torch.tensor([[p for found in one.values() for p in found.values()] for one in known], dtype=DOUBLE)
            for name, known in self.strategies.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Be what :meth:`state` said."""
        self.updates = int(state["updates"])
        for name, level in self.games.items():
            self.strategies[name] = [_unflattened(game_of(name), level, row) for row in state[name].tolist()]
        self.measured = self._measure()


def _unflattened(game: Game, level: int, row: list[float]) -> Strategy:
    rest = iter(row)
    return {view: {move: next(rest) for move in (*legal, INVALID)} for view, legal in views(game, level).items()}
