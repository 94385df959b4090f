"""Trust-and-Split (:mod:`minirl.tasks.trust_split`) as people with habits play it: who is read about grabs always, is
always fair, is fair to those who are, or does the opposite of that. Nearly all tell the truth, the others
say anything.

For pretraining: to guess what somebody will do next one has to read who holds what and what both have done so far.
"""

import random

from minirl.tasks.game import Game
from minirl.tasks.habits import Habit
from minirl.tasks.trust_split import BEATS, COINS, ROUND, TrustSplit, hands

SLIP = 0.03  # how often somebody makes up its mind anew whatever its habit is
HONEST = 0.95  # how many people tell the truth
ALL, NOTHING = str(COINS), "0"


def truth(deal: str, moves: str, player: int) -> str:
    """The name of the hand that ``player`` holds in the round that comes after ``moves``."""
    return hands(deal)[len(moves) // ROUND][player].lower()


def let(deal: str, moves: str, player: int) -> bool:
    """Whether ``player`` left the coins to the other one when it held a losing hand last; yes if it never did."""
    for number in reversed(range(len(moves) // ROUND)):
        mine, other = hands(deal)[number][player], hands(deal)[number][1 - player]
        if BEATS[other] == mine:
            return moves[ROUND * number + 2 + player] == NOTHING
    return True


def grabber(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:  # noqa: ARG001
    """Tells the truth and claims everything."""
    return ALL if len(moves) % ROUND else truth(deal, moves, player)


def fair(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:  # noqa: ARG001
    """Tells the truth, and claims nothing if what the other one says beats its own hand; else everything."""
    mine = truth(deal, moves, player)
    if len(moves) % ROUND == 0:
        return mine
    said = moves[-2:][1 - player].upper()
    return NOTHING if BEATS[said] == mine.upper() else ALL


def tit_for_tat(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:
    """Fair to whoever left it the coins when it last had to, and a grabber to others."""
    return (fair if let(deal, moves, 1 - player) else grabber)(game, deal, moves, player, rng)


def contrarian(game: Game, deal: str, moves: str, player: int, rng: random.Random) -> str:
    """A grabber to those to whom tit for tat is fair, and fair to the others."""
    return (grabber if let(deal, moves, 1 - player) else fair)(game, deal, moves, player, rng)


HABITS: dict[str, Habit] = {
    "grabber": grabber,
    "fair": fair,
    "tit_for_tat": tit_for_tat,
    "contrarian": contrarian,
}


class SplittingHabits(TrustSplit):
    name = "splitting_habits"

    def random_record(self, deal: str, rng: random.Random) -> str:
        """A whole game of two players, each with one of the habits and truthful or not, who slip now and then."""
        habits, moves = rng.choices(list(HABITS.values()), k=self.players), ""
        honest = [rng.random() < HONEST for _ in habits]
        while movers := self.to_move(deal, moves):
            legal, talk = self.legal(deal, moves), len(moves) % ROUND == 0
            for player, meant in [(p, habits[p](self, deal, moves, p, rng)) for p in movers]:
                anything = rng.random() < SLIP or (talk and not honest[player])
                moves += rng.choice(legal) if anything else meant
        return moves
