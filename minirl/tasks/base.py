"""What a task is: a procedural, verifiable source of problems.

An item is a pure function of ``(seed, index, level)``: no data set on disk, no state, and any two processes agree
on what item 17 of seed 3 is. Scorers read model text and therefore trust nothing: they never ``eval``, never raise,
and look at a bounded number of characters.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

MAX_ANSWER_CHARS = 256  # longer answers are wrong by definition: no scorer parses unbounded model text


@dataclass(frozen=True)
class Item:
    """One problem. ``prompt`` is what the policy reads, ``answer`` one correct reply (a demonstration)."""

    task: str
    seed: int
    index: int
    level: int
    prompt: str
    answer: str


class Task(ABC):
    """A family of problems with difficulty levels.

    Subclasses define ``name``, ``levels`` and the four abstract methods. ``check`` only sees answers that
    :meth:`read` has found. ``grades`` names what :meth:`feedback` can be asked for. Two methods write demonstrations
    for recipes of bases: :meth:`careless` of a first attempt, :meth:`revise` of one that comes after feedback.
    """

    name: ClassVar[str]
    levels: ClassVar[range]
    grades: ClassVar[tuple[str, ...]] = ("nudge", "binary")

    @abstractmethod
    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        """Draw one problem from ``rng``: ``(prompt, answer)``."""

    @abstractmethod
    def check(self, item: Item, answer: str) -> float:
        """How well ``answer`` solves ``item``, in [0, 1]; a bool where there is only right and wrong."""

    @abstractmethod
    def max_answer_chars(self, level: int) -> int:
        """Length of the longest reasonable answer at ``level``, in characters; bounds generation."""

    @abstractmethod
    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A plausible wrong answer, for recipes that teach a base what mistakes look like."""

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """An attempt as people make them: with probability ``rate`` a typical mistake, else the right answer."""
        return self.corrupt(item, rng) if rng.random() < rate else item.answer

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """An attempt by someone who has read ``history``: earlier attempts, each with the feedback that followed it.

        What was called right is repeated; all else is tried anew, as carelessly as the first time (``rate``).
        """
        attempt, feedback = history[-1]
        return attempt if feedback.startswith("+") else self.careless(item, rng, rate)

    def item(self, seed: int, index: int, level: int) -> Item:
        """The item at ``(seed, index, level)``. Raises ``ValueError`` for a level the task does not have."""
        if level not in self.levels:
            raise ValueError(
                f"task {self.name!r} has levels {self.levels.start}–{self.levels.stop - 1}, not level {level}"
            )
        # random.Random hashes a string with SHA-512: the same on every platform and Python version.
        rng = random.Random(f"{self.name}/{seed}/{index}/{level}")
        prompt, answer = self.make(rng, level)
        return Item(self.name, seed, index, level, prompt, answer)

    def items(self, seed: int, indices: Iterable[int], level: int) -> list[Item]:
        """``[self.item(seed, i, level) for i in indices]``."""
        return [self.item(seed, index, level) for index in indices]

    def read(self, completion: str) -> str:
        """The answer in a completion, without the space around it; "" if it is too long or not ASCII."""
        return completion.strip() if len(completion) <= MAX_ANSWER_CHARS and completion.isascii() else ""

    def admissible(self, item: Item, completion: str) -> bool:  # noqa: ARG002
        """Whether a completion is an answer at all, right or wrong: one that could be right for some item."""
        return bool(self.read(completion))

    def score(self, item: Item, completion: str) -> float:
        """How well ``completion`` solves ``item``: 1.0 entirely, 0.0 not at all; total on every string."""
        answer = self.read(completion)
        return float(self.check(item, answer)) if answer else 0.0

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """Text appended after an attempt: a sign, then the problem once more, so that the next attempt starts like the
        first with the earlier one in view.

        ``nudge`` (``?``) says nothing about correctness: intrinsic self-correction. ``binary`` says right (``+``) or
        wrong (``-``). Raises ``ValueError`` for another grade.
        """
        if grade == "nudge":
            return f"?{item.prompt}"
        if grade == "binary":
            return f"{'+' if self.score(item, completion) == 1 else '-'}{item.prompt}"
        raise ValueError(f"task {self.name!r} has no feedback grade {grade!r}; one of: {', '.join(self.grades)}")


def to_dataset(rows: Sequence[Any]) -> Any:
    """Items, demonstrations or rollout records as a ``datasets.Dataset``, one column a field.

    Columns ``prompt`` and ``completion`` have the names that TRL's trainers look for. ``rows`` are dataclass
    instances or dictionaries with equal keys; an item's ``answer`` also appears as ``completion``.
    """
    from datasets import Dataset  # imported late: it costs a second that most users of a task do not owe

    records = []
    for row in rows:
        record = dict(row) if isinstance(row, dict) else asdict(row)
        if "answer" in record and "completion" not in record:
            record["completion"] = record["answer"]
        records.append(record)
    return Dataset.from_list(records)
