"""Reading replies in words: every case by hand, and nothing a model writes raises or runs."""

import os
import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task
from minirl.tasks.words import (
    MAX_READ,
    NUDGE,
    RIGHT,
    WRONG,
    LineInWords,
    NumberInWords,
    TaskInWords,
    answer_line,
    last_number,
    written,
)


class Seven(NumberInWords):
    """What is 3 + 4?"""

    name = "seven"
    levels = range(1, 2)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        return self.ask("What is 3 + 4?"), "Answer: 7"


class Yes(LineInWords):
    """Always yes."""

    name = "yes"
    levels = range(1, 2)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        return self.ask("Is water wet?"), "Answer: Yes it is"

    def corrupt(self, item: Item, rng: random.Random) -> str:
        return "Answer: No"


SEVEN, YES = Seven(), Yes()
BOTH = pytest.mark.parametrize("task", [SEVEN, YES], ids=["number", "line"])


@pytest.mark.parametrize(
    ("completion", "line"),
    [
        ("Answer: 7", "7"),
        ("so 3+4 makes\nanswer :  7 ", "7"),
        ("**Answer:** **7**", "7"),
        ("**Answer**: 7.", "7"),
        ("Answer:\n\n 7\nI hope this helps.", "7"),
        ("Answer: 6\nNo. Answer: 7", "7"),  # the last one counts
        ("Answer: 7\nAnswer:", ""),  # and it says nothing
        ("Answer: $\\boxed{7}$.", "7"),
        ("Answer: \\(\\frac{1}{2}\\)", "\\frac{1}{2}"),
        ("Answer: 'seven'", "seven"),
        ("It is seven\n\n", "It is seven"),  # no mark: the last line that says something
        ("", ""),
        (" \n\t\n", ""),
        ("$", "$"),
        ("$$", "$$"),
        ("Answer: ٧", ""),
        ("Answer: " + "x" * MAX_ANSWER_CHARS, "x" * MAX_ANSWER_CHARS),
        ("Answer: " + "x" * (MAX_ANSWER_CHARS + 1), ""),
        ("Answer: 7" + " " * MAX_READ, ""),  # beyond what is read
    ],
)
def test_the_line_with_the_answer(completion, line):
    assert answer_line(completion) == line


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("-7", -7),
        ("= -7", -7),
        ("10-3", 3),  # a difference: the minus is no sign
        ("(1+2)-3", 3),
        ("24 apples", 24),
        ("$1,234.50", Fraction(2469, 2)),
        ("1,234,567", 1234567),
        ("1,2345", 2345),  # no thousands: a list
        ("3, 4 and 5", 5),
        ("0.5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("7.0", 7),
        ("7.", 7),
        ("3/4", Fraction(3, 4)),
        ("3/0", None),
        ("0/5", 0),
        ("5km", 5),
        ("x7", None),  # a name
        ("50%", 50),
        ("1e3", 1),
        ("007", 7),
        ("٧", None),
        ("²", None),
        ("seven", None),
        ("", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [(Fraction(7), "7"), (Fraction(-1, 2), "-0.5"), (Fraction(1, 3), "1/3"), (Fraction(10**20), str(10**20))],
)
def test_how_numbers_are_written(number, text):
    assert written(number) == text
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("Answer: 7", 1),
        ("Answer: 7.00", 1),
        ("3 + 4 = 7", 1),
        ("We add 3 and 4 and get 7.\nLet me know if there is more!", 1),  # the last number of all
        ("Answer: 14/2", 1),
        ("Answer: 3 + 4 = 7 apples", 1),
        ("Answer: 8", 0),
        ("7. Answer: 8", 0),
        ("Answer: I do not know. 7 was the first guess\nAnswer: unknown", 0),
        ("seven", 0),
        ("", 0),
    ],
)
def test_numbers_by_hand(completion, score):
    assert SEVEN.score(SEVEN.item(0, 0, 1), completion) == score


@pytest.mark.parametrize(
    ("completion", "score"),
    [("Answer: yes  IT is.", 1), ("yes it is", 1), ("Answer: yes", 0), ("Answer: yes it is not", 0), ("", 0)],
)
def test_lines_by_hand(completion, score):
    assert YES.score(YES.item(0, 0, 1), completion) == score


@BOTH
def test_feedback_is_a_message_that_does_not_give_the_answer_away(task: TaskInWords):
    item = task.item(0, 0, 1)
    wrong = task.corrupt(item, random.Random(0))
    assert task.feedback(item, wrong) == task.feedback(item, item.answer)  # nudge: the same whatever was said
    assert task.feedback(item, wrong).startswith(NUDGE)
    assert task.feedback(item, wrong, "binary").startswith(WRONG)
    assert task.feedback(item, item.answer, "binary").startswith(RIGHT)
    for grade in task.grades:
        for completion in (wrong, item.answer):
            assert task.reference(item) not in task.feedback(item, completion, grade)
    with pytest.raises(ValueError, match="has no feedback grade 'hint'; one of: nudge, binary"):
        task.feedback(item, wrong, "hint")


@BOTH
def test_demonstrations(task: TaskInWords):
    item = task.item(0, 0, 1)
    told = task.feedback(item, item.answer, "binary")
    assert task.revise(item, [(item.answer, told)], random.Random(0), rate=1.0) == item.answer
    wrong = task.careless(item, random.Random(0), rate=1.0)
    assert task.score(item, wrong) == 0
    told = task.feedback(item, wrong, "binary")
    assert task.revise(item, [(wrong, told)], random.Random(0), rate=0.0) == item.answer
    assert 1 <= len(item.answer) <= task.max_answer_chars(1) < MAX_ANSWER_CHARS


def test_numbers_nearby():
    # 7 ± 1, 2, 3, 10, but never below zero: 17 only.
    drawn = {SEVEN.corrupt(SEVEN.item(0, 0, 1), random.Random(seed)) for seed in range(200)}
    assert drawn == {f"Answer: {n}" for n in (4, 5, 6, 8, 9, 10, 17)}


HOSTILE = [
    "__import__('os').system('touch x')",
    "Answer: __import__('os').system('touch x')",
    "Answer: 9**9**9**9",
    "Answer: " + "(" * 100_000,
    "Answer:" * 10_000,
    "$" * 10_000,
    "\\boxed{" * 1_000 + "}" * 1_000,
    "1," * 50_000,
    "9" * 100_000,
    "1/" * 50_000,
    "-" * 100_000 + "1",
    "\n" * 100_000,
    "\0",
    "\ud800",
]


@BOTH
def test_hostile_replies_score_zero_at_once(task: Task, monkeypatch: pytest.MonkeyPatch):
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    started = time.process_time()
    for text in HOSTILE:
        assert task.score(task.item(0, 0, 1), text) == 0
    assert time.process_time() - started < 1
    assert ran == []


@BOTH
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    text=st.text()
    | st.text("0123456789.,/-+ $*\\boxed{}\n", max_size=60)
    | st.text(max_size=30).map(lambda text: f"Answer: {text}")
)
def test_scorers_are_total(task: Task, text: str):
    item = task.item(0, 0, 1)
    answer = task.read(text)
    assert isinstance(answer, str) and len(answer) <= MAX_ANSWER_CHARS and answer.isascii()
    assert task.score(item, text) in (0.0, 1.0)
    assert task.admissible(item, text) is bool(answer)
    assert isinstance(task.feedback(item, text, "binary"), str)
