"""Polychromic objectives: what is paid is a set of answers, if it has right ones and different ones.

Hamid et al. 2025, arXiv 2509.25424. RL on single answers makes the likeliest right answer likelier until there is no
other: pass@1 rises, and what many tries would have found is lost. *Set RL* has an objective on sets of n answers that
were drawn independently for one prompt, and its polychromic instance is

    f(y_1 … y_n) = (1/n Σ score(y_i)) · d(y_1 … y_n)        d: the share of different ones, (kinds in the set) / n

A product: a set of equal right answers gets 1/n of what it could, a set of different wrong ones nothing. The gradient
of E f is that of all answers of a set, each weighed by f(set) less the mean of sets, so a wrong answer in good company
is reinforced as well. With n = 1 this is RL on single answers.

Of the G answers to a prompt all subsets of n are sets, and an answer is paid the mean f of the sets it is in
(:func:`set_rewards`); the advantage is GRPO's, this less the mean of the group by its standard deviation.

Departures from the paper
-------------------------
1. The only state at which several trajectories fork is the prompt: no vines from the middle of an answer, no critic.
2. All sets of the group count, as in Poly-EPO (arXiv 2604.17654), not a few drawn at random.
3. REINFORCE with a weak KL to the base instead of PPO's clip and a KL to the policy that sampled.
4. The rivals, a bonus for the entropy of every token (``entropy``) and a stronger KL to the base (``beta``), the
   ablation ``pays: variety`` (d alone) and the control ``pays: shuffled`` (each set gets the d of another set of its
   prompt) are ours.

========= ============ ======================================================================
symbol    config       meaning
========= ============ ======================================================================
n         set_size     answers in a set
α         entropy      weight of the entropy bonus
β         beta         weight of the KL to the base
========= ============ ======================================================================
"""

from itertools import combinations
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.coverage import coverage_metrics
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task, get
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, turn_credit

NONE = -1  # the kind of what is no answer: it never counts as a different one


def different(kinds: Tensor) -> Tensor:
    """How many different kinds are in each set [..., n] of kinds, of which :data:`NONE` is none: [...]."""
    ordered = kinds.sort(-1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    return (new & (ordered != NONE)).sum(-1)


def set_rewards(
    scores: Tensor, kinds: Tensor, n: int, pays: str = "both", generator: torch.Generator | None = None
) -> Tensor:
    """The mean f of the sets of n that each of G answers is in, for ``scores`` [P, G] and ``kinds`` [P, G]: [P, G].

    ``pays`` says what f is: ``both`` score and variety, ``variety`` alone, or ``shuffled``: the score, times the
    variety of another set of the same prompt (which needs a ``generator``).
    """
    sets = torch.tensor(list(combinations(range(scores.shape[1]), n)))  # [S, n]
    variety = different(kinds[:, sets]) / n  # [P, S]
    if pays == "shuffled":
        variety = variety[:, torch.randperm(len(sets), generator=generator)]
    f = variety if pays == "variety" else scores[:, sets].mean(-1) * variety
    member = torch.zeros(len(sets), scores.shape[1]).scatter(1, sets, 1.0)  # [S, G]
    return f @ member / member.sum(0)


class Polychromic(Method):
    """GRPO on what sets are paid. ``set_size`` 1 is GRPO; then ``entropy`` may add a bonus, which needs no sets."""

    name: ClassVar[str] = "polychromic"
    set_size: int = Field(default=4, ge=1)
    pays: Literal["both", "variety", "shuffled"] = "both"
    entropy: float = Field(default=0.0, ge=0)
    beta: float = Field(default=0.01, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        if train.turns != 1:
            raise ConfigError(f"train.turns {train.turns}: sets are of single attempts; set it to 1")
        if self.set_size > train.samples:
            raise ConfigError(f"set_size {self.set_size}: a group has train.samples, {train.samples} answers")
        if self.set_size == 1 and self.pays != "both":
            raise ConfigError(f"pays: {self.pays}: a set of one answer has no variety; set_size must be 2 or more")
        return [OnlinePhase("RL", train.updates, self.credit, self.shuffle_scores)]

    def credit(self, rollouts: Rollouts) -> Credit:
        scores = rollouts.scores[:, 0].cpu().view(-1, rollouts.samples)
        kinds, first = kinds_of(rollouts), rollouts.items[0]
        generator = torch.Generator().manual_seed(first.seed % 2**32 + first.index)
        rewards = set_rewards(scores, kinds, self.set_size, self.pays, generator).to(rollouts.scores.device)
        credit = turn_credit(rollouts, rewards.view(-1, 1), (self.beta,), gamma=1.0, baseline="group_normalised")
        if self.entropy:
            credit.advantages.add_(self.entropy * entropy_advantages(rollouts.logprobs, rollouts.own))
        right = torch.where(scores == 1, kinds, NONE)
        credit.stats["variety"] = different(right).float().mean().item()  # different right answers per prompt
        credit.stats["tried"] = different(kinds).float().mean().item()
        return credit


def entropy_advantages(logprobs: Tensor, own: Tensor) -> Tensor:
    """−log π of each own token less their mean, [B, L]: ∇H of a token's distribution is E[−log π ∇ log π]."""
    surprise = -logprobs
    return torch.where(own, surprise - surprise[own].mean(), 0.0)


def kinds_of(rollouts: Rollouts) -> Tensor:
    """[P, G]: a number for every way to answer that a group has; :data:`NONE` for what is no answer."""
    known: dict[tuple[str, str], int] = {}
    kinds = list[int]()
    for item, said in zip(rollouts.items, rollouts.answers, strict=True):
        task = get(item.task)
        answer = (item.prompt, task.read(said[0]))
        kinds.append(known.setdefault(answer, len(known)) if task.admissible(item, said[0]) else NONE)
    return torch.tensor(kinds).view(-1, rollouts.samples)


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
    """The metrics of :mod:`minirl.evaluation.coverage`."""
    rows = max(1, batch // samples)
    rollouts = attempt_all(policy, task, items, seed=seed, samples=samples, temperature=temperature, batch=rows)
    values = coverage_metrics(rollouts)
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
