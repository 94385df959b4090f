"""Hanabi with four cards: what fits, what is told, when it is over."""

import random

import pytest

from minirl.evaluation.games import uniform_strategy, values
from minirl.tasks import get
from minirl.tasks.hanabi import HINTS, table

HANABI = get("hanabi")


def brought(deal: str, moves: str) -> list[float]:
    """What every move brought."""
    return [HANABI.rewards(deal, moves[:end])[0] for end in range(1, len(moves) + 1)]


def test_there_are_as_many_deals_as_orders_of_four_cards():
    assert len(HANABI.deals(1)) == 24 and "rRbB" in HANABI.deals(1)


@pytest.mark.parametrize(
    ("deal", "moves", "paid"),
    [
        ("rbRB", "pppp", [1, 1, 1, 1]),  # both ones, then both twos
        ("RrbB", "pppp", [-1, 1, 1, 1]),  # the red two comes too early; who plays last holds the blue two
        ("RrBb", "pppp", [-1, 1, -1, 1]),  # both twos too early
        ("rRbB", "pppp", [1, 1, 1, 1]),  # the two after the one of its colour
        ("rBRb", "pppp", [1, -1, 1, 1]),  # the blue two before the blue one: its chance is gone
        ("rRbB", "dppp", [0, -1, 1, 1]),  # without the red one the red two never fits
        ("rRbB", "cnppdd", [0, 0, 1, 1, 0, 0]),  # hints bring nothing
    ],
)
def test_what_fits(deal, moves, paid):
    assert brought(deal, moves) == paid


def test_both_get_the_same():
    assert HANABI.rewards("rbRB", "p") == (1, 1) and HANABI.rewards("RbrB", "p") == (-1, -1)


def test_two_hints_and_one_more_for_a_discard():
    assert HANABI.legal("rbRB", "") == HANABI.legal("rbRB", "c") == "pdcn"
    assert HANABI.legal("rbRB", "cn") == "pd"
    assert HANABI.legal("rbRB", "cnd") == "pdcn" and HANABI.legal("rbRB", "cndc") == "pd"
    assert table("rbRB", "d").hints == HINTS  # never more than there were


def test_after_the_last_card_is_drawn_each_has_one_more_move():
    assert HANABI.to_move("rbRB", "pp") == (0,) and HANABI.to_move("rbRB", "ppp") == (1,)
    assert HANABI.to_move("rbRB", "pppp") == ()
    assert HANABI.to_move("rbRB", "cpdc") == (0,)  # drawn by the third move, so the fifth is the last
    assert HANABI.to_move("rbRB", "cpdcp") == ()


def test_a_game_has_four_to_seven_moves():
    rng = random.Random(0)
    lengths = {len(HANABI.random_record(deal, rng)) for deal in HANABI.deals(1) for _ in range(40)}
    assert lengths == {4, 5, 6, 7} and HANABI.turns(1) == 4


@pytest.mark.parametrize(
    ("moves", "first", "second"),
    [
        ("", "H1R", "H2b"),  # the other's card, and not one's own
        ("n", "H1Rn", "H2bn2"),  # the hint, for whom it was given
        ("c", "H1Rc", "H2bcr"),
        ("nd", "H1RndB", "H2bn2dR"),  # one sees what one threw away, the other what was drawn
        ("ndp", "H1RndBp+b", "H2bn2dRp+r"),  # and whether a card fitted
        ("ndpp", "H1RndBp+bp+_", "H2bn2dRp+rp+B"),  # there was no card to draw
    ],
)
def test_views(moves, first, second):
    # b and R in hand, B and r to draw.
    assert (HANABI.view("bRBr", moves, 0), HANABI.view("bRBr", moves, 1)) == (first, second)


def test_one_does_not_see_ones_card():
    assert HANABI.view("bRBr", "", 0) == HANABI.view("rRBb", "", 0) == HANABI.view("BRbr", "", 0)


def test_a_move_that_is_none_costs_both():
    assert HANABI.forfeit((0,)) == HANABI.forfeit((1,)) == (-2, -2)


def test_a_convention_is_worth_more_than_chance():
    """Tell the number; play a one, discard a two: better than moves that are drawn."""
    drawn = uniform_strategy(HANABI, 1)
    told = {}
    for view, legal in drawn.items():
        if view[-2:] == "n1":
            move = "p"
        elif view[-2:] == "n2":
            move = "d"
        else:
            move = "n" if "n" in legal else "p"
        told[view] = {one: float(one == move) for one in legal}
    assert values(HANABI, 1, [told] * 2)[0] > 1.5 > values(HANABI, 1, [drawn] * 2)[0] + 1
