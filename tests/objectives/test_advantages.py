"""Advantages by hand on two groups of three attempts, against TRL's trainers, and by enumeration of all rewards."""

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import tensor
from trl_trainers import online_trainer

from minirl.objectives.advantages import (
    Baseline,
    advantages,
    keyed_advantages,
    moving_advantages,
    return_to_go,
    spread_over_tokens,
)
from minirl.policy.models import tiny_llama

# --- baselines ------------------------------------------------------------------------------------------------------

#          turn 1  turn 2
RETURNS = [
    [1.0, 2.0],
    [0.0, 0.0],  # first group: means 1/3 and 1
    [0.0, 1.0],
    [1.0, 1.0],
    [1.0, -2.0],  # second group: means 2/3 and 1
    [0.0, 4.0],
]
# Sample deviations (divisor G − 1 = 2). Turn 1: deviations from the mean ±(2/3, 1/3, 1/3), squares add up to 2/3, so
# √(1/3) in both groups. Turn 2: (1, −1, 0) gives √(2/2) = 1; (0, −3, 3) gives √(18/2) = 3.
S = (1 / 3) ** 0.5 + 1e-4
BY_HAND = {
    "none": RETURNS,
    # means over all six rows: 3/6 and 6/6
    "batch_mean": [[0.5, 1], [-0.5, -1], [-0.5, 0], [0.5, 0], [0.5, -3], [-0.5, 3]],
    "group_mean": [[2 / 3, 1], [-1 / 3, -1], [-1 / 3, 0], [1 / 3, 0], [1 / 3, -3], [-2 / 3, 3]],
    # Row 1: 1 − (0 + 0)/2 and 2 − (0 + 1)/2; row 2: 0 − (1 + 0)/2 and 0 − (2 + 1)/2; row 3: −1/2 and 1 − (2 + 0)/2;
    # row 4: 1 − (1 + 0)/2 and 1 − (−2 + 4)/2; row 5: 1/2 and −2 − (1 + 4)/2; row 6: 0 − (1 + 1)/2 and 4 − (1 − 2)/2.
    "leave_one_out": [[1, 1.5], [-0.5, -1.5], [-0.5, 0], [0.5, 0], [0.5, -4.5], [-1, 4.5]],
    "group_normalised": [
        [2 / 3 / S, 1 / 1.0001],
        [-1 / 3 / S, -1 / 1.0001],
        [-1 / 3 / S, 0],
        [1 / 3 / S, 0],
        [1 / 3 / S, -3 / 3.0001],
        [-2 / 3 / S, 3 / 3.0001],
    ],
}


def test_every_baseline_is_tested():
    assert set(BY_HAND) == set(get_args(Baseline))


@pytest.mark.parametrize("baseline", BY_HAND)
def test_baseline_by_hand(baseline):
    result = advantages(tensor(RETURNS), 3, baseline)
    torch.testing.assert_close(result, tensor(BY_HAND[baseline], dtype=torch.float32), atol=1e-6, rtol=0)
    everyone = torch.ones(6, 2, dtype=torch.bool)
    assert advantages(tensor(RETURNS), 3, baseline, everyone).tolist() == result.tolist()


def test_leave_one_out_is_a_rescaled_group_mean():
    # r − (ΣR − r)/(G − 1) = G/(G − 1) · (r − ΣR/G)
    returns = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in (2, 4, 5, 10, 20):
        expected = size / (size - 1) * advantages(returns, size, "group_mean")
        torch.testing.assert_close(advantages(returns, size, "leave_one_out"), expected)


