"""Preferences as a game: which kind of answer beats which, known exactly, and how far a policy can be beaten.

The answers to a prompt of :mod:`TASTE <minirl.tasks.taste>` fall into few *classes*: its kinds, and one more for what
is no answer. A judge is a *win matrix* over them, so everything here is a small sum:

========== ========= ============================================================================================
symbol     shape     meaning
========== ========= ============================================================================================
C          int       classes: rock, scissors, paper, twig, and none
P          [C, C]    P[i, j] is how often the judge prefers an answer of class i to one of class j; P + Pᵀ = 1
π          [..., C]  how often a policy's answer to a prompt is of each class
Pπ         [..., C]  how often each class wins against the policy
e(π)       [...]     max Pπ − ½: what the best counter-answer gains on an even game. 0: nothing beats π
r          [C]       Bradley–Terry scores: the best account of comparisons by P[i, j] = σ(r[i] − r[j])
========== ========= ============================================================================================

A policy with e(π) = 0 is an equilibrium of the game in which two answer and the judge picks: the minimax winner, or von
Neumann winner. There always is one. A single best answer exists only where preferences do not go in a circle.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.tasks.taste import KINDS

Game = Literal["circle", "ladder", "coin"]
CLASSES = (*KINDS, "none")
PROBES, PROBE_SEED = 16, 700_001  # prompts on which every policy on the way is looked at
GAMES: dict[str, list[list[float]]] = {
    # Row beats column. Rock always breaks scissors, they mostly cut paper, which mostly wraps rock: no order of the
    # kinds explains it. All three mostly beat a twig. Nothing beats the mixture 3 : 3 : 5 of the three.
    "circle": [
        [0.5, 1.0, 0.2, 0.9, 1.0],
        [0.0, 0.5, 0.8, 0.9, 1.0],
        [0.8, 0.2, 0.5, 0.9, 1.0],
        [0.1, 0.1, 0.1, 0.5, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.5],
    ],
    # Who comes earlier mostly wins. There is a best answer: rock.
    "ladder": [
        [0.5, 0.8, 0.8, 0.9, 1.0],
        [0.2, 0.5, 0.8, 0.9, 1.0],
        [0.2, 0.2, 0.5, 0.9, 1.0],
        [0.1, 0.1, 0.1, 0.5, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.5],
    ],
    # Nobody looks at the answers.
    "coin": [[0.5] * len(CLASSES)] * len(CLASSES),
}


def win_matrix(game: Game) -> Tensor:
    """P [C, C] of one of :data:`GAMES`."""
    return torch.tensor(GAMES[game])


def exploitability(wins: Tensor, probabilities: Tensor) -> Tensor:
    """e(π) [...] of policies π [..., C] under the win matrix P [C, C]: max over classes of Pπ, less ½."""
    return (probabilities @ wins.T).max(-1).values - 0.5


@torch.no_grad()
def class_probabilities(
    policy: Policy, task: Any, items: Sequence[Item], temperature: float = 1.0, batch: int = 256
) -> Tensor:
    """π [N, C] for N prompts of TASTE with equally many candidates, exactly: every letter's π(letter) π(stop | letter)
    goes to its kind, and what is left to ``none``. Nothing is sampled.

    Raises ``ValueError`` where a candidate is more than one token of the policy's.
    """
    parts = []
    for start in range(0, len(items), batch):
        some = items[start : start + batch]
        prompts = policy.encode_prompts([item.prompt for item in some])
        named = [(item, letter) for item in some for letter in task.candidates(item)]
        letters = policy.encode_text([letter for _, letter in named])
        if any(len(tokens) != 1 for tokens in letters):
            raise ValueError("a candidate is more than one token: its probability is no single entry of a softmax")
        size = len(letters) // len(some)
        ids, lengths = pad_rows([prompts[i // size] + letter for i, letter in enumerate(letters)], policy.pad_id)
        last, shared = lengths - 1, int(lengths.min()) - 2  # nothing before the end of the shortest prompt matters
        logits = policy.logits(ids.to(policy.device), size, shared) / (temperature or 1.0)  # [N m, L − shared, V]
        logprobs, here = logits.log_softmax(-1).cpu(), torch.arange(len(letters))
        said = logprobs[here, last - 1 - shared, ids[here, last]] + logprobs[here, last - shared, policy.stop_id]
        kinds = torch.tensor([task.class_of(item, letter) for item, letter in named])
        exact = torch.zeros(len(some), len(CLASSES)).view(-1)
        exact = exact.index_add(0, here // size * len(CLASSES) + kinds, said.exp()).view(len(some), -1)
        exact[:, -1] = (1 - exact.sum(1)).clamp_min(0)
        parts.append(exact)
    return torch.cat(parts)


class Mixture:
    """The average policy: pick one of those met so far at random, then let it answer. Its π on some prompts is the mean
    of theirs. A memory of a phase: checkpoints hold its sums."""

    def __init__(self) -> None:
        self.total, self.count = torch.zeros(()), 0

    def add(self, probabilities: Tensor) -> Tensor:
        """Take in a policy's π [N, C]; returns that of the average policy."""
        self.total, self.count = self.total + probabilities.double(), self.count + 1
        return (self.total / self.count).float()

    def state(self) -> dict[str, Tensor]:
        return {"mixture/total": self.total, "mixture/count": torch.tensor(self.count)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.total, self.count = state["mixture/total"].cpu(), int(state["mixture/count"])

    def learned(self, policy: Policy) -> None:
        """Nothing to do: a policy is met before it learns."""


def probe(
    policy: Policy, task: Any, level: int, game: Game, mixture: Mixture, temperature: float = 1.0
) -> dict[str, float]:
    """What to log of a policy, exactly, on the prompts that every policy is asked: mean ``exploitability`` and
    ``share/<class>``; ``average``, the exploitability of ``mixture`` with this policy taken in."""
    exact = class_probabilities(policy, task, task.items(PROBE_SEED, range(PROBES), level), temperature)
    wins, shares = win_matrix(game), exact.mean(0).tolist()
    return {
        "exploitability": exploitability(wins, exact).mean().item(),
        "average": exploitability(wins, mixture.add(exact)).mean().item(),
        **{f"share/{name}": share for name, share in zip(CLASSES, shares, strict=True)},
    }


def evaluate_preferences(
    policy: Policy,
    task: Any,
    items: list[Item],
    *,
    seed: int,
    temperature: float = 1.0,
    batch: int = 256,
    game: Game = "circle",
) -> tuple[Evaluation, Rollouts]:
    """Exactly, per item: ``exploitability``, ``share/<class>`` and ``largest``, the share of the most frequent class.
    And answers to read."""
    rollouts = attempt_all(policy, task, items, seed=seed, temperature=temperature, batch=batch)
    exact = class_probabilities(policy, task, items, temperature, batch)
    values = {"exploitability": exploitability(win_matrix(game), exact), "largest": exact.max(1).values}
    values |= {f"share/{name}": exact[:, i] for i, name in enumerate(CLASSES)}
    per_item = {name: value.tolist() for name, value in values.items()}
    metrics = {name: sum(value) / len(value) for name, value in per_item.items()}
    return Evaluation(metrics, per_item, rollouts.generated_tokens()), rollouts


def chosen_classes(task: Any, rollouts: Rollouts) -> Tensor:
    """[N, G]: the class of every answer."""
    said = [task.class_of(item, texts[0]) for item, texts in zip(rollouts.items, rollouts.answers, strict=True)]
    return torch.tensor(said).view(-1, rollouts.samples)


def judged(wins: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """One verdict on every pair of a group's answers, of classes ``chosen`` [N, G]: [N, G, G], 1 where row beat column.

    The judge looks at each pair once, so entry (i, j) is 1 − entry (j, i); the diagonal is ½.
    """
    size = chosen.shape[1]
    drawn = torch.rand(len(chosen), size, size, generator=generator)
    upper = (drawn < wins[chosen[:, :, None], chosen[:, None, :]]).float().triu(1)
    return upper + (1 - upper).mT.tril(-1) + 0.5 * torch.eye(size)


def win_counts(verdicts: Tensor, chosen: Tensor) -> Tensor:
    """[C, C]: how often class i beat class j, from ``verdicts`` [N, G, G] on answers of classes ``chosen`` [N, G]."""
    size, others = len(CLASSES), ~torch.eye(chosen.shape[1], dtype=torch.bool).expand_as(verdicts)
    pairs = chosen[:, :, None] * size + chosen[:, None, :]
    return torch.bincount(pairs[others], weights=verdicts[others], minlength=size**2).view(size, size)


def bradley_terry(counts: Tensor, ridge: float = 1.0, steps: int = 30) -> Tensor:
    """r [C]: scores whose differences best explain win ``counts`` [C, C], by Newton's method; they add up to 0.

    They maximise Σ counts[i, j] log σ(r[i] − r[j]) − ½ ridge Σ r². Without the ridge a class that never loses would
    have no finite score.
    """
    counts = counts.double()
    games, scores = counts + counts.T, counts.new_zeros(len(counts))
    for _ in range(steps):
        expected = (scores[:, None] - scores).sigmoid()
        slope = (counts - games * expected).sum(1) - ridge * scores
        weight = games * expected * (1 - expected)
        curvature = torch.diag(weight.sum(1) + ridge) - weight
        scores = scores + torch.linalg.solve(curvature, slope).clamp(-2, 2)  # a step too far would not come back
    return (scores - scores.mean()).float()
