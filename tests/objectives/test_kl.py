"""Kullback–Leibler divergence on two symbols, and its estimators by enumeration of the vocabulary.

π = (3/4, 1/4) and π_ref = (1/2, 1/2) throughout: d = log π − log π_ref is ln 1.5 = 0.405465 for the first symbol and
ln 0.5 = −0.693147 for the second; KL = 0.75 · 0.405465 − 0.25 · 0.693147 = 0.130812.
"""

import pytest
import torch

from minirl.objectives.kl import estimated_kl, exact_kl, kl_penalty

PI, REFERENCE = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
KL = 0.130812


def test_exact_kl_by_hand():
    assert exact_kl(PI.log(), REFERENCE.log()).item() == pytest.approx(KL, abs=1e-6)
    # The other direction: 0.5 · (−0.405465) + 0.5 · 0.693147 = 0.143841.
    assert exact_kl(REFERENCE.log(), PI.log()).item() == pytest.approx(0.143841, abs=1e-6)


def test_exact_kl_reads_logits_not_log_probs():
    logits = torch.stack([PI.log() + 3, REFERENCE.log() - 5])  # [2, V]: softmax ignores a constant
    kl = exact_kl(logits, torch.stack([REFERENCE.log() + 1, REFERENCE.log()]))
    assert kl.tolist() == pytest.approx([KL, 0.0], abs=1e-6)


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


@pytest.mark.parametrize(
    ("estimator", "values"),
    [
        ("k1", [0.405465, -0.693147]),
        ("k2", [0.082201, 0.240227]),  # 0.405465² / 2 and 0.693147² / 2
        ("k3", [0.072132, 0.306853]),  # 1/1.5 − 1 + 0.405465 and 2 − 1 − 0.693147
    ],
)
def test_estimators_by_hand(estimator, values):
    assert estimated_kl(PI.log(), REFERENCE.log(), estimator).tolist() == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator):
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(2))
    log_p, log_q = logits.log_softmax(-1), reference.log_softmax(-1)
    expectation = (log_p.exp() * estimated_kl(log_p, log_q, estimator)).sum()
    torch.testing.assert_close(expectation, exact_kl(logits, reference))


def test_k2_is_biased():
    # 0.75 · 0.082201 + 0.25 · 0.240227 = 0.121708, not 0.130812
    assert (PI * estimated_kl(PI.log(), REFERENCE.log(), "k2")).sum().item() == pytest.approx(0.121708, abs=1e-6)


def expected_gradient(estimator):
    """Σ_a π(a) ∇ estimate(a) over the vocabulary: what a loss on sampled tokens descends on average."""
    logits = PI.log().requires_grad_()
    estimates = estimated_kl(logits.log_softmax(-1), REFERENCE.log(), estimator)
    return torch.autograd.grad((PI * estimates).sum(), logits)[0].tolist()


def test_what_the_estimators_minimise_as_losses():
    # k2's expected gradient is that of KL(π ‖ π_ref), see above. k1's is zero: the gradient of a constant baseline.
    # k3's is that of the *other* direction, ∇ KL(π_ref ‖ π) = π − π_ref = (0.25, −0.25).
    assert expected_gradient("k2") == pytest.approx([0.205990, -0.205990], abs=1e-6)
    assert expected_gradient("k1") == pytest.approx([0.0, 0.0], abs=1e-6)
    assert expected_gradient("k3") == pytest.approx([0.25, -0.25], abs=1e-6)


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


def test_penalty_by_hand():
    # Coefficients differ by token; two tokens are masked although theirs are not 0: (0.1·1 + 0.5·2 + 0.5·3)/2 = 1.3.
    kl = torch.tensor([[1.0, 2.0, 100.0], [100.0, 3.0, 4.0]], requires_grad=True)
    coefficients = torch.tensor([[0.1, 0.5, 9.0], [9.0, 0.5, 0.0]])
    own = torch.tensor([[True, True, False], [False, True, True]])
    penalty = kl_penalty(kl, coefficients, own, 2)
    assert penalty.item() == pytest.approx(1.3)
    penalty.backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.05, 0.25, 0.0], [0.0, 0.25, 0.0]]))
