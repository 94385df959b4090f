"""Games played to the end by policies and others, in one batch.

A row is what the learner has read and written on one seat of one game: every move is one token of its own and a turn of
its own, all else is context. ``scores`` [B, turns] hold what came to that player from its t-th move until its next, so
that returns-to-go are those of :func:`minirl.objectives.advantages.return_to_go`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy
from minirl.policy.sampler import choose, make_decoder
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks.base import Item
from minirl.tasks.game import INVALID, Game, role

Mover = Callable[[Game, str, str, int, random.Random], str]  # (game, deal, moves, player, rng) → its move
Seat = Policy | Mover


def random_mover(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:  # noqa: ARG001
    """Any legal move."""
    return rng.choice(game.legal(deal, moves))


@dataclass
class _Match:
    """A game in progress."""

    item: Item
    rng: random.Random
    moves: str = ""
    over: bool = False


@dataclass
class _Row:
    """What the player on one seat of a match has read and written."""

    match: int
    player: int
    noise: Tensor | None  # [turns]
    ids: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)  # one for each of its moves
    read: int = 0  # characters of its view that are in ``ids``
    fresh: int = 0  # tokens at the end of ``ids`` that the decoder has not seen

    def add(self, ids: Sequence[int], turn: int, logprob: float) -> None:
        self.ids += ids
        self.turn += [turn] * len(ids)
        self.logprobs += [logprob] * len(ids)
        self.fresh += len(ids)


class _Side:
    """All rows of one policy: they go through one decoder."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        self.policy, self.temperature = policy, temperature
        self.rows: list[_Row] = []

    def sit(self, views: list[str]) -> None:
        """Read the beginning of every row's view, all but its last character: that comes with the first move."""
        self.decoder = make_decoder(self.policy.model, len(self.rows))
        self.read([view[:-1] for view in views], self.rows)

    def read(self, texts: list[str], rows: list[_Row]) -> Tensor:
        """Append what is new in the views of ``rows``, and their last moves: logits of all rows."""
        for row, text, ids in zip(rows, texts, self.policy.encode_text(texts), strict=True):
            row.add(ids, CONTEXT, 0.0)
            row.read += len(text)
        new = [row.ids[len(row.ids) - row.fresh :] for row in self.rows]
        for row in rows:
            row.fresh = 0
        fresh, counts = pad_rows(new, self.policy.pad_id, self.policy.device)
        return self.decoder.append(fresh, counts)

    def move(self, views: dict[int, str]) -> None:
        """A move of the rows with the numbers ``views``, each of which has read its view so far."""
        rows = [self.rows[number] for number in views]
        logits = self.read([view[row.read :] for row, view in zip(rows, views.values(), strict=True)], rows)
        numbers = torch.tensor(list(views), device=logits.device)
        noise = None
        if rows[0].noise is not None:
            noise = torch.stack([row.noise[len(row.moves)] for row in rows]).to(logits.device)  # type: ignore[index]
        tokens, logprobs = choose(logits[numbers], noise, self.temperature)
        texts = self.policy.decode([[token] for token in tokens.tolist()])
        for row, token, logprob, text in zip(rows, tokens.tolist(), logprobs.tolist(), texts, strict=True):
            row.add([token], len(row.moves), logprob)
            row.read += 1
            row.moves.append(text)
            row.rewards.append(0.0)


@torch.no_grad()
def play(
    game: Game,
    items: Sequence[Item],
    seats: Sequence[Sequence[Seat]],
    *,
    learner: Policy,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Rollouts:
    """Play the deal of every item to its end; ``seats`` [items] say who sits where.

    The rows are those of ``learner``, in the order of items and seats. A row's item has as ``prompt`` what its player
    read first, and as ``answer`` the whole game, ``deal:moves``. A move that is not legal ends its game at once: it
    stands in the record as ``?``, and :meth:`Game.forfeit` says who pays. Without ``generator`` policies move greedily.
    Which random numbers a game gets does not depend on the games beside it.
    """
    seed, turns = generator.initial_seed() if generator else 0, max(game.turns(item.level) for item in items)
    matches = [_Match(item, random.Random(f"{seed}/{i}")) for i, item in enumerate(items)]
    sides: dict[int, _Side] = {}
    tables: list[list[_Row | Mover]] = [[] for _ in matches]
    for i, players in enumerate(seats):
        noise = None if generator is None else torch.rand(len(players), turns, generator=generator)
        for player, who in enumerate(players):
            if isinstance(who, Policy):
                row = _Row(i, player, None if noise is None else noise[player])
                sides.setdefault(id(who), _Side(who, temperature)).rows.append(row)
            tables[i].append(row if isinstance(who, Policy) else who)
    for side in sides.values():
        side.sit([game.view(items[row.match].prompt, "", row.player) for row in side.rows])

    while not all(match.over for match in matches):
        movers = [() if match.over else game.to_move(match.item.prompt, match.moves) for match in matches]
        for side in sides.values():
            views = {
                number: game.view(items[row.match].prompt, matches[row.match].moves, row.player)
                for number, row in enumerate(side.rows)
                if row.player in movers[row.match]
            }
            if views:
                side.move(views)
        for match, table, moved in zip(matches, tables, movers, strict=True):
            if not match.over:
                _settle(game, match, table, moved)
    return _rollouts(game, matches, sides[id(learner)].rows, learner, turns)


def _settle(game: Game, match: _Match, table: Sequence[_Row | Mover], movers: tuple[int, ...]) -> None:
    """Make the moves of ``movers`` in ``match`` and hand out what they bring; the match may be over then."""
    deal, legal = match.item.prompt, game.legal(match.item.prompt, match.moves)
    said = []
    for player in movers:
        who = table[player]
        said.append(who.moves[-1] if isinstance(who, _Row) else who(game, deal, match.moves, player, match.rng))
    offenders = tuple(player for player, move in zip(movers, said, strict=True) if len(move) != 1 or move not in legal)
    match.moves += "".join(INVALID if player in offenders else move for player, move in zip(movers, said, strict=True))
    brought = game.forfeit(offenders) if offenders else game.rewards(deal, match.moves)
    match.over = bool(offenders) or not game.to_move(deal, match.moves)
    for row, reward in zip(table, brought, strict=True):
        if isinstance(row, _Row) and row.rewards:
            row.rewards[-1] += reward


def _rollouts(game: Game, matches: Sequence[_Match], rows: Sequence[_Row], policy: Policy, turns: int) -> Rollouts:
    device = policy.device
    scores = [row.rewards + [0.0] * (turns - len(row.rewards)) for row in rows]
    of_rows = [matches[row.match] for row in rows]
    return Rollouts(
        ids=pad_rows([row.ids for row in rows], policy.pad_id, device)[0],
        turn=pad_rows([row.turn for row in rows], CONTEXT, device)[0],
        logprobs=pad_sequence([torch.tensor(row.logprobs) for row in rows], batch_first=True).to(device),
        scores=torch.tensor(scores, device=device),
        group=torch.arange(len(rows), device=device),
        answers=[row.moves for row in rows],
        items=[
            replace(
                match.item,
                prompt=game.view(match.item.prompt, "", row.player),
                answer=f"{match.item.prompt}:{match.moves}",
            )
            for row, match in zip(rows, of_rows, strict=True)
        ],
        longest=turns,
    )


def roles(rollouts: Rollouts) -> Tensor:
    """The seat of every row's player, [B]."""
    return torch.tensor([role(item) for item in rollouts.items], device=rollouts.ids.device)
