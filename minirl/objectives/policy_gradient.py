"""Policy-gradient losses on tokens: one sum, many names.

Every loss of this family is −Σ w · s over the tokens that the policy wrote. The names differ in two choices only: the
surrogate s, which says how far a token's probability may move, and the weight w, which says how much a token counts.

========== ========= ==================================================================
symbol     shape     meaning
========== ========= ==================================================================
log π      [B, L]    log-prob of each token under the policy being trained
log μ      [B, L]    log-prob under the policy that sampled it
ρ          [B, L]    π / μ; on sequence level its geometric mean over the own tokens
A          [B, L]    advantage of each token
own        [B, L]    bool: the policy wrote this token; no other token has any weight
w          [B, L]    weight of a token in the loss
N, T, M    –         episodes, own tokens, most own tokens a row can have (:class:`Totals`)
|o|        [B]       own tokens of a row
========== ========= ==================================================================
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import Strict

Surrogate = Literal["log", "clip", "cispo"]
Weight = Literal["episode", "token", "sequence", "constant", "micro_batch"]


class Objective(Strict):
    """One member of the family. ``clip_low`` and ``clip_high`` are how far ρ may move below and above 1."""

    surrogate: Surrogate
    weight: Weight
    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = Field(default=0.2, ge=0, le=1)
    clip_high: float = Field(default=0.2, ge=0)


# REINFORCE with a baseline, RLOO (arXiv 2402.14740) and Dr. GRPO's advantage are choices of A, in advantages.py.
OBJECTIVES: dict[str, Objective] = {
    # Williams 1992
    "reinforce": Objective(surrogate="log", weight="episode"),
    # Schulman et al. 2017, arXiv 1707.06347, eq. 7
    "ppo": Objective(surrogate="clip", weight="token"),
    # Shao et al. 2024, arXiv 2402.03300, eq. 3: every episode counts the same, so tokens of long ones count less
    "grpo": Objective(surrogate="clip", weight="sequence"),
    # Liu et al. 2025, arXiv 2503.20783: a constant takes the length bias out
    "dr_grpo": Objective(surrogate="clip", weight="constant"),
    # Yu et al. 2025, arXiv 2503.14476, eq. 8: every token of the batch counts the same, and rising is clipped later
    "dapo": Objective(surrogate="clip", weight="token", clip_high=0.28),
    # As TRL calls it: DAPO's mean, but over each micro-batch by itself. A batch statistic: it depends on the split.
    "bnpo": Objective(surrogate="clip", weight="micro_batch"),
    # Zheng et al. 2025, arXiv 2507.18071, eq. 5 and 7
    "gspo": Objective(surrogate="clip", weight="sequence", ratio="sequence", clip_low=3e-4, clip_high=4e-4),
    # MiniMax-M1 2025, arXiv 2506.13585, eq. 4–5: a clipped ratio is a weight, so that no token loses its gradient
    "cispo": Objective(surrogate="cispo", weight="token", clip_low=1.0, clip_high=4.0),
}


@dataclass(frozen=True)
class Totals:
    """Sizes of the whole batch, by which losses are normalised: so the losses of micro-batches add up to its loss."""

    episodes: int
    tokens: int
    longest: int


def token_weights(own: Tensor, weight: Weight, totals: Totals) -> Tensor:
    """w [B, L], 0 outside ``own`` [B, L].

    =============== ============= ==========================================================
    weight          w             used by
    =============== ============= ==========================================================
    ``episode``     1/N           REINFORCE: the sum over an episode, averaged over episodes
    ``token``       1/T           DAPO, CISPO: the mean over all tokens
    ``sequence``    1/(N |o|)     GRPO: the mean over an episode, averaged over episodes
    ``constant``    1/(N M)       Dr. GRPO: as ``episode``, up to a constant
    ``micro_batch`` B/(N T_B)     BNPO: the mean over the T_B tokens of these B rows
    =============== ============= ==========================================================
    """
    mask = own.float()
    if weight == "episode":
        return mask / totals.episodes
    if weight == "token":
        return mask / totals.tokens
    if weight == "sequence":
        return mask / (totals.episodes * mask.sum(1, keepdim=True).clamp_min(1))
    if weight == "constant":
        return mask / (totals.episodes * totals.longest)
    if weight == "micro_batch":
        return mask * (len(own) / totals.episodes) / mask.sum().clamp_min(1)
    raise ValueError(f"unknown token weight {weight!r}")


def log_ratio(logprobs: Tensor, sampled: Tensor, own: Tensor, level: Literal["token", "sequence"]) -> Tensor:
    """log ρ [B, L], 0 outside ``own``; on ``sequence`` level each own token has the mean over its row's own tokens."""
    difference = torch.where(own, logprobs - sampled, 0.0)
    if level == "token":
        return difference
    if level == "sequence":
        return torch.where(own, difference.sum(1, keepdim=True) / own.sum(1, keepdim=True).clamp_min(1), 0.0)
    raise ValueError(f"unknown ratio level {level!r}")


def policy_gradient(
    logprobs: Tensor, sampled: Tensor, advantages: Tensor, own: Tensor, objective: Objective, totals: Totals
) -> tuple[Tensor, dict[str, float]]:
    """−Σ w · s for tensors [B, L]: the loss, and what to log of it.

    - ``log``: s = A log π. Its gradient is the policy gradient if μ = π.
    - ``clip``: s = min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A). Equal gradient at ρ = 1; no gradient once ρ has moved
      beyond the clip in the direction that A asks for.
    - ``cispo``: s = clip(ρ, 1 − ε_low, 1 + ε_high) A log π, with no gradient through the ratio.

    Logged: ``loss/policy``, which does not say how well the policy does: with ``clip`` and centred advantages it is
    near 0 however fast the policy learns, with ``log`` and ``cispo`` it is minus the covariance of A and log π;
    ``ratio``, the mean of ρ over own tokens; ``clipped_low`` and ``clipped_high``, the shares of own tokens whose ratio
    lies below the low clip with A < 0 and above the high one with A > 0 (with ``clip`` these teach nothing). All three
    are 1, 0 and 0 on the first pass over fresh rollouts.
    """
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    ratio = log_ratio(logprobs, sampled, own, objective.ratio).exp()
    clipped = ratio.clamp(low, high)
    if objective.surrogate == "log":
        surrogate = advantages * logprobs
    elif objective.surrogate == "clip":
        surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    elif objective.surrogate == "cispo":
        surrogate = clipped.detach() * advantages * logprobs
    else:
        raise ValueError(f"unknown surrogate {objective.surrogate!r}")
    weights = token_weights(own, objective.weight, totals)
    loss = -(weights[own] * surrogate[own]).sum()  # select, not multiply: 0 · ∞ at a masked token would be NaN
    stats = {"loss/policy": loss.item()}
    if objective.surrogate != "log":
        with torch.no_grad():
            ratio, sign = ratio[own], advantages[own]
            stats["ratio"] = ratio.sum().item() / totals.tokens
            stats["clipped_low"] = ((ratio < low) & (sign < 0)).sum().item() / totals.tokens
            stats["clipped_high"] = ((ratio > high) & (sign > 0)).sum().item() / totals.tokens
    return loss, stats
