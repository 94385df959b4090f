"""Cross-entropy on a vocabulary of three tokens."""

import math

import pytest
import torch

from minirl.objectives.supervised import cross_entropy
from minirl.policy.logprobs import token_logprobs

LOGITS = [math.log(1.0), math.log(2.0), math.log(1.0)]  # π = (1/4, 1/2, 1/4)


def test_loss_and_gradient_by_hand():
    # Tokens to learn: 0 at position 0, 1 at position 1; the third is context.
    # Loss −(ln ¼ + ln ½)/2 = 1.5 ln 2 = 1.039721. Gradient (π − onehot)/2: ½ (¼ − 1, ½, ¼) and ½ (¼, ½ − 1, ¼).
    logits = torch.tensor([[LOGITS] * 3], requires_grad=True)
    own = torch.tensor([[True, True, False]])
    loss, stats = cross_entropy(token_logprobs(logits, torch.tensor([[0, 1, 2]])), own, 2)
    assert loss.item() == pytest.approx(1.039721, abs=1e-6)
    assert stats == {"loss/supervised": pytest.approx(1.039721, abs=1e-6)}
    loss.backward()
    expected = [[[-0.375, 0.25, 0.125], [0.125, -0.25, 0.125], [0.0, 0.0, 0.0]]]
    torch.testing.assert_close(logits.grad, torch.tensor(expected))
    assert logits.grad[0, 2].tolist() == [0.0, 0.0, 0.0]  # exactly


def test_micro_batches_add_up_to_the_batch():
    torch.manual_seed(0)
    logprobs, own = -torch.rand(6, 4), torch.rand(6, 4) > 0.5
    whole, _ = cross_entropy(logprobs, own, 11)
    parts = [cross_entropy(logprobs[s], own[s], 11)[0] for s in (slice(0, 1), slice(1, 6))]
    torch.testing.assert_close(sum(parts), whole)
