"""Ledgers: chains whose slips are random. What is the same as in chains is tested there."""

import random
from collections import Counter
from itertools import product

import pytest

from minirl.tasks import Item
from minirl.tasks.chain import Chain, misconception
from minirl.tasks.ledger import Ledger, slipping

LEDGER = Ledger()
# 3+7 = 10 → 0; 0-4 = -4 → 6; 6*2 = 12 → 2.
ITEM = Item("ledger", 0, 0, 3, "3+7-4*2=", "+70-46*22")


class Dial(random.Random):
    """Instead of random digits: how far each result is off, from 1 to 9."""

    def __init__(self, *offsets: int) -> None:
        super().__init__(0)
        self.offsets = list(offsets)

    def randint(self, a: int, b: int) -> int:
        assert (a, b) == (1, 9)  # 0 or 10 would be no slip
        return self.offsets.pop(0)


# --- slips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "offsets", "answer"),
    [
        ([0, 0, 0], (7, 7, 1), "+70-46*22"),
        ([1, 0, 0], (7, 7, 1), "+77-43*26"),  # 0 is written as 7; 7-4 = 3 and 3*2 = 6 follow from that
        ([1, 1, 0], (7, 7, 1), "+77-40*20"),  # 3 is written as 10 → 0
        ([1, 1, 1], (7, 7, 1), "+77-40*21"),  # 0 as 1
        ([0, 1, 0], (7, 7, 1), "+70-43*26"),  # 6 as 13 → 3
        ([0, 0, 1], (7, 7, 1), "+70-46*23"),  # 2 as 3
        ([0, 1, 0], (1, 5, 1), "+70-41*22"),  # 6 as 11 → 1; 1*2 = 6*2 modulo ten: the error vanishes
        ([1, 0, 0], (9, 1, 1), "+79-45*20"),  # 0 as 9; 9-4 = 5, 5*2 = 10 → 0
    ],
)
def test_slips_by_hand(wrong: list[int], offsets: tuple[int, ...], answer: str) -> None:
    assert slipping(ITEM.prompt, [bool(step) for step in wrong], Dial(*offsets)) == answer


def test_exactly_the_steps_that_were_asked_for_are_wrong() -> None:
    for wrong in product([False, True], repeat=3):
        for seed in range(30):
            answer = slipping(ITEM.prompt, list(wrong), random.Random(seed))
            assert LEDGER.admissible(ITEM, answer)
            assert LEDGER.steps(ITEM, answer) == [not step for step in wrong]


def test_one_slip_less_leaves_the_others_where_they_were() -> None:
    # As far off as before: 0 → 7 in both, and the third result is one more than follows from what stands before it.
    assert slipping(ITEM.prompt, [True, True, True], Dial(7, 7, 1)) == "+77-40*21"  # 0*2 = 0 as 1
    assert slipping(ITEM.prompt, [True, False, True], Dial(7, 7, 1)) == "+77-43*27"  # 3*2 = 6 as 7
    for seed in range(30):
        both = slipping(ITEM.prompt, [True, True, False], random.Random(seed))
        first = slipping(ITEM.prompt, [True, False, False], random.Random(seed))
        assert both[:3] == first[:3] and both[3:6] != first[3:6]


def test_a_slip_is_any_other_digit() -> None:
    # After +7 on 3 stands 0, so a slip is one of the other nine, each with the same chance.
    firsts = Counter(slipping(ITEM.prompt, [True, False, False], random.Random(i))[2] for i in range(1800))
    assert set(firsts) == set("123456789")
    assert max(abs(count - 200) for count in firsts.values()) < 4.5 * 200**0.5


def test_how_often_a_slip_does_not_matter() -> None:
    # 3+2 = 5, 5*5 = 25 → 5. Of the nine other first results four are odd (1, 3, 7, 9), and odd times five ends in five.
    item = Item("ledger", 0, 0, 2, "3+2*5=", "+25*55")
    right = sum(LEDGER.score(item, slipping(item.prompt, [True, False], random.Random(i))) for i in range(2000))
    assert abs(right / 2000 - 4 / 9) < 0.045  # four standard errors


