"""Negative-aware fine-tuning: right answers are data for the policy, wrong ones for what it leaves of the old.

========== ========= =============================================================================
symbol     shape     meaning
========== ========= =============================================================================
log π      [B, L]    log-prob of each token under the policy being trained
log π_old  [B, L]    the same under the policy that sampled them, a constant
R          [B, L]    token ratio π / π_old
r          [B]       correctness rate of the row's prompt: correct samples / samples
ω(r)       [B]       weight of the prompt
ε          float     floor of the negative term's argument
own        [B, L]    bool: the policy wrote this token
N          float     normaliser, passed in so that micro-batches add up to one batch
========== ========= =============================================================================

Split the old policy by outcome: π_old = r π⁺ + (1 − r) π⁻. If the policy is to become π⁺, then π⁻ is
(π_old − r π) / (1 − r), and wrong answers are samples from it: they teach π by maximum likelihood as well.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

PromptWeight = Literal["uniform", "centred", "standardised"]
RATE_MIN, RATE_MAX = 0.02, 0.98  # 1 − r and r are divisors; with groups of up to 50 a mixed group is never clamped
LOG_RATIO_MAX = 10.0  # as the authors': past a ratio of e^10 no gradient, where exp would soon overflow


def correctness_rates(correct: Tensor, groups: Tensor) -> Tensor:
    """r: the share of correct samples among the rows of a prompt: ``correct`` [B] bool, ``groups`` [B] int → [B].

    Batch statistic: compute it before the batch is cut into micro-batches, so that no group is cut.
    """
    same = groups[:, None] == groups[None, :]  # [B, B]
    return (same & correct).sum(1) / same.sum(1)


def nft(
    logprobs: Tensor,
    old_logprobs: Tensor,
    correct: Tensor,
    rates: Tensor,
    own: Tensor,
    normaliser: float,
    *,
    prompt_weight: PromptWeight = "centred",
    negative_weight: float = 1.0,
    floor: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """(1/N) Σ ω(r) · ( −log R if correct, else −λ log max((1 − r R)/(1 − r), ε) ) (NFT, arXiv 2505.18116, Sec. 3).

    ``logprobs``, ``old_logprobs`` and ``own`` are [B, L]; ``correct`` [B] is bool and ``rates`` r [B] comes from
    :func:`correctness_rates`. ω is 1 (``uniform``), 1 − r (``centred``) or √((1 − r)/r) (``standardised``); λ is
    ``negative_weight``, where 0 leaves RFT, the paper's baseline. Prompts with r = 0 or 1 are dropped, as in the paper;
    other rates are clamped to [0.02, 0.98].

    The floor changes the value and the divisor of the gradient but lets the gradient pass (straight-through): a wrong
    token that has become likelier is pushed down with r R/((1 − r) ε), where a plain clamp would let go of it. ε = 1,
    the authors' setting, keeps that push finite; where it binds, the optimum is no longer π⁺ (Theorem 3.1).

    At R = 1 the gradient is the policy gradient with these advantages, for right and wrong answers (Prop. 4.2):

    - ``centred``: 1 − r and −r, which is r_i − mean (Dr. GRPO);
    - ``standardised``: √((1 − r)/r) and −√(r/(1 − r)), which is (r_i − mean)/std of GRPO with the *population* std
      √(r(1 − r)). Implementations divide by the sample std + 1e-4; theirs is smaller by √((G − 1)/G) in groups of G.

    Returns the loss, ``loss/nft`` (its value: 0 at R = 1 and no measure of progress) and ``floored``, the wrong tokens
    below the floor divided by N. With ε = 1 these are the wrong tokens that became likelier: none at R = 1, about half
    of them where rounding separates π from π_old. If it grows over epochs, the policy does not unlearn.
    """
    if floor <= 0:
        raise ValueError(f"floor must be positive, not {floor}")
    if prompt_weight not in get_args(PromptWeight):
        raise ValueError(f"unknown prompt weight {prompt_weight!r}")
    r = rates.clamp(RATE_MIN, RATE_MAX)
    weight = {"uniform": torch.ones_like(r), "centred": 1 - r, "standardised": ((1 - r) / r).sqrt()}[prompt_weight]
    weight = torch.where((rates > 0) & (rates < 1), weight, 0.0)

    row = own.nonzero()[:, 0]  # [n]: the row of each own token; masked tokens are gone from here on
    log_ratio = (logprobs[own] - old_logprobs[own].detach()).clamp(max=LOG_RATIO_MAX)
    left = (1 - r[row] * log_ratio.exp()) / (1 - r[row])  # π⁻ / π_old
    floored = left.clamp(min=floor).detach() + (left - left.detach())  # value of the clamp, gradient of its argument
    terms = weight[row] * torch.where(correct[row], log_ratio, negative_weight * floored.log())
    loss = -terms.sum() / normaliser
    below = (left < floor) & ~correct[row] & (weight[row] > 0)
    return loss, {"loss/nft": loss.item(), "floored": below.sum().item() / normaliser}
