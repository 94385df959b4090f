"""Games solved exactly: what a strategy is worth, and how much the best answer to it would win.

A *strategy* says with which probability every move is made after every view: ``{view: {move: p}}``, moves that are not
legal taken together as ``?``. From a policy it is read, not sampled (:func:`strategy_of`), so nothing here has noise.

============== =======================================================================================
metric         meaning
============== =======================================================================================
exploitability mean over players of what the best response to the others' strategies wins more than the
               strategies themselves do: 0 at a Nash equilibrium. NashConv / players, as in OpenSpiel
value          what the first player gets if everybody plays the strategy
illegal        chance that a game under the strategy ends with a move that is not legal
============== =======================================================================================

References: Lanctot et al. 2017, arXiv 1711.00832 (NashConv); Kuhn 1950.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import torch

from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy
from minirl.tasks.game import INVALID, Game

Strategy = dict[str, dict[str, float]]
Node = tuple[str, str, float]  # deal, moves, probability of getting there as far as others decide


def histories(game: Game, level: int) -> Iterator[tuple[str, str]]:
    """Every ``(deal, moves)`` at which somebody has to move."""
    pending = [(deal, "") for deal in game.deals(level)]
    while pending:
        deal, moves = pending.pop()
        movers = game.to_move(deal, moves)
        if movers:
            yield deal, moves
            legal = game.legal(deal, moves)
            pending += [(deal, moves + "".join(made)) for made in product(legal, repeat=len(movers))]


def views(game: Game, level: int) -> dict[str, str]:
    """Every view after which its player has to move, and the moves that are legal there."""
    return {
        game.view(deal, moves, player): game.legal(deal, moves)
        for deal, moves in histories(game, level)
        for player in game.to_move(deal, moves)
    }


def uniform_strategy(game: Game, level: int) -> Strategy:
    """All legal moves alike."""
    return {view: dict.fromkeys(legal, 1 / len(legal)) for view, legal in views(game, level).items()}


@torch.no_grad()
def strategy_of(policy: Policy, game: Game, level: int, batch: int = 4096) -> Strategy:
    """What ``policy`` does after every view, at temperature 1."""
    known = views(game, level)
    texts = list(known)
    moves = sorted({move for legal in known.values() for move in legal})
    tokens = [ids[0] for ids in policy.encode_text(moves)]
    strategy: Strategy = {}
    for start in range(0, len(texts), batch):
        ids, lengths = pad_rows(policy.encode_text(texts[start : start + batch]), policy.pad_id, policy.device)
        logits = policy.logits(ids)[torch.arange(len(ids)), lengths - 1]
        for text, p in zip(texts[start : start + batch], logits.softmax(-1)[:, tokens].double().tolist(), strict=True):
            found = {move: p[moves.index(move)] for move in known[text]}
            strategy[text] = {**found, INVALID: max(0.0, 1 - sum(found.values()))}
    return strategy


def outcomes(
    game: Game, deal: str, moves: str, p_of: Callable[[int, str], Iterable[tuple[str, float]]]
) -> Iterator[tuple[str, float, tuple[float, ...], bool]]:
    """``(moves, probability, rewards, over)`` after the players who are to move have moved as ``p_of(player, view)``
    says."""
    movers = game.to_move(deal, moves)
    options = [list(p_of(player, game.view(deal, moves, player))) for player in movers]
    for choice in product(*options):
        p = 1.0
        for _, share in choice:
            p *= share
        if p == 0:
            continue
        offenders = tuple(player for player, (move, _) in zip(movers, choice, strict=True) if move == INVALID)
        after = moves + "".join(move for move, _ in choice)
        rewards = game.forfeit(offenders) if offenders else game.rewards(deal, after)
        yield after, p, rewards, bool(offenders) or not game.to_move(deal, after)


def values(game: Game, level: int, strategies: Sequence[Strategy]) -> tuple[float, ...]:
    """What every player gets on average if player i plays ``strategies[i]``."""
    total = [0.0] * game.players
    pending: list[Node] = [(deal, "", p) for deal, p in game.deals(level).items()]
    while pending:
        deal, moves, reach = pending.pop()
        for after, p, rewards, over in outcomes(game, deal, moves, lambda i, view: strategies[i][view].items()):
            total = [sum_ + reach * p * reward for sum_, reward in zip(total, rewards, strict=True)]
            if not over:
                pending.append((deal, after, reach * p))
    return tuple(total)


def best_response(game: Game, level: int, strategies: Sequence[Strategy], player: int) -> tuple[float, dict[str, str]]:
    """What ``player`` can get at most against the others' ``strategies``, and the move after every view with which it
    does. Views that the others never let happen are left out."""
    plan: dict[str, str] = {}

    def search(nodes: list[Node]) -> float:
        """What comes to the player from ``nodes`` on, none of which it can tell from another by its own moves."""
        total, waiting = 0.0, defaultdict[str, list[Node]](list)
        while nodes:
            deal, moves, reach = nodes.pop()
            if player in game.to_move(deal, moves):
                waiting[game.view(deal, moves, player)].append((deal, moves, reach))
                continue
            for after, p, rewards, over in outcomes(game, deal, moves, lambda i, view: strategies[i][view].items()):
                total += reach * p * rewards[player]
                if not over:
                    nodes.append((deal, after, reach * p))
        for view, alike in waiting.items():
            found = {move: choose(alike, move) for move in game.legal(*alike[0][:2])}
            plan[view] = max(found, key=lambda move: found[move])
            total += found[plan[view]]
        return total

    def choose(alike: list[Node], move: str) -> float:
        total, later = 0.0, list[Node]()
        for deal, moves, reach in alike:
            others = outcomes(
                game,
                deal,
                moves,
                lambda i, view: [(move, 1.0)] if i == player else strategies[i][view].items(),
            )
            for after, p, rewards, over in others:
                total += reach * p * rewards[player]
                if not over:
                    later.append((deal, after, reach * p))
        return total + search(later)

    return search([(deal, "", p) for deal, p in game.deals(level).items()]), plan


def exploitability(game: Game, level: int, strategy: Strategy) -> float:
    """Mean over players of what a best response to ``strategy`` on all other seats gains."""
    everywhere = [strategy] * game.players
    got = values(game, level, everywhere)
    gains = [best_response(game, level, everywhere, player)[0] - got[player] for player in range(game.players)]
    return sum(gains) / game.players


def illegal(game: Game, level: int, strategy: Strategy) -> float:
    """Chance that a game under ``strategy`` ends with a move that is not legal."""
    total, pending = 0.0, [(deal, "", p) for deal, p in game.deals(level).items()]
    while pending:
        deal, moves, reach = pending.pop()
        for after, p, _, over in outcomes(game, deal, moves, lambda _, view: strategy[view].items()):
            if INVALID in after:
                total += reach * p
            elif not over:
                pending.append((deal, after, reach * p))
    return total


def average_strategy(game: Game, level: int, strategies: Sequence[Strategy]) -> Strategy:
    """The strategy that plays as if one of ``strategies`` had been drawn before the game: at every view the mean,
    weighed by how far each strategy's own moves lead there. In self-play this is what approaches an equilibrium even
    where the last strategy goes round in circles."""
    sums: dict[str, dict[str, float]] = {view: defaultdict(float) for view in strategies[0]}
    for strategy in strategies:
        for view, reach in own_reach(game, level, strategy).items():
            for move, p in strategy[view].items():
                sums[view][move] += reach * p
    average: Strategy = {}
    for view, found in sums.items():
        total = sum(found.values())  # 0 where no strategy ever gets
        average[view] = {move: p / total for move, p in found.items()} if total else strategies[0][view]
    return average


def own_reach(game: Game, level: int, strategy: Strategy) -> dict[str, float]:
    """For every view the probability of the player's own moves that lead there."""
    reach: dict[str, float] = {}
    pending = [(deal, "", [1.0] * game.players) for deal in game.deals(level)]
    while pending:
        deal, moves, own = pending.pop()
        movers = game.to_move(deal, moves)
        seen = [game.view(deal, moves, player) for player in movers]
        reach.update({view: own[player] for view, player in zip(seen, movers, strict=True)})
        for made in product(game.legal(deal, moves), repeat=len(movers)) if movers else ():
            after = list(own)
            for player, view, move in zip(movers, seen, made, strict=True):
                after[player] *= strategy[view].get(move, 0.0)
            pending.append((deal, moves + "".join(made), after))
    return reach
