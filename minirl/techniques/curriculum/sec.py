"""Self-evolving curriculum (SEC): choose what there is most to learn from, by the size of the advantages.

Chen et al. 2025, arXiv 2505.14970. Problems come in categories, here the levels of a ladder. From those that the policy
always solves, or never does, it learns nothing: all rollouts score alike, and the advantage within the group is zero.
So the size of the advantage says where there is something to learn, and it is computed anyway. SEC lets a bandit look
for it. With Q(c) for what category c is thought to pay, before every update

    c ~ softmax(Q / τ)    for every problem of the update, by itself
    Q(c) ← Q(c) + α (r(c) − Q(c)),    r(c) = mean of |Â| over the rollouts of c

where Â is GRPO's advantage, the score less the mean of its group by the group's standard deviation. Categories that
were not chosen keep their Q. The rule is :class:`minirl.rollouts.samplers.Bandit`; nothing else is new: the policy
learns as it would anyway.

Where k of G rollouts are right, a group pays 2 √(k/G (1 − k/G)) (times √((G−1)/G), as the deviation is the unbiased
one). So SEC looks for a success of one half without ever estimating success (:func:`expected_gain`); and with small
groups rare success pays less than the formula says, because most groups have none.

Departures from the paper
-------------------------
1. Categories are the levels of CHAIN, on a tiny model whose steps fail at random; the paper has Countdown, Zebra
   puzzles, ARC and mathematics, and with several domains an arm for every domain and level.
2. α is one half and τ a fifth; the paper sets them for every task.
3. Arms are compared at equal numbers of generated tokens, not of updates: SEC likes long answers, once they are
   learnable, and those cost more.
4. ``shuffled`` rewards, dealt out at random among the problems of an update, are our control.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.learning import log2_tokens_to
from minirl.evaluation.levels import evaluate_levels
from minirl.objectives.advantages import Baseline
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task
from minirl.techniques.baselines import WatchedRL

__all__ = ["LEVELS", "TARGET", "Sec", "evaluate", "expected_gain", "learning", "standing_choice"]

LEVELS = (1, 2, 4, 8, 12)
TARGET = 0.3  # success at the hardest level, at which time is taken


def expected_gain(success: float, samples: int) -> float:
    """E[r]: what a bandit is paid, on average, for a problem that a rollout solves with probability ``success``, from
    groups of ``samples`` ≥ 2: the mean over the number k of right ones, which is binomial."""
    paid = 0.0
    for k in range(samples + 1):
        chance = math.comb(samples, k) * success**k * (1 - success) ** (samples - k)
        share = k / samples
        # Mean |score − mean| is 2 share (1 − share), the unbiased deviation √(share (1 − share) G / (G − 1)).
        paid += chance * 2 * math.sqrt(share * (1 - share) * (samples - 1) / samples)
    return paid


def standing_choice(successes: Sequence[float], samples: int, temperature: float) -> list[float]:
    """What share of the problems each category would get in the long run, if the policy stood still."""
    weights = [math.exp(expected_gain(success, samples) / temperature) for success in successes]
    return [weight / sum(weights) for weight in weights]


class Sec(WatchedRL):
    """GRPO's advantage with REINFORCE's gradient, watched at every level. Which arm this is the ``sampler`` says: SEC's
    is ``bandit``, its rivals are the other rules."""

    name: ClassVar[str] = "sec"
    task: str = "chain"
    levels: tuple[PositiveInt, ...] = Field(default=LEVELS, min_length=1)
    baseline: Baseline = "group_normalised"


def evaluate(
    policy: Policy, task: Task, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """``accuracy/LEVEL`` for each of ``LEVELS``, and their mean."""
    return evaluate_levels(policy, task, items, seed=seed, levels=LEVELS, temperature=temperature, batch=batch)


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``log2_tokens``: binary logarithm of the tokens until ``TARGET`` at the hardest level watched, or of all tokens;
    ``informative``: share of problems whose rollouts did not score alike, over all of training; ``tokens/update``."""
    hardest = max(int(name.partition("/")[2]) for name in set().union(*records) if name.startswith("probe/"))
    return {
        "log2_tokens": log2_tokens_to(records, TARGET, metric=f"probe/{hardest}", smooth=1),
        "informative": sum(record["informative"] for record in records) / len(records),
        "tokens/update": records[-1]["generated_tokens"] / len(records),
    }
