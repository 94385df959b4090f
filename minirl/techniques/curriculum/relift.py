"""ReLIFT: where no rollout succeeds, be shown how it is done.

Ma et al. 2025, arXiv 2506.07527. Reinforcement learning sharpens what a policy can do already; supervised fine-tuning
brings what it cannot. ReLIFT interleaves them, and spends demonstrations only where reward is silent:

    1. an update of GRPO on the batch
    2. problems that no rollout solved go to a buffer, with a demonstration y*
    3. when the buffer holds n of them: imitate the newest n, loss = − mean log π(y* | x), and empty it

Demonstrations are dear, so besides accuracy their number counts.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters on chains of steps; a demonstration is the reference, which an oracle writes. The paper's
   come from a stronger model and are checked.
2. The step of imitation is taken together with that of the batch that filled the buffer: one gradient, their sum. The
   paper takes an epoch of its own, with a learning rate of its own.
3. REINFORCE on GRPO's mean-centred advantages divided by their standard deviation, and a KL to the base (``beta``); the
   paper drops both.

======= ===============================================================================================
config  meaning
======= ===============================================================================================
buffer  n, problems that make it full
weight  of the imitation, beside that of the rewards
whom    demonstrations of problems that ``failed``, of as many of ``any`` kind, or of ``all``
shown   whose demonstration: the problem's ``own``, or ``another``'s (the control)
======= ===============================================================================================
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt

from minirl.config import TrainConfig
from minirl.evaluation.hard_prompts import evaluate, learning
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import as_written, unsolved
from minirl.tasks import Item, Task
from minirl.techniques import explaining, hinting  # noqa: F401 – their methods are arms of the comparison
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes
from minirl.techniques.hard_prompts import Buffer, group_credit, signal, with_imitation

__all__ = ["Relift", "demonstrations", "evaluate", "learning"]


def demonstrations(items: list[Item], shown: Literal["own", "another"]) -> list[str]:
    """What to imitate on each item: its reference, or that of the item before it."""
    answers = [item.answer for item in items]
    return answers if shown == "own" else answers[-1:] + answers[:-1]


class Lessons:
    """The demonstrations of this update, which are ready before its credit is asked for, and the buffer behind them."""

    def __init__(self, method: "Relift", rolls: Callable[..., Rollouts]) -> None:
        self.method, self.rolls, self.buffer = method, rolls, Buffer(method.buffer)
        self.texts: Rollouts | None = None

    def roll_out(self, policy: Policy, task: Task, items: list[Item], *, generator: torch.Generator) -> Rollouts:
        rollouts = self.rolls(policy, task, items, generator=generator)
        failed = unsolved(rollouts)
        self.buffer.items += {"failed": failed, "any": items[: len(failed)], "all": items}[self.method.whom]
        ready = self.buffer.take()
        self.texts = as_written(policy, ready, demonstrations(ready, self.method.shown)) if ready else None
        return rollouts


class Relift(Method):
    """ReLIFT's hyper-parameters; see the module's docstring."""

    name: ClassVar[str] = "relift"
    buffer: PositiveInt = 16
    weight: NonNegativeFloat = 1.0
    whom: Literal["failed", "any", "all"] = "failed"
    shown: Literal["own", "another"] = "own"
    beta: NonNegativeFloat = 0.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        lessons = Lessons(self, episodes(train))
        return [
            OnlinePhase(
                *("ReLIFT", train.updates, partial(self.credit, lessons), self.shuffle_scores),
                roll_out=lessons.roll_out,
                memory=lessons.buffer,
                stats=signal,
            )
        ]

    def credit(self, lessons: Lessons, rollouts: Rollouts) -> Credit:
        credit = group_credit(rollouts, self.beta)
        texts = [text for (text,) in lessons.texts.answers] if lessons.texts else []
        credit = with_imitation(rollouts, credit, lessons.texts, self.weight, max(1, len(texts)))
        said = {"demonstrations": float(lessons.buffer.used), "shown": float(sum(map(len, texts)))}
        return Credit(credit.advantages, credit.kl, said, credit.sequences)
