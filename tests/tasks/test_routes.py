"""Routes: tallies whose operations may be done in any order. What is as in tallies is tested there.

In PLAIN nobody errs on the route that the prompt shows. In MISLED it is believed on that route that 0-2 is 5.
"""

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.evaluation.votes import majority
from minirl.tasks import Item
from minirl.tasks.base import MAX_ANSWER_CHARS
from minirl.tasks.chain import misconception, read, write
from minirl.tasks.routes import AS_GIVEN, Routes
from minirl.tasks.tally import Tally

ROUTES = Routes()
# 3+7 = 10 → 0; 0-4 = -4 → 6; 6+1 = 7.
PLAIN = Item("routes", 0, 0, 3, "3+7-4+1=", "+70-46+17")
# 3+7 = 10 → 0; 0-2 = -2 → 8; 8+9 = 17 → 7.
MISLED = Item("routes", 0, 0, 3, "3+7-2+9=", "+70-28+97")
TWICE = Item("routes", 0, 0, 3, "3+7+7-4=", "+70+77-43")


# --- which way an answer goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "route", "right"),
    [
        ("+70-46+17", "+7 -4 +1", 1),
        ("+70+11-47", "+7 +1 -4", 1),  # 0+1 = 1; 1-4 = -3 → 7
        ("-49+76+17", "-4 +7 +1", 1),  # 3-4 = -1 → 9; 9+7 = 16 → 6
        ("-49+10+77", "-4 +1 +7", 1),
        ("+14+71-47", "+1 +7 -4", 1),
        ("+14-40+77", "+1 -4 +7", 1),
        (" +14-40+77\n", "+1 -4 +7", 1),
        ("-42+15+77", "-4 +1 +7", 1),  # the last digit is what counts
        ("-49+10+76", "-4 +1 +7", 0),
        ("-49+70+10", "-4 +7 +1", 0),
        ("-49-49+77", "", 0),  # one twice, one not at all
        ("+70+70+77", "", 0),
        ("-49+10", "", 0),
        ("-49+10+7", "", 0),
        ("-49+10+77-43", "", 0),
        ("-49+10+77+70-46+17", "", 0),  # all of them twice
        ("+49+10+77", "", 0),
        ("-49+10+7x", "", 0),
        ("-4x+10+77", "", 0),
        ("-49+10+777", "", 0),
        ("4-91+07+7", "", 0),  # the right characters in other places
        ("9-40+17+7", "", 0),
        ("-49 +10+77", "", 0),
        ("-49+10+7７", "", 0),
        ("-49+10+7²", "", 0),
        ("-49+10+77\xa0", "", 0),
        (" " * MAX_ANSWER_CHARS + "-49+10+77", "", 0),
        ("7", "", 0),
        ("", "", 0),
        ("+", "", 0),
        ("\ud800", "", 0),
    ],
)
def test_routes_and_scores_by_hand(answer: str, route: str, right: float) -> None:
    assert ROUTES.route(PLAIN, answer) == tuple(route.split())
    assert ROUTES.admissible(PLAIN, answer) is bool(route)
    assert ROUTES.score(PLAIN, answer) == right
    assert ROUTES.result(PLAIN, answer) == (answer.strip()[-1] if route else "")


@pytest.mark.parametrize(
    ("answer", "route"),
    [
        ("+70+77-43", "+7 +7 -4"),
        ("+70-46+73", "+7 -4 +7"),
        ("-49+76+73", "-4 +7 +7"),
        ("+70-43", ""),  # an operation that is asked for twice is done twice
        ("+70-46-42", ""),
        ("+70+77+74", ""),
    ],
)
def test_who_is_asked_for_an_operation_twice_does_it_twice(answer: str, route: str) -> None:
    assert ROUTES.route(TWICE, answer) == tuple(route.split())
    assert ROUTES.score(TWICE, answer) == bool(route)


@pytest.mark.parametrize("level", [1, 2, 3, 5])
def test_all_orders_come_to_the_same(level: int) -> None:
    for item in ROUTES.items(1, range(20), level):
        start, operations = read(item.prompt)
        total = (start + sum(map(int, operations))) % 10  # by adding everything up, an oracle that knows no steps
        for order in permutations(operations):
            other = ROUTES.along(item, list(order))
            assert other.prompt == f"{start}{''.join(order)}=" and other.answer == write(other.prompt)
            assert (other.task, other.seed, other.index, other.level) == (item.task, item.seed, item.index, level)
            assert ROUTES.route(item, other.answer) == order and ROUTES.score(item, other.answer) == 1
            wrong = other.answer[:-1] + str((total + 1) % 10)
            assert ROUTES.route(item, wrong) == order and ROUTES.score(item, wrong) == 0


def test_what_is_right_in_tallies_is_right_here() -> None:
    # One order of many: a tally's answers, right and wrong, have the same score.
    tally = Tally()
    for item in ROUTES.items(2, range(50), 3):
        for answer in (item.answer, ROUTES.corrupt(item, random.Random(item.index)), item.answer[:-1], ""):
            assert ROUTES.score(item, answer) == tally.score(item, answer)
            assert ROUTES.admissible(item, answer) == tally.admissible(item, answer)
    elsewhere = "-49+10+77"
    assert ROUTES.score(PLAIN, elsewhere) == 1 and tally.score(PLAIN, elsewhere) == 0


