"""``math``: competition mathematics (Hendrycks et al. 2021, arXiv 2103.03874) in the split of Lightman et al. (2023,
arXiv 2305.20050): 12,000 problems to train, and the 500 of MATH-500 to test.

Levels 1 to 5 are the data set's own; level 6 is all of them together, which is how MATH-500 is reported. Answers are
LaTeX, and equal if math-verify says so (the extra ``maths``; :mod:`minirl.tasks.equal` says how it is kept from running
what a model wrote). A reply without ``Answer:`` is read at its last ``\\boxed{…}``, as many models write. Which rows an
item comes from says :mod:`minirl.tasks.hub`.
"""

import random
import re
from typing import ClassVar

from minirl.errors import ConfigError
from minirl.tasks.base import MAX_ANSWER_CHARS, Item
from minirl.tasks.equal import equal, require
from minirl.tasks.hub import FromRows, Row
from minirl.tasks.words import MARK, MAX_READ, after_mark

ALL = 6


class Math(FromRows):
    name = "math"
    levels: ClassVar[range] = range(1, ALL + 1)
    source = "nlile/hendrycks-MATH-benchmark"
    columns = ("problem", "solution", "answer", "level")
    wanted = "your final answer, as LaTeX between dollar signs,"

    def at_level(self, row: Row, level: int) -> bool:
        found = re.search("[1-5]", str(row["level"]))  # 3 or "Level 3"
        if found is None:
            raise ConfigError(f"math: a level that is none: {str(row['level'])[:40]!r}")
        return level in (ALL, int(found[0]))

    def problem(self, row: Row) -> tuple[str, str]:
        return str(row["problem"]), f"{str(row['solution']).strip()}\n{MARK} ${str(row['answer']).strip()}$"

    def item(self, seed: int, index: int, level: int) -> Item:
        require()  # now, not in a scorer, which never raises
        return super().item(seed, index, level)

    def read(self, completion: str) -> str:
        if after_mark(completion) is None and (inside := boxed(completion)):
            return inside
        return super().read(completion)

    def check(self, item: Item, answer: str) -> bool:
        return equal(self.reference(item), answer)

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """The answer to another problem."""
        for _ in range(30):
            drawn = self.read(self.make(rng, item.level)[1])
            if drawn and not equal(self.reference(item), drawn):
                return f"{MARK} ${drawn}$"
        return f"{MARK} $\\text{{none}}$"


def boxed(completion: str) -> str:
    """What the last ``\\boxed{…}`` holds; "" if there is none that is closed, or what it holds is no answer."""
    start = completion[-MAX_READ:].rfind("\\boxed{")
    rest, depth = completion[-MAX_READ:][start + len("\\boxed{") :], 1
    for i, character in enumerate(rest if start >= 0 else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            inside = " ".join(rest[:i].split())
            return inside if len(inside) <= MAX_ANSWER_CHARS and inside.isascii() else ""
    return ""
