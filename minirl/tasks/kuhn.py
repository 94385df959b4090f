"""Kuhn poker: three cards, two players, one bet. The smallest game in which bluffing is right.

Each player antes 1 and gets one of J < Q < K. ``p`` is a pass (check, or fold when facing a bet), ``b`` a bet of 1 (or
a call). Optimal play wins the second player 1/18 a game: H. W. Kuhn 1950. Player 1 with the queen reads ``K1Q``, and
after a pass and a bet ``K1Qpb``.
"""

from itertools import permutations

from minirl.tasks.game import Game

CARDS = "JQK"
OVER = ("pp", "bp", "bb", "pbp", "pbb")


class Kuhn(Game):
    name = "kuhn"
    levels = range(1, 2)
    stake = 2.0  # as much as anybody can lose

    def deals(self, level: int) -> dict[str, float]:  # noqa: ARG002
        return {first + second: 1 / 6 for first, second in permutations(CARDS, 2)}

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:  # noqa: ARG002
        return () if moves in OVER else (len(moves) % 2,)

    def legal(self, deal: str, moves: str) -> str:  # noqa: ARG002
        return "pb"

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        if moves not in OVER:
            return (0.0, 0.0)
        if moves.endswith("bp"):  # a fold: the ante goes to the player who has bet
            won = 1.0 if moves == "bp" else -1.0
        else:
            stakes = 2.0 if moves.endswith("bb") else 1.0
            won = stakes if CARDS.index(deal[0]) > CARDS.index(deal[1]) else -stakes
        return (won, -won)

    def view(self, deal: str, moves: str, player: int) -> str:
        return f"K{player + 1}{deal[player]}{moves}"

    def turns(self, level: int) -> int:  # noqa: ARG002
        return 2