STEPS = st.lists(st.builds("{}{}".format, st.sampled_from(["+7", "-4", "+1", "+4", "7-"]), st.sampled_from("0671x")))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=12) | st.text(st.characters(categories=["Nd", "No", "Cs", "Zs"])) | STEPS.map("".join))
def test_routes_are_total(completion: str) -> None:
    route = ROUTES.route(PLAIN, completion)
    assert (route != ()) == ROUTES.admissible(PLAIN, completion) == (ROUTES.result(PLAIN, completion) != "")
    assert route == () or sorted(route) == ["+1", "+7", "-4"]
    assert ROUTES.score(PLAIN, completion) == (ROUTES.result(PLAIN, completion) == "7")


# --- which way writers go --------------------------------------------------------------------------------------------


def test_what_is_believed_in_these_tests() -> None:
    # Typed in: misconceptions are a fixed table, the same for chains, tallies and routes.
    believed = {(0, "-2"): 5, (3, "-2"): 9, (9, "-2"): 5, (9, "+7"): 0}
    assert {step: misconception(*step) for step in believed} == believed
    plain = [
        (3, "+7"),
        (8, "+9"),
        (5, "+9"),
        (0, "+9"),
        (3, "+9"),
        (2, "-2"),
        (0, "+7"),
        (2, "+7"),
        (9, "+9"),
        (8, "+7"),
    ]
    assert {misconception(*step) for step in plain} == {None}


def test_writers_mostly_do_operations_as_they_come() -> None:
    # Half do; the other half draw one of the six orders, of which one is that again: ½ + 1/12, and 1/12 for each other.
    written = Counter(ROUTES.careless(MISLED, random.Random(i), 0.0) for i in range(3000))
    expected = {ROUTES.along(MISLED, list(order)).answer: 1 / 12 for order in permutations(["+7", "-2", "+9"])}
    assert AS_GIVEN == 0.5 and len(expected) == 6
    expected[MISLED.answer] += AS_GIVEN
    assert written.keys() == expected.keys()
    for answer, share in expected.items():
        assert ROUTES.score(MISLED, answer) == 1
        assert abs(written[answer] / 3000 - share) < 4 * (share * (1 - share) / 3000) ** 0.5


@pytest.mark.parametrize(
    ("order", "believed"),
    [
        ("+7 -2 +9", "+70-25+94"),
        ("+7 +9 -2", "+70+99-25"),
        ("-2 +7 +9", "-29+70+99"),  # 3-2 = 9, and 9+7 = 0
        ("-2 +9 +7", "-29+98+75"),
        ("+9 +7 -2", "+92+79-25"),
        ("+9 -2 +7", "+92-20+77"),  # the one route that misleads nobody
    ],
)
def test_misconceptions_lie_on_some_routes(order: str, believed: str) -> None:
    along = ROUTES.along(MISLED, order.split())
    assert Tally().careless(along, random.Random(0), 0.25) == believed
    written = {ROUTES.careless(MISLED, random.Random(i), 0.25) for i in range(300)}
    assert [text for text in written if ROUTES.route(MISLED, text) == tuple(order.split())] == [believed]
    both = {ROUTES.careless(MISLED, random.Random(i), 0.1) for i in range(300)}
    assert {believed, along.answer} <= both  # at a lower rate some err


@pytest.mark.parametrize(("level", "gain"), [(3, 0.1), (5, 0.2)])
def test_who_goes_every_way_outvotes_misconceptions(level: int, gain: float) -> None:
    # Everybody errs where there is something to err on: by the route as given, and in a vote of all routes.
    alone, voted = [], []
    for item in ROUTES.items(3, range(150), level):
        answers = [
            Tally().careless(ROUTES.along(item, list(order)), random.Random(0), 0.25)
            for order in permutations(read(item.prompt)[1])
        ]
        alone.append(ROUTES.score(item, answers[0]))
        voted.append(majority([ROUTES.result(item, answer) for answer in answers]) == item.answer[-1])
    assert sum(voted) / 150 > sum(alone) / 150 + gain


def test_the_generator_decides_alone() -> None:
    for item in ROUTES.items(4, range(50), 4):
        written = ROUTES.careless(item, random.Random(item.index), 0.1)
        random.seed(0)
        assert ROUTES.careless(item, random.Random(item.index), 0.1) == written
        assert sorted(ROUTES.route(item, written)) == sorted(read(item.prompt)[1])


def test_what_writers_write_is_what_bases_have_read() -> None:
    # Typed in: whoever changes what is drawn makes bases out of date. The first number, below ½, takes the order as it
    # is; the next ones shuffle it, and the last ones say who believes that 0-2, 3-2 or 9-2 is what it is not.
    assert [round(random.Random(seed).random(), 2) for seed in range(5)] == [0.84, 0.13, 0.96, 0.24, 0.24]
    written = [ROUTES.careless(MISLED, random.Random(seed), 0.125) for seed in range(5)]
    assert written == ["+92+79-25", "+70-28+97", "-29+98+75", "+70-28+97", "+70-25+94"]
