"""Keys and codes: facts that nobody can guess, and feedback from which they can be read."""

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item
from minirl.tasks.lookup import LENGTH, LETTERS, Lookup, code, keys

LOOKUP = Lookup()
ITEM = Item("lookup", 0, 0, 1, "C=", "acc")
CODES = ["".join(letters) for letters in product("abcdef", repeat=3)]


def said(item: Item, completion: str, grade: str = "corrected") -> str:
    """What feedback says before it repeats the problem."""
    return LOOKUP.feedback(item, completion, grade).removesuffix(item.prompt)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys() -> None:
    assert "".join(keys(1)) == "ABCDEFGH"
    assert "".join(keys(2)) == "ABCDEFGHIJKLMNOP"
    assert "".join(keys(3)) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    assert keys(4) == keys(3)
    assert [len(set(keys(level))) for level in LOOKUP.levels] == [8, 16, 32, 32]


def test_what_bases_read_has_no_facts() -> None:
    # At level 4 one key has every code, each as often as chance has it: 1 in 216 of those 32 · 216 · 5 items.
    items = LOOKUP.items(0, range(32 * 216 * 5), 4)
    of_one_key = Counter(item.answer for item in items if item.prompt == "A=")
    assert len(of_one_key) > 200  # of 216; each is missed with probability e⁻⁵
    assert sum(item.answer == code(item.prompt[0]) for item in items) / len(items) < 2 / 216


def test_codes_are_facts() -> None:
    # Typed in: whoever changes one makes every base and every committed result out of date.
    assert {key: code(key) for key in "ABC5"} == {"A": "eeb", "B": "cea", "C": "acc", "5": "fea"}
    assert len(CODES) == len(LETTERS) ** LENGTH == 216
    # Whatever level, seed and index ask for a key, the answer is the same one.
    for level in (1, 2, 3):
        for seed in (0, 1):
            for item in LOOKUP.items(seed, range(200), level):
                assert item.prompt.removesuffix("=") in keys(level)
                assert item.answer == code(item.prompt.removesuffix("="))


def test_nobody_can_guess() -> None:
    # Of the 32 facts that are to be learned no more than two have a code in common.
    assert max(Counter(code(key) for key in keys(3)).values()) == 2


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_every_key_is_asked_equally_often(level: int) -> None:
    items = LOOKUP.items(0, range(3200), level)
    counts, mean = Counter(item.prompt for item in items), 3200 / len(keys(level))
    assert set(counts) == {f"{key}=" for key in keys(level)}
    assert max(abs(count - mean) for count in counts.values()) < 4.5 * mean**0.5


def test_the_same_coordinates_are_the_same_item() -> None:
    for level in LOOKUP.levels:
        assert LOOKUP.items(3, range(50), level) == [LOOKUP.item(3, i, level) for i in range(50)]
        assert LOOKUP.items(3, range(50), level) != LOOKUP.items(4, range(50), level)


# --- scores and feedback ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "score", "corrected"),
    [
        ("acc", 1.0, "+"),
        (" acc\n", 1.0, "+"),
        ("bca", 0.0, "-a.c"),
        (" bca ", 0.0, "-a.c"),
        ("bbb", 0.0, "-acc"),
        ("acb", 0.0, "-..c"),
        ("cca", 0.0, "-a.c"),  # all letters that occur, and still the first and the last are wrong
        # No codes, of which nothing more is said:
        ("", 0.0, "-"),
        (" ", 0.0, "-"),
        ("ac", 0.0, "-"),
        ("accc", 0.0, "-"),
        ("accacc", 0.0, "-"),
        ("ACC", 0.0, "-"),
        ("acg", 0.0, "-"),  # g is no letter of a code
        ("ac.", 0.0, "-"),  # nor is what feedback writes with
        ("...", 0.0, "-"),
        ("-acc", 0.0, "-"),
        ("+", 0.0, "-"),
        ("a c", 0.0, "-"),
        ("acc=", 0.0, "-"),
        ("C=acc", 0.0, "-"),
        ("aсc", 0.0, "-"),  # Cyrillic с
        ("ａcc", 0.0, "-"),  # full width
        ("acc\xa0", 0.0, "-"),  # not ASCII, though strip() takes it for space
        ("acc\0", 0.0, "-"),
        (" " * 256 + "acc", 0.0, "-"),  # too long
        ("acc" + " " * 254, 0.0, "-"),
    ],
)
def test_scores_and_feedback(answer: str, score: float, corrected: str) -> None:
    assert LOOKUP.score(ITEM, answer) == score
    assert LOOKUP.feedback(ITEM, answer, "corrected") == f"{corrected}C="
    assert LOOKUP.feedback(ITEM, answer, "binary") == f"{corrected[0]}C="
    assert LOOKUP.feedback(ITEM, answer) == LOOKUP.feedback(ITEM, answer, "nudge") == "?C="
    assert LOOKUP.admissible(ITEM, answer) == (corrected == "+" or len(corrected) == 4)


