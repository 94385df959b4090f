"""CL/CS: confidence versus critique, a decomposition of self-correction capability.

Yang et al. 2024, arXiv 2412.19513. What a second look is worth depends on two habits that pull against each other:

- **confidence**, CL = P(right after | right before): to stand by a right answer;
- **critique**, CS = P(right after | wrong before): to drop a wrong one.

Together they give the accuracy after the second look, acc₂ = acc₁ · CL + (1 − acc₁) · CS. How good is that? Let a model
answer anew, as well as the first time, and pick one of its two answers: always the wrong one, if they differ, gives
acc₁², always the right one 1 − (1 − acc₁)². The *relative self-correction score* places acc₂ between these bounds: 0 at
the lower, 1 at the upper, 1/2 where the second look changes nothing.

The recipe (CCT) is supervised: two-turn examples of which a share ρ goes from wrong to right and the rest from right to
right. ρ is a dial between stubborn and fickle.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters on additions; the examples are made of the base's own answers, right and wrong, as many
   for every ρ.
2. Only the second attempt is learned; the first is context.

========== ============= =================================================================
symbol     config        meaning
========== ============= =================================================================
ρ          fix           share of examples that go from wrong to right
CL, CS     –             ``confidence_level`` and ``critique_level`` of the correction matrix
========== ============= =================================================================
"""

from typing import Any, ClassVar

import torch
from pydantic import Field

from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.correction import evaluate_correction
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.baselines import PairSFT, correction_pairs

__all__ = ["CCT", "bounds", "evaluate", "mixture", "rss"]


def bounds(first: float) -> tuple[float, float]:
    """The bounds of the accuracy after a second look, for accuracy ``first`` before: (acc₁², 1 − (1 − acc₁)²)."""
    return first**2, 1 - (1 - first) ** 2


def rss(first: float, second: float) -> float:
    """Relative self-correction score (acc₂ − acc₁²) / (2 acc₁ (1 − acc₁)): where ``second`` lies between the bounds.

    1/2 if the second look changes nothing. Not limited to [0, 1]. With ``first`` 0 or 1 the bounds coincide and there
    is nothing to correct: 1/2.
    """
    low, high = bounds(first)
    return (second - low) / (high - low) if high > low else 0.5


def mixture(
    fix: list[tuple[int, int]], keep: list[tuple[int, int]], share: float, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Pairs of which ``share`` come from ``fix`` and the others from ``keep``, drawn without replacement.

    As many in all as the shorter list has, whatever the share: every mixture teaches from equally many examples.
    """
    count = min(len(fix), len(keep))
    fixes = round(share * count)

    def some(pairs: list[tuple[int, int]], number: int) -> list[tuple[int, int]]:
        return [pairs[i] for i in torch.randperm(len(pairs), generator=generator)[:number].tolist()]

    return some(fix, fixes) + some(keep, count - fixes)


class CCT(PairSFT):
    """Supervised fine-tuning on a mixture of second looks; ``fix`` is ρ."""

    name: ClassVar[str] = "cct"
    fix: float = Field(ge=0, le=1)

    def pairs(self, rollouts: Rollouts, generator: torch.Generator) -> list[tuple[int, int]]:
        right = (rollouts.scores[:, 0] == 1).nonzero().flatten().tolist()
        return mixture(correction_pairs(rollouts), [(row, row) for row in right], self.fix, generator)


def evaluate(*args: Any, **settings: Any) -> tuple[Evaluation, Rollouts]:
    """The correction matrix (:func:`~minirl.evaluation.correction.evaluate_correction`) and ``rss``."""
    evaluation, rollouts = evaluate_correction(*args, **settings)
    score = rss(evaluation.metrics["accuracy@1"], evaluation.metrics["accuracy@2"])
    return Evaluation({**evaluation.metrics, "rss": score}, evaluation.items, evaluation.generated_tokens), rollouts
