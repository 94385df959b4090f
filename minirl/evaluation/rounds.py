"""Rounds of self-training: how the policy does between them, and what was logged of all of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minirl.evaluation.attempts import attempt_all
from minirl.evaluation.coverage import coverage_metrics
from minirl.policy.models import Policy
from minirl.tasks import Task

WATCHED, SEED = 32, 31337  # problems that nobody learns from, the same in every run


def watched(policy: Policy, task: Task, level: int, samples: int) -> dict[str, float]:
    """The metrics of :mod:`minirl.evaluation.coverage` on a few problems that nobody learns from, to be logged as
    ``watched/…``. This is measuring: its tokens are not part of what training costs."""
    items = task.items(SEED, range(WATCHED), level)
    rollouts = attempt_all(policy, task, items, seed=SEED, samples=samples)
    return {f"watched/{name}": sum(values) / len(values) for name, values in coverage_metrics(rollouts).items()}


def over_rounds(records: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, float]:
    """Of every name the mean over the rounds, which log it once, and ``NAME_rise``: the mean of the later half of them
    less that of the earlier half (of an odd number the middle one is in neither)."""
    found = {}
    for name in names:
        values = [float(record[name]) for record in records if name in record]
        half = len(values) // 2
        found[name] = sum(values) / len(values)
        found[f"{name}_rise"] = (sum(values[len(values) - half :]) - sum(values[:half])) / half if half else 0.0
    return found
