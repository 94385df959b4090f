"""Trust-and-Split: two players divide coins that one of them needs more, and only words can say who that is.

In every round each player is dealt a hand, ``R``, ``P`` or ``S``, never the same as the other's. Rock beats scissors,
scissors beat paper, paper beats rock: to the one with the winning hand a coin is worth 3, to the other 1. Each sees its
own hand only, which says nothing about who wins. Both name a hand at the same time, ``r``, ``p`` or ``s``, true or not,
and then both claim 0, 1 or 2 of two coins. If they claim more than there are, the coins are shared in proportion.
After that both read what the other one claimed and what they themselves have earned: ``S1Rrp020`` is player 1 with rock
who said so, heard "paper", and left the coins to the other, who took them. Whoever holds the winning hand, claims both
coins and earns 6 has been treated well; whoever earns 3 has not.

Level n has 4n rounds. A deal is one of a thousand ways of dealing all hands of a game.
"""

import random
from functools import cache

from minirl.tasks.game import Game

HANDS = "RPS"
BEATS = {"R": "S", "S": "P", "P": "R"}
COINS = 2
WORTH = {True: 3.0, False: 1.0}  # a coin, with the winning hand and without
ROUNDS = 4  # a level
DEALS = 1000
ROUND = 4  # characters of a round in a record: what both said, what both claimed


@cache
def hands(deal: str) -> tuple[str, ...]:
    """What both players hold, round by round."""
    rng = random.Random(f"trust_split/{deal}")
    return tuple("".join(rng.sample(HANDS, 2)) for _ in range(ROUNDS * int(deal.partition("-")[0])))


def share(claims: tuple[int, int]) -> tuple[float, float]:
    """The coins of both players: what they claim, or in proportion to it."""
    scale = min(1.0, COINS / sum(claims)) if sum(claims) else 0.0
    return claims[0] * scale, claims[1] * scale


class TrustSplit(Game):
    name = "trust_split"
    levels = range(1, 5)
    stake = 6.0  # all coins to the one who needs them

    def deals(self, level: int) -> dict[str, float]:
        return {f"{level}-{number:03}": 1 / DEALS for number in range(DEALS)}

    def to_move(self, deal: str, moves: str) -> tuple[int, ...]:
        return (0, 1) if len(moves) < ROUND * len(hands(deal)) else ()

    def legal(self, deal: str, moves: str) -> str:  # noqa: ARG002
        return HANDS.lower() if len(moves) % ROUND == 0 else "012"

    def rewards(self, deal: str, moves: str) -> tuple[float, ...]:
        if not moves or len(moves) % ROUND or not moves[-2:].isdigit():
            return 0.0, 0.0
        held = hands(deal)[len(moves) // ROUND - 1]
        coins = share((int(moves[-2]), int(moves[-1])))
        return coins[0] * WORTH[BEATS[held[0]] == held[1]], coins[1] * WORTH[BEATS[held[1]] == held[0]]

    def view(self, deal: str, moves: str, player: int) -> str:
        text = f"S{player + 1}"  # S for split: T is tic-tac-toe
        for number, both in enumerate(hands(deal)):
            part = moves[ROUND * number : ROUND * (number + 1)]
            said, claimed = part[:2], part[2:]
            if player == 1:
                said, claimed = said[::-1], claimed[::-1]
            text += both[player] + said + claimed
            if len(part) < ROUND:
                return text
            text += str(round(self.rewards(deal, moves[: ROUND * (number + 1)])[player]))
        return text

    def turns(self, level: int) -> int:
        return 2 * ROUNDS * level

    def forfeit(self, offenders: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(-self.stake if player in offenders else 0.0 for player in range(self.players))
