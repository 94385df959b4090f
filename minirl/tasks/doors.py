"""``DOORS-n``: name a door that is open. Several are, and the prompt does not say which.

``cbhaqvki=`` → ``q``. The prompt lists 2n doors in any order: n have a letter of a, c, e, … and n one of b, d, f, …
A door of the first kind (:func:`promising`) is open with probability ½, one of the second with 1/10, each for itself;
if all are shut, they are drawn again. Under another index the same prompt has other open doors. Every open door is a
right answer, so a policy can do two things: learn which kind is promising, and not bet everything on one door of it.

What can be reached is known exactly. Who names only promising doors is right with :func:`single`, whichever they are,
and no policy does better with one answer. With k answers that fall on j different promising doors the problem is solved
with :func:`covered`; :func:`spread` is the mean of this for k answers drawn uniformly from the promising ones, and who
has one favourite stays with :func:`single`.

Prompts look like those of :mod:`BUCKET <minirl.tasks.bucket>`, so its bases can be used: with n = 4 they name each of
the eight doors about as often.
"""

import random
from functools import lru_cache
from math import comb
from string import ascii_lowercase

from minirl.tasks.base import Item, Task

OPEN = {True: 0.5, False: 0.1}  # probability that a door is open, by whether it is promising


def promising(door: str) -> bool:
    """Whether a lower-case letter is one of a, c, e, …"""
    return ascii_lowercase.index(door) % 2 == 0


def covered(n: int, doors: int) -> float:
    """The probability that one of ``doors`` given promising doors is open, at level n."""
    solvable = 1 - (1 - OPEN[True]) ** n * (1 - OPEN[False]) ** n  # else all would be drawn again
    return (1 - (1 - OPEN[True]) ** doors) / solvable


def single(n: int) -> float:
    """How often a promising door is open, at level n: the best that one answer can do."""
    return covered(n, 1)


def spread(n: int, k: int) -> float:
    """The probability that one of k answers is right if each is a promising door drawn uniformly, at level n. By
    inclusion and exclusion: P(j different ones) = C(n, j) Σ_i (−1)^i C(j, i) ((j − i)/n)^k."""
    different = [
        comb(n, j) * sum((-1) ** i * comb(j, i) * ((j - i) / n) ** k for i in range(j + 1)) for j in range(n + 1)
    ]
    return sum(p * covered(n, j) for j, p in enumerate(different))


class Doors(Task):
    name = "doors"
    levels = range(1, 6)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        doors, found = _draw(rng, level)
        return f"{doors}=", rng.choice(found)

    def open(self, item: Item) -> frozenset[str]:
        """The doors that are open, in a problem of this task."""
        return _open_of(item)

    def check(self, item: Item, answer: str) -> bool:
        return answer in self.open(item)

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A door that is shut; if none is, a letter that is no door."""
        shut = sorted(set(item.prompt[:-1]) - self.open(item))
        return rng.choice(shut or sorted(set(ascii_lowercase) - set(item.prompt)))

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:  # noqa: ARG002
        """Any door: nobody can know which are open."""
        return rng.choice(item.prompt[:-1])

    def admissible(self, item: Item, completion: str) -> bool:
        """One of the doors."""
        return self.read(completion) in set(item.prompt[:-1])


def _draw(rng: random.Random, level: int) -> tuple[str, list[str]]:
    """The doors of a problem, and those that are open: at least one."""
    doors = [door for first in (0, 1) for door in rng.sample(ascii_lowercase[first::2], level)]
    rng.shuffle(doors)
    while True:
        found = [door for door in doors if rng.random() < OPEN[promising(door)]]
        if found:
            return "".join(doors), found


@lru_cache(maxsize=65536)
def _open_of(item: Item) -> frozenset[str]:
    """The prompt does not say which doors are open, so the problem is drawn once more. Of one that was written by hand
    only the answer is known."""
    doors, found = _draw(random.Random(f"{item.task}/{item.seed}/{item.index}/{item.level}"), item.level)
    return frozenset(found if item.prompt == f"{doors}=" else item.answer)
