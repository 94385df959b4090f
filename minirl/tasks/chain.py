"""``CHAIN-k``: arithmetic modulo ten in k steps, every one written down.

``3+7-4*2=`` → ``+70-46*22``: each step restates its operation and gives the result (3+7 = 10 → 0, 0-4 → 6, 6*2 → 2).
Level k has k steps. With the operation next to its result a step is a table look-up, which a small model learns; a
list of results alone it does not learn.

Only the final result is scored, in an answer that has k steps and restates every operation. Whether each step is
right is another question (:meth:`Chain.steps`, :meth:`Chain.first_error`): a step counts as right when it follows from
the result *written* before it, so one slip is one wrong step and not a tail of them.

The two can disagree. Multiplying by an even number or by five loses information, so an error may vanish again:
``3+2*5=`` → ``+27*55`` is a *false-positive trace*, with the right result (7*5 and 5*5 both end in 5) and a wrong step.
Multiplying by zero is left out: it would make every step before it irrelevant, and a long chain a short one. So are
adding zero and multiplying by one, which do nothing.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from string import ascii_lowercase

from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task

OPERATIONS = (*(f"+{d}" for d in range(1, 10)), *(f"-{d}" for d in range(1, 10)), *(f"*{d}" for d in range(2, 10)))
STEP = len("+70")  # characters of one step in an answer: operator, operand, result
MISCONCEIVED = 4  # one entry of the table in so many
DIGITS = frozenset("0123456789")  # a set, because "" is in every string; isdigit() would let '²' through


def apply(value: int, operation: str) -> int:
    """``apply(3, "+7")`` → 0: one step modulo ten."""
    operand = int(operation[1])
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operation[0]] % 10


@cache
def misconception(value: int, operation: str) -> int | None:
    """What is widely believed to follow from ``value`` and ``operation``, if it is wrong: a fixed digit for about one
    entry of the table in four, None for the others."""
    rng = random.Random(f"chain/{value}{operation}")
    return None if rng.randrange(MISCONCEIVED) else (apply(value, operation) + rng.randint(1, 9)) % 10


def write(prompt: str, slips: Mapping[int, int] | None = None) -> str:
    """The answer to ``prompt`` by a calculator that slips: step i gets the result ``slips[i]`` and all that follows is
    computed correctly from there. Without ``slips``, the correct answer."""
    value, operations = read(prompt)
    text = ""
    for i, operation in enumerate(operations):
        value = (slips or {}).get(i, apply(value, operation))
        text += f"{operation}{value}"
    return text


def step_spans(completion: str) -> list[tuple[int, int]]:
    """Which characters of an answer belong to which step: ``completion[start:stop]`` for each, the last may be cut
    short. Space around the answer belongs to none."""
    text = completion[:MAX_ANSWER_CHARS].rstrip()
    start = len(text) - len(text.lstrip())
    return [(i, min(i + STEP, len(text))) for i in range(start, len(text), STEP)]


def read(prompt: str) -> tuple[int, list[str]]:
    """``3+7-4=`` → ``(3, ["+7", "-4"])``."""
    return int(prompt[0]), [prompt[i : i + 2] for i in range(1, len(prompt) - 1, 2)]


class Chain(Task):
    name = "chain"
    levels = range(1, 13)
    grades = ("nudge", "binary", "located")

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        prompt = f"{rng.randrange(10)}{''.join(rng.choice(OPERATIONS) for _ in range(level))}="
        return prompt, write(prompt)

    def check(self, item: Item, answer: str) -> bool:
        return self.admissible(item, answer) and answer[-1] == item.answer[-1]

    def steps(self, item: Item, completion: str) -> list[bool]:
        """Of each of the k steps, whether it is right: the operation restated, and the result that follows from the
        result written in the step before. A missing step is wrong, and so is the one after it, which has nothing to
        start from. Total on every string; says nothing of text after the last step."""
        value, operations = read(item.prompt)
        text = completion[:MAX_ANSWER_CHARS].strip()
        right, previous = [], str(value)
        for i, operation in enumerate(operations):
            step = text[i * STEP : (i + 1) * STEP]
            right.append(previous in DIGITS and step == f"{operation}{apply(int(previous), operation)}")
            previous = step[2:]
        return right

    def first_error(self, item: Item, completion: str) -> int | None:
        """Index of the first wrong step, or ``None``. If all k are right and the answer is still wrong, because more
        text follows, the index is k. An answer that scores 0 therefore always has a first error; one that scores 1
        has one where a wrong step did not matter in the end."""
        right = self.steps(item, completion)
        if False in right:
            return right.index(False)
        return None if self.score(item, completion) else len(right)

    def max_answer_chars(self, level: int) -> int:
        return STEP * level

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """One wrong result at a random step, and all later steps computed from it without further mistakes. Slips that
        leave the final result as it was are drawn again."""
        while True:
            wrong = write(item.prompt, {rng.randrange(item.level): rng.randrange(10)})
            if wrong[-1] != item.answer[-1]:
                return wrong

    def admissible(self, item: Item, completion: str) -> bool:
        """Every operation restated, with a digit after it (ASCII, as read() takes nothing else)."""
        answer, (_, operations) = self.read(completion), read(item.prompt)
        restated = [answer[i : i + 2] for i in range(0, len(answer), STEP)] == operations
        results = answer[2::STEP]
        return restated and len(results) == len(operations) and results.isdigit()

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """An answer by someone with misconceptions (:func:`misconception`), who writes the wrong digit there with
        probability 4 · ``rate``, at most 1; what follows is computed from it. Over all tables a step fails at ``rate``,
        so success falls smoothly with k."""
        return self._redone(item, 0, rng, rate)

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """What was called right is repeated. Of an attempt with a located error the steps before it are kept, and what
        follows is done anew; any other attempt is done anew from the beginning."""
        attempt, feedback = history[-1]
        said = feedback.removesuffix(item.prompt)
        if said == "+":
            return attempt
        return self._redone(item, ascii_lowercase.index(said[1]) if len(said) > 1 else 0, rng, rate)

    def _redone(self, item: Item, start: int, rng: random.Random, rate: float) -> str:
        """An answer without mistakes before step ``start``, careless from there."""
        value, operations = read(item.prompt)
        slips = {}
        for i, operation in enumerate(operations):
            wrong = misconception(value, operation)
            if i >= start and wrong is not None and rng.random() < rate * MISCONCEIVED:
                slips[i] = wrong
            value = slips.get(i, apply(value, operation))
        return write(item.prompt, slips)

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``located`` says where a wrong answer goes wrong: ``-`` and the letter of its first wrong step (``a`` is the
        first; a letter because a digit would run into the prompt that follows), as in ``-b3+7-4*2=``. Of a right
        answer it says ``+``, like ``binary``, even if a step was wrong."""
        if grade != "located":
            return super().feedback(item, completion, grade)
        if self.score(item, completion) == 1:
            return f"+{item.prompt}"
        error = self.first_error(item, completion)
        assert error is not None, "an answer with the wrong result has a wrong step"
        return f"-{ascii_lowercase[error]}{item.prompt}"
