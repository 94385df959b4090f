"""The critic: advantages and targets by hand, the two ends of λ, and the policy gradient of a problem of two steps."""

import math

import pytest
import torch
from splits import assert_parts_add_up
from torch import tensor

from minirl.objectives.advantages import return_to_go
from minirl.objectives.policy_gradient import OBJECTIVES, Totals, policy_gradient
from minirl.objectives.value import gae, value_loss

# --- advantages -----------------------------------------------------------------------------------------------------

# Row 1 is an attempt of two tokens, feedback, an attempt of one token; row 2 one token at the very end; row 3 nothing.
OWN = tensor([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1], [0] * 6]).bool()
X = 99.0  # outside own tokens: must not be read
REWARDS = tensor([[X, 1.0, 1.0, X, 2.0, X], [X, X, X, X, X, 3.0], [X] * 6])
VALUES = tensor([[X, 4.0, 2.0, X, 6.0, X], [X, X, X, X, X, 1.0], [X] * 6])


@pytest.mark.checks("hand", "gae")
@pytest.mark.parametrize(
    ("gamma", "lam", "advantages", "returns"),
    [
        # δ from the end: 2 − 6 = −4, 1 + ½ · 6 − 2 = 2, 1 + ½ · 2 − 4 = −2. A = −4, 2 + ¼ · (−4) = 1, −2 + ¼ · 1.
        (0.5, 0.5, [-1.75, 1.0, -4.0], [2.25, 3.0, 2.0]),
        # One-step errors, and targets r + γ V'
        (0.5, 0.0, [-2.0, 2.0, -4.0], [2.0, 4.0, 2.0]),
        # Returns 2, 1 + 2, 1 + 3, less the values
        (1.0, 1.0, [0.0, 1.0, -4.0], [4.0, 3.0, 2.0]),
    ],
)
def test_gae_by_hand(gamma, lam, advantages, returns):
    result, targets = gae(REWARDS, VALUES, OWN, gamma, lam)
    assert result[OWN].tolist() == [*advantages, 2.0]
    assert targets[OWN].tolist() == [*returns, 3.0]
    assert result[~OWN].eq(0).all() and targets[~OWN].eq(0).all()


def test_returns_are_not_discounted_by_default():
    defaults, spelt_out = gae(REWARDS, VALUES, OWN), gae(REWARDS, VALUES, OWN, gamma=1.0, lam=1.0)
    assert [t.tolist() for t in defaults] == [t.tolist() for t in spelt_out]


@pytest.mark.checks("mask", "gae")
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_other_tokens_are_not_read(poison):
    expected = gae(REWARDS, VALUES, OWN, 0.9, 0.8)
    result = gae(REWARDS.where(OWN, poison), VALUES.where(OWN, poison), OWN, 0.9, 0.8)
    assert [t.tolist() for t in result] == [t.tolist() for t in expected]


