"""``BUGS``: a program and its tests, to be broken or to be mended.

A program works on lists of four digits, place by place: its letters say what happens to the digit at each place. All
arithmetic is modulo ten, and any four letters are a program: running it is four table look-ups.

====== ======================= ====== =======================
letter operation               letter operation
====== ======================= ====== =======================
``c``  *complement*, 9 − x     ``i``  *increment*, x + 1
``d``  *double*, 2x            ``o``  *one* less, x − 1
``h``  *half* a turn, x + 5    ``t``  *triple*, 3x
====== ======================= ====== =======================

``Bcdhi:1032>8084;9150>0206=`` asks to *break* the program, with the two tests that it passes: any other program that
fails one of them is right. ``Mcdho:1032>8083=`` asks to *mend*: shown are the broken program and the first test that
fails, with what is wanted; right is what passes both. Several letters may fit what is wanted at a place, and a wrong
letter may pass the test that is shown by chance. What was not broken is the only trace of the other test: the more is
broken, the less is known.

===== =========================================
level problem
===== =========================================
1–3   mend a random bug of that many letters
4     break the program
===== =========================================

:meth:`Bugs.breaking` and :meth:`Bugs.mending` turn an item into one for the other role.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from minirl.tasks.base import Item, Task

OPERATIONS: dict[str, Callable[[int], int]] = {
    "c": lambda x: 9 - x,
    "d": lambda x: 2 * x % 10,
    "h": lambda x: (x + 5) % 10,
    "i": lambda x: (x + 1) % 10,
    "o": lambda x: (x - 1) % 10,
    "t": lambda x: 3 * x % 10,
}
LETTERS = "".join(OPERATIONS)
PLACES, TESTS = 4, 2
BREAK = 4  # the level; those below mend as many letters
HABIT = (1, 1, 1, 2)  # letters changed by the bugs that base texts make, all alike
MEND_MARK, BREAK_MARK = "M", "B"


def run(program: str, values: str) -> str | None:
    """What ``program`` makes of a list of digits; None if it is no program. Total on every string."""
    if len(program) != PLACES or not set(program) <= OPERATIONS.keys():
        return None
    return "".join(str(OPERATIONS[letter](int(x))) for letter, x in zip(program, values, strict=True))


def edits(first: str, second: str) -> int:
    """How many letters differ between two programs."""
    return sum(a != b for a, b in zip(first, second, strict=True))


def first_failure(program: str, tests: Sequence[tuple[str, str]]) -> int | None:
    """Index of the first test that ``program`` fails, None if it passes all. What is no program fails the first."""
    return next((i for i, (values, wanted) in enumerate(tests) if run(program, values) != wanted), None)


@lru_cache(maxsize=2**14)
def suite(seed: int, index: int, program: str) -> tuple[tuple[str, str], ...]:
    """The tests of the item at these coordinates whose right program is ``program``: inputs, and what is wanted."""
    rng = random.Random(f"bugs/tests/{seed}/{index}/{program}")
    inputs = ["".join(rng.choice("0123456789") for _ in range(PLACES)) for _ in range(TESTS)]
    return tuple((values, run(program, values) or "") for values in inputs)


def shown(prompt: str) -> str:
    """The program in a prompt."""
    return prompt[1 : 1 + PLACES]


def right_program(item: Item) -> str:
    """The right program of an item: what is to be broken, or what is to be restored."""
    return shown(item.prompt) if item.prompt.startswith(BREAK_MARK) else item.answer


def suite_of(item: Item) -> tuple[tuple[str, str], ...]:
    """The tests of an item, shown or not."""
    return suite(item.seed, item.index, right_program(item))


class Bugs(Task):
    name = "bugs"
    levels = range(1, BREAK + 1)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:  # noqa: ARG002
        """A program to be broken, without the tests: they depend on coordinates, and :meth:`item` adds them."""
        program = "".join(rng.choice(LETTERS) for _ in range(PLACES))
        return f"{BREAK_MARK}{program}", program

    def item(self, seed: int, index: int, level: int) -> Item:
        whole, rng = super().item(seed, index, level), random.Random(f"bugs/bug/{seed}/{index}/{level}")
        if level == BREAK:
            return replace(self.breaking(whole), answer=self.bug(whole, rng.choice(HABIT), rng))
        return self.mending(whole, self.bug(whole, level, rng))

    def bug(self, item: Item, letters: int, rng: random.Random) -> str:
        """A random bug of so many changed letters in the right program of ``item`` that a test shows."""
        right = right_program(item)
        while True:
            broken = list(right)
            for place in rng.sample(range(PLACES), letters):
                broken[place] = rng.choice(LETTERS.replace(right[place], ""))
            if first_failure("".join(broken), suite_of(item)) is not None:
                return "".join(broken)

    def breaking(self, item: Item) -> Item:
        """``item``'s right program, to be broken. The answer is one of many: a random bug of one letter."""
        right, tests = right_program(item), ";".join(">".join(test) for test in suite_of(item))
        bug = self.bug(item, 1, random.Random(f"bugs/break/{item.seed}/{item.index}/{right}"))
        return Item(self.name, item.seed, item.index, BREAK, f"{BREAK_MARK}{right}:{tests}=", bug)

    def mending(self, item: Item, broken: str) -> Item:
        """``item``'s program, broken as ``broken``, to be mended. Raises ``ValueError`` if no test shows the bug."""
        right, failing = right_program(item), first_failure(broken, suite_of(item))
        if failing is None:
            raise ValueError(f"{broken!r} passes all tests of {right!r}")
        prompt = f"{MEND_MARK}{broken}:{'>'.join(suite_of(item)[failing])}="
        return Item(self.name, item.seed, item.index, min(BREAK - 1, edits(right, broken)), prompt, right)

    def check(self, item: Item, answer: str) -> bool:
        wrong = first_failure(answer, suite_of(item)) is not None
        return self.admissible(item, answer) and wrong == item.prompt.startswith(BREAK_MARK)

    def admissible(self, item: Item, completion: str) -> bool:  # noqa: ARG002
        """A program."""
        return run(self.read(completion), "0" * PLACES) is not None

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """A repair in which every broken letter is overlooked, and left as it is, with probability ``rate``. Whoever
        breaks something makes no mistakes."""
        if item.prompt.startswith(BREAK_MARK):
            return item.answer
        pairs = zip(item.answer, shown(item.prompt), strict=True)
        return "".join(broken if broken != right and rng.random() < rate else right for right, broken in pairs)

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return PLACES

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """Another bug of one letter instead of the right program; where a bug is wanted, the right program unbroken."""
        return right_program(item) if item.prompt.startswith(BREAK_MARK) else self.bug(item, 1, rng)
