"""SSR: one model breaks programs and mends what it has broken.

Wei et al. 2025, arXiv 2512.18552. Bugs to learn repair from are written by people, or drawn at random, and stay as hard
as they are. In SSR one policy plays two roles, told apart by the prompt. The *injector* gets a right program with its
tests and writes a broken one. The *solver* gets the broken one and the tests and writes a repair. The tests judge both:
a repair is worth +1 if they pass and −1 if not, an injection

    r = −1            not valid: not a program, no test fails, or further than ``edits`` edits away
    r = −α            valid, and all n repairs pass or none does
    r = 1 − (1 + α) s    else; s is the share of the n repairs that pass, α = 0.8

It falls with s, so that harder bugs pay more, down to the point where nobody mends them any more. As the solver learns,
the injector has to move on: a curriculum that nobody wrote. A failed repair of a bug is a *higher-order* bug: it fails
the same tests in another way, and it goes back to the solver.

At s = 1 the line ends at −α by itself. The rule for the ends changes something at s = 0 alone, where the line says +1.

Departures from the paper
-------------------------
1. Programs of three operations with three tests instead of repositories, and a policy of 0.2 M parameters. The
   injector writes no tests: they are given, all are shown, and no tests are weakened to hide the bug.
2. Validity is what the executor sees here: it parses, a test fails, it is near, it does not contain the right program.
   The paper also undoes the changes one file at a time, which a string of letters does not allow.
3. A bug that was injected twice in a batch is mended once; places left free go to higher-order bugs. Both roles have a
   leave-one-out baseline of their own, among injections into one program and repairs of one bug. ``weight`` is ours:
   there are eight repairs for every injection.
"""

import random
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.injections import evaluate, injection_stats, learning, repair_stats
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.rollouts.proposals import SHAPES, leaks, propose_and_solve, solve_rates
from minirl.tasks import Item, get
from minirl.tasks.bugs import BREAK, PLACES, Bugs, edits, right_program
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

__all__ = ["SSR", "RandomBugs", "evaluate", "injection_reward", "learning", "pose"]

INVALID = -1.0


def injection_reward(repairs: tuple[int, int] | None, reward: str = "ssr") -> float:
    """What an injection is worth of whose ``repairs`` (k, n), k of n pass; None if it was not valid."""
    return INVALID if repairs is None else SHAPES[reward](*repairs)


def pose(task: Bugs, limit: int, item: Item, text: str) -> Item | None:
    """What the solver reads of the program ``text`` in place of ``item``'s right one; None if it is no valid bug."""
    valid = task.score(task.breaking(item), text) == 1 and edits(right_program(item), text) <= limit
    return task.mending(item, text) if valid else None


class SSR(Method):
    """Self-play of injecting and repairing. ``reward``: one of :data:`~minirl.rollouts.proposals.SHAPES`; ``shuffled``
    deals the rewards of the injections into one program out anew: the control. ``edits``: how far a bug may be away."""

    name: ClassVar[str] = "ssr"
    reward: Literal["ssr", "no_floor", "variance", "learnable", "dr_zero", "pasodoble", "ssp", "valid"] = "ssr"
    higher_order: bool = True
    shuffled: bool = False
    edits: int = Field(default=PLACES, ge=1, le=PLACES)
    weight: PositiveFloat = 1.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [OnlinePhase("self-play", train.updates, self.credit, roll_out=partial(self.play, checked(self, train)))]

    def play(self, train: TrainConfig, policy: Policy, task: Bugs, items: list[Item], **noise: Any) -> Rollouts:
        return propose_and_solve(
            policy,
            task,
            items,
            ask=task.breaking,
            pose=partial(pose, task, self.edits),
            samples=train.samples,
            higher_order=self.higher_order,
            temperature=train.temperature,
            **noise,
        )

    def credit(self, rollouts: Rollouts) -> Credit:
        task: Any = get("bugs")
        injecting = torch.tensor([item.level == BREAK for item in rollouts.items])
        repairs, rewards, found = solve_rates(rollouts), (2 * rollouts.scores[:, 0] - 1).tolist(), []
        for row in injecting.nonzero().flatten().tolist():
            item, text = rollouts.items[row], task.read(rollouts.answers[row][0])
            problem = pose(task, self.edits, item, text)
            counts = None if problem is None or leaks(problem.prompt, problem.answer) else repairs[problem.prompt]
            rewards[row] = injection_reward(counts, self.reward)
            found.append((counts, edits(right_program(item), text) if counts else 0))
        if self.shuffled:
            size = rollouts.samples
            for start in range(0, len(found), size):
                item, dealt = rollouts.items[start], rewards[start : start + size]
                random.Random(f"shuffled/{item.seed}/{item.index}").shuffle(dealt)
                rewards[start : start + size] = dealt
        credit = turn_credit(rollouts, torch.tensor(rewards)[:, None].to(rollouts.scores.device), (0.0,), gamma=1.0)
        credit.advantages[injecting] *= self.weight
        return Credit(
            credit.advantages, credit.kl, {**credit.stats, **injection_stats(found), **repair_stats(rollouts)}
        )


class RandomBugs(Method):
    """The rival: repair alone, of random bugs ``edits`` edits away. It gets the answers that injections would cost."""

    name: ClassVar[str] = "random_bugs"
    edits: int = Field(default=1, ge=1, le=PLACES)

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [OnlinePhase("repair", train.updates, self.credit, roll_out=partial(self.play, checked(self, train)))]

    def play(self, train: TrainConfig, policy: Policy, task: Bugs, items: list[Item], **noise: Any) -> Rollouts:
        problems = []
        for item in items:
            rng = random.Random(f"random/{item.seed}/{item.index}")
            problems += [task.mending(item, task.bug(item, self.edits, rng)) for _ in range(train.samples + 1)]
        return roll_out(policy, task, problems, samples=train.samples, temperature=train.temperature, **noise)

    def credit(self, rollouts: Rollouts) -> Credit:
        credit = turn_credit(rollouts, 2 * rollouts.scores - 1, (0.0,), gamma=1.0)
        return Credit(credit.advantages, credit.kl, {**credit.stats, **repair_stats(rollouts)})


def checked(method: Method, train: TrainConfig) -> TrainConfig:
    """``train``, if ``method`` can use it. Raises :class:`ConfigError`."""
    if method.shuffle_scores:
        raise ConfigError("shuffle_scores: it would mix both roles; the control is 'shuffled: true'")
    if train.turns != 1:
        raise ConfigError(f"train.turns {train.turns}: an injection and a repair are one attempt each; set it to 1")
    return train
