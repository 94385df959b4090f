"""Coverage: how often a policy is right, and how many different right answers it still has.

============= ==========================================================================================
metric        meaning
============= ==========================================================================================
accuracy@1    share of right answers among all that were drawn
score         mean score of all that were drawn: where a task gives part of the credit, more than accuracy@1
pass@n        share of problems with a right one among n answers
variety       mean number of different right answers among n
entropy       nats per answer: the mean of −log π(y | x) over own answers, an unbiased estimate of the entropy of
              whole answers (at temperature 1)
============= ==========================================================================================
"""

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task, get


def coverage_metrics(rollouts: Rollouts) -> dict[str, list[float]]:
    """Per item the values whose means are the metrics of the table above, from groups of first attempts."""
    n = rollouts.samples
    scores, surprise = rollouts.scores[:, 0].tolist(), (-rollouts.logprobs.sum(1)).tolist()
    values: dict[str, list[float]] = {name: [] for name in ("accuracy@1", "score", f"pass@{n}", "variety", "entropy")}
    for start in range(0, len(rollouts.items), n):
        rows, task = range(start, start + n), get(rollouts.items[start].task)
        right = [row for row in rows if scores[row] == 1]
        values["accuracy@1"].append(len(right) / n)
        values["score"].append(sum(scores[row] for row in rows) / n)
        values[f"pass@{n}"].append(float(bool(right)))
        values["variety"].append(float(len({task.read(rollouts.answers[row][0]) for row in right})))
        values["entropy"].append(sum(surprise[row] for row in rows) / n)
    return values


def evaluate_coverage(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    samples: int = 16,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``samples`` answers to every item, each on its own, and the metrics of the table above. The rollouts are all of
    them, those at one item side by side."""
    rows = max(1, batch // samples)
    rollouts = attempt_all(policy, task, items, seed=seed, samples=samples, temperature=temperature, batch=rows)
    values = coverage_metrics(rollouts)
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
