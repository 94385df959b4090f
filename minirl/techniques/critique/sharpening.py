"""Sharpening: a model that learns from what it finds likeliest itself.

Huang et al. 2024, arXiv 2412.01951. Nobody says what is right. Of N answers of the base the one with the highest
likelihood is kept,

    y*(x) = argmax over y₁ … y_N of log π_base(y | x),

and the policy is fine-tuned on it: what best-of-N by likelihood finds with N samples is written into the weights. That
moves probability to the mode. It helps where errors are diffuse, so that the right answer is the single likeliest one,
and it hurts where the base is systematically wrong: likelihood rises in both cases.

Departures from the paper
-------------------------
1. Sharpening by fine-tuning; the paper has a second kind, by KL-regularised RL on the same reward.
2. Errors of the base are planted: slips anywhere (diffuse), and misconceptions, where a wrong digit is likelier than
   the right one (``Tally.misleading``). Accuracy is also reported for the problems with and without a misconception
   in the way: ``misled`` and ``unmisled``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.votes import vote_metrics
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task
from minirl.techniques.base import Phase
from minirl.techniques.baselines import AnswerSFT, prompt_and_attempt

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["Sharpening", "evaluate", "likeliest"]


def likeliest(loglikelihood: Tensor, samples: int) -> Tensor:
    """Of log-likelihoods [P · G] of G answers to each of P prompts, the row of the highest of each prompt: [P]. Of
    equal ones the first."""
    first = torch.arange(0, len(loglikelihood), samples, device=loglikelihood.device)
    return loglikelihood.view(-1, samples).argmax(1) + first


class Sharpening(AnswerSFT):
    """Fine-tuning on the likeliest of the base's own answers to each problem, right or wrong. ``pick: any`` takes the
    first instead: the control, in which nothing is chosen."""

    name: ClassVar[str] = "sharpening"
    pick: Literal["likeliest", "any"] = "likeliest"

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: sharpening sees no scores; the control is 'pick: any'")
        return super().phases(train)

    def examples(self, learner: Learner, rollouts: Rollouts, update: int) -> list[tuple[list[int], list[int]]]:  # noqa: ARG002
        found = rollouts.logprobs.sum(1) if self.pick == "likeliest" else torch.zeros(len(rollouts.items))
        return [prompt_and_attempt(rollouts, row) for row in likeliest(found, rollouts.samples).tolist()]


def evaluate(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    samples: int = 8,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """The metrics of :mod:`minirl.evaluation.votes`; ``greedy``; ``likeliest@n``, best of n by likelihood;
    ``loglikelihood`` of own answers, in nats per answer; and ``misled`` and ``unmisled``."""
    rows = max(1, batch // samples)
    rollouts = attempt_all(policy, task, items, seed=seed, samples=samples, temperature=temperature, batch=rows)
    greedy = attempt_all(policy, task, items, seed=seed, temperature=0.0, batch=batch)
    values = vote_metrics(rollouts)
    own = rollouts.logprobs.sum(1)
    values["greedy"] = greedy.scores[:, 0].tolist()
    values[f"likeliest@{samples}"] = rollouts.scores[likeliest(own, samples), 0].tolist()
    values["loglikelihood"] = own.view(-1, samples).mean(1).tolist()
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    for name, kind in (("misled", True), ("unmisled", False)):
        some = [value for value, item in zip(values["accuracy@1"], items, strict=True) if task.misleading(item) is kind]  # type: ignore[attr-defined]
        metrics[name] = sum(some) / max(1, len(some))
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
