"""The self-correction matrix: what a second look does to right and to wrong answers.

====================== =======================================================================================
metric                 meaning (first attempt 1, last attempt 2)
====================== =======================================================================================
accuracy@1, accuracy@2 share of items solved by the first and by the last attempt
delta                  accuracy@2 − accuracy@1
incorrect_to_correct   share of items wrong first and right last (rescued)
correct_to_incorrect   share of items right first and wrong last (spoiled)
confidence_level       P(right last | right first) (Yang et al. 2024, arXiv 2412.19513)
critique_level         P(right last | wrong first)
copy_rate              share of items whose last answer repeats the one before, right or wrong
copy_rate_wrong        the same among items whose first answer was wrong
distinct_answers       mean number of different answers in an episode
====================== =======================================================================================

``accuracy@2 = accuracy@1 · confidence_level + (1 − accuracy@1) · critique_level``.
"""

from collections.abc import Sequence

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task


def correction_metrics(rollouts: Rollouts) -> Evaluation:
    """All metrics of the table above, from one multi-turn episode per item.

    A conditional metric whose condition never occurs is 0 if conditioned on right and on wrong first attempts alike;
    read it together with ``accuracy@1``. Raises ``ValueError`` for single-turn episodes.
    """
    if rollouts.scores.shape[1] < 2:
        raise ValueError("the correction matrix needs episodes of at least two attempts")
    first, last = (rollouts.scores[:, t].round().int().tolist() for t in (0, -1))
    copied = [int(answers[-1] == answers[-2]) for answers in rollouts.answers]
    items: dict[str, Sequence[float]] = {
        "accuracy@1": first,
        "accuracy@2": last,
        "delta": [b - a for a, b in zip(first, last, strict=True)],
        "incorrect_to_correct": [int(b > a) for a, b in zip(first, last, strict=True)],
        "correct_to_incorrect": [int(b < a) for a, b in zip(first, last, strict=True)],
        "copy_rate": copied,
        "distinct_answers": [len(set(answers)) for answers in rollouts.answers],
    }
    metrics = {name: sum(values) / len(values) for name, values in items.items()}
    right, wrong = sum(first), len(first) - sum(first)
    metrics["confidence_level"] = sum(a * b for a, b in zip(first, last, strict=True)) / max(right, 1)
    metrics["critique_level"] = sum(items["incorrect_to_correct"]) / max(wrong, 1)
    metrics["copy_rate_wrong"] = sum(c for c, a in zip(copied, first, strict=True) if not a) / max(wrong, 1)
    return Evaluation(metrics, items, rollouts.generated_tokens())


def matrix(metrics: dict[str, float]) -> dict[str, float]:
    """The four cells (shares of all items) behind ``metrics``, as :func:`minirl.show.figures.correction_matrix` reads.

    First word: first attempt; second word: last attempt.
    """
    rescued, spoiled = metrics["incorrect_to_correct"], metrics["correct_to_incorrect"]
    return {
        "correct_correct": metrics["accuracy@1"] - spoiled,
        "correct_incorrect": spoiled,
        "incorrect_correct": rescued,
        "incorrect_incorrect": 1 - metrics["accuracy@1"] - rescued,
    }


def evaluate_correction(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int = 2,
    temperature: float = 1.0,
    batch: int = 256,
    feedback: str = "nudge",
) -> tuple[Evaluation, Rollouts]:
    """One episode per item (:func:`~minirl.evaluation.attempts.attempt_all`): its matrix, and the rollouts to read."""
    rollouts = attempt_all(
        policy, task, items, seed=seed, turns=turns, temperature=temperature, batch=batch, feedback=feedback
    )
    return correction_metrics(rollouts), rollouts
