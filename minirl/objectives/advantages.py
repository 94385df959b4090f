"""Advantages: how much better an attempt was than what could be expected.

========== ==================== ============================================================
symbol     shape                meaning
========== ==================== ============================================================
r          [B, turns]           reward of every attempt
R          [B, turns]           return: what follows from an attempt, R_t = Σ_k γ^k r_{t+k}
G          int                  attempts at the same prompt; rows of a group are neighbours
A          [B, turns]           advantage
========== ==================== ============================================================
"""

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["none", "batch_mean", "group_mean", "leave_one_out", "group_normalised"]


def return_to_go(rewards: Tensor, gamma: float = 1.0) -> Tensor:
    """R_t = r_t + γ R_{t+1} along the last dimension of rewards [B, turns]."""
    returns = rewards.clone()
    for t in range(rewards.shape[-1] - 2, -1, -1):
        returns[..., t] += gamma * returns[..., t + 1]
    return returns


def advantages(returns: Tensor, group_size: int, baseline: Baseline) -> Tensor:
    """Subtract a baseline from returns [B, turns], turn by turn; the result has the same shape.

    - ``none``: A = R (REINFORCE, Williams 1992)
    - ``batch_mean``: A = R − mean over the batch
    - ``group_mean``: A = R − mean over the group (Dr. GRPO, arXiv 2503.20783)
    - ``leave_one_out``: A = R − mean over the *other* members of the group: unbiased (RLOO, arXiv 2402.14740)
    - ``group_normalised``: group_mean divided by the group's standard deviation + 1e-4 (GRPO, arXiv 2402.03300)

    Raises ``ValueError`` if rows do not fill whole groups, or groups of one would leave nothing to compare with.
    """
    if baseline == "none":
        return returns
    if baseline == "batch_mean":
        return returns - returns.mean(0, keepdim=True)
    if returns.shape[0] % group_size or group_size < 2:
        raise ValueError(f"{returns.shape[0]} rows are not whole groups of {group_size} ≥ 2 attempts")
    grouped = returns.unflatten(0, (-1, group_size))  # [P, G, turns]
    centred = grouped - grouped.mean(1, keepdim=True)
    if baseline == "leave_one_out":
        centred = centred * (group_size / (group_size - 1))
    elif baseline == "group_normalised":
        centred = centred / (grouped.std(1, keepdim=True) + 1e-4)
    elif baseline != "group_mean":
        raise ValueError(f"unknown baseline {baseline!r}")
    return centred.flatten(0, 1)


def spread_over_tokens(per_turn: Tensor, turn: Tensor) -> Tensor:
    """Give every own token its attempt's value: per_turn [B, turns], turn [B, L] → [B, L], 0 outside attempts."""
    return torch.where(turn >= 0, per_turn.gather(1, turn.clamp_min(0)), 0.0)
