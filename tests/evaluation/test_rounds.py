"""Rounds of self-training: what is watched between them, and means over them."""

import pytest
from stand_ins import sharp_policy

from minirl.evaluation.rounds import WATCHED, over_rounds, watched
from minirl.tasks import get

RECORDS = [{"heat": 1.0, "kept": 4}, {"loss": 2.0}, {"heat": 2.0, "kept": 3}, {"heat": 6.0, "kept": 2}, {"loss": 1.0}]


def test_means_and_rises_by_hand():
    # Three rounds: mean 3; the last less the first, the middle one is in neither half.
    found = over_rounds(RECORDS, ("heat", "kept"))
    assert found == pytest.approx({"heat": 3, "heat_rise": 5, "kept": 3, "kept_rise": -2})


def test_halves_of_four_rounds():
    assert over_rounds([{"heat": h} for h in (1, 2, 4, 9)], ("heat",))["heat_rise"] == pytest.approx(6.5 - 1.5)


def test_one_round_does_not_rise():
    assert over_rounds(RECORDS[:2], ("heat",)) == {"heat": 1, "heat_rise": 0}


def test_watching_is_always_on_the_same_problems():
    policy, task = sharp_policy(), get("doors")
    first, second = (watched(policy, task, 2, samples=4) for _ in range(2))
    assert first == second
    assert {f"watched/{name}" for name in ("accuracy@1", "score", "pass@4", "variety", "entropy")} == set(first)
    assert (first["watched/pass@4"] * WATCHED) == int(first["watched/pass@4"] * WATCHED)  # a share of that many
