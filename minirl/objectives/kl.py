"""Kullback–Leibler divergence of the policy from a reference, token by token.

KL(π ‖ π_ref) = E_{a∼π}[log π(a) − log π_ref(a)]. The estimators k1, k2, k3 (Schulman 2020, "Approximating KL
divergence") need only the log-probs of the sampled tokens; with a small vocabulary the exact sum is cheap and has no
variance, so that is what the from-scratch policies use. The reference may be frozen, or follow the policy
(:func:`minirl.policy.models.follow`).
"""

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
EXACT_UP_TO = 512  # tokens of vocabulary; with more, [B, L, V] log-probs of two models are no longer cheap


def exact_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Σ_a π(a)(log π(a) − log π_ref(a)) over the vocabulary: logits [..., V] → [...]; differentiable in ``logits``."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * (log_p - reference_logits.log_softmax(-1))).sum(-1)


def estimated_kl(logprobs: Tensor, reference_logprobs: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Per-token estimate from the log-probs of sampled tokens, any shape.

    With d = log π − log π_ref over tokens sampled from π:

    ========= ============== =================== ==================================================
    estimator value          as a number         as a loss: its expected gradient is that of
    ========= ============== =================== ==================================================
    k1        d              unbiased            nothing: E[∇ log π] = 0
    k2        d²/2           biased              KL(π ‖ π_ref)
    k3        exp(−d)−1+d    unbiased, ≥ 0       KL(π_ref ‖ π)
    ========= ============== =================== ==================================================

    So k3 is the number to look at and k2 the loss to minimise. GRPO (arXiv 2402.03300, eq. 4) minimises k3; TRL 1.16
    minimises ρ · k3 by default and differentiates ρ, which gives the gradient of KL(π ‖ π_ref) again.
    Raises ``ValueError`` for another name.
    """
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"unknown estimator {estimator!r}")


def kl_penalty(kl: Tensor, coefficients: Tensor, weights: Tensor, own: Tensor) -> Tensor:
    """Σ w · β · KL over own tokens.

    All are [B, L]; the coefficients β may differ by turn, the weights w are those of the policy loss
    (:func:`minirl.objectives.policy_gradient.token_weights`).
    """
    return (weights[own] * coefficients[own] * kl[own]).sum()
