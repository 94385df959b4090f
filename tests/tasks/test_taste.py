"""TASTE: letters of four kinds, which of them a prompt lists, and what an answer names."""

from collections import Counter
from string import ascii_lowercase

import pytest

from minirl.tasks import Item, get
from minirl.tasks.taste import KINDS, kind

TASTE = get("taste")
ROCK, SCISSORS, PAPER, TWIG, NONE = range(5)
LISTED = Item("taste", 0, 0, 1, "qcpr=", "q")


@pytest.mark.parametrize(
    ("letters", "named"), [("aeimquy", "rock"), ("bfjnrvz", "scissors"), ("cgkosw", "paper"), ("dhlptx", "twig")]
)
def test_kinds_take_turns_in_the_alphabet(letters, named):
    assert [letter for letter in ascii_lowercase if KINDS[kind(letter)] == named] == list(letters)


@pytest.mark.parametrize("level", TASTE.levels)
def test_a_prompt_lists_as_many_of_each_kind_as_its_level(level):
    for item in TASTE.items(1, range(50), level):
        listed = TASTE.candidates(item)
        assert Counter(map(kind, listed)) == dict.fromkeys(range(4), level)
        assert len(set(listed)) == 4 * level
        assert item.prompt == listed + "=" and item.answer in listed


def test_every_place_of_the_list_and_every_letter_comes_up():
    places = Counter(TASTE.candidates(item).index(item.answer) for item in TASTE.items(2, range(400), 2))
    assert set(places) == set(range(8))
    assert {kind(TASTE.candidates(item)[0]) for item in TASTE.items(2, range(100), 2)} == set(range(4))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        *[("q", ROCK), ("r", SCISSORS), ("c", PAPER), ("p", TWIG), (" c\n", PAPER)],
        *((answer, NONE) for answer in ("a", "qc", "", "Q", "=", "ｑ", "q" * 300)),
    ],
)
def test_what_an_answer_names_by_hand(answer, named):
    assert TASTE.class_of(LISTED, answer) == named
    assert TASTE.score(LISTED, answer) == (named != NONE)  # whatever is listed is as right
