"""Preference objectives: by hand on two pairs, against TRL on tiny Llamas, and at the optima the papers derive."""

import math
import os
from collections import defaultdict
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from splits import assert_parts_add_up
from torch import tensor

from minirl.objectives.preference import (
    copg,
    cream,
    dpo,
    hinge,
    ipo,
    kto,
    kto_baseline,
    sequence_logprobs,
    simpo,
    spin,
    sppo,
    srpo,
    srpo_improvement,
)
from minirl.policy.logprobs import token_logprobs

# --- sequence log-probs ---------------------------------------------------------------------------------------------

LOGPROBS = [[-1.0, -2.0, -4.0], [-8.0, -16.0, -32.0]]
OWN = tensor([[True, False, True], [False, True, False]])


@pytest.mark.parametrize(
    ("average", "values", "gradient"),
    [
        (False, [-5.0, -16.0], [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        (True, [-2.5, -16.0], [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]),
    ],
)
def test_sequence_logprobs_by_hand(average, values, gradient):
    logprobs = tensor(LOGPROBS, requires_grad=True)
    sequences = sequence_logprobs(logprobs, OWN, average)
    assert sequences.tolist() == values
    sequences.sum().backward()
    assert logprobs.grad.tolist() == gradient


def test_row_without_own_tokens():
    # The empty completion has probability 1, but no mean.
    own = tensor([[True, True, True], [False, False, False]])
    assert sequence_logprobs(tensor(LOGPROBS), own).tolist() == [-7.0, 0.0]
    with pytest.raises(ValueError, match=r"no own token in rows \[1\]"):
        sequence_logprobs(tensor(LOGPROBS), own, average=True)


# --- by hand --------------------------------------------------------------------------------------------------------

# Two pairs, one on the right side: m = (1, −2). β = ½, so βm = (0.5, −1). They are part of a batch of N = 4 pairs:
# every value below is the sum over the two pairs divided by 4.
W, L = [1.5, -1.0], [0.5, 1.0]
PAIRS = {
    "preference/margin": -0.25,  # (1 − 2)/4
    "preference/accuracy": 0.25,  # 1/4
    "preference/chosen": 0.125,  # (1.5 − 1)/4
    "preference/rejected": 0.375,  # (0.5 + 1)/4
}
SCALE = {"normaliser": 4, "beta": 0.5}

# Sums of losses, and gradients of the first argument before the division by 4. With softplus(z) = −log σ(−z):
# softplus(−0.5) = 0.474077, softplus(0.5) = 0.974077, softplus(1) = 1.313262, softplus(−1) = 0.313262,
# σ(0.5) = 0.622459, σ(−1) = 0.268941.
BY_HAND = {
    # softplus(−βm), gradient −β σ(−βm): −½ · 0.377541 and −½ · 0.731059
    "dpo": (lambda w: dpo(w, tensor(L), **SCALE), W, 1.787339, [-0.188770, -0.365529], PAIRS),
    "spin": (lambda w: spin(w, tensor(L), **SCALE), W, 1.787339, [-0.188770, -0.365529], PAIRS),
    # 0.9 · 0.474077 + 0.1 · 0.974077 = 0.524077 and 0.9 · 1.313262 + 0.1 · 0.313262 = 1.213262
    # Gradient β (σ(βm) − 0.9)
    "cdpo": (
        lambda w: dpo(w, tensor(L), label_smoothing=0.1, **SCALE),
        W,
        1.737339,
        [-0.138770, -0.315529],
        PAIRS,
    ),
    # 0.75 · 0.474077 + 0.25 · 0.974077 = 0.599077 and 0.25 · 1.313262 + 0.75 · 0.313262 = 0.563262
    # Gradient β (σ(βm) − C)
    "cream": (
        lambda w: cream(w, tensor(L), tensor([0.75, 0.25]), **SCALE),
        W,
        1.162339,
        [-0.063770, 0.009471],
        PAIRS,
    ),
    # βm − γ = (0.25, −1.25): softplus(−0.25) = 0.575939, softplus(1.25) = 1.501929; −½ σ(−0.25), −½ σ(1.25)
    "simpo": (lambda w: simpo(w, tensor(L), gamma=0.25, **SCALE), W, 2.077868, [-0.218911, -0.388650], PAIRS),
    # 1 − 0.5 and 1 + 1
    "hinge": (lambda w: hinge(w, tensor(L), **SCALE), W, 2.5, [-0.5, -0.5], PAIRS),
    # 1/(2β) = 1: (1 − 1)² and (−2 − 1)²
    "ipo": (lambda w: ipo(w, tensor(L), **SCALE), W, 9.0, [0.0, -6.0], PAIRS),
    # Targets (P − ½)/β: (1, 0.5) for w, (−0.5, −1) for l. (0.5² + 1²) + (1.5² + 2²); gradient 2 · 0.5, −2 · 1.5
    "sppo": (
        lambda w: sppo(w, tensor(L), tensor([1.0, 0.75]), tensor([0.25, 0.0]), **SCALE),
        W,
        7.5,
        [1.0, -3.0],
        PAIRS,
    ),
    # A third pair; Δℓ = (1, −2, −1), ΔR = (1, −0.5, 1): −(1 − 0.25)·1 = −0.75, −(−0.5 + 0.5)·(−2) = 0,
    # −(1 + 0.25)·(−1) = 1.25. Gradient −(ΔR − ½Δℓ) = −(0.5, 0.5, 1.5); residuals 0.25 + 0.25 + 2.25. The better one
    # is first, second, first: margins 1, 2, −1.
    "copg": (
        lambda w: copg(w, tensor([*L, 1.0]), tensor([1.0, 0.0, 2.0]), tensor([0.0, 0.5, 1.0]), **SCALE),
        [*W, 0.0],
        0.5,
        [-0.5, -0.5, -1.5],
        {"preference/margin": 0.5, "preference/accuracy": 0.5, "preference/residual": 0.6875},
    ),
    # m† = (1 + 1, 0 − 1) = (2, −1); m† + m = (3, −3): (½ − ¾)² + (½ + ¾)²; gradient −½ · (−¼), −½ · 1¼
    "srpo": (
        lambda w: srpo(w, tensor(L), tensor([1.0, 0.0]), tensor([-1.0, 1.0]), **SCALE),
        W,
        1.625,
        [0.125, -0.625],
        {**PAIRS, "preference/revision_margin": 0.25},
    ),
    # d = (1 − 0, 0 − 0.5) = (1, −0.5) from l, (0.5 + 1, 2 − 1) = (1.5, 1) from w: (½ − ½)² + (½ + ¼)² and
    # (½ − ¾)² + (½ − ½)²; gradient −2 · ½ · (0, ¾). Margin (1 − 0.5)/4, kept (1.5 + 1)/4
    "srpo_improvement": (
        lambda wl: srpo_improvement(wl, tensor([0.0, 0.5]), tensor([0.5, 2.0]), tensor([-1.0, 1.0]), **SCALE),
        [1.0, 0.0],
        0.625,
        [0.0, -0.75],
        {"preference/margin": 0.125, "preference/accuracy": 0.25, "preference/keep_margin": 0.625},
    ),
    # z0 = ½: ±(ℓ − z0) = (1, 1.5, −0): σ(−0.5) = 0.377541, 2 σ(−0.75) = 0.641643, 2 σ(0) = 1. Gradient −½ σ'(0.5),
    # ½ · 2 σ'(0.75), ½ · 2 · ¼ with σ'(0.5) = 0.235004, σ'(0.75) = 0.217895. On the baseline is not above it.
    "kto": (
        lambda r: kto(r, tensor([True, False, False]), 0.5, undesirable_weight=2.0, **SCALE),
        [1.5, -1.0, 0.5],
        2.019184,
        [-0.117502, 0.217895, 0.25],
        {"preference/margin": 0.625, "preference/accuracy": 0.5},
    ),
}


@pytest.mark.checks("hand")
@pytest.mark.parametrize("objective", BY_HAND)
def test_loss_gradient_and_statistics_by_hand(objective):
    call, first, total, gradient, statistics = BY_HAND[objective]
    first = tensor(first, requires_grad=True)
    loss, stats = call(first)
    assert loss.item() == pytest.approx(total / 4, abs=1e-6)
    assert stats == pytest.approx({"loss/preference": total / 4, **statistics}, abs=1e-6)
    loss.backward()
    assert first.grad.tolist() == pytest.approx([g / 4 for g in gradient], abs=1e-6)


@pytest.mark.checks("hand", "sppo")
def test_sppo_gradient_of_the_rejected_by_hand():
    # Errors 0.5 + 0.5 = 1 and 1 + 1 = 2, doubled and divided by 4; see the table.
    rejected = tensor(L, requires_grad=True)
    sppo(tensor(W), rejected, tensor([1.0, 0.75]), tensor([0.25, 0.0]), **SCALE)[0].backward()
    assert rejected.grad.tolist() == [0.5, 1.0]


@pytest.mark.checks("hand", "srpo")
def test_srpo_gradients_of_the_revisions_by_hand():
    # ∂/∂ℓ†(w|l) is that of ℓ(w) in the table, ∂/∂ℓ†(l|w) the opposite: (0.125, −0.625)/4.
    given = tensor([[1.0, 0.0], [-1.0, 1.0]], requires_grad=True)
    srpo(tensor(W), tensor(L), *given, **SCALE)[0].backward()
    assert given.grad.tolist() == [[0.03125, -0.15625], [-0.03125, 0.15625]]


@pytest.mark.checks("hand", "kto")
@pytest.mark.parametrize(("ratios", "baseline"), [([1.0, -0.5, 1.0], 0.5), ([1.0, -4.0], 0.0)])
def test_kto_baseline_by_hand(ratios, baseline):
    # Means 0.5 and −1.5; an estimate of a KL below 0 counts as 0.
    assert kto_baseline(tensor(ratios, requires_grad=True)) == pytest.approx(baseline)


def test_kto_baseline_is_a_batch_statistic():
    # The halves have baselines 1 and 0 (clamped), the whole 0: no way to combine the former into the latter.
    whole = tensor([1.0, -4.0])
    assert [kto_baseline(half) for half in whole.split(1)] == [1.0, 0.0]
    assert kto_baseline(whole) == 0.0


# --- masks and micro-batches ----------------------------------------------------------------------------------------

PAIR_COUNT = 7
# objective: (how many log-ratios it reads, the call on them, on two rows of numbers in (0, 1), and on the normaliser)
CALLS = {
    "dpo": (2, lambda r, f, n: dpo(*r, normaliser=n, beta=0.7)),
    "cdpo": (2, lambda r, f, n: dpo(*r, normaliser=n, beta=0.7, label_smoothing=0.2)),
    "cream": (2, lambda r, f, n: cream(*r, f[0], normaliser=n, beta=0.7)),
    "spin": (2, lambda r, f, n: spin(*r, normaliser=n, beta=0.7)),
    "simpo": (2, lambda r, f, n: simpo(*r, normaliser=n, beta=0.7, gamma=0.3)),
    "hinge": (2, lambda r, f, n: hinge(*r, normaliser=n, beta=0.7)),
    "ipo": (2, lambda r, f, n: ipo(*r, normaliser=n, beta=0.7)),
    "sppo": (2, lambda r, f, n: sppo(*r, *f, normaliser=n, beta=0.7)),
    "copg": (2, lambda r, f, n: copg(*r, *f, normaliser=n, beta=0.7)),
    "srpo": (4, lambda r, f, n: srpo(*r, normaliser=n, beta=0.7)),
    "srpo_improvement": (4, lambda r, f, n: srpo_improvement(*r, normaliser=n, beta=0.7)),
    "kto": (1, lambda r, f, n: kto(*r, f[0] > 0.5, 0.2, normaliser=n, beta=0.7, undesirable_weight=1.3)),
}


def inputs(objective):
    """Random log-ratios [K, P] and other numbers [2, P] for ``CALLS[objective]``."""
    generator = torch.Generator().manual_seed(1)
    ratios = torch.randn(CALLS[objective][0], PAIR_COUNT, generator=generator, dtype=torch.float64)
    return ratios.requires_grad_(), torch.rand(2, PAIR_COUNT, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("objective", sorted(CALLS.keys() - {"sppo", "kto"}))
def test_log_ratios_matter_by_their_differences_alone(objective):
    # What the table by hand leaves out follows: a rejected log-ratio has minus the gradient of its chosen one.
    call = CALLS[objective][1]
    ratios, fixed = inputs(objective)
    loss, _ = call(ratios, fixed, PAIR_COUNT)
    moved, _ = call(ratios + torch.linspace(-3, 3, PAIR_COUNT, dtype=torch.float64), fixed, PAIR_COUNT)
    torch.testing.assert_close(moved, loss)
    (gradient,) = torch.autograd.grad(loss, ratios)
    torch.testing.assert_close(gradient[1::2], -gradient[::2])


@pytest.mark.checks("micro")
@pytest.mark.parametrize("objective", CALLS)
def test_micro_batches_add_up_to_the_batch(objective):
    call = CALLS[objective][1]
    ratios, fixed = inputs(objective)
    parts = [call(ratios[:, s], fixed[:, s], PAIR_COUNT) for s in (slice(0, 1), slice(1, 5), slice(5, 7))]
    assert_parts_add_up(call(ratios, fixed, PAIR_COUNT), parts, ratios)


@pytest.mark.checks("mask")
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("objective", CALLS)
def test_masked_tokens_get_exactly_zero_gradient(objective, average):
    # From token log-probs [K, P, L] on; what is masked holds the worst that a padded batch can hold.
    count, call = CALLS[objective]
    _, fixed = inputs(objective)
    generator = torch.Generator().manual_seed(2)
    clean = torch.randn(count, PAIR_COUNT, 5, generator=generator, dtype=torch.float64)
    own = torch.rand(count, PAIR_COUNT, 5, generator=generator) > 0.5
    own[..., 2] = True
    poison = tensor([-math.inf, math.nan, 0.0, 1e30, math.inf], dtype=torch.float64).expand_as(clean)
    logprobs = clean.where(own, poison).requires_grad_()
    loss, _ = call([sequence_logprobs(rows, mask, average) for rows, mask in zip(logprobs, own, strict=True)], fixed, 7)
    loss.backward()
    assert (logprobs.grad[~own] == 0.0).all()
    assert logprobs.grad.isfinite().all()
    assert (logprobs.grad[own] != 0.0).any()
    expected = call([sequence_logprobs(rows, mask, average) for rows, mask in zip(clean, own, strict=True)], fixed, 7)
    assert loss.item() == expected[0].item()


# --- against TRL ----------------------------------------------------------------------------------------------------

# Prompt of two tokens, then completions of different lengths; rows 0–3 are chosen, 4–7 the rejected of the same pairs.
COMPLETIONS = tensor([5, 3, 1, 4, 2, 5, 4, 1])
COMPLETION_MASK = ((torch.arange(7) >= 2) & (torch.arange(7) < 2 + COMPLETIONS[:, None])).long()  # [8, 7]


@pytest.fixture(scope="module")
def trl_models():
    """Two tiny Llamas, policy and reference, with TRL's fused head, as TRL's trainers equip theirs; ids [8, 7]."""
    pytest.importorskip("trl")
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    # With the usual initializer_range of 0.02 both models would be uniform, and all log-ratios 0.
    config = LlamaConfig(vocab_size=11, initializer_range=0.6, **sizes)
    policy, reference = (LlamaForCausalLM(config).train() for _ in range(2))
    for model in (policy, reference):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return policy, reference, torch.randint(11, (8, 7))


def log_ratios(policy, reference, ids, mask, average=False):
    """Log-ratios [B] of the completions marked in ``mask`` [B, L]: all that our side needs of the models."""
    own = mask[:, 1:].bool()
    ours, theirs = (
        sequence_logprobs(token_logprobs(model(ids).logits[:, :-1], ids[:, 1:]), own, average)
        for model in (policy, reference)
    )
    return ours - theirs.detach()


def trl_trainer(policy, reference, **settings):
    """What the loss methods of TRL's trainers read of ``self``."""
    return SimpleNamespace(
        model=policy,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def assert_same(policy, ours, theirs):
    """The same loss, and the same gradient of every parameter."""
    parameters = list(policy.parameters())
    gradients = torch.autograd.grad(ours, parameters)
    assert max(g.abs().max() for g in gradients) > 1e-3
    tolerance = {"rtol": 1e-5, "atol": 1e-5}  # TRL's fused head is in single precision
    torch.testing.assert_close(ours, theirs, **tolerance)
    torch.testing.assert_close(gradients, torch.autograd.grad(theirs, parameters), **tolerance)


def hard_sppo(chosen, rejected, **scale):
    return sppo(chosen, rejected, torch.ones_like(chosen), torch.zeros_like(rejected), **scale)


def smoothed(epsilon):
    return lambda chosen, rejected, **scale: dpo(chosen, rejected, label_smoothing=epsilon, **scale)


TRL_DPO = {"dpo": ("sigmoid", dpo), "hinge": ("hinge", hinge), "ipo": ("ipo", ipo), "sppo": ("sppo_hard", hard_sppo)}


def trl_dpo_loss(policy, reference, ids, loss_type, label_smoothing, beta, mask=COMPLETION_MASK):
    from trl import DPOTrainer

    trainer = trl_trainer(
        policy,
        reference,
        loss_types=[loss_type],
        loss_weights=[1.0],
        label_smoothing=label_smoothing,
        beta=beta,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
    )
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    return DPOTrainer._compute_loss(trainer, policy, batch, False), trainer._metrics["train"]


@pytest.mark.checks("trl")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # transformers about TRL
@pytest.mark.parametrize("objective", TRL_DPO)
def test_equal_to_trl_dpo_trainer(trl_models, objective):
    policy, reference, ids = trl_models
    loss_type, ours_of = TRL_DPO[objective]
    theirs, metrics = trl_dpo_loss(policy, reference, ids, loss_type, 0.0, beta=0.3)
    # TRL's IPO is about log-ratios per token, everything else about their sums.
    chosen, rejected = log_ratios(policy, reference, ids, COMPLETION_MASK, average=objective == "ipo").chunk(2)
    ours, stats = ours_of(chosen, rejected, normaliser=4, beta=0.3)
    assert_same(policy, ours, theirs)
    if objective != "ipo":  # TRL's IPO logs the sums that its loss does not use
        assert 0 < stats["preference/accuracy"] < 1
        assert metrics["rewards/accuracies"] == [stats["preference/accuracy"]]
        for name in ("chosen", "rejected"):  # TRL's rewards are β times our log-ratios
            assert metrics[f"rewards/{name}"] == pytest.approx([0.3 * stats[f"preference/{name}"]], abs=1e-6)
        assert metrics["rewards/margins"] == pytest.approx([0.3 * stats["preference/margin"]], abs=1e-6)


@pytest.mark.checks("trl", "cdpo")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_label_smoothing_is_that_of_trl(trl_models):
    # TRL 1.16's "sigmoid" ignores label_smoothing. Its "aot" applies it, to margins between *sorted* log-ratios: with
    # one pair at a time there is nothing to sort, and the mean over the pairs is conservative DPO.
    policy, reference, ids = trl_models
    ratios = log_ratios(policy, reference, ids, COMPLETION_MASK)
    ignored, _ = trl_dpo_loss(policy, reference, ids, "sigmoid", 0.1, beta=0.3)
    assert_same(policy, dpo(*ratios.chunk(2), normaliser=4, beta=0.3)[0], ignored)

    ratios = log_ratios(policy, reference, ids, COMPLETION_MASK)
    pairs = [[row, row + 4] for row in range(4)]
    single = [trl_dpo_loss(policy, reference, ids[p], "aot", 0.1, 0.3, COMPLETION_MASK[p])[0] for p in pairs]
    assert_same(policy, smoothed(0.1)(*ratios.chunk(2), normaliser=4, beta=0.3)[0], sum(single) / 4)


@pytest.mark.checks("trl", "dpo")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_negative_label_smoothing_is_trl_robust(trl_models):
    # Robust DPO (arXiv 2403.00409), ((1−ε) L(m) − ε L(−m)) / (1−2ε): with ε = 0.1 smoothing by −0.1/0.8 = −0.125.
    policy, reference, ids = trl_models
    theirs, _ = trl_dpo_loss(policy, reference, ids, "robust", 0.1, beta=0.3)
    ratios = log_ratios(policy, reference, ids, COMPLETION_MASK)
    assert_same(policy, smoothed(-0.125)(*ratios.chunk(2), normaliser=4, beta=0.3)[0], theirs)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # transformers about TRL
def test_ipo_on_sums_is_not_trl_ipo(trl_models):
    # The paper's loss, of sums; the difference that ipo's docstring describes.
    policy, reference, ids = trl_models
    theirs, _ = trl_dpo_loss(policy, reference, ids, "ipo", 0.0, beta=0.3)
    ours, _ = ipo(*log_ratios(policy, reference, ids, COMPLETION_MASK).chunk(2), normaliser=4, beta=0.3)
    assert abs(ours.item() - theirs.item()) > 0.1 * theirs.item()


@pytest.mark.checks("trl", "kto")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # transformers about TRL
@pytest.mark.parametrize("clamped", [False, True])
def test_equal_to_trl_kto_trainer(trl_models, clamped):
    from trl import KTOTrainer

    policy, reference, ids = trl_models
    # In TRL's "KL" rows a completion stands behind another row's prompt; those with log-ratios of one sign are enough.
    mismatched = torch.cat([ids[:, :2], ids[:, 2:].roll(1, 0)], 1)
    mismatched_mask = COMPLETION_MASK.roll(1, 0)
    values = log_ratios(policy, reference, mismatched, mismatched_mask)
    rows = values < 0 if clamped else values > 0
    mismatched, mismatched_mask = mismatched[rows], mismatched_mask[rows]
    desirable = tensor([True, False, True, True, False, False, True, False])
    trainer = trl_trainer(
        policy, reference, beta=0.3, loss_type="kto", calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.5
    )
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": COMPLETION_MASK,
        "KL_input_ids": mismatched,
        "KL_attention_mask": torch.ones_like(mismatched),
        "KL_completion_mask": mismatched_mask,
        "label": desirable,
    }
    theirs = KTOTrainer._compute_loss(trainer, policy, batch, False)
    baseline = kto_baseline(log_ratios(policy, reference, mismatched, mismatched_mask))
    assert (baseline == 0.0) == clamped
    assert trainer._metrics["train"]["kl"] == pytest.approx([baseline])
    ratios = log_ratios(policy, reference, ids, COMPLETION_MASK)
    ours, _ = kto(ratios, desirable, baseline, normaliser=8, beta=0.3, undesirable_weight=1.5)
    assert_same(policy, ours, theirs)


@pytest.mark.checks("trl", "simpo")
def test_simpo_equals_trl_cpo_trainer(trl_models):
    # cpo_alpha = 0 leaves out the cross-entropy that TRL's CPO adds by default, and the paper's SimPO does not have.
    from trl.experimental.cpo import CPOTrainer

    policy, _, ids = trl_models
    labels = ids.masked_fill(COMPLETION_MASK == 0, -100)
    batch = {}
    for name, rows in (("chosen", slice(0, 4)), ("rejected", slice(4, 8))):
        batch |= {f"{name}_input_ids": ids[rows], f"{name}_labels": labels[rows]}
        batch |= {f"{name}_attention_mask": torch.ones_like(ids[rows])}
    settings = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "label_smoothing": 0.0, "alpha": 0.0}
    trainer = trl_trainer(policy, None, cpo_alpha=0.0, is_encoder_decoder=False, pad_token_id=0, **settings)
    for name in ("cpo_loss", "concatenated_forward"):
        setattr(trainer, name, getattr(CPOTrainer, name).__get__(trainer))
    trainer.get_batch_logps, trainer.concatenated_inputs = CPOTrainer.get_batch_logps, CPOTrainer.concatenated_inputs
    theirs, metrics = CPOTrainer.get_batch_loss_metrics(trainer, policy, batch)

    logprobs = token_logprobs(policy(ids).logits[:, :-1], ids[:, 1:])
    chosen, rejected = sequence_logprobs(logprobs, COMPLETION_MASK[:, 1:].bool(), average=True).chunk(2)
    ours, stats = simpo(chosen, rejected, normaliser=4, beta=2.0, gamma=0.5)
    assert_same(policy, ours, theirs)
    assert metrics["rewards/margins"] == pytest.approx(2.0 * stats["preference/margin"])
    assert metrics["rewards/accuracies"] == stats["preference/accuracy"]


# --- identities: the logistic family --------------------------------------------------------------------------------


@pytest.mark.checks("identity", "dpo")
def test_dpo_optimum_is_the_kl_regularised_one_under_bradley_terry():
    # Rewards ln 1, ln 2, ln 5: P(a ≻ b) = v_a / (v_a + v_b) with v = (1, 2, 5), so that v_a copies of (a, b) and v_b of
    # (b, a) are the exact distribution of labels. The optimum is π ∝ π_ref exp(r/β) = π_ref v^(1/β).
    strength = [1, 2, 5]
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b for _ in range(strength[a])]
    won, lost = tensor(pairs).T
    reference = tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def gradient(policy):
        logits = policy.log().requires_grad_()
        ratios = logits.log_softmax(-1) - reference.log()
        return torch.autograd.grad(dpo(ratios[won], ratios[lost], normaliser=len(pairs), beta=0.5)[0], logits)[0]

    optimum = reference * tensor(strength) ** 2.0
    torch.testing.assert_close(gradient(optimum / optimum.sum()), torch.zeros(3, dtype=torch.float64))
    assert gradient(reference).abs().max() > 0.05


def slope(objective, margin, **hyper):
    """dL/dm of one pair with this margin."""
    chosen = tensor([margin], dtype=torch.float64, requires_grad=True)
    objective(chosen, torch.zeros_like(chosen), normaliser=1, **hyper)[0].backward()
    return chosen.grad.item()


@pytest.mark.checks("identity", "cdpo", "dpo")
def test_label_smoothing_stops_the_margin_where_the_policy_is_as_sure_as_the_labels():
    # σ(βm) = 1 − ε at βm = ln 9 for ε = 0.1; without smoothing the margin still grows there, at β σ(−ln 9) = β/10.
    assert slope(dpo, math.log(9) / 0.5, beta=0.5, label_smoothing=0.1) == pytest.approx(0.0, abs=1e-12)
    assert slope(dpo, math.log(9) / 0.5, beta=0.5) == pytest.approx(-0.05)


@pytest.mark.checks("identity", "cream")
def test_cream_between_dpo_and_reversed_dpo():
    (won, lost), _ = inputs("cream")
    for consistency, pair in ((1.0, (won, lost)), (0.0, (lost, won))):
        loss, _ = cream(won, lost, tensor(consistency), normaliser=7, beta=0.4)
        expected, _ = dpo(*pair, normaliser=7, beta=0.4)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, pair), torch.autograd.grad(expected, pair))
    # C = ½: nothing to learn at m = 0, a pull back to it elsewhere.
    below, at, above = (slope(cream, margin, consistency=tensor([0.5]), beta=0.4) for margin in (-1.0, 0.0, 1.0))
    assert below < 0.0 == at < above


