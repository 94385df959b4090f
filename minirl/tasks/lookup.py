"""``LOOKUP``: which code belongs to a key? Nothing in the prompt says so, and nothing can be worked out.

``Q=`` → ``bae``. Every key has one fixed code of three letters, a to f, so a guess is right one time in 216. What a key
stands for can only be learned: from rare luck, from a demonstration, or from being corrected.

===== ====== ==========================================================================
level keys   codes
===== ====== ==========================================================================
1     8      facts: the same everywhere and always
2     16     (a level has the keys of the one below, and more)
3     32
4     32     drawn anew for every item: nothing to know, only to read. For bases
===== ====== ==========================================================================

Feedback of the grade ``corrected`` shows what stands in the wrong places: of ``bca`` it says ``-.ae``, a dot where the
letter was right. So one attempt and its feedback determine the code, and a second attempt takes reading, not knowledge:
the gap that learning from feedback lives on.
"""

import random
from collections.abc import Sequence
from string import ascii_uppercase, digits

from minirl.tasks.base import Item, Task

LETTERS = "abcdef"
LENGTH = 3
KEYS = {1: 8, 2: 16, 3: 32, 4: 32}
FACTS = 3  # the highest level whose codes are facts


def keys(level: int) -> str:
    """The keys of a level, one character each."""
    return (ascii_uppercase + digits)[: KEYS[level]]


def code(key: str) -> str:
    """The code of ``key``: a fact, the same everywhere and always."""
    return "".join(random.Random(f"lookup/{key}").choices(LETTERS, k=LENGTH))


class Lookup(Task):
    name = "lookup"
    levels = range(1, 5)
    grades = ("nudge", "binary", "corrected")

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        key = rng.choice(keys(level))
        return f"{key}=", code(key) if level <= FACTS else "".join(rng.choices(LETTERS, k=LENGTH))

    def check(self, item: Item, answer: str) -> bool:
        return answer == item.answer

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return LENGTH

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """Another code, each with the same chance."""
        while (guess := "".join(rng.choices(LETTERS, k=LENGTH))) == item.answer:
            pass
        return guess

    def admissible(self, item: Item, completion: str) -> bool:  # noqa: ARG002
        """Three of the letters."""
        answer = self.read(completion)
        return len(answer) == LENGTH and set(answer) <= set(LETTERS)

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """Any code with probability ``rate``, since whoever has not been told cannot know; else the right one, as if by
        luck, so that bases also read what is said of right answers."""
        return "".join(rng.choices(LETTERS, k=LENGTH)) if rng.random() < rate else item.answer

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """The attempt with the corrections put in. Without any, it is repeated if right, and else another guess."""
        attempt, feedback = history[-1]
        said = feedback.removesuffix(item.prompt)
        if len(said) == 1 + LENGTH:
            return "".join(old if new == "." else new for old, new in zip(self.read(attempt), said[1:], strict=True))
        return super().revise(item, history, rng, rate)

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``corrected`` says ``-`` and, position by position, a dot or the letter that belongs there, as in
        ``-.f.Q=``; ``-`` alone of what is no code; ``+`` of the right one."""
        if grade != "corrected":
            return super().feedback(item, completion, grade)
        guess = self.read(completion)
        if guess == item.answer:
            return f"+{item.prompt}"
        if not self.admissible(item, completion):
            return f"-{item.prompt}"
        signs = "".join("." if g == c else c for g, c in zip(guess, item.answer, strict=True))
        return f"-{signs}{item.prompt}"
