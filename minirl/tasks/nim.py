"""NIM with one heap: take one, two or three; whoever takes the last one wins.

``level`` is the heap at the start. Optimal play leaves the other a multiple of four. A heap is shown as a letter, ``a``
for one: the second player of a heap of nine reads ``N2i``, then the other's move and what is left, ``N2i2g``.
"""

from string import ascii_lowercase

from minirl.tasks.game import Game

MOST = 3


class Nim(Game):
    name = "nim"
    levels = range(2, 22)

    def deals(self, level: int) -> dict[str, float]:
        return {ascii_lowercase[level - 1]: 1.0}

    def left(self, deal: str, moves: str) -> int:
        return ascii_lowercase.index(deal) + 1 - sum(map(int, moves))

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        return (len(moves) % 2,) if self.left(deal, moves) else ()

    def legal(self, deal: str, moves: str) -> str:
        return "123"[: self.left(deal, moves)]

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        if self.left(deal, moves):
            return (0.0, 0.0)
        won = 1.0 if len(moves) % 2 else -1.0  # the first player has made the odd moves
        return (won, -won)

    def view(self, deal: str, moves: str, player: int) -> str:
        text = f"N{player + 1}{deal}"
        for i, move in enumerate(moves):
            left = self.left(deal, moves[: i + 1])
            text += move if i % 2 == player else move + (ascii_lowercase[left - 1] if left else "")
        return text

    def turns(self, level: int) -> int:
        return (level + 1) // 2

    def best(self, left: int) -> str:
        """The moves that keep a won game won; all, where it is lost."""
        moves = "123"[:left]
        return str(left % (MOST + 1)) if left % (MOST + 1) else moves
