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
4. ``stale`` stands for the paper's offline ablation: verdicts are practised on attempts as the base has read them
   (``task.careless``) instead of the policy's own.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.critiques import calibration_metrics, p_right, verdict_metrics
from minirl.evaluation.votes import result, vote_metrics, weighted_vote
from minirl.policy.models import Policy
from minirl.rollouts.critiques import GRADE, criticise, read_critique
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item, Task, get
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes, turn_credit

__all__ = ["Rise", "evaluate", "outcome_rewards", "solve_and_judge", "verdicts"]

RIGHT, NOT_RIGHT, NONE = 1.0, -0.5, -1.0


def outcome_rewards(right: Sequence[bool], readable: Sequence[bool]) -> Tensor:
    """The table above, for answers or for verdicts: [B]."""
    pairs = zip(right, readable, strict=True)
    return torch.tensor([RIGHT if good else NOT_RIGHT if fine else NONE for good, fine in pairs])


def verdicts(rollouts: Rollouts) -> list[bool | None]:
    """What the second text of every row says of the first one: right, wrong, or None for what is no critique."""
    read = [
        read_critique(texts[1], item.level) if len(texts) > 1 else None
        for item, texts in zip(rollouts.items, rollouts.answers, strict=True)
    ]
    return [None if said is None else said[0] for said in read]


class Rise(Method):
    """Solving and verifying together. ``verify: false`` leaves the verdicts unpaid: plain RL on the same episodes. With
    ``stale`` verdicts are practised on careless attempts with that rate of mistakes."""

    name: ClassVar[str] = "rise"
    beta: float = Field(default=0.01, ge=0)
    verify: bool = True
    stale: float | None = Field(default=None, ge=0, le=1)

    def phases(self, train: TrainConfig) -> list[Phase]:
        rolls = episodes(train, turns=2, feedback=GRADE)
        if self.stale is not None:
            rolls = partial(solve_and_judge, rate=self.stale, samples=train.samples, temperature=train.temperature)
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
) -> Rollouts:
    """Attempts at ``items``, and verdicts on others' attempts at them, as rows of their own: [2B, 2 turns]. What a row
    has not written itself is context, and its turn is not alive."""
    solved = roll_out(policy, task, items, samples=samples, generator=generator, temperature=temperature)
    rng = random.Random(generator.initial_seed())
    given = [task.careless(item, rng, rate) for item in items]
    judged = criticise(policy, task, items, given, samples=samples, generator=generator, temperature=temperature)
    of_rows = [text for text in given for _ in range(samples)]
    judged.turn = torch.where(judged.own, 1, CONTEXT)
    judged.answers = [[text, *said] for text, said in zip(of_rows, judged.answers, strict=True)]
    scores = [task.score(item, text) for item, text in zip(judged.items, of_rows, strict=True)]
    judged.scores = torch.tensor(scores, device=judged.scores.device)[:, None]
    both = Rollouts.join([solved, judged])
    both.scores = torch.cat([both.scores, torch.zeros_like(both.scores)], dim=1)
    return both


def evaluate(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int,
    feedback: str,
    samples: int = 8,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``samples`` attempts at every item, each with a verdict behind it: what votes make of the attempts
    (:mod:`minirl.evaluation.votes`), how far the verdicts can be trusted (:mod:`minirl.evaluation.critiques`), and
    ``verified@n``, the vote in which an answer weighs what P(right) says, with its gain over the majority."""
    rollouts = attempt_all(
        policy,
        task,
        items,
        seed=seed,
        turns=turns,
        samples=samples,
        temperature=temperature,
        batch=max(1, batch // samples),
        feedback=feedback,
    )
    values = vote_metrics(rollouts)
    right, p = (rollouts.scores[:, 0] == 1).tolist(), p_right(policy, rollouts).tolist()
    verified = []
    for start in range(0, len(right), samples):
        said = [result(rollouts.items[start], texts[0]) for texts in rollouts.answers[start : start + samples]]
        chosen = weighted_vote(said, p[start : start + samples])
        verified.append(float(right[start + said.index(chosen)]))
    values[f"verified@{samples}"] = verified
    values["vote_gain"] = [a - b for a, b in zip(verified, values[f"majority@{samples}"], strict=True)]
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    metrics |= {**verdict_metrics(verdicts(rollouts), right), **calibration_metrics(p, right)}
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
