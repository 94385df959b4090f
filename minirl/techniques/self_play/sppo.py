"""SPPO: the log-ratio of an answer to the last policy is regressed on how often it wins against that policy.

Wu et al. 2024, arXiv 2405.00675 (Self-Play Preference Optimization for Language Model Alignment). The policy that no
answer beats, an equilibrium of the game of preferences, is approached by multiplicative weights: the next policy makes
likelier what wins against this one, π_{t+1}(y) ∝ π_t(y) exp(η P(y beats π_t)). SPPO takes logarithms: a regression,
with no reward model in between. Of K samples of π_t for a prompt, P is estimated by the mean over all K,

    P̂(y) = 1/K Σ_k P(y beats y_k)             loss = Σ over y of (log π(y)/π_t(y) − η (P̂(y) − ½))²

and the loss is on the best and the worst of the K. Then the policy is the next opponent and reference. ½ stands for the
normaliser, and so each answer has a target of its own: DPO, which only knows the difference of both, may lower both.
The *average* of π_1, π_2, … approaches the equilibrium; the last of them may circle around it.

Departures from the paper
-------------------------
1. Answers are one letter, and the judge is a win matrix over kinds of letters. It says its P(y beats y_k), as a
   preference model does; how far a policy can be beaten is computed exactly.
2. Many iterations of small steps (η is 1, not 1000), fitted as well as three updates can, instead of three.
3. ``dpo`` is the same but for its loss, on the same kind of pairs, with π_t as its reference.
4. ``bradley_terry`` is the same but for its judge: P̂ by the one score a kind that best explains what the true judge
   says of the base's answers. ``shuffled`` deals the P̂ of a prompt's answers out to them at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.preferences import Mixture, bradley_terry, chosen_classes, probe, win_counts, win_matrix
from minirl.evaluation.preferences import evaluate_preferences as evaluate
from minirl.objectives.preference import dpo, sppo
from minirl.rollouts.episodes import Rollouts
from minirl.techniques.base import Method, Pairs, Phase, PreferencePhase, episodes

if TYPE_CHECKING:
    from minirl.loops import Learner

__all__ = ["SPPO", "best_and_worst", "estimated_wins", "evaluate", "learning", "sppo_loss"]


def estimated_wins(wins: Tensor, chosen: Tensor) -> Tensor:
    """P̂ [N, K] of K answers to each prompt, of classes ``chosen`` [N, K]: mean of P [C, C] over all K, itself too."""
    return wins[chosen[:, :, None], chosen[:, None, :]].mean(-1)


def best_and_worst(estimate: Tensor) -> Tensor:
    """Rows [2N] of the best and the worst answer to each prompt, in turn, by P̂ [N, K]; of equals the first."""
    picked = torch.stack([estimate.argmax(1), estimate.argmin(1)], dim=1)  # [N, 2]
    return (torch.arange(len(estimate))[:, None] * estimate.shape[1] + picked).flatten()


def sppo_loss(
    chosen: Tensor, rejected: Tensor, estimate: Tensor, *, normaliser: float, eta: float
) -> tuple[Tensor, dict[str, float]]:
    """SPPO's loss of P pairs with log-ratios ``chosen`` and ``rejected`` [P] and their P̂ ``estimate`` [P, 2]."""
    return sppo(chosen, rejected, estimate[:, 0], estimate[:, 1], normaliser=normaliser, beta=1 / eta)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, _: Tensor, *, normaliser: float, beta: float
) -> tuple[Tensor, dict[str, float]]:
    """DPO's, which does not look at P̂."""
    return dpo(chosen, rejected, normaliser=normaliser, beta=beta)


