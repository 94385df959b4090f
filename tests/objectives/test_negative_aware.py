"""NFT token by token, and as the policy gradient that it is where the policy has not moved."""

import math
from typing import get_args

import pytest
import torch
from splits import assert_parts_add_up

from minirl.objectives.advantages import advantages
from minirl.objectives.negative_aware import PromptWeight, correctness_rates, nft
from minirl.objectives.policy_gradient import OBJECTIVES, Totals
from minirl.objectives.policy_gradient import policy_gradient as policy_gradient_loss
from minirl.policy.logprobs import token_logprobs

#                right  wrong  wrong  wrong
RATIOS = torch.tensor([2.0, 2.0, 0.5, 4 / 3], dtype=torch.float64)
RATES = torch.tensor([0.5, 0.5, 0.5, 0.25], dtype=torch.float64)
CORRECT = torch.tensor([True, False, False, False])


def nft_of_ratios(ratios, correct=CORRECT, rates=RATES, normaliser=2, **options):
    """Loss, statistics and gradient by log π of one-token rows with these ratios."""
    old = torch.full((len(ratios), 1), -3.0, dtype=torch.float64)
    logprobs = (old + ratios.log()[:, None]).requires_grad_()
    loss, stats = nft(logprobs, old, correct, rates, torch.ones_like(old).bool(), normaliser, **options)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), stats, gradient.flatten().tolist()


@pytest.mark.checks("hand", "nft")
@pytest.mark.parametrize(
    ("options", "value", "floored", "gradient"),
    [
        # What is left, (1 − r R)/(1 − r): (1 − 1)/½ = 0, (1 − ¼)/½ = 3/2, (1 − 1/3)/¾ = 8/9. With ε = 1 rows 2 and 4
        # are below the floor and cost −log 1 = 0. ω = ½, ½, ½, ¾. (−½ ln 2 − ½ ln 3/2)/2 = −½ · ½ ln 3 = −0.274653.
        # Gradient: right −ω; wrong ω r R/(1 − r) / max(left, ε): ½ · 2/1 = 1, ½ · ½/(3/2) = 1/6, ¾ · 4/9 = 1/3; halved.
        ({}, -0.274653, 2 / 2, [-1 / 4, 1 / 2, 1 / 12, 1 / 6]),
        # ε = ½: row 2 costs −½ ln ½ and gets 1/½ = 2; row 4 costs −¾ ln 8/9 = 0.088337 and gets 1/3 · 9/8 = 3/8.
        # (−0.346574 + 0.346574 − 0.202733 + 0.088337)/2 = −0.057198.
        ({"floor": 0.5}, -0.057198, 1 / 2, [-1 / 4, 1, 1 / 12, 3 / 16]),
        # ω = 1: twice the above, and 4/3 of it for row 4.
        ({"prompt_weight": "uniform"}, -0.549306, 2 / 2, [-1 / 2, 1, 1 / 6, 2 / 9]),
        # ω = √((1 − r)/r) = 1 and √3.
        ({"prompt_weight": "standardised"}, -0.549306, 2 / 2, [-1 / 2, 1, 1 / 6, 3**0.5 * 2 / 9]),
        # Half the weight on wrong tokens: −½ · ½ (ln 2 + ½ ln 3/2) = −0.223970; none: −¼ ln 2.
        ({"negative_weight": 0.5}, -0.223970, 2 / 2, [-1 / 4, 1 / 4, 1 / 24, 1 / 12]),
        ({"negative_weight": 0.0}, -0.173287, 2 / 2, [-1 / 4, 0, 0, 0]),
    ],
)
def test_loss_and_gradient_by_hand(options, value, floored, gradient):
    loss, stats, result = nft_of_ratios(RATIOS, **options)
    assert loss == pytest.approx(value, abs=1e-6)
    assert stats == {"loss/nft": pytest.approx(value, abs=1e-6), "floored": floored}
    assert result == pytest.approx(gradient, abs=1e-12)


