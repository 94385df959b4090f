"""Feedback friction: how much of what it is told a policy uses.

Jiang et al. 2025, arXiv 2506.11930, a measurement. A model answers, is told truthfully what is wrong, and answers
again, up to ten times. Even with nearly perfect feedback it stops short of what the feedback makes possible. In the
paper that ceiling is where somebody who followed every remark would be. Here it is computed: in GUESS each remark
leaves a set of codes that are still possible, and the best player's success within t turns is known exactly.

- **friction**: the best player's ``solved@T`` less the policy's own.
- **consistent**: of the attempts after the first, the share that agrees with all that was said before. A player who
  only ever names such codes, each with the same chance, reaches the line ``guessing``, without planning.

The mitigation of the paper that needs no training is measured for every arm as well: attempts that were made before are
refused, and drawn again (``without_repeats``; what friction is left then is ``friction_refused``).

Departures from the paper
-------------------------
1. A code game instead of nine benchmarks; feedback is computed, so that it is never wrong and never leaks the answer.
2. Any policy can be measured; as the paper leaves open whether training removes the friction, arms are trained by
   reward.
3. Of the mitigations only refusal, with ``TRIES`` draws an attempt; not the rising temperature.
"""

from collections.abc import Sequence
from typing import Any

import torch

from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, evaluate_attempts
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, Task
from minirl.tasks.bucket import enumeration
from minirl.tasks.guess import SIZES, codes, consistent, optimal

__all__ = ["agreeing", "ceiling", "evaluate", "first_new", "solved_without_repeats"]

TRIES = 4


def ceiling(level: int, turns: int, feedback: str) -> float:
    """The highest probability with which any player finds a code of ``level`` within ``turns``. Only located feedback
    says more than that the game goes on; without it nobody does better than never to repeat an attempt."""
    return optimal(*SIZES[level], turns) if feedback == "located" else enumeration(len(codes(*SIZES[level])), turns)


def agreeing(task: Task, item: Item, answers: Sequence[str], feedback: str) -> list[bool]:
    """Of every answer after the first, whether it agrees with all the feedback before it."""
    said = [(task.read(text), task.feedback(item, text, feedback).removesuffix(item.prompt)) for text in answers]
    return [task.read(text) in consistent(said[:t], *SIZES[item.level]) for t, text in enumerate(answers) if t]


def first_new(task: Task, candidates: Sequence[str], made: Sequence[str]) -> str:
    """The first of ``candidates`` whose answer is not that of one of the attempts ``made``; the last one if there is
    none. All are texts as the policy wrote them."""
    known = {task.read(text) for text in made}
    return next((text for text in candidates if task.read(text) not in known), candidates[-1])


def solved_without_repeats(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int,
    temperature: float,
    batch: int,
    feedback: str,
) -> list[bool]:
    """Whether each item is solved within ``turns`` by a policy whose repeated attempts are refused, up to ``TRIES``
    draws an attempt. At ``temperature`` 0 all draws are equal, and refusing is in vain."""
    made: list[list[str]] = [[] for _ in items]
    solved = [False] * len(items)
    for turn in range(turns):
        generator = torch.Generator().manual_seed(seed + turn) if temperature > 0 else None
        for start in range(0, len(items), batch):
            rows = range(start, min(start + batch, len(items)))
            drawn = roll_out(
                policy,
                task,
                [items[row] for row in rows],
                samples=TRIES,
                generator=generator,
                temperature=temperature or 1.0,
                feedback=feedback,
                given=[made[row] for row in rows],
            )
            for i, row in enumerate(rows):
                candidates = [text for (text,) in drawn.answers[i * TRIES : (i + 1) * TRIES]]
                made[row].append(first_new(task, candidates, made[row]))
                solved[row] |= task.score(items[row], made[row][-1]) == 1
    return solved


def evaluate(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int,
    temperature: float = 1.0,
    batch: int = 256,
    feedback: str = "located",
) -> tuple[Evaluation, Rollouts]:
    """:func:`~minirl.evaluation.attempts.evaluate_attempts` and what this page is about, for items of one level of
    GUESS. ``consistent`` is per attempt, so it has no per-item values. Raises :class:`ConfigError` for another task."""
    if task.name != "guess":
        raise ConfigError(f"friction is measured against the best player of 'guess', and the task is {task.name!r}")
    settings: dict[str, Any] = {
        "seed": seed,
        "turns": turns,
        "temperature": temperature,
        "batch": batch,
        "feedback": feedback,
    }
    evaluation, rollouts = evaluate_attempts(policy, task, items, **settings)
    agree = [
        right
        for item, answers in zip(items, rollouts.answers, strict=True)
        for right in agreeing(task, item, answers, feedback)
    ]
    best = ceiling(items[0].level, turns, feedback)
    refused = solved_without_repeats(policy, task, items, **settings)
    values = {
        **evaluation.items,
        "friction": [best - solved for solved in evaluation.items[f"solved@{turns}"]],
        "without_repeats": [float(solved) for solved in refused],
        "friction_refused": [best - solved for solved in refused],
    }
    metrics = {
        **evaluation.metrics,
        "friction": best - evaluation.metrics[f"solved@{turns}"],
        "without_repeats": sum(refused) / len(refused),
        "friction_refused": best - sum(refused) / len(refused),
        "consistent": sum(agree) / max(len(agree), 1),
    }
    return Evaluation(metrics, values, evaluation.generated_tokens), rollouts
