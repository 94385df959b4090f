"""``ADD``: addition, most significant digit first.

``4815+1623=`` → ``06438``. Level n adds two n-digit numbers (leading zeros kept, so that every problem of a level has
the same shape). Writing the most significant digit first is what makes it hard: that digit depends on carries from
all the digits after it, and a transformer that answers at once has to look ahead through them. An earlier attempt in
the context changes the problem: every carry can now be *read* from its digits. Checking is easier than solving, which
is what a second turn can live on.

Feedback of the grade ``located`` says where a wrong answer goes wrong, not what belongs there.
"""

import random
from collections.abc import Sequence
from string import ascii_lowercase

from minirl.tasks.base import Item, Task


class Addition(Task):
    name = "add"
    levels = range(1, 13)
    grades = ("nudge", "binary", "located")

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        a, b = rng.randrange(10**level), rng.randrange(10**level)
        return f"{a:0{level}d}+{b:0{level}d}=", f"{a + b:0{level + 1}d}"

    def check(self, item: Item, answer: str) -> bool:
        return self.admissible(item, answer) and int(answer) == int(item.answer)

    def admissible(self, item: Item, completion: str) -> bool:
        """Digits, not too many."""
        answer = self.read(completion)
        # isdigit() alone would let '²' through, but read() has already refused everything that is not ASCII.
        return len(answer) <= 2 * len(item.answer) and answer.isdigit()

    def max_answer_chars(self, level: int) -> int:
        return level + 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """The typical slip: a carry lost or invented, so that one digit is off by one."""
        position = rng.randrange(len(item.answer))
        digit = (int(item.answer[position]) + rng.choice((1, -1))) % 10
        return item.answer[:position] + str(digit) + item.answer[position + 1 :]

    def first_error(self, item: Item, completion: str) -> int | None:
        """Index of the first digit of a wrong answer that is not that of the sum, ``None`` for a right one. Digits are
        counted from the left, leading zeros included; of an answer that is the beginning of the sum, or begins with the
        sum and goes on, the index is that of the first digit missing or too many. Total on every string."""
        if self.score(item, completion) == 1:
            return None
        answer = self.read(completion)
        same = (a == b for a, b in zip(answer, item.answer, strict=False))
        return next((i for i, equal in enumerate(same) if not equal), min(len(answer), len(item.answer)))

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """What was called right is repeated. Of an attempt with a located error the digits before it are kept, the
        wrong one is not written again, and the rest is done anew; any other attempt is done anew from the beginning."""
        attempt, feedback = history[-1]
        said = feedback.removesuffix(item.prompt)
        redone = super().revise(item, history, rng, rate)
        if len(said) < 2:
            return redone
        wrong = ascii_lowercase.index(said[1])
        digits = list(item.answer[:wrong] + redone[wrong:])
        if digits[wrong : wrong + 1] == list(self.read(attempt)[wrong : wrong + 1]):
            digits[wrong : wrong + 1] = item.answer[wrong : wrong + 1]
        return "".join(digits)

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``located`` says ``-`` and the letter of the first wrong digit (``a`` is the first; a letter because a digit
        would run into the prompt that follows), as in ``-c4815+1623=``; ``+`` of a right answer."""
        if grade != "located":
            return super().feedback(item, completion, grade)
        wrong = self.first_error(item, completion)
        return f"{'+' if wrong is None else f'-{ascii_lowercase[wrong]}'}{item.prompt}"
