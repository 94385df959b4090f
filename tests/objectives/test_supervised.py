"""Cross-entropy on a vocabulary of three tokens, selections of rows, and regression on a bandit with three arms."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from splits import assert_parts_add_up

from minirl.objectives.supervised import cross_entropy, raft, reward_weighted_regression, reward_weights, rft, star
from minirl.policy.logprobs import token_logprobs

LOGITS = [math.log(1.0), math.log(2.0), math.log(1.0)]  # π = (1/4, 1/2, 1/4)


# --- cross-entropy --------------------------------------------------------------------------------------------------


@pytest.mark.checks("hand", "cross_entropy")
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


def parts_of(objective):
    """``own`` [6, 4] and ``objective`` of log-probs and a slice of rows; N and the weights are the whole batch's."""
    own = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]).bool()
    weights = reward_weights(torch.tensor([1.0, 0.0, 0.3, 0.0, -1.0, 2.0]), torch.tensor([0, 0, 0, 1, 1, 1]), 0.7)
    if objective == "cross_entropy":
        return own, lambda logprobs, s: cross_entropy(logprobs[s], own[s], 11)
    return own, lambda logprobs, s: reward_weighted_regression(logprobs[s], weights[s], own[s], 2)


@pytest.mark.checks("micro")
@pytest.mark.parametrize("objective", ["cross_entropy", "reward_weighted_regression"])
def test_micro_batches_add_up_to_the_batch(objective):
    _, loss_of = parts_of(objective)
    logprobs = -torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logprobs.requires_grad_()
    parts = [loss_of(logprobs, s) for s in (slice(0, 1), slice(1, 4), slice(4, 6))]  # both groups are cut
    assert_parts_add_up(loss_of(logprobs, slice(None)), parts, logprobs)


@pytest.mark.checks("mask")
@pytest.mark.parametrize("objective", ["cross_entropy", "reward_weighted_regression"])
@pytest.mark.parametrize("rubbish", [-torch.inf, 1e38, torch.nan])
def test_masked_tokens_get_exactly_zero_gradient(objective, rubbish):
    own, loss_of = parts_of(objective)
    logprobs = torch.full((6, 4), -1.0).masked_fill(~own, rubbish).requires_grad_()
    loss, stats = loss_of(logprobs, slice(None))
    loss.backward()
    assert logprobs.grad[~own].tolist() == [0.0] * 13
    assert (logprobs.grad[own] < 0).all()
    assert math.isfinite(loss.item()) and stats == {next(iter(stats)): loss.item()}


@pytest.mark.checks("trl", "cross_entropy")
@pytest.mark.parametrize("normaliser", [None, 17])
def test_cross_entropy_is_trl_sft(normaliser):
    # TRL's SFTTrainer.compute_loss on a model with TRL's fused head, against ours on that model's logits: the same
    # loss and the same gradient of every parameter. Without num_items_in_batch TRL divides by the labels it kept.
    pytest.importorskip("trl")
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTTrainer
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes))
    ids = torch.randint(11, (3, 6))
    learn = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 1]]).bool()
    logprobs = token_logprobs(model(ids).logits[:, :-1], ids[:, 1:])
    ours, _ = cross_entropy(logprobs, learn[:, 1:], normaliser or int(learn.sum()))
    gradient = torch.autograd.grad(ours, list(model.parameters()))

    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    trainer = SimpleNamespace(
        model=model,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
        accelerator=SimpleNamespace(parallelism_config=None, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.masked_fill(~learn, -100)}
    theirs = SFTTrainer.compute_loss(trainer, model.train(), inputs, num_items_in_batch=normaliser)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, list(model.parameters())))


# --- rejection sampling ---------------------------------------------------------------------------------------------

#                    prompt 7 ------------  prompt 3 ----  prompt 5
SCORES = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.2, 0.5, 0.5, 1.0, 0.0])
GROUPS = torch.tensor([7, 7, 7, 7, 3, 3, 3, 5, 5])
SOLUTIONS = ["a", "b", "b", "c", "a", "b", "c", "b", "b"]


