"""How fast something was learned, on records of a few updates."""

import pytest

from minirl.evaluation.learning import log2_tokens_to, tokens_to

# 100 tokens an update. The running means of two are –, 1/8, 3/8, 3/8, 5/8, 1, 3/4; of three: –, –, 1/4, 1/3, 7/12, 3/4,
# 5/6.
VALUES = [0.0, 0.25, 0.5, 0.25, 1.0, 1.0, 0.5]


def records(values: list[float], metric: str = "accuracy@1", cost: int = 100) -> list[dict]:
    return [
        {"update": i, "phase": "RL", "generated_tokens": cost * i, metric: value}
        for i, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("target", "smooth", "tokens"),
    [
        (0.125, 2, 200),  # reached exactly
        (0.0, 2, 200),  # not before there are two values
        (0.2, 2, 300),
        (0.375, 2, 300),  # and not 400, where it is so again
        (0.4, 2, 500),
        (1.0, 2, 600),
        (1.1, 2, 700),  # never reached: all there are
        (0.3, 3, 400),
        (0.5, 3, 500),
        (0.6, 3, 600),
        (0.8, 3, 700),
        (0.9, 3, 700),
        # Without smoothing a single update is enough.
        (0.0, 1, 100),
        (0.5, 1, 300),
        (0.6, 1, 500),
        (1.1, 1, 700),
    ],
)
def test_tokens_to_by_hand(target, smooth, tokens):
    assert tokens_to(records(VALUES), target, smooth=smooth) == tokens


def test_the_first_time_counts():
    # Reached, lost, and reached again.
    assert tokens_to(records([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]), 1.0, smooth=2) == 300


def test_five_updates_of_first_attempts_unless_told_otherwise():
    # The mean of five is 2/5 after the fifth update, then 3/5 (0, 1, 1, 0, 1) and 4/5.
    made = records([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    assert [tokens_to(made, target) for target in (0.3, 0.5, 0.6, 0.7)] == [500, 600, 600, 700]
    for record in made:
        record["accuracy@2"] = 0.7
    assert tokens_to(made, 0.6, "accuracy@2") == 500
    assert tokens_to(made, 0.6, metric="accuracy@2", smooth=1) == 100


@pytest.mark.parametrize("length", [1, 4])
def test_too_few_records_to_smooth_never_reach_anything(length):
    assert tokens_to(records([1.0] * length), 0.5) == 100 * length


def test_tokens_are_those_of_the_records():
    # Updates that cost more and more, as answers get longer.
    made = records([0.0, 0.5, 1.0])
    for record, tokens in zip(made, (10, 70, 300), strict=True):
        record["generated_tokens"] = tokens
    assert [tokens_to(made, target, smooth=1) for target in (0.0, 0.5, 0.6, 2.0)] == [10, 70, 300, 300]


def test_logarithm_by_hand():
    values = [0.0] * 7 + [1.0] * 9
    # 256 tokens after 8 of 16 updates; 512 if it is never reached.
    assert log2_tokens_to(records(values, cost=32), 1.0, smooth=1) == 8.0
    assert log2_tokens_to(records(values, cost=32), 1.5, smooth=1) == 9.0
    assert log2_tokens_to(records(values, "reward", cost=32), 1.0, metric="reward", smooth=9) == 9.0


def test_a_difference_of_one_is_a_factor_of_two():
    quick, slow = records([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), records([0.0] * 5 + [1.0])
    difference = log2_tokens_to(slow, 1.0, smooth=1) - log2_tokens_to(quick, 1.0, smooth=1)
    assert difference == pytest.approx(1.0)  # 600 and 300 tokens
