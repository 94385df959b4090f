"""CYCLE: learning to repair one's own programs.

Ding et al. 2024, arXiv 2403.18746. A model that writes programs in one go need not be able to mend them. CYCLE
teaches it:

1. A model that has learned from right programs writes programs, and they are tested.
2. Each failed one becomes an example: (problem, failed program, what the tests said) → right program.
3. Fine-tune on these, mixed with plain examples, problem → right program, so that the first program stays as good.
4. In use: write, test, repair, until the tests pass.

The trap is that the failed program and the right one have much in common, so that copying is nearly right. Hence the
**past generation mask**: tokens of the failed program are hidden at random, and what is hidden cannot be copied.

Departures from the paper
-------------------------
1. A model of 0.5 M parameters, and programs that are strings of operations on lists of digits. A repair
   reads all that was tried before, here one or two programs; the paper's reads the last one.
2. The right program is one that the model itself has found for the same problem, not a canonical solution.
3. A masked token is replaced by the padding token. The share of masked tokens was chosen here: what the paper masks
   could not be checked.

========== =========== ==============================================================
symbol     config      meaning
========== =========== ==============================================================
–          mask        probability with which a token of a failed program is hidden
–          mixture     whether half of the examples are plain ones
========== =========== ==============================================================
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, evaluate_attempts
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.baselines import AnswerSFT, PairSFT, correction_pairs

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["Cycle", "evaluate", "past_generation_mask", "repaired"]


def past_generation_mask(
    rollouts: Rollouts, rate: float, mask_id: int, stop_id: int, generator: torch.Generator
) -> Rollouts:
    """The same attempts, but every token of those that failed is replaced by ``mask_id`` with probability ``rate``. The
    stop token stays: where a program ends is no secret."""
    failed = (rollouts.scores[:, 0] < 1)[:, None] & rollouts.own & (rollouts.ids != stop_id)
    hidden = torch.rand(rollouts.ids.shape, generator=generator).to(failed.device) < rate
    return replace(rollouts, ids=rollouts.ids.where(~(failed & hidden), mask_id))


def repaired(first: float, solved: float) -> float:
    """Of the problems that the first program fails, the share that is solved in the end."""
    return (solved - first) / (1 - first) if first < 1 else 0.0


class Cycle(PairSFT):
    """Fine-tuning on repairs of failed programs, half-hidden by the mask, and as many plain examples."""

    name: ClassVar[str] = "cycle"
    mask: float = Field(default=0.5, ge=0, le=1)
    mixture: bool = True

    def pairs(self, rollouts: Rollouts, generator: torch.Generator) -> list[tuple[int, ...]]:  # noqa: ARG002
        """Every failed program before a right one, and every other one after another failed program as well: in use
        there may be two."""
        pairs, group = correction_pairs(rollouts), rollouts.group.tolist()
        chains: list[tuple[int, ...]] = []
        for i, (failed, right) in enumerate(pairs):
            earlier = pairs[i - 1][0]
            two = i % 2 == 1 and group[earlier] == group[failed]
            chains.append((earlier, failed, right) if two else (failed, right))
        return chains

    def examples(self, learner: Learner, rollouts: Rollouts, update: int) -> list[tuple[list[int], list[int]]]:
        policy, noise = learner.reference, learner.generator(update, "mask")
        if self.mask and policy.pad_id == policy.stop_id:
            raise ConfigError("cycle: the tokenizer of the base has no padding token, which the mask is made of")
        masked = past_generation_mask(rollouts, self.mask, policy.pad_id, policy.stop_id, noise)
        repairs = super().examples(learner, masked, update)
        plain = AnswerSFT.examples(self, learner, rollouts, update)
        if not self.mixture or not plain:
            return repairs
        drawn = torch.randint(len(plain), (len(repairs),), generator=learner.generator(update, "mixture"))
        return repairs + [plain[i] for i in drawn.tolist()]


def evaluate(*args: Any, **settings: Any) -> tuple[Evaluation, Rollouts]:
    """:func:`~minirl.evaluation.attempts.evaluate_attempts` and ``repaired``."""
    evaluation, rollouts = evaluate_attempts(*args, **settings)
    share = repaired(evaluation.metrics["accuracy@1"], evaluation.metrics[f"solved@{settings['turns']}"])
    return Evaluation(
        {**evaluation.metrics, "repaired": share}, evaluation.items, evaluation.generated_tokens
    ), rollouts
