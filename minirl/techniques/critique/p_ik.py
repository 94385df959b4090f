"""P(IK): whether a model knows that it will be right, and whether it knows that it was.

Kadavath et al. 2022, arXiv 2207.05221, ask a model for two probabilities. *P(True)*: is this answer of yours true? It
is read off the next token, so off a hidden state h and the output embeddings u. *P(IK)*, "I know": will you be right?
It is asked before any answer, of a head on h at the prompt's last token, fitted to the share r of right answers:

    P(True) = p(+) / (p(+) + p(-)) = σ((u₊ - u₋)·h)
    P(IK)   = σ(w·h + b),   (w, b) = argmin mean BCE(σ(w·h + b), r) + λ/2 ‖w‖²

Each is judged as a forecast of single attempts: AUROC (are right ones ranked higher?), Brier score (mean squared error)
and calibration error. Telling hard *problems* from easy ones is much of that, and all that P(IK) can do; it is worth
nothing for ``within``, the AUROC among attempts at one problem, and ``chosen``: is the most trusted right? A control
permutes forecasts among these. Rivals: the success rate on other problems, the model's probability of its answer, the
share of its other answers that agree, and a head where P(True) is asked: what is known there and not said.

Departures from the paper
-------------------------
1. The model is frozen; the paper trains it together with the head. What its last state does not hold, no head finds.
2. P(True) needs no examples in the prompt: the base has read critiques. After ``!`` it says ``+``, or ``-`` and a step.
3. P(True) sees no other answers (``votes`` stands for them); the other tasks of P(IK) are shorter problems.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.critiques import agreement, auroc_within, calibration_metrics, states_at_end
from minirl.evaluation.votes import result
from minirl.policy.models import Policy
from minirl.rollouts.critiques import GRADE, p_true, questions
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task
from minirl.techniques.base import Method, Phase

Ask = Literal["p_true", "p_ik", "p_true_head", "likelihood", "votes", "rate"]
HEADS = ("p_ik", "p_true_head", "rate")  # what is fitted; the rate is a head that sees nothing


def fit_head(states: Tensor, rates: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """w [C] and b [1] for ``states`` [N, C] and ``rates`` [N]; ``l2`` is λ, for inputs of spread 1. The loss is convex.
    Up to a constant it is the same for copies of a state, one a sample, labelled right or wrong."""
    mean, spread = states.mean(0), states.std(0, correction=0).clamp_min(1e-6)
    inputs = (states - mean) / spread
    weight, bias = (torch.zeros(size, device=states.device, requires_grad=True) for size in (states.shape[1], 1))
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(inputs @ weight + bias, rates) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    found = weight.detach() / spread
    return found, bias.detach() - mean @ found


class PIK(Method):
    """The base, asked how sure it is: ``permute`` mixes forecasts among attempts at a problem, ``shuffle_scores`` what
    heads are fitted to: ``draws`` attempts at ``others`` problems for each of evaluation, of ``levels`` or its own."""

    name: ClassVar[str] = "p_ik"
    ask: Ask = "p_true"
    permute: bool = False
    levels: tuple[PositiveInt, ...] = ()
    others: PositiveInt = 4
    draws: PositiveInt = 4
    l2: NonNegativeFloat = 1e-3

    @property
    def grade(self) -> str | None:  # of feedback, that the task must have
        return GRADE if self.ask.startswith("p_true") else None

    def phases(self, train: TrainConfig) -> list[Phase]:  # noqa: ARG002
        if self.independent or ((self.shuffle_scores or self.levels) and self.ask not in HEADS):
            raise ConfigError(f"independent: all attempts are; shuffle_scores, levels: only for {', '.join(HEADS)}")
        return []

    def evaluation(self) -> dict[str, Any]:
        return self.model_dump(exclude={"independent", "sampler"})


@torch.no_grad()
def forecast(policy: Policy, task: Task, rollouts: Rollouts, ask: Ask) -> Tensor:
    """The probability that each attempt is right, [B], or for a head what it is applied to, [B, C]."""
    n, attempts = rollouts.samples, [texts[0] for texts in rollouts.answers]
    if ask == "likelihood":
        return rollouts.logprobs.sum(1).exp()
    if ask == "votes":
        said = [result(item, text) for item, text in zip(rollouts.items, attempts, strict=True)]
        return torch.tensor(agreement(said, n), device=policy.device)
    if ask == "rate":
        return torch.zeros(len(attempts), 1, device=policy.device)
    if ask == "p_ik":
        prompts = policy.encode_prompts([item.prompt for item in rollouts.items[::n]])
        return states_at_end(policy, prompts).repeat_interleave(n, 0)
    if ask == "p_true_head":
        return states_at_end(policy, questions(policy, task, rollouts.items, attempts))
    return p_true(policy, task, rollouts.items, attempts)


def evaluate(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    ask: Ask = "p_true",
    permute: bool = False,
    shuffle_scores: bool = False,
    levels: Sequence[int] = (),
    others: int = 4,
    draws: int = 4,
    l2: float = 1e-3,
    samples: int = 8,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """Forecasts of ``samples`` attempts at an item, judged. ``excess`` is what they promise less what comes true."""
    how: Any = {"temperature": temperature, "batch": max(1, batch // samples)}
    rollouts = attempt_all(policy, task, items, seed=seed, samples=samples, **how)
    noise, tokens = torch.Generator().manual_seed(seed), rollouts.generated_tokens()
    p = forecast(policy, task, rollouts, ask)
    if ask in HEADS:
        known, of = {item.prompt for item in items}, levels or [items[0].level]
        fresh = [task.item(seed, i, of[i % len(of)]) for i in range(others * len(items))]
        fresh = [item for item in fresh if item.prompt not in known]
        fitted = attempt_all(policy, task, fresh, seed=seed + 1, samples=draws, **how)
        rows = torch.randperm(len(fitted.items), generator=noise) if shuffle_scores else slice(None)
        right = (fitted.scores[rows, 0] == 1).float()
        weight, bias = fit_head(forecast(policy, task, fitted, ask), right, l2)
        p, tokens = torch.sigmoid(p @ weight + bias), tokens + fitted.generated_tokens()
    true, p = (rollouts.scores == 1).view(-1, samples).double().cpu(), p.view(-1, samples).double().cpu()
    if permute:
        p = p.gather(1, torch.rand(p.shape, generator=noise).argsort(1))
    gap, best = p - true, true.gather(1, p.argmax(1, keepdim=True))[:, 0]
    means = {"accuracy@1": true.mean(1), "chosen": best, "brier": gap.square().mean(1), "excess": gap.mean(1)}
    values = {name: of_all.tolist() for name, of_all in means.items()}
    said, good = p.flatten().tolist(), true.flatten().bool().tolist()
    metrics = calibration_metrics(said, good) | {"within": auroc_within(said, good, samples)}
    metrics |= {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, tokens), rollouts
