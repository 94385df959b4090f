"""Chains with steps that nobody has taught: what they score, what may be shown of them, and who writes about them."""

import random

import pytest

from minirl.tasks import Item, get
from minirl.tasks.gaps import COMMON, HARD, HARD_SHARE, MARK, MIXED, RARE, apply, hard, misconception, problem, write

GAPS = get("gaps")
FIRST, SECOND = [6, 6, 2, 2, 3, 1, 4, 5, 1, 9], [7, 0, 9, 9, 4, 9, 7, 8, 0, 8]  # what #1 and #2 make of 0 to 9


@pytest.fixture
def item() -> Item:
    # 3+7 = 10 → 0; #1 makes 6 of 0; 6-4 = 2; #2 makes 9 of 2.
    return Item("gaps", 0, 0, HARD, "3+7#1-4#2=", "+70#16-42#29")


# --- steps -----------------------------------------------------------------------------------------------------------


def test_common_steps_are_arithmetic():
    assert [apply(3, "+7"), apply(3, "-4"), apply(9, "+9"), apply(0, "-1")] == [0, 9, 8, 9]


def test_rare_steps_are_facts():
    # Typed in: whoever changes one makes the base and every committed result out of date.
    assert [apply(value, "#1") for value in range(10)] == FIRST
    assert [apply(value, "#2") for value in range(10)] == SECOND


def test_misconceptions_are_wrong_and_about_one_in_four():
    wrong = [(v, o) for v in range(10) for o in COMMON if misconception(v, o) is not None]
    assert 0.15 < len(wrong) / 180 < 0.35
    assert all(misconception(v, o) != apply(v, o) for v, o in wrong)


def test_a_problem_is_read_whatever_stands_before_it():
    bare = Item("gaps", 0, 0, 1, "3+7-4=", "")
    assert problem(bare) == problem(GAPS.shown(bare, "+70")) == (3, ["+7", "-4"])


def test_writing(item):
    assert write(3, ["+7", "-4"]) == "+70-46"
    assert write(*problem(item)) == item.answer


# --- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "rare"), [(1, 0), (2, 3), (4, 0), (5, 3), (6, 0), (7, 3)])
def test_hard_problems_have_three_rare_steps_of_four(level, rare):
    for one in GAPS.items(0, range(100), level):
        operations = problem(one)[1]
        assert len(operations) == 4
        assert sum(operation in RARE for operation in operations) == rare
        assert hard(one) == (rare > 0)


def test_three_in_ten_are_hard():
    share = sum(map(hard, GAPS.items(0, range(2000), MIXED))) / 2000
    assert abs(share - HARD_SHARE) < 0.035  # more than three standard deviations, 0.0102 each


def test_what_bases_read_before_a_problem():
    for one in GAPS.items(0, range(200), 5):
        before = one.prompt.partition(MARK)[0]
        assert one.answer.startswith(before) and len(before) in (3, 6, 9)
    for one in GAPS.items(0, range(200), 7):
        assert one.prompt.partition(MARK)[0] == one.answer[-1]


# --- what may be shown -----------------------------------------------------------------------------------------------


def test_the_ladder(item):
    assert GAPS.hint(item, 1) == "+70"
    assert GAPS.hint(item, 3) == item.answer[:9]
    assert GAPS.shown(item, GAPS.hint(item, 1)).prompt == "+70!3+7#1-4#2="
    assert GAPS.final(item) == item.answer[-1]


@pytest.mark.parametrize("rung", [0, 4, -1])
def test_rungs_that_the_ladder_does_not_have(item, rung):
    with pytest.raises(ValueError, match=f"rungs 1 to 3, not {rung}"):
        GAPS.hint(item, rung)


def test_the_score_is_the_same_whatever_is_shown(item):
    for text in ("+70", item.answer[:9], item.answer[-1]):
        assert GAPS.score(GAPS.shown(item, text), item.answer) == 1
        assert GAPS.score(GAPS.shown(item, text), text) == 0


# --- scores ----------------------------------------------------------------------------------------------------------


def test_every_step_counts(item):
    for at in range(2, 12, 3):
        wrong = item.answer[:at] + str((int(item.answer[at]) + 1) % 10) + item.answer[at + 1 :]
        assert GAPS.score(item, wrong) == 0


def test_arriving_is_less_than_being_right(item):
    detour = "+71" + item.answer[3:]
    assert GAPS.arrives(item, detour) and not GAPS.score(item, detour)
    assert GAPS.arrives(item, item.answer)
    assert not GAPS.arrives(item, item.answer[-1])  # no steps
    assert not GAPS.arrives(item, detour[:-1] + "x")
    assert not GAPS.arrives(item, "")


def test_the_first_error(item):
    one, two, three, four = (item.answer[i : i + 3] for i in range(0, 12, 3))
    assert GAPS.first_error(item, item.answer) is None
    assert GAPS.first_error(item, "") == (0, "+70")
    assert GAPS.first_error(item, "+71" + two + three + four) == (0, "+70")
    off = (int(two[-1]) + 1) % 10
    assert GAPS.first_error(item, one + f"#1{off}") == (1, two)
    # What should stand there follows from what was written before: a right step after another result.
    assert GAPS.first_error(item, one + two + three) == (3, four)
    assert GAPS.first_error(item, one + "#2" + two[-1] + three + four) == (1, two)  # another operation


@pytest.mark.parametrize("text", ["²", "+7²", "\0" * 300, "+70" * 100, "x"])
def test_the_first_error_of_anything(item, text):
    found = GAPS.first_error(item, text)
    assert found is not None and 0 <= found[0] < 4


# --- who writes ------------------------------------------------------------------------------------------------------


def answers(item: Item, count: int = 1000, rate: float = 0.0) -> list[str]:
    rng = random.Random(0)
    return [GAPS.careless(item, rng, rate) for _ in range(count)]


def test_who_knows_nothing_guesses(item):
    texts = answers(item, 3000)
    assert all(text.startswith("+70#1") for text in texts)
    share = sum(text[5] == item.answer[5] for text in texts) / 3000
    assert abs(share - 0.1) < 0.02
    assert sum(text == item.answer for text in texts) / 3000 < 0.025  # two guesses: one in a hundred


def test_hints_are_taken_over(item):
    hinted = GAPS.shown(item, GAPS.hint(item, 3))
    texts = answers(hinted)
    assert all(text.startswith(item.answer[:9]) for text in texts)
    assert 0.06 < sum(text == item.answer for text in texts) / 1000 < 0.14  # one guess


def test_who_knows_where_to_arrive_does_and_is_mostly_right(item):
    texts = answers(GAPS.shown(item, GAPS.final(item)))
    assert {text[-1] for text in texts} == {item.answer[-1]}
    right = sum(text == item.answer for text in texts) / 1000
    assert 0.5 < right < 0.95


def test_misconceptions_come_through_at_the_rate():
    value, operation = next((v, o) for v in range(10) for o in COMMON if misconception(v, o) is not None)
    one = Item("gaps", 0, 0, 1, f"{value}{operation}=", "")
    wrong = f"{operation}{misconception(value, operation)}"
    assert set(answers(one, 100, 0.25)) == {wrong}
    assert wrong not in answers(one, 100, 0.0)
    assert abs(answers(one, 2000, 0.1).count(wrong) / 2000 - 0.4) < 0.04
