"""Self-certainty: choosing among N answers by how sure the model was of them.

Kang et al. 2025, arXiv 2502.18581. How far the distributions that an answer was drawn from are from uniform says how
sure the model was, without any judge. For an answer of n tokens and a vocabulary of V symbols,

    c(y) = −1/(nV) Σᵢ Σⱼ log(V · p(j | x, y_<i)),

the mean divergence of the uniform distribution from the model's. Best-of-N takes the answer with the highest c; *Borda*
voting gives the r-th best of N the weight (N − r + 1)^p, which is a majority vote at p = 0 and best-of-N at a large p.

Rivals at the same N: the likeliest answer (perplexity), the majority, and any answer. The control is a *coin*: Borda
voting by a random number for each different text. Equal texts are equally sure, so any score of texts overturns close
votes; what certainty itself is worth is what remains beyond that.

Departures from the paper
-------------------------
1. Nothing is trained, as in the paper. One base, from which all ways of choosing see the same answers.
2. V is some 90 symbols instead of 100,000, of which a handful are ever possible: c is dominated by how improbable the
   impossible ones are. ``floor`` bounds log p from below; with it the impossible all count alike.
"""

import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.votes import borda, result, vote_metrics, weighted_vote
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task
from minirl.techniques.base import Method, Phase

__all__ = ["SelfCertainty", "certainty", "evaluate"]

Choice = Literal["any", "likeliest", "certain", "borda", "majority", "coin"]


def certainty(logits: Tensor, own: Tensor, floor: float | None = None) -> Tensor:
    """c of every row: ``logits`` [B, L, V] of the tokens that ``own`` [B, L] marks → [B], in nats. 0 is uniform."""
    log_p = logits.log_softmax(-1)
    if floor is not None:
        log_p = log_p.clamp_min(floor)
    vocabulary = logits.shape[-1]
    per_token = -(log_p + torch.log(torch.tensor(float(vocabulary)))).mean(-1)  # [B, L]
    return (per_token * own).sum(1) / own.sum(1).clamp_min(1)


class SelfCertainty(Method):
    """The base as it is, and one of several answers chosen. There is nothing to train, and so nothing to shuffle."""

    name: ClassVar[str] = "self_certainty"
    choose: Choice = "certain"
    power: float = 1.0
    floor: float | None = None

    def phases(self, train: TrainConfig) -> list[Phase]:  # noqa: ARG002
        if self.shuffle_scores or self.independent:
            raise ConfigError("shuffle_scores, independent: nothing is trained here, and all answers are independent")
        return []

    def evaluation(self) -> dict[str, Any]:
        return {"choose": self.choose, "power": self.power, "floor": self.floor}


@torch.no_grad()
def scores_of(policy: Policy, rollouts: Rollouts, floor: float | None, batch: int) -> Tensor:
    """Self-certainty of every row's answer, [B]."""
    found = []
    for rows in torch.arange(len(rollouts.items)).split(batch):
        ids, own = rollouts.ids[rows], rollouts.own[rows]
        found.append(certainty(policy.logits(ids[:, :-1]), own[:, 1:], floor))
    return torch.cat(found)


def coins(texts: Sequence[str], seed: str) -> list[float]:
    """A random number for each different text, which depends on ``seed`` and the order of the texts alone."""
    rng = random.Random(f"coins/{seed}")
    found = {text: rng.random() for text in dict.fromkeys(texts)}
    return [found[text] for text in texts]


def evaluate(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    choose: Choice = "any",
    power: float = 1.0,
    floor: float | None = None,
    samples: int = 16,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``chosen@n``: whether the one of n answers that is chosen is right, beside the metrics of
    :mod:`minirl.evaluation.votes`. ``any`` is the mean over the answers."""
    rows = max(1, batch // samples)
    rollouts = attempt_all(policy, task, items, seed=seed, samples=samples, temperature=temperature, batch=rows)
    values = vote_metrics(rollouts)
    if choose in ("certain", "borda"):
        sure = scores_of(policy, rollouts, floor, batch)
    else:
        sure = rollouts.logprobs.sum(1) / rollouts.own.sum(1)
    chosen = []
    for item, start in zip(items, range(0, len(rollouts.items), samples), strict=True):
        texts = [texts[0] for texts in rollouts.answers[start : start + samples]]
        group = coins(texts, f"{seed}/{item.index}") if choose == "coin" else sure[start : start + samples].tolist()
        said = [result(item, text) for text in texts]
        if choose in ("borda", "coin", "majority"):
            name = weighted_vote(said, borda(group, 0.0 if choose == "majority" else power))
            best = said.index(name)
        else:
            best = max(range(samples), key=lambda i: group[i])
        chosen.append(rollouts.scores[start + best, 0].item())
    values[f"chosen@{samples}"] = values["accuracy@1"] if choose == "any" else chosen
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
