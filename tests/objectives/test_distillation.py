"""Distillation on two symbols by hand, and against TRL on random tensors.

p_S = (3/4, 1/4) and p_T = (1/2, 1/2) unless said otherwise: ln 3/2 = 0.405465 and ln 1/2 = −0.693147 are the
differences of their logs.
"""

import math

import pytest
import torch
from splits import assert_parts_add_up

from minirl.objectives.distillation import align, distillation, divergence, sampled_distillation, top_k_and_rest
from minirl.objectives.kl import exact_kl
from minirl.policy.logprobs import token_logprobs

STUDENT, TEACHER = torch.tensor([0.75, 0.25]).double().log(), torch.tensor([0.5, 0.5]).double().log()
BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.checks("hand", "distillation")
@pytest.mark.parametrize(
    ("beta", "value", "slope"),
    [
        # KL(T‖S) = ½ ln(½/¾) + ½ ln(½/¼) = ½ (−0.405465 + 0.693147); by the first logit p_S − p_T = ¼.
        (0.0, 0.143841, 0.25),
        # m = ¼ T + ¾ S = (0.6875, 0.3125). KL(T‖m) = ½ (−0.318454 + 0.470004) = 0.075775; KL(S‖m) = 0.75 · 0.087011
        # − 0.25 · 0.223144 = 0.009473; ¼ and ¾ of them. Slope (1 − β) p_S (ln p_S/m − KL(S‖m)) = ¾ · ¾ · 0.077539.
        (0.25, 0.026048, 0.043616),
        # m = (5/8, 3/8). KL(T‖m) = ½ (−0.223144 + 0.287682) = 0.032269; KL(S‖m) = ¾ · 0.182322
        # − ¼ · 0.405465 = 0.035375; their mean. Slope ½ · ¾ (0.182322 − 0.035375).
        (0.5, 0.033822, 0.055105),
        # KL(S‖T) = ¾ · 0.405465 − ¼ · 0.693147; slope p_S (ln p_S/p_T − KL) = ¾ (0.405465 − 0.130812).
        (1.0, 0.130812, 0.205990),
    ],
)
def test_loss_and_gradient_by_hand(beta, value, slope):
    # Two own tokens and N = 4: half of the value, a quarter of the slope for each. Logits are read up to a constant.
    student = torch.stack([STUDENT + 3, STUDENT]).view(1, 2, 2).requires_grad_()
    teacher = torch.stack([TEACHER, TEACHER - 5]).view(1, 2, 2).requires_grad_()
    loss, stats = distillation(student, teacher, torch.ones(1, 2).bool(), 4, beta=beta)
    assert loss.item() == pytest.approx(value / 2, abs=1e-6)
    assert stats["loss/distillation"] == loss.item()
    loss.backward()
    expected = torch.tensor([[[slope, -slope]] * 2]).double() / 4
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=0)
    assert teacher.grad is None  # a constant


@pytest.mark.parametrize("top_k", [None, 1])
def test_agreement_by_hand(top_k):
    # Favourites: 0 and 0, 1 and 2, 2 and 2; a fourth pair that agrees is masked. Two of N = 5.
    student = torch.tensor([[[3.0, 1, 2], [0, 2, 1], [0, 0, 1], [1, 0, 0]]])
    teacher = torch.tensor([[[1.0, 0, 0], [0, 2, 3], [1, 2, 3], [1, 0, 0]]])
    own = torch.tensor([[True, True, True, False]])
    assert distillation(student, teacher, own, 5, top_k=top_k)[1]["teacher_agreement"] == 2 / 5


def test_temperature_by_hand():
    # Logits (2 ln 3, 0) at τ = 2 are (ln 3, 0), which is (¾, ¼): the values above, and half their slope.
    student = torch.tensor([[[2 * math.log(3), 0.0]]], requires_grad=True)
    loss, _ = distillation(student, torch.zeros(1, 1, 2), torch.ones(1, 1).bool(), 1, beta=0.0, temperature=2.0)
    assert loss.item() == pytest.approx(0.143841, abs=1e-6)
    loss.backward()
    assert student.grad.flatten().tolist() == pytest.approx([0.125, -0.125])


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_wrong_beta(beta):
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
        divergence(STUDENT, TEACHER, beta)


