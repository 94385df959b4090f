"""Samplers compared: which problem next, at the same price.

A group of rollouts that all score alike teaches a group-relative learner nothing, so most curricula for reinforcement
learning look for problems that are solved about half of the time. Six rules of :mod:`minirl.rollouts.samplers`, one
learner, one ladder of problems, and one budget of *generated tokens*. Longer problems have longer answers: with equally
many updates whoever prefers them would have written more.

============== =======================================================================================
arm            next problem
============== =======================================================================================
uniform        of any level, equally often
easy_to_hard   of one level after the other, with equal shares of the tokens
hardest        of the highest level alone: what one would do without a curriculum
bandit         a level by a softmax over mean absolute advantages (SEC, arXiv 2505.14970)
thompson       a level whose drawn rate of success is nearest to one half (BOTS, arXiv 2510.26374)
learnability   a level in proportion to p (1 − p) (arXiv 2502.12272)
misinformed    as ``bandit``, but told at random of which problem what was seen: the control
============== =======================================================================================

All are judged on all levels and on the hardest, at the end and along the way (``area``: mean accuracy over the tokens
of training). The papers compare with random problems of a data set as it comes; a uniform choice over a grid of
difficulties is a stronger rival, since it never runs out of problems that are just hard enough.

Departures from the paper
-------------------------
1. A policy of 0.1 M parameters on sums in steps; levels are numbers of steps. It knows every step and slips at random.
2. Units are levels, each with problems that never come twice. BOTS and learnability sampling choose among the problems
   of a data set; with a ``pool`` so do these rules.
3. Settings are the papers' where they give them and were not tuned here. Nothing is implied of levels not seen.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from minirl.evaluation.learning import log2_tokens_to
from minirl.evaluation.levels import evaluate_levels

__all__ = ["LEVELS", "TARGET", "area", "evaluate", "learning"]

LEVELS = (1, 2, 4, 8, 12)
TARGET = 0.5  # accuracy on the hardest level
evaluate = partial(evaluate_levels, levels=LEVELS)


def area(records: Sequence[Mapping[str, Any]], metric: str = "probe") -> float:
    """Mean of ``metric`` over the tokens of training: every measurement stands for the tokens since the one before.
    0 if nothing was measured."""
    total, before = 0.0, 0
    for record in records:
        if metric in record:
            total += record[metric] * (record["generated_tokens"] - before)
            before = record["generated_tokens"]
    return total / before if before else 0.0


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``area`` over all levels and ``log2_tokens_to_target`` on the hardest; ``informative``, the share of problems
    from which something could be learned."""
    hardest = f"probe/{LEVELS[-1]}"
    shares = [record["informative"] for record in records]
    return {
        "area": area(records),
        "log2_tokens_to_target": log2_tokens_to(records, TARGET, metric=hardest, smooth=2),
        "informative": sum(shares) / len(shares),
        "updates": float(records[-1]["update"]),
    }
