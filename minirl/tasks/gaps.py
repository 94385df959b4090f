"""``GAPS``: chains of steps, some with an operation that the base was never taught. Every step is checked.

``3+7#1-4#2=`` → ``+70#18-44#26``: four steps modulo ten, each restated with its result, as in ``chain``. Adding and
subtracting can be worked out. ``#1`` and ``#2`` cannot: their tables are arbitrary facts of ten entries each
(:func:`apply`), and nothing in a problem gives them away. An answer is right if all of its steps are.

===== =============================================================================================
level problems
===== =============================================================================================
1     easy: no ``#`` at all
2     hard: three of the four steps are ``#``. Who guesses at ``#`` is right one time in a thousand
3     three hard ones in ten, the others easy: what a run trains on
4, 5  easy and hard ones with a hint before them. For bases
6, 7  easy and hard ones with the last result before them. For bases
===== =============================================================================================

What may be shown of the reference, before a ``!`` in front of the problem (:meth:`Gaps.shown`): ``hint`` its first
steps, one on rung 1 to all but the last on rung 3; ``final`` its last result, a single digit. The answer to be written
is the same, and so is its score.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task

COMMON = (*(f"+{d}" for d in range(1, 10)), *(f"-{d}" for d in range(1, 10)))
RARE = ("#1", "#2")
STEPS, GAPS = 4, 3  # steps of a problem, and how many of a hard one are rare
STEP = len("+70")  # characters of a step in an answer: operation and result
HARD_SHARE = 0.3  # of level 3
EASY, HARD, MIXED = 1, 2, 3  # levels
MARK = "!"  # ends what is shown of the reference
MISCONCEIVED = 4  # one entry of the common tables in so many
FOLLOWED = 0.8  # how often, at most, by those who know the last result: following always might never lead there
INSIGHT = 0.7  # how often those who know where they have to arrive are right about a rare step
DIGITS = frozenset("0123456789")


@cache
def apply(value: int, operation: str) -> int:
    """One step modulo ten: ``apply(3, "+9")`` → 2. What ``#1`` and ``#2`` make of a digit is a fact, drawn once."""
    if operation in RARE:
        return random.Random(f"gaps/{value}{operation}").randrange(10)
    return (value + int(operation)) % 10


@cache
def misconception(value: int, operation: str) -> int | None:
    """The digit that is widely taken for the result of a common step, at one entry of the tables in four; else None."""
    rng = random.Random(f"gaps/misconception/{value}{operation}")
    return None if rng.randrange(MISCONCEIVED) else (apply(value, operation) + rng.randint(1, 9)) % 10


def problem(item: Item) -> tuple[int, list[str]]:
    """First digit and operations of a problem, whatever is shown before it."""
    text = item.prompt.rpartition(MARK)[2]
    return int(text[0]), [text[i : i + 2] for i in range(1, len(text) - 1, 2)]


def write(value: int, operations: Sequence[str]) -> str:
    """The right answer: every operation with its result."""
    text = ""
    for operation in operations:
        value = apply(value, operation)
        text += f"{operation}{value}"
    return text


def hard(item: Item) -> bool:
    """Whether the problem has a rare step."""
    return "#" in item.prompt.rpartition(MARK)[2]


class Gaps(Task):
    name = "gaps"
    levels = range(1, 8)
    rungs = STEPS - 1  # of the ladder of hints

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        if level == 3:
            level = 2 if rng.random() < HARD_SHARE else 1
        rare = set(rng.sample(range(STEPS), GAPS)) if level in (2, 5, 7) else set()
        start, operations = rng.randrange(10), [rng.choice(RARE if i in rare else COMMON) for i in range(STEPS)]
        prompt, answer = f"{start}{''.join(operations)}=", write(start, operations)
        if level in (4, 5):
            prompt = f"{answer[: STEP * rng.randint(1, self.rungs)]}{MARK}{prompt}"
        elif level in (6, 7):
            prompt = f"{answer[-1]}{MARK}{prompt}"
        return prompt, answer

    def shown(self, item: Item, text: str) -> Item:
        """``item`` with ``text`` in front of its problem."""
        return replace(item, prompt=f"{text}{MARK}{item.prompt}")

    def hint(self, item: Item, rung: int) -> str:
        """The first ``rung`` steps of the reference. Raises ``ValueError`` for a rung that the ladder does not have."""
        if not 1 <= rung <= self.rungs:
            raise ValueError(f"the ladder of hints has rungs 1 to {self.rungs}, not {rung}")
        return item.answer[: STEP * rung]

    def final(self, item: Item) -> str:
        """The last result of the reference: where an answer has to arrive."""
        return item.answer[-1]

    def check(self, item: Item, answer: str) -> bool:
        return answer == item.answer

    def arrives(self, item: Item, completion: str) -> bool:
        """Every operation restated, and the last result right: what can be told by who knows only that."""
        return self.admissible(item, completion) and self.read(completion)[-1] == item.answer[-1]

    def first_error(self, item: Item, completion: str) -> tuple[int, str] | None:
        """Index of the first wrong step and what should stand there, which follows from the result written in the step
        before; ``None`` if all are right. Text after the last step is ignored; a missing step is wrong."""
        value, operations = problem(item)
        text = completion[:MAX_ANSWER_CHARS].strip()
        for i, operation in enumerate(operations):
            right = f"{operation}{apply(value, operation)}"
            if text[i * STEP : (i + 1) * STEP] != right:
                return i, right
            value = int(right[-1])
        return None

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return STEP * STEPS

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A wrong digit at one step, and all later ones computed from it."""
        value, operations = problem(item)
        at, results = rng.randrange(STEPS), ""
        for i, operation in enumerate(operations):
            value = (apply(value, operation) + (rng.randint(1, 9) if i == at else 0)) % 10
            results += f"{operation}{value}"
        return results

    def admissible(self, item: Item, completion: str) -> bool:
        """Every operation restated, with a digit after it."""
        answer, (_, operations) = self.read(completion), problem(item)
        restated = [answer[i : i + 2] for i in range(0, len(answer), STEP)] == operations
        results = answer[2::STEP]
        return restated and len(results) == len(operations) and set(results) <= DIGITS

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """An answer by someone with misconceptions about common steps (followed with probability 4 · ``rate``), who
        guesses at rare ones, each digit with the same chance. What a hint shows is taken over. Of those who know the
        last result only answers are known that arrive there; in them rare steps are right more often than not, and
        misconceptions are followed with probability 0.8 at most."""
        context, _, _ = item.prompt.rpartition(MARK)
        value, operations = problem(item)
        explains = len(context) == 1
        follows = min(rate * MISCONCEIVED, FOLLOWED if explains else 1.0)
        while True:
            text, now = "", value
            for i, operation in enumerate(operations):
                told = context[i * STEP : (i + 1) * STEP] if not explains else ""
                wrong = misconception(now, operation)
                if told:
                    now = int(told[-1])
                elif operation in RARE:
                    knows = explains and rng.random() < INSIGHT
                    now = apply(now, operation) if knows else rng.randrange(10)
                elif wrong is not None and rng.random() < follows:
                    now = wrong
                else:
                    now = apply(now, operation)
                text += f"{operation}{now}"
            if not explains or text[-1] == context:
                return text
