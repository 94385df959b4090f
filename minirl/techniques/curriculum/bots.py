"""BOTS: believe something of every problem's success, and train where it is near one half.

Shen et al. 2025, arXiv 2510.26374, Bayesian online task selection. There is a fixed pool of problems. Of the success p
of each there is a Beta posterior, and before every update a value is drawn from each posterior; the problems whose draw
is nearest to a target, one half, are trained on (Thompson sampling: what is little known is drawn wide, and so gets
looked at). Then, with s right ones of m rollouts,

    α ← (1 − λ) α + λ · 1 + s,    β ← (1 − λ) β + λ · 1 + (m − s)

λ forgets, because the policy changes. What was chosen brings *explicit* evidence, its own counts. All others get
*implicit* evidence, counts of weight ρ as they may be expected from what was seen elsewhere:

    s = ρ m p̃,    p̃ = w + c (h − w),    c = (mean p seen − mean w seen) / (mean h seen − mean w seen)

w and h are the success of a weak and a strong reference policy at the problem, known beforehand, and c, smoothed over
updates, says where between them the policy is now. So what is seen at one level says something of all. The rule is
:class:`minirl.rollouts.samplers.Thompson`.

How sure a posterior can get is its count α + β, which moves to 2 + (evidence per update) / λ (:func:`settled_count`):
with ρ = λ the guesses are worth as much as one look; with ρ = 1 as much as a look at every update, and no look counts.

Departures from the paper
-------------------------
1. A pool of 128 sums of one to twelve steps, on a tiny model whose steps fail at random; the paper's pool are tens of
   thousands of problems of mathematics, code and logic, on models of up to 7B.
2. w and h are known by level, not by problem: of the base, and of a policy that was trained in development.
3. Eight rollouts of a problem, not sixteen; λ is a tenth and ρ a tenth, as in the authors' example.
4. ``shuffled`` counts, dealt out at random among the problems of an update, are our control (without implicit evidence,
   whose ability c is a mean and does not mind who had what).
"""

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

__all__ = ["LEVELS", "TARGET", "Bots", "evaluate", "learning", "phase_means", "settled_count"]

LEVELS = (1, 2, 4, 8, 12)  # that are measured
TARGET = 0.55  # mean success over the watched levels, at which time is taken
EARLY = 0.25  # the first part of training, when hardly a problem has been looked at twice


def settled_count(evidence: float, decay: float) -> float:
    """α + β after many updates, each of which brings ``evidence`` (m rollouts of a chosen problem, ρ m of others): the
    fixed point of n ← (1 − λ) n + 2 λ + evidence, with λ > 0 the ``decay``."""
    return 2 + evidence / decay


def phase_means(records: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float, float]:
    """Mean of ``metric`` over the ``EARLY`` part of the records, over the rest, and over all."""
    values = [record[metric] for record in records]
    cut = max(1, round(EARLY * len(values)))
    early, late = values[:cut], values[cut:] or values[-1:]
    return sum(early) / len(early), sum(late) / len(late), sum(values) / len(values)


class Bots(WatchedRL):
    """GRPO's advantage with REINFORCE's gradient, watched at every level. Which arm this is the ``sampler`` says: that
    of BOTS is ``thompson`` on a ``pool``."""

    name: ClassVar[str] = "bots"
    task: str = "chain"
    levels: tuple[PositiveInt, ...] = Field(default=LEVELS, min_length=1)
    baseline: Baseline = "group_normalised"


def evaluate(
    policy: Policy, task: Task, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """``accuracy/LEVEL`` for each of ``LEVELS``, and their mean, on problems that are not in the pool."""
    return evaluate_levels(policy, task, items, seed=seed, levels=LEVELS, temperature=temperature, batch=batch)


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``in_band``: share of the rollouts spent on problems whose success in them was from ¼ to ¾, over all of training,
    ``in_band/early`` and ``in_band/late``; ``informative``: share of problems whose rollouts did not score alike; and
    ``log2_tokens``: binary logarithm of the tokens until the mean of the watched levels is ``TARGET``, or of all."""
    early, late, always = phase_means(records, "in_band")
    return {
        "in_band": always,
        "in_band/early": early,
        "in_band/late": late,
        "informative": phase_means(records, "informative")[2],
        "log2_tokens": log2_tokens_to(records, TARGET, metric="probe", smooth=1),
    }
