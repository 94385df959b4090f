"""Addition: which strings count as the sum."""

import random

import pytest

from minirl.tasks import Item, get

ADD = get("add")
# 966490 + 231303: 0+3=3, 9+0=9, 4+3=7, 6+1=7, 6+3=9, 9+2=11 → 1197793, seven digits for six-digit operands.
LONG = Item("add", 0, 0, 6, "966490+231303=", "1197793")
# 52 + 29: 2+9=11, write 1 carry 1; 5+2+1=8; no carry into the third digit → 081.
SHORT = Item("add", 0, 0, 2, "52+29=", "081")


@pytest.mark.parametrize("level", ADD.levels)
def test_shape_and_sum(level: int) -> None:
    for item in ADD.items(0, range(200), level):
        left, right = item.prompt.removesuffix("=").split("+")
        assert len(left) == len(right) == level
        assert len(item.answer) == level + 1 == ADD.max_answer_chars(level)
        # Column by column, as at school: an oracle that shares no code with the generator.
        carry, digits = 0, ""
        for a, b in zip(reversed(left), reversed(right), strict=True):
            carry, digit = divmod("0123456789".index(a) + "0123456789".index(b) + carry, 10)
            digits = "0123456789"[digit] + digits
        assert item.answer == "01"[carry] + digits


@pytest.mark.parametrize(
    ("item", "answer", "score"),
    [
        (LONG, "1197793", 1.0),
        (LONG, " 1197793\n", 1.0),
        (LONG, "1197792", 0.0),
        (LONG, "197793", 0.0),  # a lost leading digit
        (LONG, "3977911", 0.0),  # least significant digit first
        (LONG, "119779", 0.0),
        (LONG, "11977930", 0.0),
        (SHORT, "081", 1.0),
        (SHORT, "81", 1.0),  # the value counts, not the padding
        (SHORT, "000081", 1.0),  # twice the length is the limit
        (SHORT, "0000081", 0.0),
        (SHORT, "0 81", 0.0),
        (SHORT, "52+29", 0.0),  # true, but not an answer
        (SHORT, "=081", 0.0),
        (SHORT, "", 0.0),
    ],
)
def test_scores(item: Item, answer: str, score: float) -> None:
    assert ADD.score(item, answer) == score


def test_every_number_but_the_sum_is_wrong() -> None:
    for item in ADD.items(0, range(20), 1):
        right = {number for number in range(1000) if ADD.score(item, str(number)) == 1.0}
        assert right == {int(item.answer)}


def test_operands_cover_their_whole_range() -> None:
    pairs = {tuple(item.prompt[:-1].split("+")) for item in ADD.items(0, range(2000), 1)}
    assert pairs == {(a, b) for a in "0123456789" for b in "0123456789"}


def test_corruption_is_one_digit_off_by_one() -> None:
    for item in ADD.items(1, range(300), 4):
        wrong = ADD.corrupt(item, random.Random(item.index))
        off = [(int(w) - int(a)) % 10 for w, a in zip(wrong, item.answer, strict=True) if w != a]
        assert off in ([1], [9])


# --- located feedback: 52 + 29 = 081 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("081", "+"),
        ("81", "+"),  # right, and therefore nowhere wrong
        ("181", "-*.."),
        ("071", "-.*."),
        ("192", "-***"),
        ("80", "-"),  # not three digits
        ("0811", "-"),
        ("", "-"),
        ("n 1", "-"),  # no number
    ],
)
def test_located_feedback_marks_the_wrong_digits(answer: str, said: str) -> None:
    assert ADD.feedback(SHORT, answer, "located") == f"{said}52+29="


def test_revising_changes_the_marked_digits_and_no_others() -> None:
    rng = random.Random(0)
    assert {ADD.revise(SHORT, [("071", "-.*.52+29=")], rng, 0.0) for _ in range(20)} == {"081"}
    # Every careless answer is 081 off by one in one digit; of these only the second digit counts, and never 7 again.
    assert {ADD.revise(SHORT, [("071", "-.*.52+29=")], rng, 1.0) for _ in range(200)} == {"081", "091"}
    # Feedback without signs, and a nudge: all is done anew. Praise is believed.
    assert ADD.revise(SHORT, [("80", "-52+29=")], rng, 0.0) == "081"
    assert ADD.revise(SHORT, [("071", "?52+29=")], rng, 0.0) == "081"
    assert ADD.revise(SHORT, [("071", "+52+29=")], rng, 1.0) == "071"