@pytest.mark.checks("identity", "cream", "cdpo")
def test_constant_consistency_is_label_smoothing():
    (won, lost), _ = inputs("cream")
    ours, stats = cream(won, lost, tensor(0.8, dtype=torch.float64), normaliser=7, beta=0.4)
    smoothed, smoothed_stats = dpo(won, lost, normaliser=7, beta=0.4, label_smoothing=0.2)
    assert stats == pytest.approx(smoothed_stats)
    torch.testing.assert_close(torch.autograd.grad(ours, (won, lost)), torch.autograd.grad(smoothed, (won, lost)))


@pytest.mark.checks("identity", "spin")
def test_spin_is_dpo_of_data_over_samples():
    (data, generated), _ = inputs("spin")
    ours, stats = spin(data, generated, normaliser=7, beta=0.4)
    expected, expected_stats = dpo(data, generated, normaliser=7, beta=0.4)
    assert stats == expected_stats
    torch.testing.assert_close(
        torch.autograd.grad(ours, (data, generated)), torch.autograd.grad(expected, (data, generated)), rtol=0, atol=0
    )


@pytest.mark.checks("identity", "spin")
def test_spin_rests_where_the_policy_is_the_data():
    # Data and samples (2, 1, 1)/4, all 16 combinations as pairs, policy = opponent: the expected gradient vanishes.
    # With data (1, 2, 1)/4 it is −½β(p_data − π), SFT's direction: ½ · 0.5 · (0.25, −0.25, 0).
    policy = tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    for data, expected in (([0, 0, 1, 2], [0.0, 0.0, 0.0]), ([0, 1, 1, 2], [0.0625, -0.0625, 0.0])):
        logits = policy.log().requires_grad_()
        ratios = logits.log_softmax(-1) - policy.log()
        chosen, rejected = torch.cartesian_prod(tensor(data), tensor([0, 0, 1, 2])).T
        loss, stats = spin(ratios[chosen], ratios[rejected], normaliser=16, beta=0.5)
        loss.backward()
        assert logits.grad.tolist() == pytest.approx(expected, abs=1e-12)
        assert stats["loss/preference"] == pytest.approx(math.log(2))


