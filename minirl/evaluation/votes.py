"""Votes: what several answers to a problem say together, and what that is worth.

============= ==========================================================================================
metric        meaning
============= ==========================================================================================
accuracy@1    share of right answers among all that were drawn
pass@n        share of problems with a right one among n answers
majority@n    share of problems whose most frequent result among n answers is right
agreement     share of answers that have the most frequent result of their problem
illusion      agreement − accuracy@1: what a policy that is paid for agreeing with itself earns beyond its due
============= ==========================================================================================
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task, get


def result(item: Item, text: str) -> str:
    """What an answer is counted under in a vote: the task's ``result`` where it has one (of a chain of steps the last
    digit), else all of it; "" if there is no answer."""
    task = get(item.task)
    found: str = task.result(item, text) if hasattr(task, "result") else task.read(text)
    return found


def weighted_vote(results: Sequence[str], weights: Sequence[float]) -> str:
    """The result with the most weight; of several the one that came first. An empty result has no vote: it wins only
    where there is no other."""
    total: dict[str, float] = {}
    for name, weight in zip(results, weights, strict=True):
        if name:
            total[name] = total.get(name, 0.0) + weight
    return max(total, key=lambda name: total[name]) if total else ""


def majority(results: Sequence[str]) -> str:
    """The most frequent result: a vote in which all weigh the same."""
    return weighted_vote(results, [1.0] * len(results))


def borda(scores: Sequence[float], power: float) -> list[float]:
    """Weights (N − rank + 1)^power by descending score, the best of N having rank 1 (arXiv 2502.18581); of equal scores
    the first ranks first. With power 0 all weigh the same, with a large one the best decides."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    weights = [0.0] * len(scores)
    for rank, i in enumerate(order, 1):
        weights[i] = float((len(scores) - rank + 1) ** power)
    return weights


def vote_rewards(results: list[list[str]], cross: bool) -> Tensor:
    """Rewards [P, G] of the ``results`` of G answers to each of P prompts, prompts 2i and 2i + 1 being two phrasings of
    one problem: 1 where a result is the majority of the other phrasing (``cross``) or of its own; a majority that is
    empty pays nobody."""
    labels = [majority(said) for said in results]
    partner = [labels[i ^ 1] if cross else labels[i] for i in range(len(labels))]
    rows = zip(results, partner, strict=True)
    return torch.tensor([[float(name == label != "") for name in said] for said, label in rows])


def vote_metrics(rollouts: Rollouts) -> dict[str, list[float]]:
    """Per item the values whose means are the metrics of the table above, from groups of first attempts."""
    n = rollouts.samples
    values: dict[str, list[float]] = {name: [] for name in ("accuracy@1", f"pass@{n}", f"majority@{n}", "agreement")}
    scores = rollouts.scores[:, 0].tolist()
    for start in range(0, len(rollouts.items), n):
        rows, item = range(start, start + n), rollouts.items[start]
        right = [scores[row] == 1 for row in rows]
        said = [result(item, rollouts.answers[row][0]) for row in rows]
        chosen = majority(said)
        values["accuracy@1"].append(sum(right) / n)
        values[f"pass@{n}"].append(float(any(right)))
        values[f"majority@{n}"].append(float(right[said.index(chosen)]))
        values["agreement"].append(sum(name == chosen != "" for name in said) / n)
    values["illusion"] = [a - b for a, b in zip(values["agreement"], values["accuracy@1"], strict=True)]
    return values


def evaluate_votes(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    samples: int = 8,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``samples`` answers to every item, each on its own, and the metrics of the table above. The rollouts are all of
    them, those at one item side by side."""
    rollouts = attempt_all(
        policy, task, items, seed=seed, samples=samples, temperature=temperature, batch=max(1, batch // samples)
    )
    values = vote_metrics(rollouts)
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
