"""Policy-gradient losses on tokens.

========== ========= ==================================================================
symbol     shape     meaning
========== ========= ==================================================================
log π      [B, L]    log-prob of each token under the policy being trained
A          [B, L]    advantage of each token, 0 where the policy did not write it
own        [B, L]    bool: the policy wrote this token
N          float     normaliser, passed in so that micro-batches add up to one batch
========== ========= ==================================================================
"""

from torch import Tensor


def reinforce(logprobs: Tensor, advantages: Tensor, own: Tensor, normaliser: float) -> tuple[Tensor, dict[str, float]]:
    """−(1/N) Σ A · log π over own tokens (Williams 1992): its gradient is the policy gradient with N episodes.

    ``logprobs``, ``advantages`` and ``own`` are [B, L]. Returns the loss and ``loss/policy``, its value. With centred
    advantages that value is near 0 although the gradient is not: read accuracy, not this number.
    """
    loss = -(advantages * logprobs)[own].sum() / normaliser
    return loss, {"loss/policy": loss.item()}
