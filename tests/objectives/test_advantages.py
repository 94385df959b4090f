"""Advantages against numbers worked out by hand: two groups of three attempts with two turns each."""

from typing import get_args

import pytest
import torch

from minirl.objectives.advantages import Baseline, advantages, return_to_go, spread_over_tokens

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
    result = advantages(torch.tensor(RETURNS), 3, baseline)
    torch.testing.assert_close(result, torch.tensor(BY_HAND[baseline], dtype=torch.float32), atol=1e-6, rtol=0)


def test_leave_one_out_is_a_rescaled_group_mean():
    # r − (ΣR − r)/(G − 1) = G/(G − 1) · (r − ΣR/G)
    returns = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in (2, 4, 5, 10, 20):
        expected = size / (size - 1) * advantages(returns, size, "group_mean")
        torch.testing.assert_close(advantages(returns, size, "leave_one_out"), expected)


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out", "group_normalised"])
def test_a_group_that_agrees_teaches_nothing(baseline):
    returns = torch.tensor([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
    assert advantages(returns, 3, baseline).tolist() == [[0.0]] * 6


def test_inputs_stay_as_they_were():
    returns, rewards = torch.tensor(RETURNS), torch.tensor(RETURNS)
    for baseline in BY_HAND:
        advantages(returns, 3, baseline)
    return_to_go(rewards)
    assert returns.tolist() == rewards.tolist() == RETURNS


def test_rows_must_fill_groups():
    with pytest.raises(ValueError, match="5 rows are not whole groups of 2"):
        advantages(torch.zeros(5, 1), 2, "group_mean")
    with pytest.raises(ValueError, match="groups of 1"):
        advantages(torch.zeros(4, 1), 1, "leave_one_out")


def test_unknown_baseline():
    with pytest.raises(ValueError, match="unknown baseline 'leave_two_out'"):
        advantages(torch.zeros(4, 1), 2, "leave_two_out")


@pytest.mark.parametrize(
    ("gamma", "returns"),
    [
        (1.0, [[7.0, 6.0, 4.0], [0.0, 0.0, 1.0]]),  # 4; 2 + 4; 1 + 6.  1; −1 + 1; 0 + 0
        (0.5, [[3.0, 4.0, 4.0], [-0.25, -0.5, 1.0]]),  # 4; 2 + 4/2; 1 + 4/2.  1; −1 + 1/2; 0 − 1/4
        (0.0, [[1.0, 2.0, 4.0], [0.0, -1.0, 1.0]]),  # every attempt for itself
    ],
)
def test_return_to_go_by_hand(gamma, returns):
    rewards = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 1.0]])
    assert return_to_go(rewards, gamma).tolist() == returns


def test_return_to_go_of_one_turn_is_the_reward():
    assert return_to_go(torch.tensor([[3.0], [5.0]]), 0.5).tolist() == [[3.0], [5.0]]


def test_spread_over_tokens_by_hand():
    per_turn = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    turn = torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, -1, 0, -1, 1, 1]])
    assert spread_over_tokens(per_turn, turn).tolist() == [[0, 10, 10, 0, 20, 0], [0, 0, 30, 0, 40, 40]]