def random_batch():
    """Logits of student and teacher [3, 5, 7] and ``own`` [3, 5] with 8 own tokens."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(3, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    own = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 1, 1, 0]]).bool()
    return student.requires_grad_(), teacher, own


# --- identities -----------------------------------------------------------------------------------------------------


@pytest.mark.checks("identity", "distillation")
def test_the_ends_are_the_two_kls():
    student, teacher, own = random_batch()
    for beta, kl in ((0.0, exact_kl(teacher, student)), (1.0, exact_kl(student, teacher))):
        loss, _ = distillation(student, teacher, own, 8, beta=beta)
        torch.testing.assert_close(loss, kl[own].mean())


@pytest.mark.checks("identity", "distillation")
def test_the_ends_are_slopes_and_not_limits():
    # JSD itself vanishes at both ends; JSD/β and JSD/(1 − β) have the KLs as limits.
    student, teacher, _ = random_batch()
    small = 1e-7
    near_zero, near_one = divergence(student, teacher, small), divergence(student, teacher, 1 - small)
    assert near_zero.max() < 1e-5 and near_one.max() < 1e-5
    torch.testing.assert_close(near_zero / small, divergence(student, teacher, 0.0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(near_one / small, divergence(student, teacher, 1.0), rtol=1e-4, atol=1e-6)


@pytest.mark.checks("identity", "distillation")
@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("beta", BETAS)
def test_same_context_same_distribution_nothing_to_learn(beta, top_k):
    student, _, own = random_batch()
    loss, stats = distillation(student, student + 4, own, 8, beta=beta, top_k=top_k)
    loss.backward()
    assert abs(loss.item()) < 1e-14 and stats["teacher_agreement"] == 1.0
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-15, rtol=0)


def test_half_is_symmetric_and_bounded():
    student, teacher, _ = random_batch()
    torch.testing.assert_close(divergence(student, teacher, 0.5), divergence(teacher, student, 0.5))
    torch.testing.assert_close(divergence(student, teacher, 0.2), divergence(teacher, student, 0.8))
    apart = divergence(torch.tensor([50.0, 0.0]), torch.tensor([0.0, 50.0]), 0.5)  # disjoint: ln 2, the maximum
    assert apart.item() == pytest.approx(math.log(2)) and (divergence(student, teacher, 0.5) < math.log(2)).all()


@pytest.mark.checks("identity", "sampled_distillation")
def test_expected_gradient_is_that_of_the_reverse_kl():
    # Σ_a p_S(a) ∇ loss(a) over the vocabulary; the average of kl_teacher is KL(p_S ‖ p_T) itself.
    student, teacher, _ = (x[0, 0] for x in random_batch())
    (expected,) = torch.autograd.grad(exact_kl(student, teacher), student, retain_graph=True)
    every = torch.arange(7)[:, None]
    logprobs = token_logprobs(student.expand(7, 1, 7), every)
    teacher_logprobs = token_logprobs(teacher.expand(7, 1, 7), every)
    total, kl = torch.zeros(7, dtype=torch.float64), 0.0
    for token, p in enumerate(student.detach().softmax(-1)):
        own = every == token
        loss, stats = sampled_distillation(logprobs, teacher_logprobs, own, 1)
        total += p * torch.autograd.grad(loss, student, retain_graph=True)[0]
        kl += p.item() * stats["kl_teacher"]
    torch.testing.assert_close(total, expected)
    assert kl == pytest.approx(exact_kl(student, teacher).item())


# --- top k ----------------------------------------------------------------------------------------------------------


def test_top_k_by_hand():
    # The student's two likeliest are symbols 3 and 1; the teacher's favourite, symbol 0, falls among the rest.
    student = torch.tensor([1 / 8, 1 / 4, 1 / 8, 1 / 2]).log()
    teacher = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]).log()
    top, other = top_k_and_rest(student - 7, teacher + 9, 2)
    torch.testing.assert_close(top.exp(), torch.tensor([1 / 2, 1 / 4, 1 / 4]))
    torch.testing.assert_close(other.exp(), torch.tensor([1 / 8, 1 / 4, 5 / 8]))


@pytest.mark.checks("hand", "distillation")
def test_loss_with_top_k_by_hand():
    # k = 1: (½, ½) against (1/8, 7/8). Reverse KL: ½ ln 4 + ½ ln 4/7 = 0.413339.
    student = torch.tensor([[[1 / 8, 1 / 4, 1 / 8, 1 / 2]]]).log()
    teacher = torch.tensor([[[1 / 2, 1 / 4, 1 / 8, 1 / 8]]]).log()
    own = torch.ones(1, 1).bool()
    merged, _ = distillation(student, teacher, own, 1, beta=1.0, top_k=1)
    assert merged.item() == pytest.approx(0.413339, abs=1e-6)
    # All four: ⅛ ln ¼ + 0 + 0 + ½ ln 4 = ⅜ ln 4 = 0.519860; merging loses some of it.
    whole, _ = distillation(student, teacher, own, 1, beta=1.0)
    assert whole.item() == pytest.approx(0.519860, abs=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_top_k_is_a_lower_bound_that_grows_to_the_whole(beta):
    student, teacher, own = random_batch()
    losses = [distillation(student, teacher, own, 8, beta=beta, top_k=k)[0].item() for k in range(1, 7)]
    whole = distillation(student, teacher, own, 8, beta=beta)[0].item()
    assert losses == sorted(losses) and losses[0] < losses[-1]
    assert losses[-1] == pytest.approx(whole)  # six symbols and a rest of one


def test_a_rest_of_nothing_keeps_the_gradient_finite():
    student = torch.tensor([[[60.0, 0.0, 0.0]]], requires_grad=True)  # single precision: the first has all the mass
    loss, _ = distillation(student, torch.zeros(1, 1, 3), torch.ones(1, 1).bool(), 1, beta=1.0, top_k=1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), abs=1e-4) and student.grad.isfinite().all()


# --- micro-batches and masks ----------------------------------------------------------------------------------------


OPTIONS = {
    "distillation": {},
    "distillation, forward": {"beta": 0.0},
    "distillation, reverse": {"beta": 1.0},
    "distillation, top 3": {"top_k": 3},
}
VARIANTS = [*OPTIONS, "sampled_distillation"]


def loss_of(variant, student, teacher, own, rows=slice(None)):
    """One of the variants on ``rows`` of logits [B, L, V]; the normaliser is that of the whole batch."""
    if variant == "sampled_distillation":
        ids = torch.arange(own.numel()).view(own.shape) % student.shape[-1]
        logprobs, teacher_logprobs = token_logprobs(student, ids), token_logprobs(teacher, ids)
        return sampled_distillation(logprobs[rows], teacher_logprobs[rows], own[rows], 8)
    return distillation(student[rows], teacher[rows], own[rows], 8, temperature=1.5, **OPTIONS[variant])


@pytest.mark.checks("micro", "distillation", "sampled_distillation")
@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_add_up_to_the_batch(variant):
    student, teacher, own = random_batch()
    whole, whole_stats = loss_of(variant, student, teacher, own)
    parts = [loss_of(variant, student, teacher, own, rows) for rows in (slice(0, 1), slice(1, 3))]
    assert_parts_add_up((whole, whole_stats), parts, student)
    assert whole_stats["loss/distillation"] == whole.item() != 0.0


@pytest.mark.checks("mask", "distillation", "sampled_distillation")
@pytest.mark.parametrize("rubbish", [-torch.inf, 1e308, torch.nan])
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_tokens_get_exactly_zero_gradient(variant, rubbish):
    student, teacher, own = random_batch()
    expected, _ = loss_of(variant, student, teacher, own)
    (gradient,) = torch.autograd.grad(expected, student)
    if variant == "sampled_distillation":
        # It takes log-probs: put the rubbish there.
        ids = torch.arange(15).view(3, 5) % 7
        logprobs = token_logprobs(student, ids).detach().masked_fill(~own, rubbish).requires_grad_()
        other = token_logprobs(teacher, ids).masked_fill(~own, rubbish)
        loss, _ = sampled_distillation(logprobs, other, own, 8)
        loss.backward()
        assert (logprobs.grad[~own] == 0.0).all() and (logprobs.grad[own] != 0.0).all()
    else:
        masked = student.detach().masked_fill(~own[..., None], rubbish).requires_grad_()
        loss, _ = loss_of(variant, masked, teacher.masked_fill(~own[..., None], rubbish), own)
        loss.backward()
        assert (masked.grad[~own] == 0.0).all()
        torch.testing.assert_close(masked.grad, gradient, rtol=0, atol=0)
    assert loss.item() == expected.item()


@pytest.mark.checks("hand", "sampled_distillation")
def test_sampled_distillation_by_hand():
    # log p_S = (−1, −2) and log p_T = (−3, −1.5): differences 2 and −0.5 are the gradient, halved by N = 2. Loss
    # (2 · −1 − 0.5 · −2)/2 = −0.5; kl_teacher (2 − 0.5)/2. The third token is masked.
    logprobs = torch.tensor([[-1.0, -2.0, -9.0]], requires_grad=True)
    teacher = torch.tensor([[-3.0, -1.5, -1.0]], requires_grad=True)
    loss, stats = sampled_distillation(logprobs, teacher, torch.tensor([[True, True, False]]), 2)
    assert loss.item() == -0.5 and stats == {"loss/distillation": -0.5, "kl_teacher": 0.75}
    loss.backward()
    assert logprobs.grad.tolist() == [[1.0, -0.25, 0.0]] and teacher.grad is None


# --- alignment ------------------------------------------------------------------------------------------------------


def test_align_by_hand():
    # Row 1 has own tokens 5, 6; row 2 has 7; row 3 none. 1 is context, 0 padding; the teacher's context is longer.
    student = torch.tensor([[1, 5, 6], [1, 1, 7], [1, 0, 0]])
    teacher = torch.tensor([[1, 1, 5, 1, 6], [7, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    mine, theirs, mask = align(student, student > 4, teacher, teacher > 4)
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
    assert mine.shape == theirs.shape == (3, 2)
    assert mine[mask].tolist() == theirs[mask].tolist() == [5, 6, 7]


def test_align_wants_the_same_number_in_every_row():
    # Three own tokens on both sides, but not row by row.
    student, teacher = torch.tensor([[1, 0], [1, 1]]).bool(), torch.tensor([[0, 1, 1], [0, 0, 1]]).bool()
    with pytest.raises(ValueError, match="row 0 has 1 own tokens, but 2 for the teacher"):
        align(student, student, teacher, teacher)


def test_distillation_across_contexts():
    # Own tokens sit at other positions in the teacher's batch: the loss and the student's gradient are those of the
    # tokens taken one by one, and nothing reaches the context.
    student, _, own = random_batch()
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(3, 9, 7, generator=generator, dtype=torch.float64)
    teacher_own = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0, 0, 0, 0]])
    loss, _ = distillation(*align(student, own, teacher, teacher_own.bool()), 8)
    loss.backward()
    pairs = [((0, 2), (0, 4)), ((0, 3), (0, 5)), ((0, 4), (0, 6)), ((1, 1), (1, 2)), ((1, 3), (1, 8))]
    pairs += [((2, 0), (2, 0)), ((2, 2), (2, 1)), ((2, 3), (2, 2))]
    copy = student.detach().clone().requires_grad_()
    expected = sum(divergence(copy[mine], teacher[theirs], 0.5) for mine, theirs in pairs) / 8
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(student.grad, copy.grad)
    assert (student.grad[~own] == 0.0).all()


# --- TRL ------------------------------------------------------------------------------------------------------------


def both_gradients(ours, theirs, student):
    return (torch.autograd.grad(loss, student)[0] for loss in (ours, theirs))


@pytest.mark.checks("trl", "distillation")
@pytest.mark.parametrize("normaliser", [None, 13])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("beta", BETAS)
def test_distillation_is_trl_gkd(beta, temperature, normaliser):
    # Its batchmean divides by the labels that are not −100, num_items_in_batch by what it says.
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, teacher, own = random_batch()
    ours, _ = distillation(student, teacher, own, normaliser or 8, beta=beta, temperature=temperature)
    labels = torch.where(own, 1, -100)
    options = {"beta": beta, "temperature": temperature, "num_items_in_batch": normaliser}
    theirs = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, labels, **options)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*both_gradients(ours, theirs, student))


@pytest.mark.checks("trl", "distillation")
@pytest.mark.parametrize("normaliser", [None, 13])
@pytest.mark.parametrize("beta", BETAS)
def test_distillation_is_trl_distillation_trainer(beta, normaliser):
    # TRL projects hidden states tile by tile; with the identity as head the hidden states are the logits. It computes
    # in single precision.
    trainer = pytest.importorskip("trl.trainer.distillation_trainer")
    student, teacher, own = random_batch()
    ours, _ = distillation(student, teacher, own, normaliser or 8, beta=beta, temperature=1.7)
    options = {"num_items_in_batch": normaliser, "temperature": 1.7}
    head = torch.eye(7, dtype=torch.float64)
    theirs, _, count = trainer._chunked_divergence_loss(student, teacher, head, head, own, beta, **options)
    assert count == 8
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*both_gradients(ours, theirs, student), rtol=1e-5, atol=1e-6)


@pytest.mark.checks("trl", "distillation")
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_distillation_is_trl_sdpo(beta, top_k):
    utils = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, teacher, own = random_batch()
    ours, _ = distillation(student, teacher, own, 8, beta=beta, top_k=top_k)
    if top_k is None:
        tokens = utils.compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=beta)
    else:
        options = {"distillation_topk": top_k, "distillation_alpha": beta, "distillation_add_tail": True}
        tokens = utils.compute_topk_self_distillation_loss(student, teacher, **options)
    theirs = tokens[own].sum() / 8
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*both_gradients(ours, theirs, student))


@pytest.mark.checks("trl", "sampled_distillation")
def test_sampled_distillation_is_trl_sdpo():
    utils = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, teacher, own = random_batch()
    ids = torch.arange(15).view(3, 5) % 7
    ours, _ = sampled_distillation(token_logprobs(student, ids), token_logprobs(teacher, ids), own, 8)
    tokens = utils.compute_sampled_token_self_distillation_loss(student, teacher, ids, distillation_alpha=1.0)
    theirs = tokens[own].sum() / 8
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*both_gradients(ours, theirs, student))
