"""The iterated prisoner's dilemma: both players choose at the same time, ``c`` to cooperate or ``d`` to defect.

Level n has 4n rounds. A round pays 3 each for two c, 1 each for two d, and 5 to the one who defects alone, 0 to the
other. After every round a player reads what the other chose: ``D1cd`` is player 1 who cooperated and was betrayed.
"""

from minirl.tasks.game import Game

PAY = {"cc": (3.0, 3.0), "cd": (0.0, 5.0), "dc": (5.0, 0.0), "dd": (1.0, 1.0)}
ROUNDS = 4  # a level


class Dilemma(Game):
    name = "dilemma"
    levels = range(1, 6)
    stake = 5.0

    def deals(self, level: int) -> dict[str, float]:
        return {str(level): 1.0}

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        return (0, 1) if len(moves) < 2 * ROUNDS * int(deal) else ()

    def legal(self, deal: str, moves: str) -> str:  # noqa: ARG002
        return "cd"

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:  # noqa: ARG002
        return PAY.get(moves[-2:], (0.0, 0.0))

    def view(self, deal: str, moves: str, player: int) -> str:  # noqa: ARG002
        rounds = (moves[i : i + 2] for i in range(0, len(moves), 2))
        return f"D{player + 1}" + "".join(both if player == 0 else both[::-1] for both in rounds)

    def turns(self, level: int) -> int:
        return ROUNDS * level

    def forfeit(self, offenders: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(-self.stake if player in offenders else 0.0 for player in range(self.players))
