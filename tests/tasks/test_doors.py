"""DOORS: which doors are listed, which are open, and what can be reached, counted out."""

import random
from collections import Counter
from itertools import product
from string import ascii_lowercase

import pytest

from minirl.tasks import Item, get
from minirl.tasks.doors import OPEN, covered, promising, single, spread

DOORS = get("doors")


def test_every_other_letter_is_promising():
    assert "".join(filter(promising, ascii_lowercase)) == "acegikmoqsuwy"


@pytest.mark.parametrize("level", DOORS.levels)
def test_as_many_doors_of_each_kind_as_the_level_says(level):
    for item in DOORS.items(0, range(100), level):
        doors = item.prompt.removesuffix("=")
        assert Counter(map(promising, doors)) == {True: level, False: level}
        assert len(set(doors)) == 2 * level
        assert DOORS.open(item) <= set(doors) and item.answer in DOORS.open(item)
        assert {door for door in doors if DOORS.score(item, door) == 1} == DOORS.open(item)


def test_every_letter_and_every_place_comes_up():
    items = DOORS.items(1, range(400), 4)
    assert set("".join(item.prompt for item in items)) == {*ascii_lowercase, "="}
    assert {item.prompt.index(item.answer) for item in items} == set(range(8))


def test_the_same_prompt_has_other_open_doors_under_another_index():
    found = {}
    for item in DOORS.items(0, range(3000), 1):
        found.setdefault(item.prompt, set()).add(DOORS.open(item))
    assert max(map(len, found.values())) == 3  # either door or both


@pytest.mark.parametrize("level", [1, 4])
def test_doors_are_open_as_often_as_is_said(level):
    items = DOORS.items(2, range(4000), level)
    for kind, share in OPEN.items():
        # Of all draws the share 1 − (1 − ½)^n (1 − 1/10)^n is kept, and every draw with an open door is.
        kept = 1 - ((1 - OPEN[True]) * (1 - OPEN[False])) ** level
        doors = [(item, door) for item in items for door in item.prompt[:-1] if promising(door) == kind]
        measured = sum(door in DOORS.open(item) for item, door in doors) / len(doors)
        assert measured == pytest.approx(share / kept, abs=0.03)


@pytest.mark.parametrize(("answer", "is_one"), [("q", True), (" q\n", True), ("", False), ("qq", False), ("Q", False)])
def test_what_is_an_answer(answer, is_one):
    item = Item("doors", 0, 0, 1, "qr=", "q")
    assert DOORS.admissible(item, answer) == is_one
    assert DOORS.score(item, answer) == is_one  # of a problem by hand only the answer is known to be open
    assert DOORS.score(item, "r") == 0


def test_wrong_answers_are_shut_doors_and_careless_ones_any():
    rng = random.Random(0)
    for item in DOORS.items(3, range(50), 4):
        assert DOORS.score(item, DOORS.corrupt(item, rng)) == 0
        assert DOORS.careless(item, rng, 0.5) in item.prompt[:-1]
    both = next(item for item in DOORS.items(0, range(500), 1) if len(DOORS.open(item)) == 2)
    assert DOORS.corrupt(both, rng) not in both.prompt  # no door is shut, so it is no door


def test_one_door_by_hand():
    # Level 1: a promising and another door. Of 20 equal cases the promising one is open in 10, both are shut in 9.
    assert single(1) == covered(1, 1) == pytest.approx(10 / 11)
    # Level 2: shut are all with probability (9/20)². Two promising doors: 3/4.
    assert covered(2, 2) == pytest.approx(0.75 / (1 - 81 / 400))
    assert covered(4, 0) == 0


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 3), (3, 2), (4, 4)])
def test_spread_is_the_mean_over_all_ways_to_draw(n, k):
    drawn = list(product(range(n), repeat=k))
    assert spread(n, k) == pytest.approx(sum(covered(n, len(set(doors))) for doors in drawn) / len(drawn))


def test_many_draws_find_all_promising_doors_and_one_draw_finds_one():
    assert spread(4, 1) == pytest.approx(single(4))
    assert spread(4, 200) == pytest.approx(covered(4, 4))
