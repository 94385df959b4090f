"""EVOL-RL: the majority selects, novelty varies.

Zhou et al. 2025, arXiv 2509.15194. A policy that is paid for agreeing with the majority of its own answers learns
without labels, and loses its variety: of several ways to a result one is left, and with the others goes what made the
vote wise. EVOL-RL keeps the majority as *selection* and adds *variation*: in either camp, those who reason unlike the
others get more. With s(i, j) for how similar two answers of a group are,

    novelty(i) = 1 − ½ mean of s(i, j) over the others of i's band − ½ max of s(i, j) over all others of the group
    u(i)       = novelty(i), scaled to [0, 1] within the band; ½ if all are equally novel, 1 for one who is alone
    r(i)       = ½ + ½ u(i) with the majority's result, −1 + ½ u(i) with another one, −1 without any

The bands do not touch: no novelty makes up for being outvoted. The advantage is GRPO's, the reward less the mean of
the group by its standard deviation, so that a group that agrees entirely still teaches: to go different ways there.

Departures from the paper
-------------------------
1. s is the share of places at which two answers have the same step, not the cosine of embeddings by another model.
2. The vote is among the answers that are learned from; the paper draws more for the vote.
3. No entropy bonus, and no clip-high (a batch is used once, so no ratio leaves 1). Instead a weak KL to the base.
4. ``shuffled`` (chance says who of a band gets which of its rewards) and ``vote: false`` (no selection) are ours.
"""

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.votes import evaluate_votes, majority, result
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task, get
from minirl.tasks.chain import STEP, read
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

UPPER, LOWER, INVALID = 0.5, -1.0, None  # bands, by the reward at their bottom


def similarity(first: str, second: str) -> float:
    """s: the share of places at which two answers have the same step; of the longer one's, if one is longer."""
    ours, theirs = ([text[i : i + STEP] for i in range(0, len(text), STEP)] for text in (first, second))
    return sum(a == b for a, b in zip(ours, theirs, strict=False)) / max(1, len(ours), len(theirs))


def novelties(answers: Sequence[str], bands: Sequence[float | None]) -> list[float]:
    """1 − ½ (mean s within the band) − ½ (max s within the group) for each of G answers, 0 where there is nobody. What
    is no answer (``INVALID``) is compared with nobody, and nobody with it."""
    found = []
    for i, band in enumerate(bands):
        others = [j for j in range(len(bands)) if j != i and INVALID not in (band, bands[j])]
        similar = {j: similarity(answers[i], answers[j]) for j in others}
        own = [s for j, s in similar.items() if bands[j] == band]
        mean, most = sum(own) / max(1, len(own)), max(similar.values(), default=0.0)
        found.append(round(1 - 0.5 * mean - 0.5 * most, 9))  # else the order of a sum might make equal ones differ
    return found


def evol_rewards(novelty: Sequence[float], bands: Sequence[float | None]) -> list[float]:
    """r of G answers: novelty, scaled to half a point within each band, above its bottom; −1 for what is no answer."""
    rewards = [-1.0] * len(bands)
    for bottom in (UPPER, LOWER):
        rows = [i for i, band in enumerate(bands) if band == bottom]
        low, high = (pick((novelty[i] for i in rows), default=0.0) for pick in (min, max))
        for i in rows:
            u = (novelty[i] - low) / (high - low) if high > low else 0.5 if len(rows) > 1 else 1.0
            rewards[i] = bottom + 0.5 * u
    return rewards


class EvolRL(Method):
    """GRPO on votes. ``novelty: none`` pays 1 for the majority's result and 0 for any other (TTRL, arXiv 2504.16084);
    ``shuffled`` deals rewards out anew within each band. Without ``vote`` all answers are in the upper band."""

    name: ClassVar[str] = "evol_rl"
    novelty: Literal["steps", "shuffled", "none"] = "steps"
    vote: bool = True
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: EVOL-RL sees no scores; the control is 'novelty: shuffled'")
        if not self.vote and self.novelty == "none":
            raise ConfigError("novelty: without a vote and without novelty there is nothing to be paid for")
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: a vote is on single attempts; set it to 1")
        return [OnlinePhase("RL", train.updates, self.credit)]

    def credit(self, rollouts: Rollouts) -> Credit:
        size, rewards, sums = rollouts.samples, list[float](), {"label_accuracy": 0.0, "distinct": 0.0}
        for start in range(0, len(rollouts.items), size):
            item = rollouts.items[start]
            answers = [get(item.task).read(texts[0]) for texts in rollouts.answers[start : start + size]]
            said = [result(item, answer) for answer in answers]
            rewards += self.rewards(item, answers, said)
            sums["label_accuracy"] += majority(said) == result(item, item.answer)  # the only look at the truth
            sums["distinct"] += len({answer for answer, name in zip(answers, said, strict=True) if name}) / size
        column = torch.tensor(rewards, device=rollouts.scores.device)[:, None]
        credit = turn_credit(rollouts, column, (self.beta,), gamma=1.0, baseline="group_normalised")
        credit.stats.update({name: total * size / len(rollouts.items) for name, total in sums.items()})
        return credit

    def rewards(self, item: Item, answers: Sequence[str], said: Sequence[str]) -> list[float]:
        """Rewards of G ``answers`` to a problem, which come to the results ``said`` ("" if it is no answer)."""
        chosen = {majority(said)} if self.vote else set(said)
        bands = [INVALID if not name else UPPER if name in chosen else LOWER for name in said]
        if self.novelty == "none":
            return [float(band == UPPER) for band in bands]
        rewards = evol_rewards(novelties(answers, bands), bands)
        if self.novelty == "shuffled":
            rng = random.Random(f"shuffled/{item.seed}/{item.index}")
            order = rng.sample(range(len(bands)), len(bands))
            dealt = {band: iter([rewards[i] for i in order if bands[i] == band]) for band in bands}
            rewards = [next(dealt[band]) for band in bands]
        return rewards


def route_metrics(rollouts: Rollouts) -> dict[str, list[float]]:
    """Per item, of its group: ``routes``, how many different ones its right answers take, and ``as_given``, the share
    of answers that take the operations as they come."""
    values: dict[str, list[float]] = {"routes": [], "as_given": []}
    for start in range(0, len(rollouts.items), rollouts.samples):
        item, rows = rollouts.items[start], range(start, start + rollouts.samples)
        ways = [get(item.task).route(item, rollouts.answers[row][0]) for row in rows]  # type: ignore[attr-defined]
        right = {way for way, row in zip(ways, rows, strict=True) if rollouts.scores[row, 0] == 1}
        values["routes"].append(float(len(right)))
        values["as_given"].append(ways.count(tuple(read(item.prompt)[1])) / len(rows))
    return values


def evaluate(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    samples: int = 16,
    temperature: float = 1,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """The metrics of :mod:`minirl.evaluation.votes` and :func:`route_metrics` for ``samples`` answers to every item."""
    settings = {"seed": seed, "samples": samples, "temperature": temperature, "batch": batch}
    votes, rollouts = evaluate_votes(policy, task, items, **settings)  # type: ignore[arg-type]
    values = {**votes.items, **route_metrics(rollouts)}
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, votes.generated_tokens), rollouts
