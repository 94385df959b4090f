"""SPIN: a model plays against its last self, and has to tell its samples from the data.

Chen et al. 2024, arXiv 2401.01335. There are demonstrations y ~ p_data(·|x), and a model. In iteration t the model as
it is, π_t, is the opponent: it writes y' ~ π_t(·|x). The main player π_θ learns to tell data from sample by its
implicit reward log π_θ/π_t, which is DPO on pairs that nobody had to judge; then it is the next opponent::

    loss = −log σ(λ [log π_θ(y|x)/π_t(y|x) − log π_θ(y'|x)/π_t(y'|x)])          λ: here ``beta``

With all data and capacity an iteration ends at π_{t+1} ∝ π_t (p_data/π_t)^(1/λ) (:func:`ideal`; Theorem 5.4). So the
game can only rest at π = p_data, where a player is right half of the time. λ = 1 goes there at once, a larger λ by
steps, and below ½ every step overshoots by more than it came.

Where π_θ = π_t, the *expected* gradient is that of imitation times λ/2: on average a model's own samples have no score.
What SPIN adds are the noise of the samples, weights that fade where a pair is told apart already, and pairs that teach
nothing because the sample is the demonstration.

Departures from the paper
-------------------------
1. Demonstrations are right answers to a few problems, and the model has not been fine-tuned on them before.
2. λ is larger than the authors' tenth; Adam, a constant learning rate and a number of updates for RMSProp and epochs.
3. The opponent's samples are those of the last iterate alone. The authors add the ones before it.
4. New problems show how far every player has come (:func:`referee`). Nobody learns from that; it is not a cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.imitation import Text, demonstrations, loglikelihoods, padded, told_apart, written
from minirl.evaluation.imitation import evaluate_imitation as evaluate
from minirl.objectives.preference import spin
from minirl.rollouts.episodes import roll_out
from minirl.techniques.base import Examples, Method, Pairs, Phase, PreferencePhase, SupervisedPhase

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["Spin", "against", "evaluate", "face_off", "ideal", "learning", "referee"]

FRESH = 512  # problems on which players are compared


def ideal(policy: Tensor, data: Tensor, beta: float) -> Tensor:
    """π_{t+1} ∝ π_t (p_data/π_t)^(1/β) of positive π_t and p_data [..., Y]: where an iteration would end. Any log-odds
    keep the share 1 − 1/β of their distance to those of the data."""
    return (policy.log() + (data.log() - policy.log()) / beta).softmax(-1)


def face_off(data: Sequence[Text], samples: Sequence[Text]) -> list[Text]:
    """Data and samples in turn: texts 2i and 2i + 1 answer the same problem, and the first is to be preferred."""
    return [text for pair in zip(data, samples, strict=True) for text in pair]


def against(data: Tensor, samples: Tensor, confidence: Tensor, *, normaliser: float, beta: float) -> Any:  # noqa: ARG001
    """:func:`minirl.objectives.preference.spin`. All pairs count alike, whatever their ``confidence``."""
    return spin(data, samples, normaliser=normaliser, beta=beta)


class Spin(Method):
    """Imitation for the share ``imitation`` of the updates, then ``iterations`` games of equal length. ``data: self``
    is the control: on the side of the data stands another sample of the opponent."""

    name: ClassVar[str] = "spin"
    iterations: PositiveInt = 4
    imitation: float = Field(default=0.0, ge=0, le=1)
    data: Literal["demonstrations", "self"] = "demonstrations"
    beta: PositiveFloat = 1.0
    demonstrations: PositiveInt = 256

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: nobody sees scores; the control is data: self")
        first = round(self.imitation * train.updates)
        each, left = divmod(train.updates - first, self.iterations)
        if left or train.turns != 1:
            rest = f"the {train.updates - first} updates after imitation"
            raise ConfigError(f"train: {self.iterations} equal games need {rest} to be a multiple, and turns: 1")
        phases: list[Phase] = [SupervisedPhase("SFT", first, self.demonstrate)] if first else []
        games, loss = range(1, self.iterations + 1) if each else (), partial(against, beta=self.beta)
        return [*phases, *(PreferencePhase(f"iteration {t}", each, partial(self.play, t=t), loss) for t in games)]

    def demonstrate(self, learner: Learner) -> Examples:
        """What is imitated: the demonstrations, which are the same for all arms of a seed."""
        items = learner.problems(0, self.demonstrations)
        return Examples(*padded(demonstrations(learner.policy, items), learner.policy), 0)

    def play(self, learner: Learner, t: int) -> Pairs:
        """Every demonstration against a sample of the policy as it is now, the opponent of iteration ``t``."""
        policy, items = learner.policy, learner.problems(0, self.demonstrations)
        draw = partial(roll_out, policy, learner.task, items)
        samples = draw(generator=learner.generator(t, "opponent"))
        data, spent = demonstrations(policy, items), samples.generated_tokens()
        if self.data == "self":
            twin = draw(generator=learner.generator(t, "twin"))
            data, spent = written(twin), spent + twin.generated_tokens()
        texts = face_off(data, written(samples))
        same = sum(a == b for a, b in zip(texts[::2], texts[1::2], strict=True))
        stats = {"identical": same / len(items), **referee(learner, self.demonstrations, t)}
        return Pairs(*padded(texts, policy), torch.ones(len(items)), spent, stats)


def referee(learner: Learner, seen: int, t: int) -> dict[str, float]:
    """On new problems, always the same: how often π_t, the next opponent, is right; and from the second iteration on,
    how well it as main player tells right answers from samples of the opponent that it has trained against."""
    items = learner.problems(0, seen + FRESH)[seen:]
    scores = roll_out(learner.policy, learner.task, items, generator=learner.generator(0, "referee")).scores
    found = {"accuracy@1": (scores == 1).float().mean().item()}
    if t > 1:  # the reference still is the last opponent
        samples = roll_out(learner.reference, learner.task, items, generator=learner.generator(t, "referee"))
        texts = face_off(demonstrations(learner.policy, items), written(samples))
        reward = loglikelihoods(learner.policy, texts) - loglikelihoods(learner.reference, texts)
        found["told_apart"] = told_apart(reward[::2] - reward[1::2])
    return found


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of all games but the last: ``gain@t``, what iteration t brought in accuracy on new problems, and
    ``told_apart@t`` after it. ``fading`` and ``blurring`` say how far the last of these is below the first, ``edge``
    how far the last ``told_apart`` is above ½. Of the second half of the last game: ``chosen`` and ``margin``, the mean
    log-ratio of the data and the mean margin."""
    starts = [record for record in records if "identical" in record]
    accuracy = [float(record["accuracy@1"]) for record in starts]
    gains = [after - before for before, after in pairwise(accuracy)]
    apart = [float(record["told_apart"]) for record in starts[1:]]
    found = {f"gain@{t}": gain for t, gain in enumerate(gains, 1)}
    found |= {f"told_apart@{t}": share for t, share in enumerate(apart, 1)}
    if gains:
        found |= {"fading": gains[0] - gains[-1], "blurring": apart[0] - apart[-1], "edge": apart[-1] - 0.5}
    last = [record for record in records if starts and record["phase"] == starts[-1]["phase"]]
    for name in ("chosen", "margin") if last else ():
        some = [float(record[f"preference/{name}"]) for record in last[len(last) // 2 :]]
        found[name] = sum(some) / len(some)
    return found
