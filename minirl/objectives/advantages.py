"""Advantages: how much better an attempt was than what could be expected.

========== ==================== ============================================================
symbol     shape                meaning
========== ==================== ============================================================
r          [B, turns]           reward of every attempt
R          [B, turns]           return: what follows from an attempt, R_t = Σ_k γ^k r_{t+k}
G          int                  attempts at the same prompt; rows of a group are neighbours
A          [B, turns]           advantage
alive      [B, turns]           bool: the attempt was made; episodes may end early
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


def advantages(returns: Tensor, group_size: int, baseline: Baseline, alive: Tensor | None = None) -> Tensor:
    """Subtract a baseline from returns [B, turns], turn by turn; the result has the same shape.

    - ``none``: A = R (REINFORCE, Williams 1992)
    - ``batch_mean``: A = R − mean over the batch
    - ``group_mean``: A = R − mean over the group (Dr. GRPO, arXiv 2503.20783)
    - ``leave_one_out``: A = R − mean over the *other* members of the group: unbiased (RLOO, arXiv 2402.14740; with
      several turns, returns to go and ``alive``, TRLOO). With G members it is G/(G − 1) times ``group_mean``, so the
      two differ in more than scale only where turns have different numbers of members.
    - ``group_normalised``: group_mean divided by the group's standard deviation + 1e-4 (GRPO, arXiv 2402.03300)

    Only attempts that are ``alive`` (all, if not given) are averaged over; the others get advantage 0, and so does one
    that is alone in its group at its turn. Raises ``ValueError`` if rows do not fill whole groups, or groups of one
    would leave nothing to compare with.
    """
    present = torch.ones_like(returns) if alive is None else alive.to(returns.dtype)
    if baseline == "none":
        return returns * present
    if baseline == "batch_mean":
        group_size = len(returns)
    elif returns.shape[0] % group_size or group_size < 2:
        raise ValueError(f"{returns.shape[0]} rows are not whole groups of {group_size} ≥ 2 attempts")
    grouped, present = returns.unflatten(0, (-1, group_size)), present.unflatten(0, (-1, group_size))  # [P, G, turns]
    count = present.sum(1, keepdim=True)
    centred = (grouped - (grouped * present).sum(1, keepdim=True) / count.clamp_min(1)) * present
    others = (count - 1).clamp_min(1)
    if baseline == "leave_one_out":
        centred = centred * (count / others)
    elif baseline == "group_normalised":
        centred = centred / ((centred.square().sum(1, keepdim=True) / others).sqrt() + 1e-4)
    elif baseline not in ("batch_mean", "group_mean"):
        raise ValueError(f"unknown baseline {baseline!r}")
    return centred.flatten(0, 1)


def keyed_advantages(returns: Tensor, keys: Tensor) -> Tensor:
    """A = R − mean of all returns with the same key: one baseline per role, turn, game or category.

    ``returns`` and integer ``keys`` have the same shape (MARS, arXiv 2510.15414, normalises per game and player).
    """
    _, index = keys.unique(return_inverse=True)
    flat, index = returns.flatten(), index.flatten()
    sums = flat.new_zeros(int(index.max()) + 1).index_add(0, index, flat)
    return returns - (sums / index.bincount())[index].view_as(returns)


def moving_advantages(
    returns: Tensor, keys: Tensor, baselines: dict[int, float], decay: float
) -> tuple[Tensor, dict[int, float]]:
    """A = R − b_key with a baseline that moves, b ← decay · b + (1 − decay) · R: ``(advantages, new baselines)``.

    Role-conditioned advantage of SPIRAL (arXiv 2506.24119, with decay 0.95): each return is compared with the baseline
    as its predecessors left it, in row order; a key that was never seen starts at 0.
    """
    after = dict(baselines)
    result = []
    for value, key in zip(returns.flatten().tolist(), keys.flatten().tolist(), strict=True):
        before = after.get(key, 0.0)
        result.append(value - before)
        after[key] = decay * before + (1 - decay) * value
    return returns.new_tensor(result).view_as(returns), after


def spread_over_tokens(per_turn: Tensor, turn: Tensor) -> Tensor:
    """Give every own token its attempt's value: per_turn [B, turns], turn [B, L] → [B, L], 0 outside attempts."""
    return torch.where(turn >= 0, per_turn.gather(1, turn.clamp_min(0)), 0.0)
