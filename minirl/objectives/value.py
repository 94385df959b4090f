"""The critic of PPO: advantages from a learned value function, and how it is learned.

========== ========= ==================================================================
symbol     shape     meaning
========== ========= ==================================================================
r          [B, L]    reward that arrives with a token (usually at an attempt's last one)
V          [B, L]    value of the state in which a token is chosen
own        [B, L]    bool: the policy wrote this token; only these are states and actions
γ, λ       –         discount, and how far ahead rewards are believed over values
A          [B, L]    advantage, 0 outside ``own``
========== ========= ==================================================================
"""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, own: Tensor, gamma: float = 1.0, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16): ``(advantages, returns)``.

    A_t = δ_t + γ λ A_{t+1} with δ_t = r_t + γ V_{t+1} − V_t, where t + 1 is the row's *next own token*: prompts,
    feedback and padding are passed over, and after the last own token comes nothing (V = A = 0). Returns are A + V, the
    targets of the value function. λ = 1 gives the return minus the value, λ = 0 the one-step error δ. All tensors are
    [B, L].
    """
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        here = own[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = torch.where(here, delta + gamma * lam * next_advantage, 0.0)
        next_advantage = torch.where(here, advantages[:, t], next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
    return advantages, torch.where(own, advantages + values, 0.0)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, own: Tensor, normaliser: float, clip: float | None = 0.2
) -> tuple[Tensor, dict[str, float]]:
    """½ (1/N) Σ max((V − R)², (V_clip − R)²) over own tokens, V_clip within ``clip`` of the values before the update.

    The clip is that of PPO's implementations rather than of the paper (arXiv 1707.06347, eq. 9, which has the plain
    square: ``clip`` None). Returns the loss and ``loss/value``, and ``value_error``, the mean of |V − R|: it should
    fall, and stays at the spread of the returns if the critic learns nothing. All tensors are [B, L].
    """
    values, old_values, returns = values[own], old_values[own], returns[own]
    squared = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        squared = torch.maximum(squared, (near - returns).square())
    loss = 0.5 * squared.sum() / normaliser
    error = (values.detach() - returns).abs().sum().item() / normaliser
    return loss, {"loss/value": loss.item(), "value_error": error}