@pytest.mark.checks("identity", "simpo")
def test_simpo_is_dpo_whose_reference_favours_the_chosen_by_gamma_over_beta():
    (won, lost), _ = inputs("simpo")
    ours, _ = simpo(won, lost, normaliser=7, beta=2.0, gamma=0.6)
    expected, _ = dpo(won - 0.3, lost, normaliser=7, beta=2.0)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, (won, lost)), torch.autograd.grad(expected, (won, lost)))


@pytest.mark.checks("identity", "hinge")
def test_hinge_leaves_pairs_beyond_its_margin_alone():
    assert slope(hinge, 1.99, beta=0.5) == -0.5
    assert slope(hinge, 2.01, beta=0.5) == 0.0


# --- identities: regressions ----------------------------------------------------------------------------------------


@pytest.mark.checks("identity", "ipo")
def test_ipo_optimum():
    # One pair whose label never disagrees: m = 1/(2β), where DPO would go to infinity.
    assert slope(ipo, 1.0, beta=0.5) == 0.0
    assert slope(ipo, 0.99, beta=0.5) < 0.0 < slope(ipo, 1.01, beta=0.5)
    # Labels that are right in 3 of 4 cases: m = (p − ½)/β = ½.
    chosen = tensor([0.5, 0.5, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    rejected = tensor([0.0, 0.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    ipo(chosen, rejected, normaliser=4, beta=0.5)[0].backward()
    assert (chosen.grad[:3].sum() + rejected.grad[3]).item() == pytest.approx(0.0, abs=1e-12)


REWARDS = tensor([0.0, 0.3, 1.0, 0.6], dtype=torch.float64)
PRIOR = tensor([0.4, 0.3, 0.1, 0.2], dtype=torch.float64)
BETA = 0.25
J_STAR = BETA * (PRIOR * (REWARDS / BETA).exp()).sum().log()  # max over π of E[R] − β KL(π ‖ π_ref)


def bandit_copg(logits, first, second):
    ratios = logits.log_softmax(-1) - PRIOR.log()
    return copg(ratios[first], ratios[second], REWARDS[first], REWARDS[second], normaliser=len(first), beta=BETA)


@pytest.mark.checks("identity", "copg")
def test_copg_rests_at_the_closed_form_for_any_pairs():
    # Not only on average: every single pair agrees, whatever policy it came from.
    optimum = PRIOR.log() + REWARDS / BETA
    for first in range(4):
        for second in range(4):
            logits = optimum.clone().requires_grad_()
            loss, stats = bandit_copg(logits, tensor([first]), tensor([second]))
            loss.backward()
            torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-12, rtol=0)
            assert stats["preference/residual"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.checks("identity", "copg")
def test_copg_reaches_the_optimum_from_samples_of_a_bad_policy():
    # The behaviour policy takes the worst arm in 7 of 10 draws and the best in 1; no importance weights.
    draws = tensor([0, 0, 0, 0, 0, 0, 0, 1, 2, 3])
    first, second = torch.cartesian_prod(draws, draws).T
    logits = tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log().requires_grad_()

    def regularised_return():
        log_p = logits.detach().log_softmax(-1)
        return (log_p.exp() * (REWARDS - BETA * (log_p - PRIOR.log()))).sum()

    assert regularised_return() < 0.5 * J_STAR
    optimizer = torch.optim.SGD([logits], lr=8.0)
    for _ in range(200):
        optimizer.zero_grad()
        bandit_copg(logits, first, second)[0].backward()
        optimizer.step()
    torch.testing.assert_close(regularised_return(), J_STAR, atol=1e-9, rtol=0)
    torch.testing.assert_close(logits.detach().softmax(-1), (PRIOR.log() + REWARDS / BETA).softmax(-1))


@pytest.mark.checks("identity", "copg", "ipo")
def test_copg_with_a_reward_difference_of_one_half_is_ipo():
    # −(½ − ½βm)m = ½β (m − 1/(2β))² − 1/(8β)
    (won, lost), _ = inputs("copg")
    half = torch.full_like(won, 0.25)
    ours, _ = copg(won, lost, half, -half, normaliser=7, beta=0.4)
    expected, _ = ipo(won, lost, normaliser=7, beta=0.4)
    torch.testing.assert_close(ours, 0.2 * expected - 1 / (8 * 0.4))
    torch.testing.assert_close(torch.autograd.grad(ours, won)[0], 0.2 * torch.autograd.grad(expected, won)[0])


# Win probabilities p(row ≻ column) in quarters, so that copies of a pair are the exact distribution of its label.
# Intransitive: 0 beats 1, 1 beats 2, 2 beats 0.
WINS = tensor([[2, 3, 1], [1, 2, 4], [3, 0, 2]]) / 4
SRPO_PAIRS = [(a, b) for a in range(3) for b in range(3) if a != b for _ in range(int(4 * WINS[a, b]))]


def srpo_closed_form():
    """π [3], π† [3, 3] (row: the earlier answer) of the min-max problem with β = 0.5, and π_ref of both."""
    generator = torch.Generator().manual_seed(0)
    first, revised = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((3,), (3, 3)))
    first, revised = first / first.sum(), revised / revised.sum(-1, keepdim=True)
    improved = revised * (WINS.T / 0.5).exp()  # π†(y2|y1) ∝ π_ref(y2|y1) exp(p(y2 ≻ y1)/β)
    partition = improved.sum(-1)  # Z(y1): how much an answer can be improved, as exp(value/β)
    generative = first / partition  # π(y) ∝ π_ref(y) / Z(y)
    return generative / generative.sum(), improved / partition[:, None], first, revised


@pytest.mark.checks("identity")
@pytest.mark.parametrize("objective", ["srpo", "srpo_improvement"])
def test_srpo_rests_at_the_closed_form_of_its_min_max_problem(objective):
    generative, improved, first, revised = srpo_closed_form()
    won, lost = tensor(SRPO_PAIRS).T

    def gradient(start, start_revised):
        logits, revised_logits = start.log().requires_grad_(), start_revised.log().requires_grad_()
        ratio = logits.log_softmax(-1) - first.log()
        dagger = revised_logits.log_softmax(-1) - revised.log()  # [earlier, revision]
        scale = {"normaliser": len(won), "beta": 0.5}
        if objective == "srpo":
            loss, _ = srpo(ratio[won], ratio[lost], dagger[lost, won], dagger[won, lost], **scale)
        else:
            mend, keep = (dagger[lost, won], dagger[lost, lost]), (dagger[won, won], dagger[won, lost])
            loss, _ = srpo_improvement(*mend, *keep, **scale)
            loss = loss + 0 * logits.sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (logits, revised_logits))])

    torch.testing.assert_close(gradient(generative, improved), torch.zeros(12, dtype=torch.float64))
    assert gradient(first, revised).abs().max() > 0.01


