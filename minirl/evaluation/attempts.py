"""Several attempts at a problem: is it solved by the t-th, and was each attempt a new one?

====================== =======================================================================================
metric                 meaning
====================== =======================================================================================
accuracy@1             share of items solved by the first attempt
solved@t               share of items solved by one of the first t attempts, t = 1 … turns
attempts               mean number of attempts made: an episode ends with the first right one
distinct_ratio         different answers / attempts made, per item: 1 if nothing is ever said twice. What is no answer
                       at all (:meth:`minirl.tasks.Task.admissible`) does not count
copy_rate              share of attempts after the first that repeat the one right before
tokens                 mean number of tokens the policy wrote for an item
====================== =======================================================================================

With ``independent`` attempts the policy does not see what it has tried: the trivial rival of every method that talks to
itself, more samples. ``solved@t`` is then pass@t.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, Task, get


@dataclass(frozen=True)
class Evaluation:
    """``metrics`` over all items, and ``items``: the per-item values whose means they are, for intervals."""

    metrics: dict[str, float]
    items: Mapping[str, Sequence[float]]
    generated_tokens: int


def attempt_all(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int = 1,
    samples: int = 1,
    temperature: float = 1.0,
    batch: int = 256,
    feedback: str = "nudge",
    until_solved: bool = False,
) -> Rollouts:
    """``samples`` episodes per item; the noise of item i depends on (seed, i) alone, whatever ``batch`` is.

    ``temperature`` 0 decodes greedily.
    """
    generator = torch.Generator().manual_seed(seed) if temperature > 0 else None
    return Rollouts.join(
        [
            roll_out(
                policy,
                task,
                items[start : start + batch],
                turns=turns,
                samples=samples,
                generator=generator,
                temperature=temperature or 1.0,
                feedback=feedback,
                until_solved=until_solved,
            )
            for start in range(0, len(items), batch)
        ]
    )


def attempt_metrics(rollouts: Rollouts, independent: bool = False) -> Evaluation:
    """All metrics of the table above. ``independent``: the rows of a group are the attempts at an item, in order; what
    follows the first right one does not count. Otherwise the turns of a row are."""
    if independent:
        size = rollouts.samples
        scores = rollouts.scores.view(-1, size).tolist()
        problems = rollouts.items[::size]
        said = [[row[0] for row in rollouts.answers[i : i + size]] for i in range(0, len(rollouts.answers), size)]
        written = rollouts.own.sum(1).view(-1, size).tolist()
    else:
        scores, problems, said = rollouts.scores.tolist(), rollouts.items, rollouts.answers
        written = [[int((turn == t).sum()) for t in range(rollouts.scores.shape[1])] for turn in rollouts.turn]
    turns = len(scores[0])
    items: dict[str, list[float]] = {"accuracy@1": [], **{f"solved@{t}": [] for t in range(1, turns + 1)}}
    items |= {"attempts": [], "distinct_ratio": [], "tokens": []}
    copied = after_first = 0
    for score, item, texts, tokens in zip(scores, problems, said, written, strict=True):
        task = get(item.task)
        right = [t for t, value in enumerate(score, 1) if value == 1]
        made = min([*right, len(texts)])
        answers = [task.read(text) for text in texts[:made]]
        different = {answer for answer in answers if task.admissible(item, answer)}
        items["accuracy@1"].append(int(score[0] == 1))
        for t in range(1, turns + 1):
            items[f"solved@{t}"].append(int(bool(right) and right[0] <= t))
        items["attempts"].append(made)
        items["distinct_ratio"].append(len(different) / made)
        items["tokens"].append(sum(tokens[:made]))
        copied += sum(answers[t] == answers[t - 1] for t in range(1, made))
        after_first += made - 1
    metrics = {name: sum(values) / len(values) for name, values in items.items()}
    metrics["copy_rate"] = copied / max(after_first, 1)
    return Evaluation(metrics, items, rollouts.generated_tokens())


def evaluate_attempts(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int,
    temperature: float = 1.0,
    batch: int = 256,
    feedback: str = "nudge",
    independent: bool = False,
) -> tuple[Evaluation, Rollouts]:
    """One episode of up to ``turns`` attempts per item that ends with the first right one, or as many attempts that
    know nothing of each other. Returns the evaluation and the rollouts, to read."""
    rollouts = attempt_all(
        policy,
        task,
        items,
        seed=seed,
        turns=1 if independent else turns,
        samples=turns if independent else 1,
        temperature=temperature,
        batch=batch,
        feedback=feedback,
        until_solved=not independent,
    )
    return attempt_metrics(rollouts, independent), rollouts