def rows():
    """Rewards, values [5, 8] in double precision and own tokens with gaps."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return rewards, values, torch.rand(5, 8, generator=generator) > 0.4


@pytest.mark.checks("micro", "gae")
def test_rows_do_not_depend_on_each_other():
    whole = gae(*rows(), 0.9, 0.8)
    parts = [gae(*piece, 0.9, 0.8) for piece in zip(*(t.split([1, 3, 1]) for t in rows()), strict=True)]
    assert torch.equal(torch.cat([advantages for advantages, _ in parts]), whole[0])
    assert torch.equal(torch.cat([returns for _, returns in parts]), whole[1])


@pytest.mark.checks("identity", "gae")
@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_the_ends_of_lambda(gamma):
    rewards, values, own = rows()
    monte_carlo, returns = gae(rewards, values, own, gamma, 1.0)
    one_step, targets = gae(rewards, values, own, gamma, 0.0)
    for row, mask in enumerate(own):
        r, v = rewards[row, mask], values[row, mask]  # without the gaps
        torch.testing.assert_close(returns[row, mask], return_to_go(r, gamma))
        torch.testing.assert_close(monte_carlo[row, mask], return_to_go(r, gamma) - v)
        following = torch.cat([v[1:], v.new_zeros(1)])
        torch.testing.assert_close(one_step[row, mask], r + gamma * following - v)
        torch.testing.assert_close(targets[row, mask], r + gamma * following)


@pytest.mark.checks("identity", "gae")
def test_advantages_are_discounted_sums_of_one_step_errors():
    rewards, values, own = rows()
    errors, _ = gae(rewards, values, own, 0.9, 0.0)
    advantages, _ = gae(rewards, values, own, 0.9, 0.6)
    for row, mask in enumerate(own):
        torch.testing.assert_close(advantages[row, mask], return_to_go(errors[row, mask], 0.9 * 0.6))


# --- value loss -----------------------------------------------------------------------------------------------------

# Three own tokens of a batch with N = 4, clip 0.2:
#   V = 1, before 0.5, R = 2: 0.7 is further off: 1.3² = 1.69, and no gradient; without the clip 1² with slope −2
#   V = 2, before 1.9, R = 0: not clipped: 2² = 4 with slope 4
#   V = −1, before −2, R = −1.5: −1.8 would be nearer, so 0.5² = 0.25 with slope 1
LEARN = tensor([[True, False, True], [False, True, False]])
V, BEFORE, TARGET = (
    [[1.0, X, 2.0], [X, -1.0, X]],
    tensor([[0.5, 0, 1.9], [0, -2, 0]]),
    tensor([[2.0, 0, 0], [0, -1.5, 0]]),
)


@pytest.mark.checks("hand", "value_loss")
@pytest.mark.parametrize(
    ("clip", "loss", "gradient"),
    [
        (0.2, 5.94 / 8, [0.0, 4 / 8, 1 / 8]),
        (None, 5.25 / 8, [-2 / 8, 4 / 8, 1 / 8]),
        (10.0, 5.25 / 8, [-2 / 8, 4 / 8, 1 / 8]),  # nothing is that far
    ],
)
def test_value_loss_by_hand(clip, loss, gradient):
    values = tensor(V, requires_grad=True)
    result, stats = value_loss(values, BEFORE, TARGET, LEARN, normaliser=4, clip=clip)
    assert result.item() == pytest.approx(loss)
    assert stats == pytest.approx({"loss/value": loss, "value_error": (1 + 2 + 0.5) / 4})
    result.backward()
    assert values.grad[LEARN].tolist() == pytest.approx(gradient)
    assert values.grad[~LEARN].tolist() == [0.0] * 3


def test_clip_is_on_by_default():
    assert value_loss(tensor(V), BEFORE, TARGET, LEARN, 4)[0].item() == pytest.approx(5.94 / 8)


@pytest.mark.checks("mask", "value_loss")
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_tokens_get_exactly_zero_gradient(poison, clip):
    values = tensor(V).where(LEARN, poison).requires_grad_()
    others = (BEFORE.where(LEARN, -poison), TARGET.where(LEARN, poison))
    loss, stats = value_loss(values, *others, LEARN, 4, clip)
    loss.backward()
    assert values.grad[~LEARN].tolist() == [0.0] * 3
    assert values.grad[LEARN].isfinite().all()
    assert stats == value_loss(tensor(V), BEFORE, TARGET, LEARN, 4, clip)[1]


@pytest.mark.checks("micro", "value_loss")
@pytest.mark.parametrize("clip", [None, 0.2])
def test_micro_batches_add_up_to_the_batch(clip):
    generator = torch.Generator().manual_seed(0)
    values, before, targets = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    own = torch.rand(6, 4, generator=generator) > 0.4
    split = zip(*(t.split([1, 3, 2]) for t in (values, before, targets, own)), strict=True)
    parts = [value_loss(*piece, int(own.sum()), clip) for piece in split]
    assert_parts_add_up(value_loss(values, before, targets, own, int(own.sum()), clip), parts, values)


# --- both together: two steps, two actions --------------------------------------------------------------------------

# States: the start, and one after each first action; the episode is a token, a feedback token, a token.
FIRST, SECOND = tensor([0.5, -1.0]).double(), tensor([[1.0, -2.0], [3.0, 0.5]]).double()  # rewards r(a1), r(a1, a2)
TRAJECTORIES = tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
EPISODE = tensor([[True, False, True]]).expand(4, 3)


def two_steps():
    """Logits [3, 2] (a leaf), probabilities of the trajectories [4], and the perfect values of the states [3]."""
    logits = tensor([[0.3, -0.4], [0.8, 0.1], [-0.5, 0.6]], dtype=torch.float64, requires_grad=True)
    pi = logits.softmax(-1)
    later = (pi[1:] * SECOND).sum(-1)  # V of the two states after the first action
    start = (pi[0] * (FIRST + later)).sum()
    a, b = TRAJECTORIES.T
    return logits, pi[0, a] * pi[1 + a, b], torch.cat([start[None], later])


def expected_gradient(objective, lam, values):
    """Gradient of the loss on all trajectories, each counted as often as the policy takes it."""
    logits, probabilities, _ = two_steps()
    a, b = TRAJECTORIES.T
    log_pi, nothing = logits.log_softmax(-1), torch.zeros(4, dtype=torch.float64)
    logprobs = torch.stack([log_pi[0, a], nothing, log_pi[1 + a, b]], 1)
    rewards = torch.stack([FIRST[a], nothing, SECOND[a, b]], 1)
    states = torch.stack([values[0].expand(4), nothing, values[1 + a]], 1)
    advantages, _ = gae(rewards, states, EPISODE, 1.0, lam)
    counted = probabilities.detach()[:, None] * advantages
    loss, _ = policy_gradient(logprobs, logprobs.detach(), counted, EPISODE, OBJECTIVES[objective], Totals(1, 2, 2))
    return torch.autograd.grad(loss, logits)[0]


def gradient_of_the_expected_return():
    logits, probabilities, values = two_steps()
    (expected,) = torch.autograd.grad(-values[0], logits)
    a, b = TRAJECTORIES.T
    torch.testing.assert_close(values[0], (probabilities * (FIRST[a] + SECOND[a, b])).sum())
    return expected


@pytest.mark.checks("identity", "gae")
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("objective", "scale"), [("reinforce", 1.0), ("ppo", 0.5)])  # N = 1 episode, T = 2 tokens
def test_with_perfect_values_every_lambda_is_the_policy_gradient(objective, scale, lam):
    values = two_steps()[2].detach()
    torch.testing.assert_close(expected_gradient(objective, lam, values), scale * gradient_of_the_expected_return())


@pytest.mark.checks("identity", "gae")
def test_with_wrong_values_only_lambda_1_is_the_policy_gradient():
    wrong = two_steps()[2].detach() + tensor([0.4, -1.0, 2.0]).double()
    expected = gradient_of_the_expected_return()
    torch.testing.assert_close(expected_gradient("reinforce", 1.0, wrong), expected)
    assert (expected_gradient("reinforce", 0.0, wrong) - expected).abs().max() > 0.1
    # … unless they are wrong only about the state in which the action is chosen: then they are a baseline.
    shifted = two_steps()[2].detach() + tensor([0.4, 0.0, 0.0]).double()
    torch.testing.assert_close(expected_gradient("reinforce", 0.0, shifted), expected)