@pytest.mark.checks("identity", "srpo_improvement", "ipo")
def test_srpo_improvement_is_ipo_in_either_context():
    (wl, ll, ww, lw), _ = inputs("srpo_improvement")
    ours, _ = srpo_improvement(wl, ll, ww, lw, normaliser=7, beta=0.4)
    mend, keep = ipo(wl, ll, normaliser=7, beta=0.4)[0], ipo(ww, lw, normaliser=7, beta=0.4)[0]
    torch.testing.assert_close(ours, 0.16 * (mend + keep))


# --- identities: SPPO on rock–paper–scissors ------------------------------------------------------------------------

# P(row ≻ column) for rock, paper, scissors
BEATS = tensor([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
LEFT, RIGHT = tensor([0, 1, 2]), tensor([1, 2, 0])  # pairs in which every arm stands twice


@pytest.mark.checks("identity", "sppo")
def test_sppo_gradient_at_its_own_policy_is_the_policy_gradient_of_the_win_rate():
    # Σ_y π_t(y) (ℓ − (P − ½)/β)² at π = π_t has the gradient −(2/β) ∇ E_{y∼π}[P(y ≻ π_t)]: Σ_y π_t ∇log π = 0 takes
    # care of the ½. π_t = (2, 1, 1)/4: pairs (0, 0), (1, 2) hold each arm as often as π_t does.
    policy = tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    win = BEATS @ policy
    logits = policy.log().requires_grad_()
    (expected,) = torch.autograd.grad((logits.softmax(-1) * win).sum(), logits)
    ratios = logits.log_softmax(-1) - policy.log()
    left, right = tensor([0, 1]), tensor([0, 2])
    loss, _ = sppo(ratios[left], ratios[right], win[left], win[right], normaliser=4, beta=0.4)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], -2 / 0.4 * expected)
    assert expected.abs().max() > 0.03


