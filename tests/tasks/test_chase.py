"""The chase: who stands where, who pays, and which steps are right."""

from itertools import product

import pytest

from minirl.evaluation.games import best_response, exploitability, uniform_strategy, values, views
from minirl.tasks import get

CHASE = get("chase")


def test_the_ring_has_six_places_and_nobody_starts_together():
    assert set(CHASE.deals(3)) == {"31", "32", "33", "34", "35"}


@pytest.mark.parametrize(
    ("deal", "moves", "place"),
    [
        ("12", "", 2),
        ("12", "r", 1),  # the chaser goes after the runner, who is on its right
        ("12", "l", 3),
        ("12", "rr", 2),  # and the runner away
        ("12", "rl", 0),
        ("11", "rr", 1),
        ("15", "rr", 5),
        ("11", "ll", 1),
        ("21", "rlrl", 3),  # caught, passed: -1 - 1 - 1 - 1 = -4 from 1, which is 3 on the ring
    ],
)
def test_where_the_runner_stands(deal, moves, place):
    assert CHASE.place(deal, moves) == place


@pytest.mark.parametrize(
    ("deal", "moves", "paid"),
    [
        ("22", "r", 0),  # paid when both have moved
        ("22", "rl", 3),  # caught
        ("22", "rr", 1),  # two steps apart
        ("23", "rr", 0),  # opposite
        ("21", "rr", 2),
        ("25", "ll", 2),  # one step apart on the other side
    ],
)
def test_the_runner_pays_the_chaser(deal, moves, paid):
    assert CHASE.rewards(deal, moves) == (paid, -paid)


def test_as_many_rounds_as_the_level():
    assert CHASE.to_move("22", "rlr") == (1,) and CHASE.to_move("22", "rlrl") == ()
    assert CHASE.turns(4) == 4


def test_both_see_everything():
    assert CHASE.view("22", "rr", 0) == "C12r1r2" and CHASE.view("22", "rr", 1) == "C22r1r2"


def test_right_steps_are_towards_the_runner_and_away_from_the_chaser():
    # The runner is two to the right: the chaser goes right (right), the runner, one to the right now, left (wrong).
    assert CHASE.right("12", "rl") == [True, False]
    # Four to the right is two to the left: there it is the other way round.
    assert CHASE.right("14", "ll") == [True, True] and CHASE.right("15", "rl") == [False, True]
    # Opposite (3): no side is better. Then two to the right.
    assert CHASE.right("13", "rr") == [True]
    # Together after the first move: the runner may flee to either side.
    assert CHASE.right("11", "rl") == [True]
    assert CHASE.right("12", "r?") == [True, False]  # what is no step is not right


def test_who_always_steps_right_cannot_be_beaten():
    level = 3
    strategy = {}
    for view in views(CHASE, level):
        place = int(view[-1])
        strategy[view] = {"l": 0.5, "r": 0.5} if place % 3 == 0 else {"l": float(place > 3), "r": float(place < 3)}
    assert exploitability(CHASE, level, strategy) == pytest.approx(0)
    assert exploitability(CHASE, level, uniform_strategy(CHASE, level)) > 0.3 * level


def test_the_seats_are_worth_different_amounts():
    drawn = uniform_strategy(CHASE, 1)
    # From each of five places all four pairs of steps are as likely.
    paid = [CHASE.rewards(f"1{place}", a + b)[0] for place in range(1, 6) for a, b in product("lr", repeat=2)]
    worth = values(CHASE, 1, [drawn] * 2)
    assert worth == pytest.approx((sum(paid) / 20, -sum(paid) / 20)) and worth[0] > 1
    assert best_response(CHASE, 1, [drawn] * 2, 0)[0] > worth[0]
