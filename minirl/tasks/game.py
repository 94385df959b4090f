"""What a game is: rules as pure functions of a deal and the moves made so far, both plain text.

Every move is one character. A player reads its own view of the game and nothing else; what the view holds beyond the
player's own moves is context. Whoever makes a move that is not legal ends the game and pays for it
(:meth:`Game.forfeit`).
"""

import random
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from minirl.tasks.base import Item, Task

INVALID = "?"  # stands in the record of a game where somebody made a move that is none


class Game(Task):
    """A game of several players. Its items are deals: ``item.prompt`` is the deal, and there is no answer to it.

    A view begins with the first letter of the game's name and the player's number, so that one policy can sit on every
    seat of every game, and only ever grows at its end.
    """

    players: ClassVar[int] = 2
    stake: ClassVar[float] = 1.0  # what a move that is not legal costs

    @abstractmethod
    def deals(self, level: int) -> dict[str, float]:
        """Every deal and its probability."""

    @abstractmethod
    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        """The players who move now: several if they move at the same time, none when the game is over."""

    @abstractmethod
    def legal(self, deal: str, moves: str) -> str:
        """The legal moves, one character each."""

    @abstractmethod
    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        """What the last move (or the last moves, if made at the same time) brought to every player."""

    @abstractmethod
    def view(self, deal: str, moves: str, player: int) -> str:
        """All that a player has read and written, before its next move or at the end."""

    @abstractmethod
    def turns(self, level: int) -> int:
        """The most moves that one player can make."""

    def forfeit(self, offenders: tuple[int, ...]) -> tuple[float, ...]:
        """What every player gets when ``offenders`` have made moves that are none: they pay their stake, and what they
        pay goes to the others in equal parts."""
        others = self.players - len(offenders)
        pot = self.stake * len(offenders) if others else 0.0
        return tuple(-self.stake if player in offenders else pot / others for player in range(self.players))

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        deals = self.deals(level)
        (deal,) = rng.choices(list(deals), list(deals.values()))
        return deal, ""

    def check(self, item: Item, answer: str) -> float:  # noqa: ARG002
        return 0.0  # a deal is no problem

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        raise NotImplementedError(f"{self.name} is a game: it has no wrong answers to {item.prompt!r}")

    def random_record(self, deal: str, rng: random.Random) -> str:
        """A whole game of players who draw among the legal moves."""
        moves = ""
        while movers := self.to_move(deal, moves):
            legal = self.legal(deal, moves)
            moves += "".join(rng.choice(legal) for _ in movers)
        return moves

    def decisions(self, deal: str, record: str, player: int) -> Iterator[tuple[str, str]]:
        """``(what is new in the player's view, its move)`` for every move of the player in a record without an illegal
        one."""
        read, made = 0, 0
        while movers := self.to_move(deal, record[:made]):
            if player in movers and made < len(record):
                view, move = self.view(deal, record[:made], player), record[made + movers.index(player)]
                yield view[read:], move
                read = len(view) + 1
            made += len(movers)
            if made >= len(record):
                return


def role(item: Item) -> int:
    """The seat of the player who reads ``item.prompt``, the beginning of a view: 0, 1, …"""
    return int(item.prompt[1]) - 1
