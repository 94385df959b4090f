"""Sessions: a problem and all that was said of it until it was solved, and how far one who reads everything gets."""

from collections.abc import Iterator, Sequence

from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.tasks.spec import UnitTests


def sessions(rollouts: Rollouts) -> Iterator[tuple[Item, list[str]]]:
    """Every problem with the attempts at it up to the first right one: the turns of a row or, where attempts know
    nothing of each other, the rows of a group."""
    size, scores = rollouts.samples, rollouts.scores.tolist()
    for start in range(0, len(rollouts.items), size):
        said, right = rollouts.answers[start], scores[start]
        if size > 1:
            said, right = ([row[0] for row in of_all[start : start + size]] for of_all in (rollouts.answers, scores))
        yield rollouts.items[start], said[: right.index(1) + 1] if 1 in right else said


def reader_solves(
    task: UnitTests, item: Item, grade: str, attempts: int, history: Sequence[tuple[str, str]] = ()
) -> list[float]:
    """The chance to be right within 1, 2, … ``attempts`` of whoever writes, each with the same chance, any program that
    is still possible after all feedback of the grade. Exact, by going through every session that can happen."""
    left, chances = task.possible(item, history), [0.0] * attempts
    for program in left:
        if task.score(item, program) == 1:
            later = [1.0] * attempts
        elif attempts == 1:
            later = [0.0]
        else:
            said = (program, task.feedback(item, program, grade))
            later = [0.0, *reader_solves(task, item, grade, attempts - 1, (*history, said))]
        chances = [chance + share / len(left) for chance, share in zip(chances, later, strict=True)]
    return chances
