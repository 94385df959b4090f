"""``CHECKS-k``: the sums of :mod:`TALLY <minirl.tasks.tally>`, with critiques that check every step.

Asked with ``!``, a critique of ``+70-46`` (3+7-4=) has one sign a step: ``++`` if both follow from what stands before
them, ``+-`` if the second does not. An attempt is accepted if all signs are ``+``. What is said of a step needs that
step only, so a small model can learn to check, where a single sign for all of it has to be computed in one go.
"""

import random

from minirl.tasks.base import MAX_ANSWER_CHARS, Item
from minirl.tasks.chain import MISCONCEIVED, STEP, apply, misconception, read
from minirl.tasks.tally import Tally


class Checks(Tally):
    name = "checks"
    grades = ("nudge", "binary", "critique")  # type: ignore[assignment]  # nobody has read such critiques as feedback

    def critique(self, item: Item, completion: str) -> str:
        """The true signs, ``+`` or ``-`` for every step of the problem."""
        return "".join("-+"[right] for right in self.steps(item, completion))

    def verdict(self, item: Item, critique: str) -> bool | None:
        """Whether a critique accepts an attempt; None for what is no critique: other than one sign a step."""
        said = critique.strip() if len(critique) <= MAX_ANSWER_CHARS else ""
        return "-" not in said if len(said) == item.level and set(said) <= {"+", "-"} else None

    def careless_critique(self, item: Item, completion: str, rng: random.Random, rate: float) -> str:
        """Signs by someone who gives in to a misconception with probability 4 · ``rate`` at every step."""
        value, operations = read(item.prompt)
        text, said = completion[:MAX_ANSWER_CHARS].strip(), ""
        for i, operation in enumerate(operations):
            believed, shown = misconception(value, operation), text[i * STEP : (i + 1) * STEP]
            if believed is None or rng.random() >= rate * MISCONCEIVED:
                believed = apply(value, operation)
            said += "-+"[shown == f"{operation}{believed}"]
            value = int(shown[2]) if shown[2:] in tuple("0123456789") else believed
        return said
