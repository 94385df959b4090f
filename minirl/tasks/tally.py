"""``TALLY-k``: sums and differences modulo ten, which can be put in another order, and criticised.

``3+7-4=`` → ``+70-46``: problems, answers and scores as in :mod:`CHAIN <minirl.tasks.chain>`, without products. So the
order of the operations does not matter for the result, but it does for who believes that 0-2 is 5: other orders come by
other entries of the table (:meth:`Tally.rephrased`).

After an attempt the grade ``critique`` asks, with a ``!``, for a **critique**: ``+`` if the result is right, else ``-``
and the letter of the first wrong step, which is what the grade ``located`` says of it. A critique may be given to the
one who made the attempt, in place of located feedback: who is told ``-b`` keeps what stands before step b, does that
step with care, and what follows as always. The grade ``criticised`` is such feedback, from a careless critic: it may be
wrong.

Critics in texts for bases are as careless as everyone else: they do every step again, with the same misconceptions, and
object where they get another result. And in one objection of three the letter is any at all: something is wrong, they
feel, and they are vague about where.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_lowercase

from minirl.tasks.base import MAX_ANSWER_CHARS, Item
from minirl.tasks.chain import DIGITS, MISCONCEIVED, STEP, Chain, apply, misconception, read, write

SIGNED = tuple(f"{sign}{digit}" for sign in "+-" for digit in range(1, 10))
QUESTION = "!"
VAGUE = 1 / 3  # share of objections whose letter is any
CRITICS = 0.075  # rate of mistakes of the critics whose word is feedback


class Tally(Chain):
    name = "tally"
    levels = range(1, 9)
    grades = (*Chain.grades, "critique", "criticised")  # type: ignore[assignment]  # Chain's are inferred as a tuple of three

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        prompt = f"{rng.randrange(10)}{''.join(rng.choice(SIGNED) for _ in range(level))}="
        return prompt, write(prompt)

    def rephrased(self, item: Item) -> Item:
        """The same problem with its operations in another order, if they have one; always the same for an item."""
        _, operations = read(item.prompt)
        orders = set(operations)
        rng, order = random.Random(f"rephrased/{item.seed}/{item.index}/{item.level}"), list(operations)
        while len(orders) > 1 and order == operations:
            rng.shuffle(order)
        prompt = f"{item.prompt[0]}{''.join(order)}="
        return replace(item, prompt=prompt, answer=write(prompt))

    def misleading(self, item: Item) -> bool:
        """Whether a misconception lies in the way of the right answer."""
        value, operations = read(item.prompt)
        for operation in operations:
            if misconception(value, operation) is not None:
                return True
            value = apply(value, operation)
        return False

    def result(self, item: Item, completion: str) -> str:
        """What an answer comes to, for votes: its last digit, or "" if it is none."""
        return self.read(completion)[-1] if self.admissible(item, completion) else ""

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``critique`` asks for one; ``criticised`` is what a careless critic says, always the same of an attempt."""
        if grade == "critique":
            return QUESTION
        if grade == "criticised":
            told = f"critic/{item.seed}/{item.index}/{completion[:MAX_ANSWER_CHARS]}"
            rng = random.Random(told.encode(errors="replace"))  # surrogates cannot be encoded as they are
            return f"{self.careless_critique(item, completion, rng, CRITICS)}{item.prompt}"
        return super().feedback(item, completion, grade)

    def critique(self, item: Item, completion: str) -> str:
        """What is to be said of an attempt: ``+``, or ``-`` and the letter of its first wrong step."""
        return self.feedback(item, completion, "located").removesuffix(item.prompt)

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """A critique of the attempt where one is asked for; else another attempt that heeds the critique of it."""
        attempt, feedback = history[-1]
        if feedback == QUESTION:
            return self.careless_critique(item, attempt, rng, rate)
        said = feedback.removesuffix(item.prompt)
        if len(said) < 2:
            return super().revise(item, history, rng, rate)
        return self._redone(item, ascii_lowercase.index(said[1]), rng, rate, attempt)

    def _redone(self, item: Item, start: int, rng: random.Random, rate: float, attempt: str | None = None) -> str:
        """An attempt that keeps what ``attempt`` has before step ``start``, does that step right, and the rest
        carelessly. Without an attempt: all of it carelessly."""
        value, operations = read(item.prompt)
        text = (attempt or "")[:MAX_ANSWER_CHARS].strip()
        slips = {}
        for i, operation in enumerate(operations):
            shown, wrong = text[i * STEP + 2 : (i + 1) * STEP], misconception(value, operation)
            if i < start and shown in DIGITS:
                slips[i] = int(shown)
            elif wrong is not None and not (attempt is not None and i == start) and rng.random() < rate * MISCONCEIVED:
                slips[i] = wrong
            value = slips.get(i, apply(value, operation))
        return write(item.prompt, slips)

    def careless_critique(self, item: Item, completion: str, rng: random.Random, rate: float) -> str:
        """A critique by someone who can be vague, and gives in to a misconception with probability 4 · ``rate``."""
        value, operations = read(item.prompt)
        text = completion[:MAX_ANSWER_CHARS].strip()
        for i, operation in enumerate(operations):
            believed, shown = misconception(value, operation), text[i * STEP : (i + 1) * STEP]
            if believed is None or rng.random() >= rate * MISCONCEIVED:
                believed = apply(value, operation)
            if shown != f"{operation}{believed}":
                return f"-{ascii_lowercase[rng.randrange(item.level) if rng.random() < VAGUE else i]}"
            value = believed
        return "+"