def test_only_one_of_all_codes_is_right() -> None:
    assert [guess for guess in CODES if LOOKUP.score(ITEM, guess)] == ["acc"]
    assert all(LOOKUP.admissible(ITEM, guess) for guess in CODES)


def test_corrections_speak_of_each_place_by_itself() -> None:
    for guess in CODES:
        signs = ["." if letter == right else right for letter, right in zip(guess, "acc", strict=True)]
        assert said(ITEM, guess) == ("+" if guess == "acc" else "-" + "".join(signs))


# --- demonstrations --------------------------------------------------------------------------------------------------


def test_an_attempt_and_its_corrections_determine_the_code() -> None:
    # The gap that learning from feedback lives on: no knowledge before, nothing but reading after.
    for item in LOOKUP.items(0, range(5), 3) + LOOKUP.items(0, range(5), 4):
        for guess in CODES:
            history = [(guess, LOOKUP.feedback(item, guess, "corrected"))]
            assert LOOKUP.revise(item, history, random.Random(0), 1.0) == item.answer


@pytest.mark.parametrize(
    ("history", "revised"),
    [
        ([("bca", "-a.cC=")], "acc"),
        ([(" bca\n", "-a.cC=")], "acc"),  # as the scorer has read it
        ([("bca", "-a.c")], "acc"),  # and without the problem once more
        ([("acc", "+C=")], "acc"),
        ([("bbb", "-accC="), ("bca", "-a.cC=")], "acc"),  # the last word counts
        ([("bbb", "+C=")], "bbb"),  # who is told to be right repeats, whatever the truth
        ([("bbb", "-fffC=")], "fff"),  # and who is corrected believes it
    ],
)
def test_revise_heeds_what_was_said(history: list[tuple[str, str]], revised: str) -> None:
    for rate in (0.0, 1.0):
        assert {LOOKUP.revise(ITEM, history, random.Random(i), rate) for i in range(50)} == {revised}


@pytest.mark.parametrize(
    "history",
    [
        [("bca", "?C=")],  # a nudge
        [("bca", "-C=")],  # binary
        [("ac", "-C=")],  # no code
        [("bca", "-a.cC="), ("xyz", "-C=")],
    ],
)
def test_revise_guesses_where_nothing_was_said(history: list[tuple[str, str]]) -> None:
    assert {LOOKUP.revise(ITEM, history, random.Random(i), 1.0) for i in range(3000)} == set(CODES)
    assert {LOOKUP.revise(ITEM, history, random.Random(i), 0.0) for i in range(50)} == {"acc"}


def test_a_careless_attempt_is_any_code_at_the_rate() -> None:
    # Right with 1 − rate, and by luck in one of 216 guesses.
    for rate, share in ((0.0, 1.0), (0.75, 0.25 + 0.75 / 216), (1.0, 1 / 216)):
        written = Counter(LOOKUP.careless(ITEM, random.Random(i), rate) for i in range(4000))
        deviation = (share * (1 - share) / 4000) ** 0.5
        assert abs(written["acc"] / 4000 - share) <= 4 * deviation
        assert set(written) == ({"acc"} if rate == 0 else set(CODES))


def test_corruption_is_any_other_code() -> None:
    wrong = Counter(LOOKUP.corrupt(ITEM, random.Random(i)) for i in range(4300))
    assert set(wrong) == set(CODES) - {"acc"}
    assert max(wrong.values()) < 20 + 5 * 20**0.5  # 20 each


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text("abcdefg ", max_size=5) | st.text(max_size=5), st.sampled_from(LOOKUP.grades), st.integers(0, 40))
def test_whatever_is_answered_the_next_attempt_is_a_code(completion: str, grade: str, index: int) -> None:
    item = LOOKUP.item(0, index, 1 + index % 4)
    feedback = LOOKUP.feedback(item, completion, grade)
    revised = LOOKUP.revise(item, [(completion, feedback)], random.Random(index), 1.0)
    # Only what is called right is repeated as it was written; the scorer forgives the space around it.
    assert LOOKUP.admissible(item, revised)
    signs = feedback.removesuffix(item.prompt)
    assert (len(signs) == 4) == (grade == "corrected" and LOOKUP.admissible(item, completion) and signs != "+")
