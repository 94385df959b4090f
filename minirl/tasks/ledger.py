"""``LEDGER-k``: :mod:`CHAIN <minirl.tasks.chain>` as kept by clerks, whose slips are random.

``3+7-4*2=`` → ``+70-46*22``, problems, answers and scores as there. Only the writer of careless text differs: every
result is, with the same probability, any other digit, and what follows is computed from what was written. An error says
nothing of the table, then, but it may say something of the clerk.
"""

import random

from minirl.tasks.base import Item
from minirl.tasks.chain import Chain, apply, read, write


class Ledger(Chain):
    name = "ledger"

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """An answer in which every result is wrong with probability ``rate``."""
        return slipping(item.prompt, [rng.random() < rate for _ in range(item.level)], rng)


def slipping(prompt: str, wrong: list[bool], rng: random.Random) -> str:
    """An answer whose step i has a wrong result if ``wrong[i]``: any other digit than follows from the one before."""
    value, operations = read(prompt)
    slips = {}
    for i, operation in enumerate(operations):
        value = apply(value, operation)
        other = (value + rng.randint(1, 9)) % 10  # drawn in any case: fewer slips leave the others as they are
        if wrong[i]:
            slips[i] = value = other
    return write(prompt, slips)
