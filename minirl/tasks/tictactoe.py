"""Tic-tac-toe: three in a row on a board of nine cells, ``a`` to ``i``, row by row. Perfect play draws.

Level n starts from a board on which n − 1 moves have been drawn at random, so that not all games begin alike. The
second player of an empty board reads ``T2`` and then the moves as they are made.
"""

import functools
from itertools import permutations

from minirl.tasks.game import Game

CELLS = "abcdefghi"
LINES = tuple(map(frozenset, ("abc", "def", "ghi", "adg", "beh", "cfi", "aei", "ceg")))


def has_won(cells: str) -> bool:
    return any(line <= set(cells) for line in LINES)


class TicTacToe(Game):
    name = "tictactoe"
    levels = range(1, 4)

    def deals(self, level: int) -> dict[str, float]:
        opened = ["".join(cells) for cells in permutations(CELLS, level - 1)]
        return dict.fromkeys(opened, 1 / len(opened))

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        made = deal + moves
        mine, theirs = made[::2], made[1::2]
        return () if has_won(mine) or has_won(theirs) or len(made) == len(CELLS) else (len(made) % 2,)

    def legal(self, deal: str, moves: str) -> str:
        return "".join(cell for cell in CELLS if cell not in deal + moves)

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        made = deal + moves
        won = float(has_won(made[::2])) - float(has_won(made[1::2]))
        return (won, -won)

    def view(self, deal: str, moves: str, player: int) -> str:
        return f"T{player + 1}{deal}{moves}"

    def turns(self, level: int) -> int:  # noqa: ARG002
        return 5

    def best(self, made: str) -> str:
        """The moves with the best outcome under perfect play, after the moves ``made``."""
        after = {cell: -outlook(_board(made + cell)) for cell in CELLS if cell not in made}
        return "".join(cell for cell, value in after.items() if value == max(after.values()))


def _board(made: str) -> tuple[frozenset[str], frozenset[str]]:
    """The cells of the player to move, and the other's."""
    mover = len(made) % 2
    return frozenset(made[mover::2]), frozenset(made[1 - mover :: 2])


@functools.cache
def outlook(board: tuple[frozenset[str], frozenset[str]]) -> int:
    """What the player to move gets under perfect play: 1, 0 or −1."""
    mine, theirs = board
    if has_won("".join(theirs)):
        return -1
    free = [cell for cell in CELLS if cell not in mine | theirs]
    return max((-outlook((theirs, mine | {cell})) for cell in free), default=0)
