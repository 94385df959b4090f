"""Kullback–Leibler divergence on two symbols, and its estimators by enumeration of the vocabulary.

π = (3/4, 1/4) and π_ref = (1/2, 1/2) throughout: d = log π − log π_ref is ln 1.5 = 0.405465 for the first symbol and
ln 0.5 = −0.693147 for the second; KL = 0.75 · 0.405465 − 0.25 · 0.693147 = 0.130812.
"""

import pytest
import torch

from minirl.objectives.kl import estimated_kl, exact_kl, kl_penalty
from minirl.objectives.policy_gradient import OBJECTIVES, Totals, policy_gradient, token_weights
from minirl.policy.logprobs import token_logprobs

PI, REFERENCE = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
KL = 0.130812
OWN = torch.tensor([[True, True, False], [False, True, True]])


@pytest.mark.checks("hand", "exact_kl")
def test_exact_kl_by_hand():
    assert exact_kl(PI.log(), REFERENCE.log()).item() == pytest.approx(KL, abs=1e-6)
    # The other direction: 0.5 · (−0.405465) + 0.5 · 0.693147 = 0.143841.
    assert exact_kl(REFERENCE.log(), PI.log()).item() == pytest.approx(0.143841, abs=1e-6)


def test_exact_kl_reads_logits_not_log_probs():
    logits = torch.stack([PI.log() + 3, REFERENCE.log() - 5])  # [2, V]: softmax ignores a constant
    kl = exact_kl(logits, torch.stack([REFERENCE.log() + 1, REFERENCE.log()]))
    assert kl.tolist() == pytest.approx([KL, 0.0], abs=1e-6)


@pytest.mark.checks("hand", "exact_kl")
def test_gradient_of_exact_kl_by_hand():
    # ∂KL/∂z_a = π_a (d_a − KL) = 0.75 · (0.405465 − 0.130812) = 0.205990, and minus that for the other symbol.
    logits = PI.log().requires_grad_()
    exact_kl(logits, REFERENCE.log()).backward()
    assert logits.grad.tolist() == pytest.approx([0.205990, -0.205990], abs=1e-6)


def test_gradient_vanishes_where_policy_equals_reference():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kl = exact_kl(logits, logits.detach().clone())
    kl.sum().backward()
    assert kl.tolist() == [0.0] * 4
    torch.testing.assert_close(logits.grad, torch.zeros(4, 7), atol=1e-7, rtol=0)


@pytest.mark.checks("hand")
@pytest.mark.parametrize(
    ("objective", "values"),
    [
        ("k1", [0.405465, -0.693147]),
        ("k2", [0.082201, 0.240227]),  # 0.405465² / 2 and 0.693147² / 2
        ("k3", [0.072132, 0.306853]),  # 1/1.5 − 1 + 0.405465 and 2 − 1 − 0.693147
    ],
    ids=["k1", "k2", "k3"],
)
def test_estimators_by_hand(objective, values):
    assert estimated_kl(PI.log(), REFERENCE.log(), objective).tolist() == pytest.approx(values, abs=1e-6)


def nine():
    """Logits of a policy (a leaf) and log-probs of a reference over nine symbols, far from each other."""
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits.requires_grad_(), reference.log_softmax(-1)


