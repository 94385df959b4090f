"""The illusion of diminishing returns: how long a policy stays right, and what its own errors do to it.

Sinha et al. 2025, arXiv 2509.09677, a measurement. The plan and the knowledge are given; all that is left is to execute
step after step. Two numbers say how far that goes:

- With accuracy p at every single step, the first H_s = ln s / ln p steps are all right with probability s. From 0.98 to
  0.99 the **horizon** doubles: a small gain at one step is a large one over many.
- Is p the same at every step? Put wrong results into the policy's mouth and look at one fixed later step, scored from
  the state that is *displayed*. If its accuracy falls with the share of injected errors, the policy **conditions on its
  own errors**: who has read mistakes expects more of them.

Any policy can be measured. As the paper asks what helps, arms are trained as well: by reward, on right answers, or on
right continuations of texts with errors (``recovery``).

Departures from the paper
-------------------------
1. Steps of arithmetic modulo ten (LEDGER) instead of running sums of dictionary values over many turns, and all steps
   in one answer. The policy restates each operation; the plan is the prompt.
2. The accuracy of the fixed step is not sampled: it is the probability that the policy gives to the right next token
   after a text that was written for it. So it has no sampling error, and items with errors at the same places are
   compared.
3. The base has read clerks who never slip and clerks who often do. Expecting more errors after errors is what such text
   teaches; `ledger-novice`, which has not learned yet to tell the clerks apart, is the check.

========== ========================= ==========================================================
symbol     metric                    meaning
========== ========================= ==========================================================
p          step_accuracy             share of right steps in its own answers, each from the state before
H_½        horizon                   ln ½ / ln p, in steps
–          all_right                 share of answers without a wrong step, p^k if errors were independent
–          injected@x                probability of the right last result, with x % errors before it
–          slope                     injected@0 − injected@50
========== ========================= ==========================================================
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.logprobs import pad_rows, token_logprobs
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task
from minirl.tasks.chain import STEP
from minirl.tasks.ledger import slipping
from minirl.techniques.baselines import AnswerSFT, prompt_and_attempt

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["Recovery", "evaluate", "horizon", "ideal_reader", "injected", "last_result"]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def horizon(step_accuracy: float, success: float = 0.5) -> float:
    """H_s = ln s / ln p: how many steps in a row are all right with probability ``success``. Infinite for p = 1, and 0
    for p = 0."""
    if step_accuracy in (0, 1):
        return math.inf if step_accuracy else 0.0
    return math.log(success) / math.log(step_accuracy)


def injected(item: Item, share: float) -> str:
    """An answer with a wrong result at a ``share`` of the steps, the last one excepted; every other result is right,
    from what was written before. With a smaller share, the errors are some of those with a larger one."""
    rng = random.Random(f"injected/{item.seed}/{item.index}")
    wrong = [rng.random() < share for _ in range(item.level - 1)]
    return slipping(item.prompt, [*wrong, False], rng)


def ideal_reader(errors: int, before: int, rates: Sequence[float], prior: Sequence[float] | None = None) -> float:
    """The probability that the next step is right, for one who has read ``errors`` wrong steps among those ``before``
    and knows that the text is by a clerk who slips at one of the ``rates``, each with its ``prior`` (alike if not
    given). Bayes' rule: which digit a slip puts down, and where, says nothing more."""
    weights = prior or [1 / len(rates)] * len(rates)
    likely = [
        weight * rate**errors * (1 - rate) ** (before - errors) for weight, rate in zip(weights, rates, strict=True)
    ]
    return sum(weight * (1 - rate) for weight, rate in zip(likely, rates, strict=True)) / sum(likely)


@torch.no_grad()
def last_result(policy: Policy, items: Sequence[Item], answers: Sequence[str]) -> Tensor:
    """The probability of the last character of every answer after all that stands before it: [B]."""
    contexts = policy.encode_prompts([item.prompt for item in items])
    written = policy.encode_text([text[:-1] for text in answers])
    last = policy.encode_text([text[-1] for text in answers])
    rows = [[*context, *text, end[0]] for context, text, end in zip(contexts, written, last, strict=True)]
    ids, lengths = pad_rows(rows, policy.pad_id, policy.device)
    logprobs = token_logprobs(policy.logits(ids[:, :-1]), ids[:, 1:])
    return logprobs.gather(1, lengths[:, None] - 2)[:, 0].exp()


class Recovery(AnswerSFT):
    """Fine-tuning on right continuations of answers with errors: who has made mistakes goes on without any.

    One example for each attempt that the other methods would make. A random number of steps is context, with errors at
    a random share of them; the rest is right and learned. Without ``errors`` the context is right as well: the twin
    that shows what the right continuations teach by themselves.
    """

    name: ClassVar[str] = "recovery"
    errors: bool = True

    def examples(self, learner: Learner, rollouts: Rollouts, update: int) -> list[tuple[list[int], list[int]]]:
        rng = random.Random(f"recovery/{learner.seed}/{update}")
        policy, found = learner.reference, []
        for row, item in enumerate(rollouts.items):
            given, share = rng.randrange(item.level), rng.random() * self.errors
            wrong = [step < given and rng.random() < share for step in range(item.level)]
            text = slipping(item.prompt, wrong, rng)
            before, after = policy.encode_text([text[: given * STEP], text[given * STEP :]])
            found.append(([*prompt_and_attempt(rollouts, row)[0], *before], [*after, policy.stop_id]))
        return found


def evaluate(
    policy: Policy, task: Task, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """Own answers, step by step, and the last step after injected errors: metrics of the table above, ``accuracy@1`` of
    the final result, and the rollouts to read. For a task with CHAIN's steps."""
    rollouts = attempt_all(policy, task, items, seed=seed, temperature=temperature, batch=batch)
    said = zip(items, rollouts.answers, strict=True)
    steps = [task.steps(item, text) for item, (text,) in said]  # type: ignore[attr-defined]
    values = {
        "accuracy@1": rollouts.scores[:, 0].tolist(),
        "step_accuracy": [sum(right) / len(right) for right in steps],
        "all_right": [float(all(right)) for right in steps],
    }
    for share in SHARES:
        parts = [items[start : start + batch] for start in range(0, len(items), batch)]
        found = [last_result(policy, part, [injected(item, share) for item in part]) for part in parts]
        values[f"injected@{share:.0%}".rstrip("%")] = torch.cat(found).tolist()
    values["slope"] = [a - b for a, b in zip(values["injected@0"], values["injected@50"], strict=True)]
    metrics = {name: sum(per_item) / len(per_item) for name, per_item in values.items()}
    # No error among N steps does not make it infinite: it counts as half an error.
    metrics["horizon"] = horizon(min(metrics["step_accuracy"], 1 - 0.5 / sum(map(len, steps))))
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