def test_selections_differ_by_hand():
    # Prompt 7: rows 1, 2, 3 are correct, 1 and 2 say the same. Prompt 3: nothing correct, 5 and 6 tie as the best.
    # Prompt 5: row 7 is correct and says what rows 1 and 2 said about another prompt.
    assert rft(SCORES, GROUPS, SOLUTIONS).tolist() == [1, 3, 7]
    assert raft(SCORES, GROUPS).tolist() == [1, 5, 7]
    assert star(SCORES, GROUPS).tolist() == [1, 7]


def test_lower_threshold():
    # Prompt 3 now has two correct samples with different solutions; a score equal to the threshold counts.
    assert rft(SCORES, GROUPS, SOLUTIONS, threshold=0.5).tolist() == [1, 3, 5, 6, 7]
    assert star(SCORES, GROUPS, threshold=0.5).tolist() == [1, 5, 7]


def test_all_correct_samples_are_rft_with_distinct_solutions():
    assert rft(SCORES, GROUPS, range(9)).tolist() == [1, 2, 3, 7]


def test_groups_need_not_be_neighbours():
    # Rows reversed: the first of equals is now what was the last.
    scores, groups, solutions = SCORES.flip(0), GROUPS.flip(0), SOLUTIONS[::-1]
    assert rft(scores, groups, solutions).tolist() == [1, 5, 6]  # rows 7, 3, 2 of the original order
    assert raft(scores, groups).tolist() == [1, 2, 5]  # 7, 6, 3
    assert star(scores, groups).tolist() == [1, 5]  # 7, 3
    interleaved = torch.tensor([0, 1, 0, 1])
    assert raft(torch.tensor([0.0, 3.0, 1.0, 2.0]), interleaved).tolist() == [1, 2]
    assert star(torch.tensor([0.0, 1.0, 1.0, 1.0]), interleaved).tolist() == [1, 2]


@pytest.mark.parametrize("select", [lambda s, g: rft(s, g, range(len(s))), raft, star])
def test_nothing_to_select(select):
    empty = select(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert empty.tolist() == [] and empty.dtype == torch.long
    failed = select(torch.zeros(4), torch.tensor([0, 0, 1, 1]))
    assert failed.tolist() == ([0, 2] if select is raft else [])  # RAFT imitates the best, however bad


@pytest.mark.parametrize("select", [lambda s, g: rft(s, g, "abc"), raft, star, lambda s, g: reward_weights(s, g, 1.0)])
def test_wrong_scores(select):
    with pytest.raises(ValueError, match=r"scores \(3,\) and groups \(2,\) must both be \[B\]"):
        select(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"scores \(3, 1\)"):
        select(torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="the score of row 1 is not finite"):
        select(torch.tensor([0.0, torch.nan, 1.0]), torch.zeros(3))


def test_every_row_needs_a_solution():
    with pytest.raises(ValueError, match="2 solutions for 3 scores"):
        rft(torch.ones(3), torch.zeros(3), ["a", "b"])


# --- reward-weighted regression -------------------------------------------------------------------------------------


def test_weights_by_hand():
    # β = 2 and r = 2 ln(1, 3): weights 1/4 and 3/4. Then 2 ln(1, 1, 2) + 10: the 10 cancels, 1/4, 1/4 and 2/4.
    ln = math.log
    scores = torch.tensor([2 * ln(1), 10 + 2 * ln(1), 2 * ln(3), 10 + 2 * ln(1), 10 + 2 * ln(2)])
    weights = reward_weights(scores, torch.tensor([4, 9, 4, 9, 9]), beta=2.0)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.25, 0.75, 0.25, 0.5]))


