"""``BUCKET-m``: which of m letters is it? Nothing but trying tells.

``bkqz=`` → ``q``. The prompt names the candidates in any order, and each is right with probability 1/m: under another
index the same prompt has another answer. Level n has n + 1 candidates, two to ten. All that an attempt brings is right
or wrong, so the one thing to learn over several turns is not to say again what is in the context already.

What the possible players reach within t turns is known in closed form:

===================== =================== ============================
player                function            success within t turns
===================== =================== ============================
forgets every attempt :func:`independent` 1 − ((m − 1) / m)^t
never repeats itself  :func:`enumeration` min(t / m, 1), the optimum
always says the same  :func:`repeating`   1 / m
===================== =================== ============================

A policy trained on single turns can be either the first player or the last: both are right 1/m of the time on the first
turn, which is all that its reward has seen. The candidates have no separators so that nine turns with ten candidates
fit into a context of 128 tokens.
"""

import random
from collections.abc import Sequence
from string import ascii_lowercase

from minirl.tasks.base import Item, Task


def independent(candidates: int, turns: int) -> float:
    """Success within ``turns`` of a player who draws each guess anew, uniformly: 1 − ((m − 1) / m)^t."""
    _require(candidates, turns)
    return 1 - ((candidates - 1) / candidates) ** turns


def enumeration(candidates: int, turns: int) -> float:
    """Success within ``turns`` of a player who never repeats a guess: min(t / m, 1). No player does better."""
    _require(candidates, turns)
    return min(turns / candidates, 1.0)


def repeating(candidates: int, turns: int) -> float:
    """Success within ``turns`` of a player who repeats the first guess: 1 / m, however many turns there are."""
    _require(candidates, turns)
    return 1 / candidates if turns else 0.0


class Bucket(Task):
    name = "bucket"
    levels = range(1, 10)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        candidates = rng.sample(ascii_lowercase, level + 1)
        return "".join(candidates) + "=", rng.choice(candidates)

    def check(self, item: Item, answer: str) -> bool:
        return answer == item.answer

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """Another candidate, each with the same chance."""
        return rng.choice([candidate for candidate in item.prompt[:-1] if candidate != item.answer])

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:  # noqa: ARG002
        """Any candidate: nobody can know which one it is."""
        return rng.choice(item.prompt[:-1])

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """A candidate that has not been tried; any, if all have been. What was called right is repeated."""
        if history[-1][1].startswith("+"):
            return history[-1][0]
        tried = {self.read(attempt) for attempt, _ in history}
        untried = [candidate for candidate in item.prompt[:-1] if candidate not in tried]
        return rng.choice(untried) if untried else self.careless(item, rng, rate)

    def admissible(self, item: Item, completion: str) -> bool:
        """One of the candidates."""
        return self.read(completion) in set(item.prompt[:-1])


def _require(candidates: int, turns: int) -> None:
    if candidates < 1:
        raise ValueError(f"there must be a candidate, not {candidates}")
    if turns < 0:
        raise ValueError(f"turns {turns} is negative")