@pytest.mark.checks("identity")
@pytest.mark.parametrize("objective", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(objective):
    logits, reference = nine()
    log_p = logits.log_softmax(-1)
    expectation = (log_p.exp() * estimated_kl(log_p, reference, objective)).sum()
    torch.testing.assert_close(expectation, exact_kl(logits, reference))


def test_k2_is_biased():
    # 0.75 · 0.082201 + 0.25 · 0.240227 = 0.121708, not 0.130812
    assert (PI * estimated_kl(PI.log(), REFERENCE.log(), "k2")).sum().item() == pytest.approx(0.121708, abs=1e-6)


def expected_gradient(estimator, logits, reference):
    """Σ_a π(a) ∇ estimate(a) over the vocabulary: what a loss on sampled tokens descends on average."""
    log_p = logits.log_softmax(-1)
    estimates = estimated_kl(log_p, reference, estimator)
    return torch.autograd.grad((log_p.detach().exp() * estimates).sum(), logits)[0]


@pytest.mark.checks("hand", "k1", "k2", "k3")
def test_what_the_estimators_minimise_as_losses_by_hand():
    # k2's expected gradient is that of KL(π ‖ π_ref), see above. k1's is zero: the gradient of a constant baseline.
    # k3's is that of the *other* direction, ∇ KL(π_ref ‖ π) = π − π_ref = (0.25, −0.25).
    for estimator, expected in (("k1", [0.0, 0.0]), ("k2", [0.205990, -0.205990]), ("k3", [0.25, -0.25])):
        gradient = expected_gradient(estimator, PI.log().requires_grad_(), REFERENCE.log())
        assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.checks("identity")
@pytest.mark.parametrize("objective", ["k1", "k2", "k3"])
def test_what_the_estimators_minimise_as_losses(objective):
    logits, reference = nine()
    minimised = {
        "k1": 0 * logits.sum(),
        "k2": exact_kl(logits, reference),
        "k3": exact_kl(reference, logits),  # π_ref first
    }
    (expected,) = torch.autograd.grad(minimised[objective], logits)
    torch.testing.assert_close(expected_gradient(objective, logits, reference), expected)
    assert expected.abs().max() > 0.1 or objective == "k1"


@pytest.mark.checks("identity", "k3")
def test_k3_weighted_by_the_ratio_minimises_the_divergence_it_estimates():
    # Σ μ(a) ∇[ρ k3] = ∇ Σ π(a) k3(a) = ∇ KL(π ‖ π_ref) for any μ that sampled: TRL 1.16's default.
    logits, reference = nine()
    mu = torch.linspace(1, 2, 9, dtype=torch.float64).softmax(-1)
    log_p = logits.log_softmax(-1)
    weighted = (log_p - mu.log()).exp() * estimated_kl(log_p, reference, "k3")
    (expected,) = torch.autograd.grad(exact_kl(logits, reference), logits)
    torch.testing.assert_close(torch.autograd.grad((mu * weighted).sum(), logits)[0], expected)


@pytest.mark.checks("identity", "exact_kl", "kl_penalty")
@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_the_optimum_of_self_rewarding_ppo_extrapolates_fine_tuning(beta):
    # With reward log π_SFT − log π_base and a KL penalty to π_SFT the optimum is ∝ π_SFT (π_SFT / π_base)^(1/β)
    # (arXiv 2510.21090): policy gradient and penalty cancel there, and not where PPO starts, at π_SFT itself.
    fine_tuned, base = nine()
    fine_tuned = fine_tuned.detach()
    reward = fine_tuned.log_softmax(-1) - base.log_softmax(-1)
    own, totals = torch.ones(9, 1, dtype=torch.bool), Totals(episodes=9, tokens=9, longest=1)
    symbols = torch.arange(9)[:, None]  # one episode a symbol, weighted by how likely it is

    def gradient(start):
        logits = start.clone().requires_grad_()
        rows = logits.expand(9, 1, 9)
        logprobs = token_logprobs(rows, symbols)
        advantages = 9 * logprobs.detach().exp() * reward[:, None]
        loss, _ = policy_gradient(logprobs, logprobs.detach(), advantages, own, OBJECTIVES["reinforce"], totals)
        weights = token_weights(own, OBJECTIVES["reinforce"].weight, totals)
        penalty = kl_penalty(exact_kl(rows, fine_tuned), torch.full((9, 1), beta), weights, own)
        return torch.autograd.grad(loss + penalty, logits)[0]

    optimum = fine_tuned + reward / beta
    torch.testing.assert_close(gradient(optimum), torch.zeros(9, dtype=fine_tuned.dtype), atol=1e-7, rtol=0)
    assert gradient(fine_tuned).abs().max() > 0.01


def test_k3_is_never_negative():
    for scale in (1e-6, 1e-4, 1e-2, 1.0, 20.0):
        difference = torch.linspace(-scale, scale, 2001)
        assert estimated_kl(difference, torch.zeros_like(difference)).min().item() >= 0.0


def test_k3_keeps_its_digits_near_zero():
    # exp(−d) − 1 + d in single precision loses everything at d = 1e-4; the value is d²/2 = 5e-9 to first order.
    assert estimated_kl(torch.tensor(1e-4), torch.tensor(0.0)).item() == pytest.approx(5e-9, rel=0.02)


def test_k3_is_the_default():
    assert estimated_kl(PI.log(), REFERENCE.log()).tolist() == estimated_kl(PI.log(), REFERENCE.log(), "k3").tolist()


def test_unknown_estimator():
    with pytest.raises(ValueError, match="unknown estimator 'k4'"):
        estimated_kl(PI.log(), REFERENCE.log(), "k4")


@pytest.mark.checks("hand", "kl_penalty")
def test_penalty_by_hand():
    # Coefficients and weights differ by token; two tokens are masked although theirs are not 0:
    # 0.5 · 0.1 · 1 + 0.5 · 0.5 · 2 + 0.25 · 0.5 · 3 + 0.25 · 0 · 4 = 0.05 + 0.5 + 0.375.
    kl = torch.tensor([[1.0, 2.0, 100.0], [100.0, 3.0, 4.0]], requires_grad=True)
    coefficients = torch.tensor([[0.1, 0.5, 9.0], [9.0, 0.5, 0.0]])
    weights = torch.tensor([[0.5, 0.5, 7.0], [7.0, 0.25, 0.25]])
    penalty = kl_penalty(kl, coefficients, weights, OWN)
    assert penalty.item() == pytest.approx(0.925)
    penalty.backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.05, 0.25, 0.0], [0.0, 0.125, 0.0]]))


