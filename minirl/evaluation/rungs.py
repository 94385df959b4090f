"""What is right after so many steps of the reference have been shown, and which facts are known at which place.

============ ========================================================================================
metric       meaning
============ ========================================================================================
by_rung      share of right answers to the same problems after 0, 1, 2 and 3 steps have been shown
rare_steps   share of rare steps, by their place in the answer, whose result is right for what stands
             before them: who goes on rightly from a wrong result knows the fact
============ ========================================================================================
"""

import math
from collections.abc import Sequence

from minirl.evaluation.attempts import attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.tasks.gaps import RARE, STEP, STEPS, Gaps, apply, problem


def by_rung(policy: Policy, task: Gaps, items: Sequence[Item], *, samples: int, seed: int) -> list[float]:
    """Share of right answers, without help first and then rung by rung."""
    shares = []
    for rung in range(task.rungs + 1):
        asked = [task.shown(item, task.hint(item, rung)) if rung else item for item in items]
        scores = attempt_all(policy, task, asked, samples=samples, seed=seed).scores[:, 0]
        shares.append(scores.mean().item())
    return shares


def rare_steps(rollouts: Rollouts) -> list[float]:
    """For each place in an answer, the share of its rare steps that follow from the digit written before them. A step
    that is missing, or restated wrongly, is wrong, and so is one after no digit. NaN where no step is rare."""
    right: list[list[bool]] = [[] for _ in range(STEPS)]
    for item, (answer,) in zip(rollouts.items, rollouts.answers, strict=True):
        value, operations = problem(item)
        now = str(value)
        for place, operation in enumerate(operations):
            step = answer.strip()[place * STEP : (place + 1) * STEP]
            if operation in RARE:
                right[place].append(now.isdecimal() and step == f"{operation}{apply(int(now), operation)}")
            now = step[-1:]
    return [sum(found) / len(found) if found else math.nan for found in right]
