"""Injected bugs and their repairs: how good a policy is at either (:mod:`minirl.tasks.bugs`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks.base import Item
from minirl.tasks.bugs import BREAK, Bugs, edits, right_program


def injection_stats(found: list[tuple[tuple[int, int] | None, int]]) -> dict[str, float]:
    """Of injections, each with (k, n) repairs or None if invalid and with its number of edits: the share ``valid``; and
    of the valid ones the mean ``bug_edits``, the mean ``solve_rate``, and the shares ``unsolved`` and ``trivial``."""
    valid = [(k / n, distance) for (k, n), distance in ((c, d) for c, d in found if c)]
    stats = {"valid": len(valid) / max(1, len(found))}
    if valid:
        rates = [rate for rate, _ in valid]
        stats["bug_edits"] = sum(distance for _, distance in valid) / len(valid)
        stats["solve_rate"] = sum(rates) / len(valid)
        stats["unsolved"], stats["trivial"] = rates.count(0) / len(valid), rates.count(1) / len(valid)
    return stats


def repair_stats(rollouts: Rollouts) -> dict[str, float]:
    """``repaired``: the share of repairs that pass; ``different``: different bugs among those given to the solver."""
    rows = [row for row, item in enumerate(rollouts.items) if item.level < BREAK]
    if not rows:
        return {"repaired": 0.0, "different": 0.0}
    bugs = {rollouts.items[row].prompt for row in rows}
    return {
        "repaired": rollouts.scores[rows, 0].mean().item(),
        "different": len(bugs) * rollouts.samples / len(rows),
    }


def evaluate(
    policy: Policy, task: Bugs, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """``accuracy@1`` of repairs of ``items``; of random bugs of one and of three edits in other programs ``one_edit``
    and ``three_edits``; and of the policy's own injections into the programs of ``items`` the shares that are ``valid``
    and ``small``, valid and one edit away, and over the valid ones the mean ``bug_edits``. The rollouts are repairs of
    ``items``, then injections."""
    settings: dict[str, Any] = {"seed": seed, "temperature": temperature, "batch": batch}
    repairs = attempt_all(policy, task, items, **settings)
    injected = attempt_all(policy, task, [task.breaking(item) for item in items], **settings)
    values = {"accuracy@1": repairs.scores[:, 0].tolist(), "valid": [], "small": []}
    cost, sizes = repairs.generated_tokens() + injected.generated_tokens(), []
    for item, texts in zip(injected.items, injected.answers, strict=True):
        text = task.read(texts[0])
        size = edits(right_program(item), text) if task.score(item, text) == 1 else 0
        values["valid"].append(float(size > 0))
        values["small"].append(float(size == 1))
        sizes += [size] if size else []
    for name, level in (("one_edit", 1), ("three_edits", 3)):
        others = attempt_all(policy, task, [task.item(i.seed, i.index, level) for i in items], **settings)
        values[name], cost = others.scores[:, 0].tolist(), cost + others.generated_tokens()
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    metrics["bug_edits"] = sum(sizes) / max(1, len(sizes))
    return Evaluation(metrics, values, cost), Rollouts.join([repairs, injected])


def learning(records: Sequence[Mapping[str, Any]], last: int = 10) -> dict[str, float]:
    """``solve_rate`` and ``unsolved`` of injections, over the ``last`` updates that had a valid one."""
    said = [record for record in records if "solve_rate" in record][-last:]
    return {name: sum(record[name] for record in said) / len(said) for name in ("solve_rate", "unsolved") if said}