def test_weights_at_both_ends_of_beta():
    scores, groups = torch.tensor([1.0, 0.0, 0.0, 5.0]), torch.tensor([0, 0, 0, 1])
    assert reward_weights(scores, groups, 1e-3).tolist() == [1.0, 0.0, 0.0, 1.0]  # e^1000 overflows, this does not
    torch.testing.assert_close(reward_weights(scores, groups, 1e9), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))
    for beta in (0.0, -1.0):
        with pytest.raises(ValueError, match="beta must be positive"):
            reward_weights(scores, groups, beta)


@pytest.mark.checks("hand", "reward_weighted_regression")
def test_regression_by_hand():
    # Row 1: w = ¾ on tokens 0 and 1; row 2: w = ¼ on token 2. N = 1: −¾ (ln ¼ + ln ½) − ¼ ln ¼ = 2.75 ln 2 = 1.906155.
    # Gradient w (π − onehot): ¾ (¼ − 1, ½, ¼), ¾ (¼, ½ − 1, ¼), ¼ (¼, ½, ¼ − 1).
    logits = torch.tensor([[LOGITS] * 2] * 2, requires_grad=True)
    logprobs = token_logprobs(logits, torch.tensor([[0, 1], [2, 0]]))
    own = torch.tensor([[True, True], [True, False]])
    loss, stats = reward_weighted_regression(logprobs, torch.tensor([0.75, 0.25]), own, 1)
    assert loss.item() == pytest.approx(1.906155, abs=1e-6)
    assert stats == {"loss/weighted": pytest.approx(1.906155, abs=1e-6)}
    loss.backward()
    first = [[-0.5625, 0.375, 0.1875], [0.1875, -0.375, 0.1875]]
    torch.testing.assert_close(logits.grad, torch.tensor([first, [[0.0625, 0.125, -0.1875], [0.0, 0.0, 0.0]]]))


def test_equal_scores_are_cross_entropy():
    logprobs, own = torch.tensor([[-1.0], [-2.0], [-4.0]]), torch.ones(3, 1).bool()
    weights = reward_weights(torch.ones(3), torch.zeros(3), beta=0.1)
    weighted, _ = reward_weighted_regression(logprobs, weights, own, 1)  # one prompt
    assert weighted.item() == pytest.approx(cross_entropy(logprobs, own, 3)[0].item())  # three tokens


BETA, REWARDS = 0.5, torch.tensor([0.0, 1.0, -0.3], dtype=torch.float64)
OLD = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
OPTIMUM = (OLD.log() + REWARDS / BETA).softmax(-1)  # π* ∝ π_old exp(r/β)


@pytest.mark.checks("identity", "reward_weighted_regression")
@pytest.mark.parametrize("samples", ["every arm, weighted by π_old", "a group that π_old describes"])
def test_minimiser_is_the_optimum_of_the_kl_regularised_objective(samples):
    # The loss is a cross-entropy with targets π*, convex in the logits: its gradient at any logits is π − π*, so π* is
    # the minimiser and the only one. And π* maximises E[r] − β KL(π ‖ π_old), with value β ln Σ π_old exp(r/β).
    if samples == "a group that π_old describes":
        arms = torch.tensor([0, 0, 1, 2])  # two, one and one of four samples
        weights = reward_weights(REWARDS[arms], torch.zeros(4), BETA)
    else:
        arms = torch.tensor([0, 1, 2])
        weights = OLD * (REWARDS / BETA).exp()
        weights = weights / weights.sum()
    own = torch.ones(len(arms), 1).bool()
    for start in (OLD.log(), OPTIMUM.log(), torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)):
        logits = start.clone().requires_grad_()
        logprobs = token_logprobs(logits.expand(len(arms), 1, 3), arms[:, None])
        loss, _ = reward_weighted_regression(logprobs, weights, own, 1)
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(gradient, logits.detach().softmax(-1) - OPTIMUM)

    logits = OPTIMUM.log().requires_grad_()
    pi = logits.softmax(-1)
    value = (pi * (REWARDS - BETA * (pi.log() - OLD.log()))).sum()
    torch.testing.assert_close(value, BETA * (OLD * (REWARDS / BETA).exp()).sum().log())
    value.backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
