"""Chase: one runs after the other round a ring of six places, and whoever runs pays by how near the other has come.

In every round first player 1, who chases, and then player 2, who runs, takes a step to the left or to the right (``l``,
``r``; clockwise is right). Then the runner pays the chaser 3 less the distance between them: 3 if it is caught, nothing
on the opposite side. Level n has n rounds. Everybody sees everything: after each move where the runner stands as seen
from the chaser, in steps to the right. ``C12r1r2`` is a chaser two steps behind, who went after a runner who ran.
"""

from minirl.tasks.game import Game

PLACES = 6


class Chase(Game):
    name = "chase"
    levels = range(1, 6)
    # What a runner pays in five rounds who starts one step ahead and runs well: if to break off were cheaper, it would.
    stake = 10.0

    def deals(self, level: int) -> dict[str, float]:
        return {f"{level}{place}": 1 / (PLACES - 1) for place in range(1, PLACES)}

    def place(self, deal: str, moves: str) -> int:
        """Where the runner stands, in steps to the right of the chaser."""
        chased, ran = (moves[seat::2].count("r") - moves[seat::2].count("l") for seat in range(self.players))
        return (int(deal[1]) - chased + ran) % PLACES

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        return (len(moves) % 2,) if len(moves) < 2 * int(deal[0]) else ()

    def legal(self, deal: str, moves: str) -> str:  # noqa: ARG002
        return "lr"

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        if len(moves) % 2:
            return (0.0, 0.0)
        place = self.place(deal, moves)
        paid = float(PLACES // 2 - min(place, PLACES - place))
        return (paid, -paid)

    def view(self, deal: str, moves: str, player: int) -> str:
        steps = (f"{move}{self.place(deal, moves[: i + 1])}" for i, move in enumerate(moves))
        return f"C{player + 1}{deal[1]}" + "".join(steps)

    def turns(self, level: int) -> int:
        return level

    def right(self, deal: str, record: str) -> list[bool]:
        """Of every move with a right and a wrong side to it, whether it was right: towards whom one chases, away from
        who chases. Where the two are together or opposite each other, both sides are alike."""
        found = []
        for i, move in enumerate(record):
            place = self.place(deal, record[:i])
            if place % (PLACES // 2):
                found.append(move == ("r" if place < PLACES // 2 else "l"))
        return found

    def forfeit(self, offenders: tuple[int, ...]) -> tuple[float, ...]:
        """Offenders pay, and nobody gets it: there is nothing to be won by mistakes."""
        return tuple(-self.stake if player in offenders else 0.0 for player in range(self.players))
