"""Supervised losses on tokens."""

from torch import Tensor


def cross_entropy(logprobs: Tensor, own: Tensor, normaliser: float) -> tuple[Tensor, dict[str, float]]:
    """−(1/N) Σ log π over the tokens to learn: ``logprobs`` and ``own`` are [B, L], N usually the batch's token count.

    Returns the loss and ``loss/supervised``, its value: nats per token.
    """
    loss = -logprobs[own].sum() / normaliser
    return loss, {"loss/supervised": loss.item()}
