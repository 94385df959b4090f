"""Chains: which answers have the right result, and which steps are right, whatever the result."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item
from minirl.tasks.chain import OPERATIONS, Chain, apply, step_spans, write

CHAIN = Chain()
# 3+7 = 10 → 0; 0-4 = -4 → 6; 6*2 = 12 → 2.
ITEM = Item("chain", 0, 0, 3, "3+7-4*2=", "+70-46*22")
# 3+2 = 5; 5*5 = 25 → 5. From 7 too: 7*5 = 35 → 5.
LOSSY = Item("chain", 0, 0, 2, "3+2*5=", "+25*55")


@pytest.mark.parametrize(
    ("value", "operation", "result"),
    [(3, "+7", 0), (9, "+9", 8), (0, "-4", 6), (9, "-9", 0), (2, "-1", 1), (6, "*2", 2), (9, "*9", 1), (0, "*7", 0)],
)
def test_one_step(value: int, operation: str, result: int) -> None:
    assert apply(value, operation) == result


def test_which_operations_there_are() -> None:
    assert set(OPERATIONS) == {op + d for op in "+-*" for d in "123456789"} - {"*1"}
    # None changes nothing, and none forgets everything: that is what *0 would do.
    for operation in OPERATIONS:
        results = [apply(value, operation) for value in range(10)]
        assert results != list(range(10)) and len(set(results)) > 1


@pytest.mark.parametrize("level", CHAIN.levels)
def test_answers_step_by_step(level: int) -> None:
    seen: Counter[str] = Counter()
    for item in CHAIN.items(0, range(200), level):
        assert len(item.prompt) == 2 * level + 2 and len(item.answer) == 3 * level == CHAIN.max_answer_chars(level)
        value = int(item.prompt[0])
        for i in range(level):
            operator, operand = item.prompt[1 + 2 * i], item.prompt[2 + 2 * i]
            # By counting on a dial of ten, an oracle that shares no code with the generator.
            dial, start = "0123456789" * 12, 20 + value
            steps = {"+": int(operand), "-": -int(operand), "*": value * (int(operand) - 1)}[operator]
            value = int(dial[start + steps])
            assert item.answer[3 * i : 3 * i + 3] == f"{operator}{operand}{value}"
            seen[operator + operand] += 1
    assert level < 4 or seen.keys() == set(OPERATIONS)
    assert CHAIN.steps(item, item.answer) == [True] * level


@pytest.mark.parametrize(
    ("answer", "score", "steps", "first_error"),
    [
        ("+70-46*22", 1.0, [1, 1, 1], None),
        (" +70-46*22\n", 1.0, [1, 1, 1], None),
        ("+70-47*24", 0.0, [1, 0, 1], 1),  # 0-4 is not 7; 7*2 = 14 → 4 is right again, from there
        ("+71-47*24", 0.0, [0, 1, 1], 0),  # a slip at the start, propagated
        ("+70-46*23", 0.0, [1, 1, 0], 2),
        ("+71-46*22", 1.0, [0, 0, 1], 0),  # false positive: two wrong steps and the right result
        ("+70-41*22", 1.0, [1, 0, 1], 1),  # false positive: 1*2 = 6*2 modulo ten
        ("+70-46*12", 0.0, [1, 1, 0], 2),  # another operation than asked
        ("+70+46*22", 0.0, [1, 0, 1], 1),
        ("-46+70*22", 0.0, [0, 0, 0], 0),  # in another order
        ("+70-46", 0.0, [1, 1, 0], 2),  # stops early
        ("+70-46*2", 0.0, [1, 1, 0], 2),
        ("+70-4", 0.0, [1, 0, 0], 1),
        ("", 0.0, [0, 0, 0], 0),
        ("2", 0.0, [0, 0, 0], 0),  # the result alone
        ("062", 0.0, [0, 0, 0], 0),  # results alone
        ("+70-46*22+11", 0.0, [1, 1, 1], 3),  # goes on
        ("+70-46*222", 0.0, [1, 1, 1], 3),
        ("+70-46*22=", 0.0, [1, 1, 1], 3),
        ("+70 -46 *22", 0.0, [1, 0, 0], 1),
        ("+7x-46*22", 0.0, [0, 0, 1], 0),  # no result to start the second step from
        ("+7²-46*22", 0.0, [0, 0, 1], 0),
        ("+7٣-46*22", 0.0, [0, 0, 1], 0),
        ("+70-46*2２", 0.0, [1, 1, 0], 2),
        ("+70-46*22\xa0", 0.0, [1, 1, 1], 3),  # not ASCII, though strip() takes it for space
        (" " * 256 + "+70-46*22", 0.0, [0, 0, 0], 0),  # too long
    ],
)
def test_scores_and_steps(answer: str, score: float, steps: list[int], first_error: int | None) -> None:
    assert CHAIN.score(ITEM, answer) == score
    assert CHAIN.steps(ITEM, answer) == [bool(step) for step in steps]
    assert CHAIN.first_error(ITEM, answer) == first_error


def test_false_positives_are_possible_and_visible() -> None:
    assert CHAIN.score(LOSSY, "+27*55") == 1.0
    assert CHAIN.steps(LOSSY, "+27*55") == [False, True]
    assert CHAIN.first_error(LOSSY, "+27*55") == 0
    assert CHAIN.feedback(LOSSY, "+27*55", "located") == "+3+2*5="  # feedback is about the result
    # Whatever the first step says, the final result is what is scored; only one first step is right.
    firsts = [f"+2{first}*55" for first in range(10)]
    assert [CHAIN.score(LOSSY, answer) for answer in firsts] == [1.0] * 10
    assert [CHAIN.steps(LOSSY, answer)[0] for answer in firsts] == [first == 5 for first in range(10)]
    assert [CHAIN.steps(LOSSY, answer)[1] for answer in firsts] == [False, True] * 5  # odd times five ends in five


def test_exactly_a_tenth_of_well_formed_answers_is_right() -> None:
    answers = [f"+2{first}*5{second}" for first in range(10) for second in range(10)]
    assert sum(CHAIN.score(LOSSY, answer) for answer in answers) == 10
    assert [answer for answer in answers if all(CHAIN.steps(LOSSY, answer))] == ["+25*55"]


def test_slips_are_computed_with_from_then_on() -> None:
    assert write("3+7-4*2=") == write("3+7-4*2=", {}) == "+70-46*22"
    assert write("3+7-4*2=", {0: 1}) == "+71-47*24"
    assert write("3+7-4*2=", {1: 1}) == "+70-41*22"  # the error vanishes
    assert write("3+7-4*2=", {0: 9, 2: 3}) == "+79-45*23"
    assert write("3+7-4*2=", {2: 2}) == "+70-46*22"  # not a slip


@pytest.mark.parametrize("level", (1, 2, 6, 12))
def test_corruption_is_one_wrong_step_carried_on(level: int) -> None:
    where: Counter[int] = Counter()
    for item in CHAIN.items(1, range(300), level):
        wrong = CHAIN.corrupt(item, random.Random(item.index))
        steps = CHAIN.steps(item, wrong)
        assert steps.count(False) == 1 and wrong[-1] != item.answer[-1]
        where[steps.index(False)] += 1
    assert set(where) == set(range(level))  # anywhere


@pytest.mark.parametrize(
    ("answer", "feedback"),
    [
        ("+70-46*22", "+3+7-4*2="),
        ("+71-47*24", "-a3+7-4*2="),
        ("+70-47*24", "-b3+7-4*2="),
        ("+70-46*23", "-c3+7-4*2="),
        ("+70-46*22*22", "-d3+7-4*2="),  # one step too many
        ("", "-a3+7-4*2="),
    ],
)
def test_located_feedback(answer: str, feedback: str) -> None:
    assert CHAIN.feedback(ITEM, answer, "located") == feedback


def test_letters_suffice_for_the_longest_chain() -> None:
    item = CHAIN.item(0, 0, 12)
    assert CHAIN.feedback(item, item.answer + "+11", "located") == f"-m{item.prompt}"


def test_step_spans() -> None:
    assert step_spans("+70-46*22") == [(0, 3), (3, 6), (6, 9)]
    assert step_spans("\n +70-4 ") == [(2, 5), (5, 7)]  # space at the ends belongs to no step
    assert step_spans("") == step_spans("  ") == []
    assert len(step_spans("1" * 10**6)) == 86  # 256 characters are looked at: 85 steps and a bit


COMPLETIONS = (
    st.text(max_size=15)
    | st.text("0123456789+-* ", max_size=12)
    | st.builds("+7{}-4{}*2{}{}".format, *[st.sampled_from([*"0123456789x", ""])] * 3, st.sampled_from(["", " ", "+"]))
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(COMPLETIONS)
def test_steps_explain_scores(completion: str) -> None:
    steps, first = CHAIN.steps(ITEM, completion), CHAIN.first_error(ITEM, completion)
    assert len(steps) == 3
    if CHAIN.score(ITEM, completion) == 0.0:
        assert first is not None  # what is wrong goes wrong somewhere
    if first is None:
        assert all(steps) and completion.strip() == ITEM.answer  # only one answer has no error at all
    else:
        assert all(steps[:first]) and (first == 3 or not steps[first])
    spans = step_spans(completion)
    assert "".join(completion[start:stop] for start, stop in spans) == completion.strip()


@pytest.mark.parametrize(
    ("attempt", "said", "kept"),
    [
        ("+70-47*24", "-b", "+70"),  # the first step was right, and stays
        ("+70-46*23", "-c", "+70-46"),
        ("+71-47*24", "-a", ""),
        ("+70-47*24", "-", ""),  # told that it is wrong, but not where: all is done anew
        ("+70-47*24", "?", ""),
        ("", "-a", ""),
    ],
)
def test_a_revised_attempt_keeps_the_steps_before_the_error(attempt: str, said: str, kept: str) -> None:
    history = [("+99", "-a3+7-4*2="), (attempt, f"{said}3+7-4*2=")]  # the last word counts
    careful = {CHAIN.revise(ITEM, history, random.Random(i), 0.0) for i in range(5)}
    assert careful == {ITEM.answer}
    # However careless: what is kept is not done again.
    assert all(CHAIN.revise(ITEM, history, random.Random(i), 1.0).startswith(kept) for i in range(50))


def test_a_revised_attempt_repeats_what_was_called_right() -> None:
    # Also one that got there by two wrong steps.
    for attempt in (ITEM.answer, "+71-46*22"):
        assert CHAIN.revise(ITEM, [(attempt, "+3+7-4*2=")], random.Random(0), 1.0) == attempt
