"""Tasks in words, for models that chat: how the answer is asked for, how it is read, what is said after an attempt.

Prompt and feedback are whole messages of a user, so a policy for such a task must have a chat template
(:func:`minirl.rollouts.fit.check_fit`).

One rule reads every attempt. Only its last ``MAX_READ`` characters count. What follows the last ``Answer:`` (in any
case), up to the end of that line, is the answer; if nothing follows there, the next line that says something. Markup
around it is dropped: ``**``, ``$…$``, ``\\boxed{…}``, quotes, a full stop. Without an ``Answer:`` it is the last line
that says something. Where a number is asked for, it is the last number in that text, and without an ``Answer:`` the
last number of all; ``1,234`` and ``1234.0`` are the same number. An answer that is longer than ``MAX_ANSWER_CHARS`` or
not ASCII is none.
"""

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar

from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task

MAX_READ = 2000  # characters of an attempt, from its end
MARK = "Answer:"
_MARK = re.compile(r"answer[\s*_]*:", re.IGNORECASE)
# Digits in groups of three or in one piece, then decimals or a denominator. A minus after a digit, a letter or a
# parenthesis is no sign.
_NUMBER = re.compile(
    r"(?<![\w.)])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+|(?=\.[0-9]))(?:\.[0-9]+|/[0-9]+)?(?![0-9])", re.ASCII
)
_MARKUP = " \t\r\n*_`\"'"

RIGHT = "That is right. Give the same answer again."
WRONG = "That is wrong. Find the mistake and solve the problem again."
NUDGE = "Check your solution. If there is a mistake in it, correct it."


def after_mark(completion: str) -> str | None:
    """What follows the last ``Answer:``; None if there is none."""
    text = completion[-MAX_READ:]
    marks = list(_MARK.finditer(text))
    return text[marks[-1].end() :] if marks else None


def answer_line(completion: str) -> str:
    """The line in which ``completion`` gives its answer, by the rule above; "" if there is none."""
    marked = after_mark(completion)
    lines = completion[-MAX_READ:].splitlines()[::-1] if marked is None else marked.splitlines()
    said = (cleaned for line in lines if (cleaned := unwrapped(line)))
    answer = next(said, "")
    return answer if len(answer) <= MAX_ANSWER_CHARS and answer.isascii() else ""


def unwrapped(text: str) -> str:
    """``text`` without the markup around it."""
    before = None
    while before != text:
        before, text = text, text.strip(_MARKUP).removesuffix(".")
        if len(text) > 2 and text[0] == text[-1] == "$":
            text = text[1:-1]
        for left, right in (("\\boxed{", "}"), ("\\(", "\\)"), ("\\[", "\\]")):
            if text.startswith(left) and text.endswith(right):
                text = text[len(left) : -len(right)]
    return text


def last_number(text: str) -> Fraction | None:
    """The last number in ``text``; None if there is none. Exact: 0.1 is a tenth."""
    value = None
    for found in _NUMBER.finditer(text):
        digits = found[0].replace(",", "")
        if "/" not in digits or digits.partition("/")[2].strip("0"):  # nothing is divided by zero
            value = Fraction(digits)
    return value


class TaskInWords(Task):
    """A task whose prompts and feedback are messages to a model that chats.

    ``item.answer`` is a whole reply, as one would like to see it; :meth:`read` finds the answer in it.
    """

    wanted: ClassVar[str] = "your final answer"  # what has to follow ``Answer:``

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return MAX_ANSWER_CHARS - 1  # the reply, not only the answer: it may think first

    def read(self, completion: str) -> str:
        return answer_line(completion)

    def reference(self, item: Item) -> str:
        """The answer in the reply that is known to be right."""
        return self.read(item.answer)

    def ask(self, question: str) -> str:
        """A prompt: the question and how to answer it. Whether to think first is left to the model: told to think step
        by step, a small one does worse."""
        return f"{question.strip()}\n\n{self.how()}"

    def how(self) -> str:
        """How to give the answer."""
        return f'Write {self.wanted} after "{MARK}".'

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """A user's next message. ``nudge`` says nothing about correctness, ``binary`` says right or wrong; neither
        says anything of the answer. Raises ``ValueError`` for another grade."""
        if grade == "nudge":
            return f"{NUDGE} {self.how()}"
        if grade == "binary":
            return f"{RIGHT if self.score(item, completion) == 1 else WRONG} {self.how()}"
        raise ValueError(f"task {self.name!r} has no feedback grade {grade!r}; one of: {', '.join(self.grades)}")

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        attempt, feedback = history[-1]
        return attempt if feedback.startswith(RIGHT) else self.careless(item, rng, rate)


class NumberInWords(TaskInWords):
    """The answer is one number. Which number is compared, exactly, not how it is written."""

    def read(self, completion: str) -> str:
        text = completion[-MAX_READ:] if after_mark(completion) is None else answer_line(completion)
        number = last_number(text)
        answer = "" if number is None else str(number)
        return answer if len(answer) <= MAX_ANSWER_CHARS else ""

    def check(self, item: Item, answer: str) -> bool:
        return last_number(answer) == last_number(self.reference(item))

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A number nearby, negative only if the right one is."""
        right, step = Fraction(self.reference(item)), rng.choice((1, 2, 3, 10))
        signs = (1, -1) if right < 0 or right >= step else (1,)
        return f"{MARK} {written(right + step * rng.choice(signs))}"


def written(number: Fraction) -> str:
    """A number as people write it: 7 or 0.5, but 1/3 where the decimals do not end soon."""
    decimal = f"{float(number):.6f}".rstrip("0").rstrip(".")
    return decimal if Fraction(decimal) == number else str(number)


class LineInWords(TaskInWords):
    """The answer is one line of text. Case and the width of spaces do not count."""

    def check(self, item: Item, answer: str) -> bool:
        return folded(answer) == folded(self.reference(item))


def folded(text: str) -> str:
    return " ".join(text.casefold().split())
