"""A policy as a player of a game of two, and the average of all that it has been."""

from collections.abc import Sequence

import torch

from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.games import (
    Strategy,
    exploitability,
    illegal,
    outcomes,
    own_reach,
    strategy_of,
    uniform_strategy,
    values,
)
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import play
from minirl.tasks import Item
from minirl.tasks.game import INVALID, Game


def values_along(game: Game, deal: str, moves: str, strategies: Sequence[Strategy]) -> list[tuple[float, ...]]:
    """What every player can expect from there on before each of ``moves`` and at the end, if player i goes on with
    ``strategies[i]``; moves made at the same time count as one."""
    found, made = [], 0
    while made < len(moves) and INVALID not in moves[:made]:
        found.append(_from_here(game, deal, moves[:made], strategies))
        made += len(game.to_move(deal, moves[:made]))
    return [*found, (0.0,) * game.players]


def _from_here(game: Game, deal: str, moves: str, strategies: Sequence[Strategy]) -> tuple[float, ...]:
    total, pending = [0.0] * game.players, [(moves, 1.0)]
    while pending:
        here, reach = pending.pop()
        for after, p, rewards, over in outcomes(game, deal, here, lambda i, view: strategies[i][view].items()):
            total = [so_far + reach * p * reward for so_far, reward in zip(total, rewards, strict=True)]
            if not over:
                pending.append((after, reach * p))
    return tuple(total)


def evaluate_player(policy: Policy, task: Game, items: list[Item], *, seed: int) -> tuple[Evaluation, Rollouts]:
    """``exploitability``, ``against_random`` (what it wins there, mean of both seats), ``value`` and ``illegal``: all
    computed, nothing sampled. The rollouts, to read, are games with itself on the deals of ``items``."""
    level = items[0].level
    strategy, uniform = strategy_of(policy, task, level), uniform_strategy(task, level)
    first, second = values(task, level, [strategy, uniform])[0], values(task, level, [uniform, strategy])[1]
    metrics = {
        "exploitability": exploitability(task, level, strategy),
        "against_random": (first + second) / 2,
        "value": values(task, level, [strategy] * 2)[0],
        "illegal": illegal(task, level, strategy),
    }
    noise = torch.Generator().manual_seed(seed)
    rollouts = play(task, items, [(policy, policy)] * len(items), learner=policy, generator=noise)
    return Evaluation(metrics, {}, rollouts.generated_tokens()), rollouts


class RunningAverage:
    """What :func:`minirl.evaluation.games.average_strategy` says of all strategies added, without keeping them.

    ``sums`` [views, moves] are the probabilities of moves weighed by own reach, in the order of the first strategy's
    views and of its moves' names.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, game: Game, level: int, strategy: Strategy) -> None:
        reach = own_reach(game, level, strategy)
        names = _names(strategy)
        rows = [[reach[view] * moves.get(name, 0.0) for name in names] for view, moves in strategy.items()]
        added = torch.tensor(rows, dtype=torch.float64)
        self.sums = self.sums + added if self.sums.numel() else added

    def strategy(self, latest: Strategy) -> Strategy:
        """The average, at views where none of the strategies ever gets what ``latest`` says."""
        average: Strategy = {}
        for (view, moves), row in zip(latest.items(), self.sums.tolist(), strict=True):
            shares = dict(zip(_names(latest), row, strict=True))
            average[view] = {name: shares[name] / sum(row) for name in moves} if sum(row) else moves
        return average


def _names(strategy: Strategy) -> list[str]:
    return sorted({move for moves in strategy.values() for move in moves})
