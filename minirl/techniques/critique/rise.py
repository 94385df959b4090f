"""RISE: learning to verify one's own answers while learning to solve.

Liu et al. 2025, arXiv 2505.13445. In every update the policy attempts problems, and is then asked of *these* attempts
whether they are right. Solutions and verdicts enter the same policy-gradient update, both paid by the same rule; a
verdict is right if it says what the scorer says:

===== ========= ====================================
right not right what is no answer, or no verdict
===== ========= ====================================
+1    −0.5      −1
===== ========= ====================================

What it buys: a policy whose verdicts mean something, so that in a vote its answers can be weighed by the probability
that it gives to their being right (``verified@n``, beside ``majority@n``).

Departures from the paper
-------------------------
1. Leave-one-out baselines per prompt and turn instead of PPO with a critic.
2. Solution and verdict are two turns of one episode: the verdict is asked for right behind the attempt, where the paper
   makes a new prompt of problem and answer. Returns do not cross turns: no attempt is paid for being easy to judge.
3. As many verdicts as attempts (the paper: 128 verifications beside 1,024 generations).
4. A verdict is a check of every step, ``++-+``, and accepts an answer if all signs are ``+``. Small models cannot judge
   an answer of several steps by a single sign.
5. ``stale`` stands for the paper's offline ablation: verdicts are practised on attempts as the base has read them
   (``task.careless``) instead of the policy's own.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.critiques import verdict_metrics
from minirl.evaluation.verdicts import evaluate_verdicts as evaluate
from minirl.evaluation.verdicts import p_accepted, verdicts
from minirl.policy.models import Policy
from minirl.rollouts.critiques import GRADE
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item, Task, get
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes, turn_credit

__all__ = ["Rise", "evaluate", "outcome_rewards", "p_accepted", "solve_and_judge", "verdicts"]

RIGHT, NOT_RIGHT, NONE = 1.0, -0.5, -1.0


def outcome_rewards(right: Sequence[bool], readable: Sequence[bool]) -> Tensor:
    """The table above, for answers or for verdicts: [B]."""
    pairs = zip(right, readable, strict=True)
    return torch.tensor([RIGHT if good else NOT_RIGHT if fine else NONE for good, fine in pairs])


def class_weights(right: Sequence[bool]) -> Tensor:
    """Weights [B] with which right and wrong attempts count alike, whatever their shares are; their mean is 1. If all
    are of one kind there is nothing to tell apart: 0."""
    shares = torch.tensor([sum(right), len(right) - sum(right)]) / len(right)
    if not shares.all():
        return torch.zeros(len(right))
    return torch.tensor([0.5 / shares[0] if good else 0.5 / shares[1] for good in right])


class Rise(Method):
    """Solving and verifying together. ``verify`` is the weight of verdicts: 0 leaves them unpaid, plain RL on the same
    episodes. With ``balance`` right and wrong attempts count alike in the verdicts' pay. With ``stale`` verdicts are
    practised on careless attempts with that rate of mistakes."""

    name: ClassVar[str] = "rise"
    beta: float = Field(default=0.01, ge=0)
    verify: float = Field(default=1.0, ge=0)
    balance: bool = False
    stale: float | None = Field(default=None, ge=0, le=1)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.turns != 2 or train.feedback != GRADE:
            raise ConfigError(f"RISE's second turn is a verdict: set train.turns to 2 and train.feedback to {GRADE!r}")
        rolls = episodes(train, turns=2, feedback=GRADE)
        if self.stale is not None:
            shared: Any = {"turns": 2, "samples": train.samples, "temperature": train.temperature}
            rolls = partial(solve_and_judge, rate=self.stale, **shared)
        return [OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores, roll_out=rolls)]

    def credit(self, rollouts: Rollouts) -> Credit:
        attempts = [
            (get(item.task), item, texts[0]) for item, texts in zip(rollouts.items, rollouts.answers, strict=True)
        ]
        right = (rollouts.scores[:, 0] == 1).tolist()
        said = verdicts(rollouts)
        agrees = [verdict is good for verdict, good in zip(said, right, strict=True)]
        solving = outcome_rewards(right, [task.admissible(item, text) for task, item, text in attempts])
        verifying = outcome_rewards(agrees, [verdict is not None for verdict in said]) * self.verify
        if self.balance:
            verifying = verifying * class_weights(right)
        credit = turn_credit(rollouts, torch.stack([solving, verifying], dim=1), (self.beta,) * 2, gamma=0.0)
        judged = rollouts.alive[:, 1].tolist()
        credit.stats.update(
            verdict_metrics(
                [verdict for verdict, made in zip(said, judged, strict=True) if made],
                [good for good, made in zip(right, judged, strict=True) if made],
            )
        )
        return credit


def solve_and_judge(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    generator: torch.Generator,
    rate: float,
    samples: int,
    temperature: float,
    turns: int = 2,
) -> Rollouts:
    """Attempts at ``items``, and verdicts on others' attempts at them, as rows of their own: [2B, turns]. What a row
    has not written itself is context, and its turn is not alive."""
    how: Any = {"samples": samples, "generator": generator, "temperature": temperature}
    solved = roll_out(policy, task, items, **how)
    rng = random.Random(generator.initial_seed())
    given = [task.careless(item, rng, rate) for item in items]
    judged = roll_out(policy, task, items, feedback=GRADE, given=[[text] for text in given], **how)
    of_rows = [text for text in given for _ in range(samples)]
    judged.turn = torch.where(judged.own, 1, CONTEXT)
    judged.answers = [[text, *said] for text, said in zip(of_rows, judged.answers, strict=True)]
    scores = [task.score(item, text) for item, text in zip(judged.items, of_rows, strict=True)]
    judged.scores = torch.tensor(scores, device=judged.scores.device)[:, None]
    both = Rollouts.join([solved, judged])
    both.scores = torch.nn.functional.pad(both.scores, (0, turns - 1))
    return both