class SPPO(Method):
    """``iterations`` of collecting pairs and learning from them, equally long. ``loss``: regression with ``eta``, or
    ``dpo`` with ``beta``. ``judge``: who says P."""

    name: ClassVar[str] = "sppo"
    iterations: PositiveInt = 50
    loss: Literal["sppo", "dpo"] = "sppo"
    eta: PositiveFloat = 1.0
    beta: PositiveFloat = 1.0
    judge: Literal["true", "bradley_terry", "shuffled"] = "true"

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: SPPO sees no scores; the control is 'judge: shuffled'")
        updates, left = divmod(train.updates, self.iterations)
        if left or train.turns != 1:
            raise ConfigError(f"train: {self.iterations} equal iterations need updates: a multiple, and turns: 1")
        losses: dict[str, Any] = {"sppo": partial(sppo_loss, eta=self.eta), "dpo": partial(dpo_loss, beta=self.beta)}
        collect = partial(self.collect, updates=updates)
        return [
            PreferencePhase(f"iteration {t + 1}", updates, collect, losses[self.loss]) for t in range(self.iterations)
        ]

    def collect(self, learner: Learner, updates: int) -> Pairs:
        """The best and the worst of K answers of π_t to each prompt, with their P̂."""
        stats = self.meet(learner)
        drawn = attempts(learner, updates)
        chosen = chosen_classes(learner.task, drawn)
        estimate = estimated_wins(self.beliefs(learner, chosen), chosen)
        if self.judge == "shuffled":
            noise = torch.rand(estimate.shape, generator=learner.generator(learner.updates_done, "shuffle"))
            estimate = estimate.gather(1, noise.argsort(1))
        rows = best_and_worst(estimate)
        picked = estimate.flatten()[rows].view(-1, 2)
        stats["win_chosen"], stats["win_rejected"] = picked.mean(0).tolist()
        return Pairs(drawn.ids[rows], drawn.own[rows], picked.to(drawn.ids.device), drawn.generated_tokens(), stats)

    def meet(self, learner: Learner) -> dict[str, float]:
        """What to log of π_t, which joins the average policy: it is in the learner's memory, as are the scores."""
        mixture = Mixture()
        if learner.memory:
            mixture.load(learner.memory)
        stats = probe(learner.policy, learner.task, learner.level, "circle", mixture, learner.train.temperature)
        learner.memory |= mixture.state()
        return stats

    def beliefs(self, learner: Learner, chosen: Tensor) -> Tensor:
        """P [C, C] as the judge has it. Bradley–Terry scores are fitted in the first iteration, to all pairs of K."""
        wins = win_matrix("circle")
        if self.judge != "bradley_terry":
            return wins
        if "scores" not in learner.memory:
            learner.memory["scores"] = bradley_terry(win_counts(wins[chosen[:, :, None], chosen[:, None, :]], chosen))
        scores = learner.memory["scores"].cpu()
        return (scores[:, None] - scores).sigmoid()


def attempts(learner: Learner, updates: int) -> Rollouts:
    """K answers of the policy to each of the problems of the next ``updates``."""
    roll_out, parts = episodes(learner.train), []
    for update in range(learner.updates_done, learner.updates_done + updates):
        items, noise = learner.problems(update, learner.train.prompts), learner.generator(update, "collect")
        parts.append(roll_out(learner.policy, learner.task, items, generator=noise))
    return Rollouts.join(parts)


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the probes: ``average``, the exploitability of the average policy, and ``late``, the mean exploitability of
    those of the second half. ``chosen`` and ``rejected``: mean log-ratios to π_t at the last updates of iterations;
    ``fell``: minus the former."""
    met = [record for record in records if "average" in record]
    late = [float(record["exploitability"]) for record in met[len(met) // 2 :]]
    ends = [a for a, b in zip(records, [*records[1:], records[0]], strict=True) if "average" in b]
    found = {"average": float(met[-1]["average"]), "late": sum(late) / len(late)}
    for name in ("chosen", "rejected"):
        found[name] = sum(float(record[f"preference/{name}"]) for record in ends) / len(ends)
    return {**found, "fell": -found["chosen"]}