@pytest.mark.checks("hand", "kl_penalty")
@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("episode", 10 / 4),  # KLs of own tokens 1, 2, 3, 4; N = 4
        ("token", 10 / 8),  # T = 8
        ("sequence", (1.5 + 3.5) / 4),  # means of rows
        ("constant", 10 / (4 * 3)),  # M = 3
        ("micro_batch", 2 / 4 * 10 / 4),  # two of four rows, mean over their four tokens
    ],
)
def test_penalty_has_the_weights_of_the_policy_loss(weight, expected):
    kl = torch.tensor([[1.0, 2.0, 100.0], [100.0, 3.0, 4.0]])
    weights = token_weights(OWN, weight, Totals(episodes=4, tokens=8, longest=3))
    assert kl_penalty(kl, torch.full_like(kl, 0.1), weights, OWN).item() == pytest.approx(0.1 * expected)


@pytest.mark.checks("mask", "kl_penalty")
@pytest.mark.parametrize("poison", [torch.inf, -torch.inf, torch.nan, 1e30])
def test_masked_values_get_exactly_zero_gradient(poison):
    clean = torch.tensor([[1.0, 2.0, 0.5], [0.5, 3.0, 4.0]])
    args = (torch.full_like(clean, 0.1), torch.full_like(clean, 0.25), OWN)
    kl = clean.where(OWN, poison).requires_grad_()
    penalty = kl_penalty(kl, *args)
    penalty.backward()
    assert kl.grad[~OWN].tolist() == [0.0, 0.0]
    assert penalty.item() == kl_penalty(clean, *args).item()


def models(rows, length):
    """Logits of policy (a leaf) and reference [rows, length, 5], and sampled tokens."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(rows, length, 5, generator=generator) for _ in range(2))
    return policy.requires_grad_(), reference, torch.randint(5, (rows, length), generator=generator)


def divergence(objective, policy, reference, ids):
    """KL [B, L] from logits."""
    if objective == "exact_kl":
        return exact_kl(policy, reference)
    return estimated_kl(token_logprobs(policy, ids), token_logprobs(reference, ids), objective)


DIVERGENCES = ["k1", "k2", "k3", "exact_kl"]


@pytest.mark.checks("mask")
@pytest.mark.parametrize("objective", DIVERGENCES)
def test_masked_tokens_get_exactly_zero_gradient(objective):
    # To the policy masked tokens are as unlikely as single precision can still square and exponentiate.
    policy, reference, _ = models(2, 3)
    ids = torch.zeros(2, 3, dtype=torch.long)
    logits = policy.detach().where(OWN[..., None], torch.tensor([-80.0, 0, 0, 0, 0])).requires_grad_()
    weights = torch.full((2, 3), 0.25)
    kl_penalty(divergence(objective, logits, reference, ids), weights, weights, OWN).backward()
    assert (logits.grad[~OWN] == 0.0).all()
    assert (logits.grad[OWN] != 0.0).all()


@pytest.mark.checks("micro", "kl_penalty")
@pytest.mark.checks("micro")
@pytest.mark.parametrize("weight", ["episode", "token", "sequence", "constant"])
@pytest.mark.parametrize("objective", DIVERGENCES)
def test_micro_batches_add_up_to_the_batch(objective, weight):
    policy, reference, ids = models(6, 4)
    generator = torch.Generator().manual_seed(1)
    coefficients, own = torch.rand(6, 4, generator=generator), torch.rand(6, 4, generator=generator) > 0.4
    totals = Totals(episodes=6, tokens=int(own.sum()), longest=4)

    def penalty(rows):
        kl = divergence(objective, policy[rows], reference[rows], ids[rows])
        return kl_penalty(kl, coefficients[rows], token_weights(own[rows], weight, totals), own[rows])

    whole, parts = penalty(slice(0, 6)), sum(penalty(rows) for rows in (slice(0, 1), slice(1, 4), slice(4, 6)))
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, policy), torch.autograd.grad(whole, policy))
