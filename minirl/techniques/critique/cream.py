"""CREAM: a model that rewards itself, and believes itself as far as it agrees with its past.

Wang et al. 2024, arXiv 2410.12735. M_1, a base M_0 fine-tuned on a few demonstrations, can judge its own answers: good
is what has become likelier, r_t(y|x) = log π_t(y|x) − log π_0(y|x), the implicit reward of DPO. *Self-rewarding*: M_t
writes N answers to new prompts and ranks them by r_t; DPO on the best (w) against the worst (l) makes the next model.
No label is seen: the judge's mistakes are learned, and the next judge makes more. CREAM asks the previous judge, too.
With Kendall's τ of both rankings, the *consistency* C = (τ + 1)/2 weighs the pair, and 1 − C the reversed one::

    loss = C · DPO(w, l) + (1 − C) · DPO(l, w)      C of each prompt (``item``; dyn), or the mean of all (``set``; avg)

A mean is label smoothing with ε = 1 − C, whatever it is the mean of. So there are two controls: a constant, and the C
of other pairs (``shuffled``), which takes away nothing but the knowledge of *which* pairs to believe. As in the
authors' code, M_0, which has no r, ranks by log-likelihood per token in iteration 1, and DPO's reference is M_t.

Departures from the paper
-------------------------
1. The demonstrations are some of the base's own right answers; β is larger, and a pair is seen several times.
2. Equal answers count once: different ones are ranked, and a prompt that got only one makes no pair.
3. Answers are right or wrong here, so how good the labels are is known. It is logged, and nobody learns from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError, TrainingError
from minirl.evaluation.votes import evaluate_votes as evaluate
from minirl.objectives.preference import cream, sequence_logprobs
from minirl.policy.logprobs import token_logprobs
from minirl.policy.models import Policy, load_policy
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Examples, Method, Pairs, Phase, PreferencePhase, SupervisedPhase, episodes

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["Cream", "evaluate", "extremes", "kendall_tau", "label_stats", "learning", "weights"]


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's τ of two rankings of N ≥ 2 things: the share of pairs of things that both order alike, less the share
    that they order oppositely. 1 is the same order, −1 the reverse; a tie in either counts as neither."""
    first, second = torch.tensor(a), torch.tensor(b)
    agree = (first[:, None] - first).sign() * (second[:, None] - second).sign()  # [N, N], every pair twice
    return agree.sum().item() / (len(a) * (len(a) - 1))


def weights(taus: Tensor, how: str | float, generator: torch.Generator) -> Tensor:
    """C [P] of pairs whose prompts have these ``taus`` [P]: their own, the mean, another pair's, or a constant."""
    own = (taus + 1) / 2
    if how == "shuffled":
        return own[torch.randperm(len(own), generator=generator)]
    return own if how == "item" else torch.full_like(own, own.mean().item() if how == "set" else float(how))


def extremes(answers: Sequence[str], verdict: Sequence[float]) -> tuple[int, int, list[int]] | None:
    """Positions of a prompt's best, worst and all different answers (of equal ones the first). None without a best."""
    different = [i for i, answer in enumerate(answers) if answer not in answers[:i]]
    best, worst = max(different, key=lambda i: verdict[i]), min(different, key=lambda i: verdict[i])
    return (best, worst, different) if verdict[best] > verdict[worst] else None


