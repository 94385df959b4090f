"""``TASTE-n``: name one of these letters. None is right; somebody will prefer one to another.

``cbhaqvki=`` → ``q``. The prompt lists n letters of each of four kinds, in any order, and an answer is one of them. The
kinds take turns in the alphabet:

======== =================
rock     a, e, i, m, q, u, y
scissors b, f, j, n, r, v, z
paper    c, g, k, o, s, w
twig     d, h, l, p, t, x
======== =================

A prompt looks like one of :mod:`BUCKET <minirl.tasks.bucket>`, so its bases can be used: with n = 2 they name each of
the eight letters about as often. Every listed letter scores 1. What is compared, and how, is up to a judge of kinds
(:mod:`minirl.evaluation.preferences`).
"""

import random
from string import ascii_lowercase

from minirl.tasks.base import Item, Task

KINDS = ("rock", "scissors", "paper", "twig")


def kind(letter: str) -> int:
    """Which of :data:`KINDS` a lower-case letter is."""
    return ascii_lowercase.index(letter) % len(KINDS)


class Taste(Task):
    name = "taste"
    levels = range(1, 4)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        letters = [letter for k in range(len(KINDS)) for letter in rng.sample(ascii_lowercase[k :: len(KINDS)], level)]
        rng.shuffle(letters)
        return "".join(letters) + "=", rng.choice(letters)

    def candidates(self, item: Item) -> str:
        """The letters that can be named, in their order."""
        return item.prompt.removesuffix("=")

    def class_of(self, item: Item, completion: str) -> int:
        """The kind of the letter that is named; the number of kinds if it is none of the candidates. Total."""
        answer = self.read(completion)
        return kind(answer) if answer and self.check(item, answer) else len(KINDS)

    def check(self, item: Item, answer: str) -> bool:
        return answer in set(self.candidates(item))

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A letter that is not listed."""
        return rng.choice([letter for letter in ascii_lowercase if letter not in item.prompt])

    def admissible(self, item: Item, completion: str) -> bool:  # noqa: ARG002
        """Any lower-case letter."""
        return self.read(completion) in set(ascii_lowercase)
