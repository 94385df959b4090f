"""The iterated prisoner's dilemma as people with habits play it: :mod:`minirl.tasks.dilemma`, but whoever is read about
cooperates always, defects always, plays tit for tat, or the opposite of it. On average over people it does not matter
what was done before, but to guess what somebody will do next one has to read what both have done so far.

For pretraining: who has only seen players at random has learned that histories do not matter, and cannot tell one from
another.
"""

import random
from collections.abc import Callable

from minirl.tasks.dilemma import Dilemma
from minirl.tasks.game import Game

SLIP = 0.1  # how often somebody makes up its mind anew whatever its habit is

Habit = Callable[[Game, str, str, int, random.Random], str]  # (game, deal, moves, player, rng) → its move


def defector(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:  # noqa: ARG001
    """Always ``d``."""
    return "d"


def cooperator(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:  # noqa: ARG001
    """Always ``c``."""
    return "c"


def tit_for_tat(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:  # noqa: ARG001
    """``c`` first, then what the other one played last."""
    return moves[-2:][1 - player] if moves else "c"


def contrarian(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:
    """The opposite of tit for tat."""
    return "d" if tit_for_tat(game, deal, moves, player, rng) == "c" else "c"


HABITS: dict[str, Habit] = {
    "defector": defector,
    "cooperator": cooperator,
    "tit_for_tat": tit_for_tat,
    "contrarian": contrarian,
}


class Habits(Dilemma):
    name = "habits"

    def random_record(self, deal: str, rng: random.Random) -> str:
        """A whole game of two players, each with one of the habits, who slip now and then."""
        habits, moves = rng.choices(list(HABITS.values()), k=self.players), ""
        while movers := self.to_move(deal, moves):
            meant = [habits[player](self, deal, moves, player, rng) for player in movers]
            moves += "".join(rng.choice("cd") if rng.random() < SLIP else move for move in meant)
        return moves
