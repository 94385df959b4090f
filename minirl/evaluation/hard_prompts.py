"""What a policy can do without help, on easy problems and on hard ones, and what help would still be worth.

============ ========================================================================================
metric       meaning
============ ========================================================================================
easy, hard   share of right answers without help to problems without rare steps, and with three of them
pass@8       share of hard problems of which one of eight answers is right
hinted       share of right answers to hard problems after all steps but the last have been shown
explained    the same after the last result has been shown
gap          hinted − hard: what has not carried over to problems without a hint
============ ========================================================================================

Every held-out item stands for an easy and a hard problem with its numbers (seed and index).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task
from minirl.tasks.gaps import EASY, HARD, Gaps

SAMPLES = 8


def evaluate(
    policy: Policy, task: Task, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """All metrics of the table above, per item. The rollouts are answers to hard problems without help, eight each."""
    assert isinstance(task, Gaps)
    how: dict[str, Any] = {"seed": seed, "temperature": temperature}
    easy, hard = ([task.item(item.seed, item.index, level) for item in items] for level in (EASY, HARD))
    eight = attempt_all(policy, task, hard, samples=SAMPLES, batch=max(1, batch // SAMPLES), **how)
    grouped = eight.scores[:, 0].view(-1, SAMPLES)
    asked = {
        "easy": easy,
        "hinted": [task.shown(item, task.hint(item, task.rungs)) for item in hard],
        "explained": [task.shown(item, task.final(item)) for item in hard],
    }
    values = {"hard": grouped.mean(1).tolist(), f"pass@{SAMPLES}": grouped.amax(1).tolist()}
    for name, problems in asked.items():
        values[name] = attempt_all(policy, task, problems, batch=batch, **how).scores[:, 0].tolist()
    values["gap"] = [a - b for a, b in zip(values["hinted"], values["hard"], strict=True)]
    metrics = {name: sum(of) / len(of) for name, of in values.items()}
    return Evaluation(metrics, values, eight.generated_tokens()), eight


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the whole training: the mean share of problems with a ``signal`` in their rewards, and of the hard ones
    (``hard_signal``); ``shown``, symbols of references that were used for a problem; ``tokens`` generated."""
    found = {"tokens": float(records[-1]["generated_tokens"])}
    for name in ("signal", "hard_signal"):
        values = [record[name] for record in records if name in record]
        if values:
            found[name] = sum(values) / len(values)
    return found | {"shown": sum(record.get("shown", 0.0) for record in records)}