# --- clerks ----------------------------------------------------------------------------------------------------------


def test_every_step_is_wrong_at_the_rate_and_by_itself() -> None:
    assert {LEDGER.careless(ITEM, random.Random(i), 0.0) for i in range(20)} == {ITEM.answer}
    assert all(not any(LEDGER.steps(ITEM, LEDGER.careless(ITEM, random.Random(i), 1.0))) for i in range(100))
    written = Counter(tuple(LEDGER.steps(ITEM, LEDGER.careless(ITEM, random.Random(i), 0.3))) for i in range(4000))
    for steps in product([False, True], repeat=3):
        # 0.7 for every right step and 0.3 for every wrong one: 0.343, 0.147, 0.063 or 0.027.
        share = 0.7 ** sum(steps) * 0.3 ** (3 - sum(steps))
        assert abs(written[steps] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_errors_say_nothing_of_the_table() -> None:
    # In a chain an entry of the table is misconceived or it is not: never wrong, or always wrong in the same way. In a
    # ledger every entry is as often wrong as any other, and every wrong digit as often written.
    for value, operation in product(range(10), ("+1", "-4", "*2", "*5")):
        prompt = f"{value}{operation}="
        item = Item("ledger", 0, 0, 1, prompt, slipping(prompt, [False], random.Random(0)))
        written = Counter(LEDGER.careless(item, random.Random(i), 0.5)[-1] for i in range(400))
        assert len(written) == 10  # a wrong digit is missed with probability e⁻²²
        assert abs(written[item.answer[-1]] / 400 - 0.5) < 0.11  # 4.4 standard errors
        habit = {Chain().careless(item, random.Random(i), 0.125)[-1] for i in range(400)}
        believed = misconception(value, operation)
        assert habit == {item.answer[-1]} | ({str(believed)} if believed is not None else set())


@pytest.mark.parametrize("level", LEDGER.levels)
def test_success_falls_with_every_step(level: int) -> None:
    # All steps are right with probability 0.8 to the power of k.
    items = LEDGER.items(0, range(1000), level)
    faultless = sum(LEDGER.careless(item, random.Random(item.index), 0.2) == item.answer for item in items) / 1000
    share = 0.8**level
    assert abs(faultless - share) < 4.5 * (share * (1 - share) / 1000) ** 0.5


def test_what_clerks_write_is_what_bases_have_read() -> None:
    # Typed in: whoever changes what is drawn makes every base and every committed result out of date. First it is drawn
    # which steps are wrong, then how far off each would be.
    rng = random.Random(3)
    wrong = [rng.random() < 0.5 for _ in range(3)]
    assert wrong == [True, False, True]  # 0 as 8; 8-4 = 4; 4*2 = 8 as 9
    assert LEDGER.careless(ITEM, random.Random(3), 0.5) == slipping(ITEM.prompt, wrong, rng) == "+78-44*29"


# --- what it has from chains -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", (1, 3, 12))
def test_items_are_chains_of_their_own(level: int) -> None:
    for item in LEDGER.items(0, range(50), level):
        assert item.answer == slipping(item.prompt, [False] * level, random.Random(0))
        assert LEDGER.steps(item, item.answer) == [True] * level
        assert len(item.prompt) == 2 * level + 2 and len(item.answer) == 3 * level
    assert [item.prompt for item in LEDGER.items(0, range(50), level)] != [
        item.prompt for item in Chain().items(0, range(50), level)
    ]
    assert LEDGER.levels == Chain.levels and LEDGER.grades == Chain.grades


@pytest.mark.parametrize(
    ("answer", "said"),
    [("+70-46*22", "+"), ("+71-46*22", "+"), ("+77-43*26", "-a"), ("+70-43*26", "-b"), ("+70-46*23", "-c")],
)
def test_located_feedback_and_what_a_careful_reader_does_with_it(answer: str, said: str) -> None:
    feedback = LEDGER.feedback(ITEM, answer, "located")
    assert feedback == f"{said}{ITEM.prompt}"
    revised = LEDGER.revise(ITEM, [(answer, feedback)], random.Random(0), 0.0)
    assert revised == (answer if said == "+" else ITEM.answer)
