"""SAGE: where no rollout succeeds, try again with a hint.

Liao et al. 2026, arXiv 2602.03143. A group of rollouts that all fail teaches nothing: its advantages are zero. SAGE
lets the policy try such a problem again with a hint h taken from the reference τ*, first a short one, then longer ones,
until some rollout succeeds. The rollouts of that group, hint and all, enter the ordinary update:

    rung 0:  y ~ π(· | x)         some succeed: as usual
    rung k:  y ~ π(· | x, h_k)    only if all on rung k − 1 failed
    A = (r − mean r) / std r      within the group that came last
    loss = − A · log π(y | x, h_k)

The log-prob is that after the hint, so the update stays on-policy. Nobody gives hints later: what is learned with them
has to carry over. The gap between the two is measured.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters on chains of four steps. It cannot write hints: a hint is the first steps of the
   reference, one to three of them. So the paper's claim that hints by the policy of the moment beat hints by another
   cannot be tested; what is tested is the ladder, and that hints are about the problem.
2. Fresh problems in every update, where the paper runs through a data set several times. So SAGE-light, which remembers
   for each problem how much help it took, does not apply.
3. REINFORCE on GRPO's advantages, one step a batch, with a KL to the base (``beta``), without which every arm, plain
   GRPO too, loses its way at this scale; the paper clips and has no KL.
4. The failed attempts on lower rungs count as generated tokens.

======== ===========================================================================================
config   meaning
======== ===========================================================================================
rungs    how many steps a hint shows, in the order of climbing
of       whose steps: the problem's ``own``, or ``another``'s (the control)
context  whether hinted rollouts are learned after their hint (``kept``) or as if there had been none
======== ===========================================================================================
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import climb, key, last_tries, pick, shown, unseen
from minirl.tasks import Item, Task
from minirl.tasks.gaps import Gaps
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes
from minirl.techniques.hard_prompts import group_credit, signal

Ladder = list[Callable[[Item], Item]]


def hint_ladder(task: Gaps, items: list[Item], rungs: list[int], of: Literal["own", "another"] = "own") -> Ladder:
    """What each rung shows of an item: so many steps of its reference, or of that of the next item that has another
    one. Rungs are climbed in their order."""
    source = {item: item for item in items}
    if of == "another":
        for i, item in enumerate(items):
            following = items[i + 1 :] + items[:i]
            source[item] = next((other for other in following if other.answer != item.answer), item)
    return [lambda item, rung=rung: task.shown(item, task.hint(source[item], rung)) for rung in rungs]  # type: ignore[misc]


def without_hints(rollouts: Rollouts) -> Rollouts:
    """The sequences (x, y) of rollouts (x, h, y), those without a hint first; groups stay together."""
    hinted = [bool(shown(item)) for item in rollouts.items]
    parts = [[row for row, is_hinted in enumerate(hinted) if is_hinted == which] for which in (False, True)]
    alone, helped = (pick(rollouts, rows) if rows else None for rows in parts)
    return Rollouts.join([part for part in (alone, helped and unseen(helped)) if part is not None])


class Sage(Method):
    """SAGE's hyper-parameters; see the module's docstring."""

    name: ClassVar[str] = "sage"
    rungs: list[int] = Field(default=[1, 2, 3], min_length=1)
    of: Literal["own", "another"] = "own"
    context: Literal["kept", "dropped"] = "kept"
    beta: NonNegativeFloat = 0.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        if not set(self.rungs) <= set(range(1, Gaps.rungs + 1)):
            raise ConfigError(f"rungs: hints show 1 to {Gaps.rungs} steps, not {self.rungs}")
        rolls = partial(self.roll_out, episodes(train))
        return [OnlinePhase("SAGE", train.updates, self.credit, self.shuffle_scores, roll_out=rolls, stats=signal)]

    def roll_out(
        self,
        rolls: Callable[..., Rollouts],
        policy: Policy,
        task: Task,
        items: list[Item],
        *,
        generator: torch.Generator,
    ) -> Rollouts:
        """All attempts, on all rungs that were climbed. Raises :class:`ConfigError` for a task without hints."""
        if not isinstance(task, Gaps):
            raise ConfigError(f"task: {task.name!r} has no ladder of hints; take 'gaps'")
        return climb(policy, task, items, rolls, hint_ladder(task, items, self.rungs, self.of), generator)

    def credit(self, rollouts: Rollouts) -> Credit:
        tries = last_tries(rollouts)
        if self.context == "dropped":
            tries = without_hints(tries)
        credit = group_credit(tries, self.beta)
        helped = {key(item): len(shown(item)) for item in last_tries(rollouts).items if shown(item)}
        problems = len({key(item) for item in tries.items})
        said = {"hinted": len(helped) / problems, "shown": float(sum(helped.values()))}
        return Credit(credit.advantages, credit.kl, said, tries)
