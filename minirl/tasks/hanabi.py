"""Hanabi with four cards: two players who win together, each of whom sees the other's card and not its own.

Two colours, two ranks: red ``r`` (one) and ``R`` (two), blue ``b`` and ``B``. Everybody holds one card, two are left to
draw. A move is ``p`` to play one's own card, ``d`` to discard it, ``c`` or ``n`` to tell the other the colour or the
number of its card. A one fits at any time, a two once the one of its colour lies there. A card that fits brings both
players 1, one that does not costs both 1; it is gone, and so is the chance for what comes after it. Two hints may be
given, and each discarded card brings one back. After the last card has been drawn each player has one more move.

``H1RndBp+b`` is player 1 whose partner held the red two. It told the number; the partner discarded and drew the blue
two. Then player 1 played its card: it fitted, and was the blue one. The partner has read ``H2bn2dRp+r``: it saw the
blue one, was told that its own card was a two, threw it away and learned which, and saw the red one being drawn.
"""

from functools import cache
from itertools import permutations
from typing import NamedTuple

from minirl.tasks.game import Game

CARDS = "rRbB"
HINTS = 2
NONE = "_"  # in place of a card, where there is none left to draw


class Table(NamedTuple):
    """What lies where: the cards of both players, the deck, the cards that were played and fitted, how many hints may
    be given, how many moves are left (once the deck is empty), and what the last move brought both players."""

    hands: str
    deck: str
    fitted: str = ""
    hints: int = HINTS
    left: int | None = None
    brought: float = 0.0


def rank(card: str) -> int:
    """1 or 2."""
    return 2 if card.isupper() else 1


@cache  # a few ten thousand small tuples: every game there is
def table(deal: str, moves: str) -> Table:
    """The table after ``moves``."""
    if not moves:
        return Table(deal[:2], deal[2:])
    before, player, move = table(deal, moves[:-1]), (len(moves) - 1) % 2, moves[-1]
    left = None if before.left is None else before.left - 1
    if move in "cn":
        return before._replace(hints=before.hints - 1, left=left, brought=0.0)
    card, hands = before.hands[player], list(before.hands)
    hands[player] = (before.deck or NONE)[0]
    deck = before.deck[1:]
    after = before._replace(hands="".join(hands), deck=deck, left=2 if left is None and not deck else left)
    if move == "d":
        return after._replace(hints=min(HINTS, before.hints + 1), brought=0.0)
    fits = rank(card) == 1 or card.lower() in before.fitted
    return after._replace(fitted=before.fitted + card * fits, brought=1.0 if fits else -1.0)


class Hanabi(Game):
    name = "hanabi"
    levels = range(1, 2)
    stake = 2.0

    def deals(self, level: int) -> dict[str, float]:  # noqa: ARG002
        return {"".join(order): 1 / 24 for order in permutations(CARDS)}

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        return () if table(deal, moves).left == 0 else (len(moves) % 2,)

    def legal(self, deal: str, moves: str) -> str:
        return "pdcn" if table(deal, moves).hints else "pd"

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        brought = table(deal, moves).brought
        return (brought, brought)

    def view(self, deal: str, moves: str, player: int) -> str:
        text = f"H{player + 1}{deal[1 - player]}"
        for number, move in enumerate(moves):
            mover = number % 2
            before, after = (table(deal, moves[:end]) for end in (number, number + 1))
            text += move
            if move == "p":
                text += "+" if after.brought > 0 else "-"
            if move in "pd":
                text += before.hands[player] if mover == player else after.hands[mover]
            elif mover != player:
                told = before.hands[player]
                text += told.lower() if move == "c" else str(rank(told))
        return text

    def turns(self, level: int) -> int:  # noqa: ARG002
        return 4

    def forfeit(self, offenders: tuple[int, ...]) -> tuple[float, ...]:  # noqa: ARG002
        return (-self.stake,) * self.players
