"""``ROUTES-k``: the sums of :mod:`TALLY <minirl.tasks.tally>`, with the operations in any order one likes.

``3+7-4=`` → ``+70-46`` or ``-49+76``: every operation once, each with the result so far. All orders come to the same,
and an answer is right if its last digit is. So there are up to k! right answers, and since misconceptions lie on some
of the routes and not on others, who goes several ways can outvote them.

Writers mostly (:data:`AS_GIVEN`) take the operations as they come, and else in an order at random.
"""

import random

from minirl.tasks.base import Item, Task
from minirl.tasks.chain import STEP, read, write
from minirl.tasks.tally import Tally

AS_GIVEN = 0.5


class Routes(Tally):
    name = "routes"
    grades = Task.grades  # type: ignore[assignment]  # where an answer goes wrong is told along the order as given, which need not be its own

    def route(self, item: Item, completion: str) -> tuple[str, ...]:
        """The operations in the order in which an answer does them; empty if it is none."""
        return self._operations(completion) if self.admissible(item, completion) else ()

    def _operations(self, completion: str) -> tuple[str, ...]:
        answer = self.read(completion)
        return tuple(answer[i : i + 2] for i in range(0, len(answer), STEP))

    def admissible(self, item: Item, completion: str) -> bool:
        """Every operation once, with a digit after it."""
        _, operations = read(item.prompt)
        results = self.read(completion)[2::STEP]
        restated = sorted(self._operations(completion)) == sorted(operations)
        return restated and len(results) == len(operations) and results.isdigit()

    def along(self, item: Item, operations: list[str]) -> Item:
        """The same problem with its operations in this order."""
        prompt = f"{item.prompt[0]}{''.join(operations)}="
        return Item(item.task, item.seed, item.index, item.level, prompt, write(prompt))

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        _, operations = read(item.prompt)
        if rng.random() >= AS_GIVEN:
            rng.shuffle(operations)
        return super().careless(self.along(item, operations), rng, rate)
