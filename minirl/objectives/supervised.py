"""Learning from chosen tokens: cross-entropy, which samples to imitate, and how much.

========== ========= =========================================================================
symbol     shape     meaning
========== ========= =========================================================================
log π      [B, L]    log-prob of each token under the policy being trained
own        [B, L]    bool: a token to learn
r          [B]       score of each sample, one row a sample
groups     [B]       int: rows with the same number are samples of the same prompt
w          [B]       weight of each sample in reward-weighted regression
β          float     temperature of those weights: small β imitates the best, large β all alike
N          float     normaliser, passed in so that micro-batches add up to one batch
========== ========= =========================================================================

Rejection sampling is cross-entropy on selected rows. The three selections take the first row of each *key* in an
*order*, and differ in nothing else; a prompt without an eligible row contributes none:

============ ============ ==================== ==========================================
selection    eligible     order                key
============ ============ ==================== ==========================================
``rft``      correct      as sampled           prompt and solution: all distinct ones
``raft``     all          best score first     prompt: one, also if all failed
``star``     correct      as sampled           prompt: one, if there is a correct one
============ ============ ==================== ==========================================
"""

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor


def cross_entropy(logprobs: Tensor, own: Tensor, normaliser: float) -> tuple[Tensor, dict[str, float]]:
    """−(1/N) Σ log π over the tokens to learn: ``logprobs`` and ``own`` are [B, L], N usually the batch's token count.

    Returns the loss and ``loss/supervised``, its value: nats per token.
    """
    loss = -logprobs[own].sum() / normaliser
    return loss, {"loss/supervised": loss.item()}


def rft(scores: Tensor, groups: Tensor, solutions: Sequence[Hashable], threshold: float = 1.0) -> Tensor:
    """Every distinct correct solution of every prompt: rows [S], ascending (RFT, Yuan et al. 2023, arXiv 2308.01825).

    ``scores`` and ``groups`` are [B]; ``solutions`` holds one value per row, equal where two samples count as the same.
    The paper compares lists of equations, not wordings. Of equal solutions the first row stays; the paper,
    when it pools several models, keeps the wording farthest in edit distance from those kept so far. Correct means a
    score of at least ``threshold``.
    """
    prompt = _prompts(scores, groups)
    if len(solutions) != len(prompt):
        raise ValueError(f"{len(solutions)} solutions for {len(prompt)} scores")
    correct = (scores >= threshold).nonzero().flatten()
    keys = list(zip(prompt, solutions, strict=True))
    return _first_of_each(keys, correct.tolist()).to(scores.device)


def raft(scores: Tensor, groups: Tensor) -> Tensor:
    """The best sample of every prompt, ties to the first row: rows [P], ascending (RAFT, arXiv 2304.06767, Alg. 1).

    ``scores`` and ``groups`` are [B]. Best is relative: a prompt where all samples failed contributes one of them.
    """
    best_first = scores.argsort(descending=True, stable=True)
    return _first_of_each(_prompts(scores, groups), best_first.tolist()).to(scores.device)


def star(scores: Tensor, groups: Tensor, threshold: float = 1.0) -> Tensor:
    """The first correct sample of every solved prompt: rows [S], ascending (STaR, arXiv 2203.14465, Alg. 1).

    ``scores`` and ``groups`` are [B]. The paper draws one rationale per prompt; with several, the first that reaches
    ``threshold`` counts. Rationalisation, a second sample that is shown the answer, is the technique's business.
    """
    correct = (scores >= threshold).nonzero().flatten()
    return _first_of_each(_prompts(scores, groups), correct.tolist()).to(scores.device)


def reward_weights(scores: Tensor, groups: Tensor, beta: float) -> Tensor:
    """w = exp(r/β) / Σ exp(r/β) over the samples of the same prompt: ``scores`` and ``groups`` are [B], w is [B].

    Batch statistic: compute it before the batch is cut into micro-batches, so that no group is cut. Equal scores give
    1/G each; a constant added to all scores of a prompt changes nothing.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}")
    _prompts(scores, groups)
    same = groups[:, None] == groups[None, :]  # [B, B]
    return (scores / beta).expand_as(same).masked_fill(~same, -torch.inf).softmax(1).diagonal()


def reward_weighted_regression(
    logprobs: Tensor, weights: Tensor, own: Tensor, normaliser: float
) -> tuple[Tensor, dict[str, float]]:
    """−(1/N) Σ w log π over own tokens (reward-weighted regression, Peters & Schaal 2007).

    ``logprobs`` and ``own`` are [B, L], ``weights`` w ≥ 0 [B]: :func:`reward_weights` or any other; N is the number of
    prompts where the weights of a prompt sum to 1. With samples from π_old and w ∝ exp(r/β) the minimiser is
    π ∝ π_old exp(r/β), the policy that maximises E[r] − β KL(π ‖ π_old): one regression to the end is that optimum.
    Normalising over G samples estimates it, exactly as G → ∞.

    Returns the loss and ``loss/weighted``, its value: nats per prompt. As β falls it becomes the loss of the best
    sample alone; read it beside the entropy, which falls with it.
    """
    spread = weights[:, None].expand_as(logprobs)
    loss = -(spread[own] * logprobs[own]).sum() / normaliser
    return loss, {"loss/weighted": loss.item()}


def _prompts(scores: Tensor, groups: Tensor) -> list[int]:
    """``groups`` as a list, after the checks that every selection needs."""
    if scores.ndim != 1 or scores.shape != groups.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and groups {tuple(groups.shape)} must both be [B]")
    if not scores.isfinite().all():  # NaN would sort as the best
        raise ValueError(f"the score of row {int((~scores.isfinite()).nonzero()[0])} is not finite")
    return groups.tolist()


def _first_of_each(keys: Sequence[Hashable], rows: Iterable[int]) -> Tensor:
    """Of ``rows``, in their order, those whose key has not come before; returned ascending."""
    first: dict[Hashable, int] = {}
    for row in rows:
        first.setdefault(keys[row], row)
    return torch.tensor(sorted(first.values()), dtype=torch.long)
