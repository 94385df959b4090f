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

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """What was called right is repeated. Of an attempt with located errors the other digits are kept, and those are
        done anew, as carelessly as the first time but never as they were; any other attempt is done anew as a whole."""
        attempt, feedback = history[-1]
        signs = feedback.removesuffix(item.prompt)[1:]
        redone = super().revise(item, history, rng, rate)
        if not signs:
            return redone
        old = self.read(attempt)
        anew = (item.answer[i] if redone[i] == old[i] else redone[i] for i in range(len(old)))
        return "".join(digit if sign == "." else new for digit, sign, new in zip(old, signs, anew, strict=True))

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``located`` says ``-`` and, digit by digit of a wrong answer, a dot or, where it is wrong, a star, as in
        ``-..*..4815+1623=``; ``-`` alone of what has not as many digits as the sum; ``+`` of a right answer."""
        if grade != "located":
            return super().feedback(item, completion, grade)
        if self.score(item, completion) == 1:
            return f"+{item.prompt}"
        answer, signs = self.read(completion), ""
        if len(answer) == len(item.answer) and self.admissible(item, completion):
            signs = "".join("." if a == b else "*" for a, b in zip(answer, item.answer, strict=True))
        return f"-{signs}{item.prompt}"