def test_rates_are_clamped():
    # 0.01 → 0.02 and 0.99 → 0.98, where √((1 − r)/r) is 7 and 1/7: right −7; wrong 1/7 · 0.98/0.02 = 7; one row each.
    rates = torch.tensor([0.01, 0.99], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    _, _, gradient = nft_of_ratios(ones, torch.tensor([True, False]), rates, 1, prompt_weight="standardised")
    assert gradient == pytest.approx([-7.0, 7.0])


@pytest.mark.parametrize("prompt_weight", get_args(PromptWeight))
def test_prompts_without_contrast_are_dropped(prompt_weight):
    rates, correct = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([False, True])
    ratios = torch.tensor([3.0, 3.0], dtype=torch.float64)
    loss, stats, gradient = nft_of_ratios(ratios, correct, rates, prompt_weight=prompt_weight)
    assert loss == 0.0 and stats == {"loss/nft": 0.0, "floored": 0.0} and gradient == [0.0, 0.0]


def test_at_ratio_one_nothing_is_floored():
    rates = torch.arange(1, 16) / 16
    _, stats, _ = nft_of_ratios(torch.ones(15, dtype=torch.float64), torch.zeros(15).bool(), rates)
    assert stats == {"loss/nft": 0.0, "floored": 0.0}


@pytest.mark.parametrize("correct", [True, False])
def test_huge_ratios_stay_finite(correct):
    ratios = torch.tensor([300.0, 10.5, 9.5], dtype=torch.float64).exp()  # the first two are past e^10: no gradient
    loss, _, gradient = nft_of_ratios(ratios, torch.tensor([correct] * 3), torch.full((3,), 0.5))
    assert math.isfinite(loss)
    assert gradient[:2] == [0.0, 0.0] and math.isfinite(gradient[2]) and gradient[2] != 0.0


def test_wrong_options():
    with pytest.raises(ValueError, match="unknown prompt weight 'squared'"):
        nft_of_ratios(RATIOS, prompt_weight="squared")
    for floor in (0.0, -1.0):
        with pytest.raises(ValueError, match="floor must be positive"):
            nft_of_ratios(RATIOS, floor=floor)


def test_rates_by_hand():
    # Prompt 7: rows 0, 2, 3 with two correct; prompt 1: row 1, wrong; prompt 4: rows 4 and 5, both correct.
    groups, correct = torch.tensor([7, 1, 7, 7, 4, 4]), torch.tensor([1, 0, 0, 1, 1, 1]).bool()
    expected = torch.tensor([2 / 3, 0, 2 / 3, 2 / 3, 1, 1])
    torch.testing.assert_close(correctness_rates(correct, groups), expected)
    of_the_batch = correctness_rates(BATCH_CORRECT, torch.arange(15) // GROUP)
    torch.testing.assert_close(of_the_batch, BATCH_RATES.float())


# --- a batch: three prompts with five samples each, one prompt solved every time ------------------------------------

GROUP = 5
BATCH_CORRECT = torch.tensor([1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0]).bool()
BATCH_RATES = torch.tensor([0.4, 1.0, 0.2], dtype=torch.float64).repeat_interleave(GROUP)


def batch():
    """Logits [15, 4, 6] with gradient, token ids and own [15, 4]; no row is all own."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(15, 4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    ids = torch.randint(6, (15, 4), generator=generator)
    own = torch.rand(15, 4, generator=generator) < 0.6
    own[:, 0] = False
    return logits, ids, own


def nft_gradient_at_ratio_one(prompt_weight):
    logits, ids, own = batch()
    logprobs = token_logprobs(logits, ids)
    loss, _ = nft(logprobs, logprobs.detach(), BATCH_CORRECT, BATCH_RATES, own, 15, prompt_weight=prompt_weight)
    return torch.autograd.grad(loss, logits)[0]


def policy_gradient(per_row):
    logits, ids, own = batch()
    logprobs, advantages = token_logprobs(logits, ids), per_row[:, None].expand(15, 4)
    totals = Totals(episodes=15, tokens=int(own.sum()), longest=4)
    loss, _ = policy_gradient_loss(logprobs, logprobs.detach(), advantages, own, OBJECTIVES["reinforce"], totals)
    return torch.autograd.grad(loss, logits)[0]


SCORES = BATCH_CORRECT.double()


@pytest.mark.checks("identity", "nft")
def test_centred_is_the_group_mean_policy_gradient():
    expected = policy_gradient(advantages(SCORES[:, None], GROUP, "group_mean")[:, 0])
    torch.testing.assert_close(nft_gradient_at_ratio_one("centred"), expected, rtol=1e-6, atol=1e-9)
    assert expected[:5].abs().max() > 0.01 and expected[5:10].abs().max() < 1e-12  # the solved prompt teaches nothing


@pytest.mark.checks("identity", "nft")
def test_standardised_is_grpo_with_the_population_deviation():
    grouped = SCORES.view(3, GROUP)
    deviation = grouped.std(1, correction=0, keepdim=True)  # √(r(1 − r)), 0 for the solved prompt
    population = ((grouped - grouped.mean(1, keepdim=True)) / deviation.clamp_min(1e-9)).flatten()
    gradient = nft_gradient_at_ratio_one("standardised")
    torch.testing.assert_close(gradient, policy_gradient(population), rtol=1e-6, atol=1e-9)
    # The sample deviation of our GRPO is larger by √(G/(G − 1)), and it adds 1e-4.
    sample = grouped.std(1, keepdim=True)
    torch.testing.assert_close(sample, deviation * (GROUP / (GROUP - 1)) ** 0.5)
    grpo = policy_gradient(advantages(SCORES[:, None], GROUP, "group_normalised")[:, 0])
    factor = ((sample + 1e-4) / deviation.clamp_min(1e-9)).repeat_interleave(GROUP, 1).view(15, 1, 1)
    factor[5:10] = 1.0
    torch.testing.assert_close(gradient, grpo * factor, rtol=1e-6, atol=1e-9)
    assert (factor[0] - (5 / 4) ** 0.5).item() == pytest.approx(1e-4 / (0.4 * 0.6) ** 0.5)


@pytest.mark.checks("identity", "nft")
@pytest.mark.parametrize("prompt_weight", get_args(PromptWeight))
def test_the_optimum_is_the_policy_of_right_answers(prompt_weight):
    # One prompt, three answers, eight samples in proportion to π_old = (½, ¼, ¼), right 3 of 4, 1 of 2 and 1 of 2 times
    # (a checker with noise). r = 5/8; right samples are distributed as π⁺ = (3/5, 1/5, 1/5), which zeroes the gradient
    # of both likelihoods (Theorem 3.1). There R = 6/5 for the first answer, and (1 − ¾)/(3/8) = 2/3 is left of it: a
    # floor of 1 binds and pushes on.
    answers = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    correct = torch.tensor([1, 1, 1, 0, 1, 0, 1, 0]).bool()
    old = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()[answers][:, None]
    rates = correctness_rates(correct, torch.zeros(8)).double()
    own = torch.ones(8, 1).bool()
    gradients = {}
    for floor in (0.1, 1.0):
        logits = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64).log().requires_grad_()
        logprobs = logits.log_softmax(-1)[answers][:, None]
        loss, stats = nft(logprobs, old, correct, rates, own, 8, prompt_weight=prompt_weight, floor=floor)
        assert stats["floored"] == (1 / 8 if floor == 1.0 else 0.0)
        gradients[floor] = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(gradients[0.1], torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert gradients[1.0][0] < -0.01  # pushed less than the likelihood asks: the first answer would still rise


def off_policy(logprobs, own, rows):
    """NFT on ``rows`` of the batch, away from R = 1; the normaliser is that of the whole."""
    old = token_logprobs(*batch()[:2]).detach()
    return nft(logprobs[rows], old[rows], BATCH_CORRECT[rows], BATCH_RATES[rows], own[rows], 15)


@pytest.mark.checks("micro", "nft")
def test_micro_batches_add_up_to_the_batch():
    logits, ids, own = batch()
    noise = torch.randn(15, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logprobs = token_logprobs(logits + noise, ids)
    whole, whole_stats = off_policy(logprobs, own, slice(None))
    parts = [off_policy(logprobs, own, rows) for rows in (slice(0, 1), slice(1, 7), slice(7, 15))]  # cuts groups
    assert_parts_add_up((whole, whole_stats), parts, logits)
    assert whole_stats["floored"] > 0 and whole_stats["loss/nft"] == whole.item() != 0


@pytest.mark.checks("mask", "nft")
@pytest.mark.parametrize("rubbish", [-torch.inf, 1e308, torch.nan])
@pytest.mark.parametrize("where", ["new", "old", "both"])
def test_masked_tokens_get_exactly_zero_gradient(rubbish, where):
    logits, ids, own = batch()
    old = token_logprobs(logits, ids).detach()
    clean = (old - 0.1).requires_grad_()
    arguments = (BATCH_CORRECT, BATCH_RATES, own, 15)
    expected, _ = nft(clean, old, *arguments)
    expected.backward()
    logprobs = (old - 0.1).masked_fill(~own, rubbish if where != "old" else 0.0).requires_grad_()
    loss, stats = nft(logprobs, old.masked_fill(~own, rubbish if where != "new" else 0.0), *arguments)
    loss.backward()
    assert (logprobs.grad[~own] == 0.0).all()
    assert loss.item() == expected.item() == stats["loss/nft"]
    torch.testing.assert_close(logprobs.grad, clean.grad, rtol=0, atol=0)
    solved = torch.zeros(15, 4).bool()
    solved[5:10] = True
    assert (logprobs.grad[own & ~solved] != 0.0).all()