@pytest.mark.checks("identity", "sppo")
def test_sppo_averages_to_uniform_on_rock_paper_scissors_while_its_last_iterate_cycles():
    # The regression solved exactly on free log-ratios: from ℓ = 0 one Newton step of the quadratic, whose second
    # derivative is 2 for each of the two times an arm occurs. Then π_{t+1} ∝ π_t exp(ℓ) is multiplicative weights with
    # step η = 1/β, for which Hedge's regret bound holds: max_y P(y ≻ π̄) − ½ ≤ ln 3 / (ηT) + η/8. Only uniform has 0.
    eta, steps = 0.2, 400
    policy = tensor([0.8, 0.1, 0.1], dtype=torch.float64)
    first, total = policy, torch.zeros_like(policy)
    for _ in range(steps):
        total += policy
        win = BEATS @ policy
        ratios = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        loss, _ = sppo(ratios[LEFT], ratios[RIGHT], win[LEFT], win[RIGHT], normaliser=1, beta=1 / eta)
        step = -torch.autograd.grad(loss, ratios)[0] / 4
        torch.testing.assert_close(step, eta * (win - 0.5))
        policy = (policy.log() + step).softmax(-1)

    def exploitability(policy):
        return (BEATS @ policy).max().item() - 0.5

    bound = math.log(3) / (eta * steps) + eta / 8  # 0.0387
    assert exploitability(total / steps) <= bound < 0.1 < exploitability(first)
    # KL(uniform ‖ π_t) never falls under multiplicative weights in this game: the last iterate moves outwards.
    assert -policy.log().mean() > -first.log().mean()
