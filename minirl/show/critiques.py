"""Episodes of an actor and a critic: attempt, critique and next attempt to read, and what was said of what."""

from collections import Counter
from collections.abc import Callable
from string import ascii_lowercase
from typing import Any

from minirl.rollouts.critiques import read_critique
from minirl.rollouts.episodes import Rollouts
from minirl.show.rollouts import RolloutView, _Cell, _mark, _select, _view

NONE = "else"  # what is no critique of such an answer


def signs(level: int) -> list[str]:
    """All critiques of an answer of ``level`` steps: ``+``, ``-a``, ``-b`` and so on."""
    return ["+", *(f"-{letter}" for letter in ascii_lowercase[:level])]


def said_of(rollouts: Rollouts, task: Any) -> dict[str, Counter[str]]:
    """What was said of attempts, by what should have been: ``{"+": {"+": 30, "-a": 2}, "-a": …}``.

    ``rollouts`` are those of :func:`~minirl.rollouts.critiques.critique_and_refine`, of one level; what is no critique
    counts as :data:`NONE`, in either place. Signs that never came are not in the counters, which read as 0.
    """
    known = {*signs(rollouts.items[0].level)}
    found: dict[str, Counter[str]] = {sign: Counter() for sign in (*signs(rollouts.items[0].level), NONE)}
    for item, (attempt, said, *_) in zip(rollouts.items, rollouts.answers, strict=True):
        true, read = task.critique(item, attempt), said.strip()
        legible = read in known and read_critique(said, item.level) is not None
        found[true if true in known else NONE][read if legible else NONE] += 1
    return found


def show_critiques(
    rollouts: Rollouts,
    task: Any,
    *,
    rows: int = 6,
    select: Callable[[Rollouts], list[int]] | None = None,
) -> RolloutView:
    """At most ``rows`` episodes of :func:`~minirl.rollouts.critiques.critique_and_refine`: the attempt, the critique
    of it (✓ if its verdict is right), the critique that would have been true, and the next attempt.

    Of several next attempts all are shown, with the share that is right. ``select`` names the rows, as for
    :func:`~minirl.show.rollouts.show_rollouts`.
    """
    shown, count = _select(rollouts, rows, None if select is None else select(rollouts))
    lines = []
    for row in shown:
        item, (attempt, said, *after) = rollouts.items[row], rollouts.answers[row]
        before, verdict, refined = rollouts.scores[row].tolist()
        share = f"{refined:.2g}" if len(after) > 1 else _mark(refined)
        texts = [item.prompt, f"{attempt} {_mark(before)}", f"{said} {_mark(verdict)}", task.critique(item, attempt)]
        texts += [f"{' '.join(after) or '(as before)'} {share}", item.answer]
        lines.append([_Cell.grey(str(row)), *map(_Cell.code, texts)])
    heads = ["row", "problem", "attempt", "critique", "true", "next attempt", "right answer"]
    return _view(count.replace("rollouts", "episodes"), "", heads, lines)
