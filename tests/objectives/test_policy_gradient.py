"""REINFORCE on a vocabulary of three tokens, where every gradient is a line of arithmetic."""

import math

import pytest
import torch

from minirl.objectives.policy_gradient import reinforce
from minirl.policy.logprobs import token_logprobs

LOGITS = [math.log(1.0), math.log(2.0), math.log(1.0)]  # π = (1/4, 1/2, 1/4)


def loss_of(logits, ids, advantages, own, normaliser):
    """``reinforce`` for logits [B, L, 3], as the loops call it."""
    return reinforce(token_logprobs(logits, torch.tensor(ids)), torch.tensor(advantages), torch.tensor(own), normaliser)


def test_loss_and_gradient_by_hand():
    # One token a = 0 with A = 2 and N = 4: loss −2 ln(1/4) / 4 = ln 2; gradient −A (onehot − π) / N
    # = −½ (1 − ¼, −½, −¼) = (−0.375, 0.25, 0.125).
    logits = torch.tensor([[LOGITS]], requires_grad=True)
    loss, stats = loss_of(logits, [[0]], [[2.0]], [[True]], 4)
    assert loss.item() == pytest.approx(math.log(2))
    assert stats == {"loss/policy": pytest.approx(math.log(2))}
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[-0.375, 0.25, 0.125]]]))


@pytest.mark.parametrize("token", [0, 1, 2])
@pytest.mark.parametrize("advantage", [1.5, -0.5])
def test_gradient_is_advantage_times_onehot_minus_pi(token, advantage):
    logits = torch.tensor([[[0.3, -1.2, 0.7]]], requires_grad=True)
    loss_of(logits, [[token]], [[advantage]], [[True]], 5)[0].backward()
    onehot = torch.nn.functional.one_hot(torch.tensor(token), 3)
    expected = -advantage * (onehot - logits.detach()[0, 0].softmax(-1)) / 5
    torch.testing.assert_close(logits.grad[0, 0], expected)


def test_masked_tokens_get_exactly_zero_gradient():
    # Their advantage is not 0: the mask alone has to keep them out.
    logits = torch.tensor([[LOGITS] * 3, [LOGITS] * 3], requires_grad=True)
    own = [[False, True, False], [True, False, False]]
    loss, _ = loss_of(logits, [[0, 1, 2], [2, 1, 0]], [[7.0, 1.0, 7.0], [-1.0, 7.0, 7.0]], own, 2)
    loss.backward()
    assert logits.grad[~torch.tensor(own)].tolist() == [[0.0, 0.0, 0.0]] * 4
    # Row 1: −½ (−¼, ½, −¼); row 2: +½ (−¼, −½, ¾)
    torch.testing.assert_close(logits.grad[0, 1], torch.tensor([0.125, -0.25, 0.125]))
    torch.testing.assert_close(logits.grad[1, 0], torch.tensor([-0.125, -0.25, 0.375]))
    # −½ (1 · ln ½ − 1 · ln ¼) = −½ ln 2
    assert loss.item() == pytest.approx(-0.5 * math.log(2))


def test_long_attempts_are_not_averaged_away():
    # The normaliser is what the caller passes, never the number of tokens: a second token doubles the loss.
    one, _ = loss_of(torch.tensor([[LOGITS, LOGITS]]), [[0, 0]], [[1.0, 1.0]], [[True, False]], 1)
    two, _ = loss_of(torch.tensor([[LOGITS, LOGITS]]), [[0, 0]], [[1.0, 1.0]], [[True, True]], 1)
    assert two.item() == pytest.approx(2 * one.item())


def test_micro_batches_add_up_to_the_batch():
    torch.manual_seed(0)
    logprobs, advantages, own = -torch.rand(6, 4), torch.randn(6, 4), torch.rand(6, 4) > 0.5
    whole, _ = reinforce(logprobs, advantages, own, 6)
    parts = [reinforce(logprobs[s], advantages[s], own[s], 6)[0] for s in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(sum(parts), whole)


def test_expected_gradient_is_the_gradient_of_expected_reward():
    # The policy gradient theorem, by enumeration: E_a[r(a) ∇log π(a)] = ∇ Σ_a π(a) r(a).
    rewards = torch.tensor([1.0, -2.0, 0.5])
    logits = torch.tensor([0.3, -1.2, 0.7], requires_grad=True)
    (expected,) = torch.autograd.grad(-(logits.softmax(-1) * rewards).sum(), logits)
    pi = logits.detach().softmax(-1)
    total = torch.zeros(3)
    for token in range(3):
        loss, _ = loss_of(logits.view(1, 1, 3), [[token]], [[rewards[token].item()]], [[True]], 1)
        total += pi[token] * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(total, expected)


def test_a_constant_baseline_costs_nothing_in_expectation():
    logits = torch.tensor([0.3, -1.2, 0.7], requires_grad=True)
    pi = logits.detach().softmax(-1)
    total = torch.zeros(3)
    for token in range(3):
        loss, _ = loss_of(logits.view(1, 1, 3), [[token]], [[3.0]], [[True]], 1)
        total += pi[token] * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(total, torch.zeros(3), atol=1e-6, rtol=0)
