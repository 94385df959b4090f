"""Kullback–Leibler divergence of the policy from a reference, token by token.

KL(π ‖ π_ref) = E_{a∼π}[log π(a) − log π_ref(a)]. The estimators k1, k2, k3 (Schulman 2020, "Approximating KL
divergence") need only the log-probs of the sampled tokens; with a small vocabulary the exact sum is cheap and has no
variance, so that is what the from-scratch policies use.
"""

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def exact_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Σ_a π(a)(log π(a) − log π_ref(a)) over the vocabulary: logits [..., V] → [...]; differentiable in ``logits``."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * (log_p - reference_logits.log_softmax(-1))).sum(-1)


def estimated_kl(logprobs: Tensor, reference_logprobs: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Per-token estimate from the log-probs of sampled tokens, any shape.

    With d = log π − log π_ref: k1 = d (unbiased, can be negative), k2 = d²/2 (biased, its gradient is that of the
    exact KL), k3 = exp(−d) − 1 + d (unbiased, never negative).
    """
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.expm1(-difference) + difference


def kl_penalty(kl: Tensor, coefficients: Tensor, own: Tensor, normaliser: float) -> Tensor:
    """(1/N) Σ β · KL over own tokens; ``kl``, ``coefficients`` (β, which may differ by turn) and ``own`` are [B, L]."""
    return (coefficients * kl)[own].sum() / normaliser