class Cream(Method):
    """Imitation, then ``iterations`` of DPO on own pairs, all equally long. ``judge``: who ranks; ``none``: imitation
    just goes on. ``consistency``: what a pair weighs (:func:`weights`); 1 is plain self-rewarding."""

    name: ClassVar[str] = "cream"
    iterations: PositiveInt = 4
    judge: Literal["self", "truth", "coin", "none"] = "self"
    consistency: Literal["set", "item", "shuffled"] | Annotated[float, Field(strict=True, ge=0, le=1)] = "set"
    beta: PositiveFloat = 2.0
    demonstrations: PositiveInt = 32

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: no judge sees them; the controls are judge: coin, consistency: shuffled")
        updates, left = divmod(train.updates, parts := self.iterations + 1)
        if left or train.turns != 1:
            raise ConfigError(f"train: {parts} equal phases need updates: a multiple of {parts}, and turns: 1")
        phases: list[Phase] = [SupervisedPhase("SFT", updates, partial(self.demonstrate, updates=updates))]
        more = partial(self.demonstrate, updates=updates, again=True)
        if self.judge == "none":
            return [*phases, SupervisedPhase("more SFT", train.updates - updates, more)]
        loss, makes = partial(cream, beta=self.beta), partial(self.collect, updates=updates)
        return phases + [PreferencePhase(f"iteration {t}", updates, partial(makes, t=t), loss) for t in range(1, parts)]

    def demonstrate(self, learner: Learner, updates: int, again: bool = False) -> Examples:
        """Right answers of the base, one a problem, at most ``demonstrations``. ``again`` they cost nothing."""
        drawn = attempts(learner, learner.reference, range(updates))
        right = {row // drawn.samples: row for row in reversed(range(len(drawn.items))) if drawn.scores[row, 0] == 1}
        if not (rows := sorted(right.values())[: self.demonstrations]):
            raise TrainingError("nothing to learn from: the base has no right answer to any problem")
        return Examples(drawn.ids[rows], drawn.own[rows], 0 if again else drawn.generated_tokens())

    def collect(self, learner: Learner, t: int, updates: int) -> Pairs:
        """M_t's best and worst answer to every prompt; if none differ, an answer against itself: no gradient."""
        noise, fresh = learner.generator(t, "judge"), range(learner.updates_done, learner.updates_done + updates)
        drawn = attempts(learner, learner.policy, fresh)
        base = learner.reference if t == 1 else load_policy(learner.policy.name, str(learner.policy.device))
        now, past, start = (loglikelihoods(policy, drawn) for policy in (learner.policy, learner.reference, base))
        reward, before = now - start, past - start if t > 1 else past / drawn.own.sum(1)
        verdict = {"truth": drawn.scores[:, 0], "coin": torch.rand(len(now), generator=noise)}.get(self.judge, reward)
        rows, taus = [], []
        for group in torch.arange(len(now)).split(drawn.samples):
            if found := extremes([drawn.answers[row][0] for row in group], verdict[group].tolist()):
                rows += group[list(found[:2])].tolist()
                taus.append(kendall_tau(*(ranking[group[found[2]]].tolist() for ranking in (reward, before))))
        stats, rows = label_stats(drawn, rows, taus), rows or [0, 0]
        consistency = weights(torch.tensor(taus or [0.0]), self.consistency, noise).to(drawn.ids.device)
        return Pairs(drawn.ids[rows], drawn.own[rows], consistency, drawn.generated_tokens(), stats)


def label_stats(drawn: Rollouts, rows: Sequence[int], taus: Sequence[float]) -> dict[str, float]:
    """Of pairs in ``rows`` the shares that prefer a right answer to a wrong one, or the reverse, and the C of these."""
    scores, own = drawn.scores[list(rows), 0].cpu(), (torch.tensor(taus) + 1) / 2
    stats = {"accuracy@1": drawn.scores.mean().item(), "loglikelihood": drawn.logprobs.sum(1).mean().item()}
    stats["paired"] = len(taus) * drawn.samples / len(drawn.items)
    for name, kind in (("right", scores[::2] > scores[1::2]), ("wrong", scores[::2] < scores[1::2]), ("all", own >= 0)):
        stats[f"labels/{name}"] = kind.sum().item() / max(1, len(taus))
        stats |= {f"consistency/{name}": own[kind].mean().item()} if kind.any() else {}
    return stats


def attempts(learner: Learner, policy: Policy, updates: range) -> Rollouts:
    """What ``policy`` answers to the problems of ``updates``."""
    roll_out, count = episodes(learner.train), learner.train.prompts
    asked = [(learner.problems(u, count), learner.generator(u, "collect")) for u in updates]
    return Rollouts.join([roll_out(policy, learner.task, items, generator=noise) for items, noise in asked])


@torch.no_grad()
def loglikelihoods(policy: Policy, rollouts: Rollouts, batch: int = 256) -> Tensor:
    """log π(y|x) of every row's answer, [B], at temperature 1."""
    parts = zip(rollouts.ids.split(batch), rollouts.own[:, 1:].split(batch), strict=True)
    return torch.cat([sequence_logprobs(token_logprobs(policy.logits(i[:, :-1]), i[:, 1:]), own) for i, own in parts])


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``accuracy@iteration<t>``: of M_t's answers to new problems; ``drop``: from the best of them to the last."""
    accuracy = [float(record["accuracy@1"]) for record in records if "paired" in record]
    found = {f"accuracy@iteration{t}": value for t, value in enumerate(accuracy, 1)}
    return {**found, "drop": max(accuracy) - accuracy[-1]} if accuracy else {}