# The same groups with episodes that end early; what the returns of dead attempts hold (here 9) must not matter.
#   first group:  three attempts, means 2; two, mean 3.5; one
#   second group: two attempts, mean 3; none; none
EARLY = [[4.0, 2.0, 1.0], [1.0, 5.0, 9.0], [1.0, 9.0, 9.0], [0.0, 9.0, 9.0], [6.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
ALIVE = tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()
# Deviations 2, −1, −1 give √(6/2), ±1.5 give √(4.5/1), ±3 give √(18/1).
S3, S2, S6 = 3**0.5 + 1e-4, 4.5**0.5 + 1e-4, 18**0.5 + 1e-4
EARLY_BY_HAND = {
    "none": [[4, 2, 1], [1, 5, 0], [1, 0, 0], [0, 0, 0], [6, 0, 0], [0, 0, 0]],
    # means of 4, 1, 1, 0, 6; of 2, 5; of 1 alone
    "batch_mean": [[1.6, -1.5, 0], [-1.4, 1.5, 0], [-1.4, 0, 0], [-2.4, 0, 0], [3.6, 0, 0], [0, 0, 0]],
    "group_mean": [[2, -1.5, 0], [-1, 1.5, 0], [-1, 0, 0], [-3, 0, 0], [3, 0, 0], [0, 0, 0]],
    # less the mean of the others: 4 − 1, 1 − 2.5, 1 − 2.5; 2 − 5, 5 − 2; nobody; 0 − 6, 6 − 0
    "leave_one_out": [[3, -3, 0], [-1.5, 3, 0], [-1.5, 0, 0], [-6, 0, 0], [6, 0, 0], [0, 0, 0]],
    "group_normalised": [
        [2 / S3, -1.5 / S2, 0],
        [-1 / S3, 1.5 / S2, 0],
        [-1 / S3, 0, 0],
        [-3 / S6, 0, 0],
        [3 / S6, 0, 0],
        [0, 0, 0],
    ],
}


@pytest.mark.parametrize("baseline", BY_HAND)
def test_episodes_that_end_early_by_hand(baseline):
    expected = tensor(EARLY_BY_HAND[baseline], dtype=torch.float32)
    for dead in (9.0, 0.0, -1e6):
        returns = tensor(EARLY).where(ALIVE, dead)
        torch.testing.assert_close(advantages(returns, 3, baseline, ALIVE), expected, atol=1e-6, rtol=0)


def test_trloo_is_n_over_n_minus_1_times_mean_centred():
    # … with N_t, the members of the group at this turn: more than a matter of scale once turns differ in it.
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(15, 4, generator=generator, dtype=torch.float64)
    alive = torch.rand(15, 4, generator=generator) > 0.4
    members = alive.unflatten(0, (3, 5)).sum(1).repeat_interleave(5, 0)  # N_t [15, 4]
    assert set(members.flatten().tolist()) >= {1, 2, 3, 4}
    expected = advantages(returns, 5, "group_mean", alive) * (members / (members - 1)).where(members > 1, 0.0)
    result = advantages(returns, 5, "leave_one_out", alive)
    torch.testing.assert_close(result, expected)
    assert (result[alive & (members > 1)] != 0).all()
    assert (result[~alive | (members == 1)] == 0).all()


def test_only_the_others_are_an_unbiased_baseline():
    # All 2³ groups of a two-armed bandit: a mean that includes oneself shrinks the policy gradient by (G − 1)/G.
    logit = tensor(0.4, dtype=torch.float64, requires_grad=True)
    rewards = tensor([0.3, 1.0], dtype=torch.float64)
    log_pi = torch.stack([torch.zeros_like(logit), logit]).log_softmax(-1)
    (expected,) = torch.autograd.grad((log_pi.exp() * rewards).sum(), logit, retain_graph=True)

    def estimate(baseline):
        total = torch.zeros(())
        for arms in map(torch.tensor, itertools.product([0, 1], repeat=3)):
            weighted = (advantages(rewards[arms][:, None], 3, baseline)[:, 0] * log_pi[arms]).mean()
            (gradient,) = torch.autograd.grad(weighted, logit, retain_graph=True)
            total = total + log_pi[arms].sum().exp().detach() * gradient
        return total

    torch.testing.assert_close(estimate("leave_one_out"), expected)
    torch.testing.assert_close(estimate("group_mean"), expected * 2 / 3)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_size_of_advantages_by_success_rate(size):
    # SEC's measure of learnability: with rewards 0 and 1 and a share p̂ of ones in the group, mean |A| is 2p̂(1 − p̂) for
    # the group mean and 2√(p̂(1 − p̂)) after division by the population's deviation √(p̂(1 − p̂)). Ours is the sample's,
    # s = √(G/(G − 1) · p̂(1 − p̂)), plus 1e-4: a factor √((G − 1)/G) / (1 + 1e-4/s).
    p, expected_size = 0.3, {"group_mean": 0.0, "leave_one_out": 0.0}
    for outcome in itertools.product([0.0, 1.0], repeat=size):
        rewards = tensor(outcome, dtype=torch.float64)[:, None]
        share = rewards.mean().item()
        variance = share * (1 - share)
        mean_size = {
            name: advantages(rewards, size, name).abs().mean().item()
            for name in ("group_mean", "leave_one_out", "group_normalised")
        }
        assert mean_size["group_mean"] == pytest.approx(2 * variance)
        assert mean_size["leave_one_out"] == pytest.approx(2 * variance * size / (size - 1))
        if variance:
            factor = math.sqrt((size - 1) / size) / (1 + 1e-4 / math.sqrt(size / (size - 1) * variance))
            assert mean_size["group_normalised"] == pytest.approx(2 * math.sqrt(variance) * factor)
        else:
            assert mean_size["group_normalised"] == 0.0
        for name in expected_size:
            expected_size[name] += mean_size[name] * math.prod(p if r else 1 - p for r in outcome)
    # Over groups drawn at success rate p: E[p̂(1 − p̂)] = (1 − 1/G) p(1 − p), which leaving oneself out makes up for.
    assert expected_size["leave_one_out"] == pytest.approx(2 * p * (1 - p))
    assert expected_size["group_mean"] == pytest.approx(2 * p * (1 - p) * (size - 1) / size)


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out", "group_normalised"])
def test_a_group_that_agrees_teaches_nothing(baseline):
    returns = tensor([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
    assert advantages(returns, 3, baseline).tolist() == [[0.0]] * 6


def test_inputs_stay_as_they_were():
    returns, rewards = tensor(RETURNS), tensor(RETURNS)
    for baseline in BY_HAND:
        advantages(returns, 3, baseline)
    return_to_go(rewards)
    keyed_advantages(returns, torch.zeros(6, 2, dtype=torch.long))
    moving_advantages(returns, torch.zeros(6, 2, dtype=torch.long), {}, 0.5)
    assert returns.tolist() == rewards.tolist() == RETURNS


def test_rows_must_fill_groups():
    with pytest.raises(ValueError, match="5 rows are not whole groups of 2"):
        advantages(torch.zeros(5, 1), 2, "group_mean")
    with pytest.raises(ValueError, match="groups of 1"):
        advantages(torch.zeros(4, 1), 1, "leave_one_out")


def test_unknown_baseline():
    with pytest.raises(ValueError, match="unknown baseline 'leave_two_out'"):
        advantages(torch.zeros(4, 1), 2, "leave_two_out")


# --- against TRL ----------------------------------------------------------------------------------------------------

# Three groups of four; None is what a reward function returns of a completion that it does not judge.
SCORES = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5, 2.0, -1.0, 0.25, 3.0]
UNSCORED = [1.0, None, 0.0, 1.0, 0.5, None, None, None, None, None, 0.25, 3.0]


def trl_advantages(directory, method, scores, **settings):
    """Advantages [12] from ``_generate_and_score_completions`` of TRL's trainer: it samples, the scores are ours."""
    examples = [{"prompt": "1+1=", "score": score} for score in scores]
    sizes = {"max_completion_length": 2, "num_generations": 4, "per_device_train_batch_size": 12}
    trainer = online_trainer(
        method, tiny_llama(16, 1, 2), lambda score, **columns: score, examples, directory, **sizes, **settings
    )
    trainer.model.train()
    return trainer._generate_and_score_completions(examples)["advantages"]


def our_advantages(scores, baseline):
    returns = tensor([-7.0 if score is None else score for score in scores])[:, None]
    alive = tensor([score is not None for score in scores])[:, None]
    return advantages(returns, 4, baseline, alive)[:, 0]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about TRL
@pytest.mark.filterwarnings("ignore:All reward functions returned None")
@pytest.mark.parametrize("scores", [SCORES, UNSCORED], ids=["all", "some"])
@pytest.mark.parametrize(
    ("baseline", "method", "settings"),
    [
        ("group_normalised", "grpo", {"scale_rewards": "group"}),
        ("group_mean", "grpo", {"scale_rewards": "none"}),
        ("leave_one_out", "rloo", {}),
    ],
    ids=["group_normalised", "group_mean", "leave_one_out"],
)
def test_equal_to_trl(baseline, method, settings, scores, tmp_path):
    theirs = trl_advantages(tmp_path, method, scores, **settings)
    torch.testing.assert_close(our_advantages(scores, baseline), theirs)
    assert theirs.count_nonzero() >= 5


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_batch_scaling_is_the_group_mean_over_the_deviation_of_the_batch(tmp_path):
    # scale_rewards="batch" is none of our baselines; the deviation is that of the rewards, not of the advantages.
    expected = our_advantages(SCORES, "group_mean") / (tensor(SCORES).std() + 1e-4)
    torch.testing.assert_close(trl_advantages(tmp_path, "grpo", SCORES, scale_rewards="batch"), expected)


# --- one baseline per key -------------------------------------------------------------------------------------------


def test_keyed_by_hand():
    # Key 0: 2 and 4, mean 3; key 1: 1, 0 and 5, mean 2; key −5 is alone.
    returns, keys = tensor([[2.0, 1.0], [4.0, 0.0], [9.0, 5.0]]), tensor([[0, 1], [0, 1], [-5, 1]])
    assert keyed_advantages(returns, keys).tolist() == [[-1.0, -1.0], [1.0, -2.0], [0.0, 3.0]]


def test_keyed_invariants():
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    keys = torch.randint(4, (12, 3), generator=generator)
    result = keyed_advantages(returns, keys)
    for key in range(4):
        assert result[keys == key].sum().item() == pytest.approx(0.0, abs=1e-12)
    # What all returns of a role have in common, say that it moves first, does not matter, nor how roles are numbered.
    handicap = tensor([5.0, -3.0, 0.0, 11.0], dtype=torch.float64)
    torch.testing.assert_close(keyed_advantages(returns + handicap[keys], keys), result)
    torch.testing.assert_close(keyed_advantages(returns, 7 - 2 * keys), result)
    # Key = turn is the mean of the batch, key = (group, turn) that of the group.
    turns = torch.arange(3).expand(12, 3)
    torch.testing.assert_close(keyed_advantages(returns, turns), advantages(returns, 4, "batch_mean"))
    groups = 3 * torch.arange(3).repeat_interleave(4)[:, None] + turns
    torch.testing.assert_close(keyed_advantages(returns, groups), advantages(returns, 4, "group_mean"))


def test_moving_by_hand():
    # Decay ½, role 0 from 0, role 1 from 2. Each return is compared before it moves the baseline:
    #   role 0: 1 − 0, b = ½; 1 − ½, b = ¾; −1 − ¾, b = −⅛      role 1: −1 − 2, b = ½; 1 − ½, b = ¾; 1 − ¾, b = ⅞
    returns, keys = tensor([[1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]), tensor([[0, 1], [0, 1], [1, 0]])
    before = {1: 2.0, 8: 4.0}
    result, after = moving_advantages(returns, keys, before, decay=0.5)
    assert result.tolist() == [[1.0, -3.0], [0.5, 0.5], [0.25, -1.75]]
    assert after == {0: -0.125, 1: 0.875, 8: 4.0}
    assert before == {1: 2.0, 8: 4.0}


def test_moving_invariants():
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    keys = torch.randint(3, (12, 2), generator=generator)
    whole, after = moving_advantages(returns, keys, {}, 0.95)
    # Batches are a stream: the baselines carry over.
    first, between = moving_advantages(returns[:5], keys[:5], {}, 0.95)
    second, end = moving_advantages(returns[5:], keys[5:], between, 0.95)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=0)
    assert end == after
    # Keys do not touch each other.
    for key in range(3):
        alone, _ = moving_advantages(returns[keys == key], keys[keys == key], {}, 0.95)
        torch.testing.assert_close(alone, whole[keys == key], rtol=0, atol=0)
    # Decay 1 never moves, decay 0 remembers the last return only.
    fixed, same = moving_advantages(returns, torch.zeros_like(keys), {0: 0.3}, 1.0)
    torch.testing.assert_close(fixed, returns - 0.3)
    assert same == {0: pytest.approx(0.3)}
    last, _ = moving_advantages(returns, torch.zeros_like(keys), {}, 0.0)
    torch.testing.assert_close(last.flatten()[1:], returns.flatten().diff())


def test_the_advantage_does_not_depend_on_the_return_through_its_own_baseline():
    # Read before update: one more point of return is one more point of advantage. With the baseline after its update
    # it would be 0.95 points, and the estimate biased.
    keys = tensor([[0], [0]])
    low, _ = moving_advantages(tensor([[1.0], [2.0]]), keys, {}, 0.95)
    high, _ = moving_advantages(tensor([[1.0], [3.0]]), keys, {}, 0.95)
    assert (high - low).flatten().tolist() == pytest.approx([0.0, 1.0])


# --- returns and tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gamma", "returns"),
    [
        (1.0, [[7.0, 6.0, 4.0], [0.0, 0.0, 1.0]]),  # 4; 2 + 4; 1 + 6.  1; −1 + 1; 0 + 0
        (0.5, [[3.0, 4.0, 4.0], [-0.25, -0.5, 1.0]]),  # 4; 2 + 4/2; 1 + 4/2.  1; −1 + 1/2; 0 − 1/4
        (0.0, [[1.0, 2.0, 4.0], [0.0, -1.0, 1.0]]),  # every attempt for itself
    ],
)
def test_return_to_go_by_hand(gamma, returns):
    rewards = tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 1.0]])
    assert return_to_go(rewards, gamma).tolist() == returns


def test_return_to_go_of_one_turn_is_the_reward():
    assert return_to_go(tensor([[3.0], [5.0]]), 0.5).tolist() == [[3.0], [5.0]]


def test_spread_over_tokens_by_hand():
    per_turn = tensor([[10.0, 20.0], [30.0, 40.0]])
    turn = tensor([[-1, 0, 0, -1, 1, -1], [-1, -1, 0, -1, 1, 1]])
    assert spread_over_tokens(per_turn, turn).tolist() == [[0, 10, 10, 0, 20, 0], [0, 0, 30, 0, 40, 40]]
