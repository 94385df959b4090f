"""Bugs: what programs do, what their tests show, what is a valid bug, and how an item serves the other role."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirl.tasks import Item, get
from minirl.tasks.bugs import (
    BREAK,
    LETTERS,
    OPERATIONS,
    edits,
    first_failure,
    right_program,
    run,
    shown,
    suite,
    suite_of,
)

BUGS = get("bugs")
# Checked by hand: 9-6, 2*5, 7+5, 3+1 = 3, 0, 2, 4 and 9-8, 2*2, 4+5, 1+1 = 1, 4, 9, 2.
RIGHT, TESTS = "cdhi", (("6573", "3024"), ("8241", "1492"))
BREAKING = Item("bugs", 0, 0, BREAK, "Bcdhi:6573>3024;8241>1492=", "ddhi")
programs = st.text(LETTERS, min_size=4, max_size=4)


@pytest.mark.parametrize(
    ("program", "values", "output"),
    [
        ("cccc", "0149", "9850"),
        ("dddd", "0149", "0288"),
        ("hhhh", "0149", "5694"),
        ("iiii", "0149", "1250"),
        ("oooo", "0149", "9038"),
        ("tttt", "0149", "0327"),
        ("cdhi", "0149", "9290"),  # each letter at its own place
    ],
)
def test_operations_by_hand(program, values, output):
    assert run(program, values) == output


@pytest.mark.parametrize("text", ["", "cdh", "cdhii", "cdhx", "CDHI", "cd i", "1234", "сdhi"])  # Cyrillic с
def test_what_is_no_program(text):
    assert run(text, "0149") is None
    assert first_failure(text, TESTS) == 0


def test_all_operations_are_different():
    tables = {letter: tuple(map(operation, range(10))) for letter, operation in OPERATIONS.items()}
    assert len(set(tables.values())) == len(LETTERS) == 6
    assert all(0 <= x <= 9 for table in tables.values() for x in table)


def test_tests_depend_on_coordinates_and_program():
    random.seed(0)  # the global generator does not matter
    suite.cache_clear()
    assert suite(0, 0, RIGHT) == TESTS
    assert len({suite(0, 0, RIGHT), suite(0, 1, RIGHT), suite(1, 0, RIGHT)}) == 3
    assert [values for values, _ in suite(0, 0, "cdhh")] != [values for values, _ in TESTS]


@given(programs, st.integers(0, 99))
def test_a_program_passes_its_own_tests(program, index):
    assert first_failure(program, suite(5, index, program)) is None


@pytest.mark.parametrize(
    ("program", "index"),
    [
        (RIGHT, None),
        ("ddhi", 0),  # 2*6 = 2, not 3
        ("cdho", 0),  # 3-1 = 2, not 4
        ("chhi", 1),  # 5+5 is 2*5; but 2+5 = 7, not 4
        ("cdci", 1),  # 9-7 is 7+5; but 9-4 = 5, not 9
        ("chci", 1),  # both of them
    ],
)
def test_first_failures_by_hand(program, index):
    assert first_failure(program, TESTS) == index


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("cdhi", "cdhi", 0), ("cdhi", "ddhi", 1), ("cdhi", "dchi", 2), ("cdhi", "ihdc", 4)],
)
def test_edits_by_hand(first, second, distance):
    assert edits(first, second) == edits(second, first) == distance


def test_what_an_item_says():
    mending = BUGS.mending(BREAKING, "ddhi")
    assert shown(mending.prompt) == "ddhi"
    assert right_program(BREAKING) == right_program(mending) == RIGHT
    assert suite_of(BREAKING) == suite_of(mending) == TESTS


@pytest.mark.parametrize("level", BUGS.levels)
def test_items_are_what_their_level_says(level):
    for item in BUGS.items(0, range(200), level):
        breaking, right, tests = level == BREAK, right_program(item), suite_of(item)
        bug = item.answer if breaking else shown(item.prompt)
        assert edits(right, bug) in ((1, 2) if breaking else (level,))
        failing = first_failure(bug, tests)
        assert failing is not None
        asked = tests if breaking else tests[failing : failing + 1]
        assert item.prompt == f"{'MB'[breaking]}{right if breaking else bug}:" + ";".join(map(">".join, asked)) + "="


def test_most_bugs_of_the_texts_are_small():
    sizes = Counter(edits(shown(item.prompt), item.answer) for item in BUGS.items(0, range(400), BREAK))
    assert set(sizes) == {1, 2} and 65 < sizes[2] < 135  # one in four: 100, and four standard deviations of 8.7


@pytest.mark.parametrize(
    ("answer", "valid"), [("ddhi", 1), ("tttt", 1), (RIGHT, 0), ("cdh", 0), ("cdhii", 0), ("cdhx", 0), ("", 0)]
)
def test_what_is_a_valid_bug(answer, valid):
    assert BUGS.score(BREAKING, answer) == valid


@pytest.mark.parametrize(("answer", "right"), [(RIGHT, 1), (" cdhi", 1), ("ddhi", 0), ("cdh", 0), ("", 0)])
def test_what_is_a_repair(answer, right):
    assert BUGS.score(BUGS.mending(BREAKING, "ddhi"), answer) == right


def test_a_repair_has_to_pass_the_test_that_is_not_shown():
    # 9-7 is 7+5 and passes what is shown; the other test has a 4 there.
    item = BUGS.mending(BREAKING, "ddhi")
    assert item.prompt == "Mddhi:6573>3024=" and run("cdci", "6573") == "3024" and BUGS.score(item, "cdci") == 0


def test_whoever_mends_reads_what_the_other_wrote():
    assert BUGS.mending(BREAKING, "dchi") == Item("bugs", 0, 0, 2, "Mdchi:6573>3024=", RIGHT)
    failed = BUGS.mending(BUGS.mending(BREAKING, "dchi"), "dcht")  # a repair that made it worse
    assert failed == Item("bugs", 0, 0, 3, "Mdcht:6573>3024=", RIGHT)
    assert BUGS.mending(BREAKING, "chhi").prompt == "Mchhi:8241>1492="  # the first test that fails
    assert BUGS.mending(BREAKING, "tttt").level == 3  # there is no level for more
    with pytest.raises(ValueError, match="'cdhi' passes all tests"):
        BUGS.mending(BREAKING, RIGHT)


def test_whoever_breaks_reads_the_right_program():
    asked = BUGS.breaking(BUGS.mending(BREAKING, "ddhi"))
    assert (asked.prompt, asked.level) == (BREAKING.prompt, BREAK)
    assert asked == BUGS.breaking(asked) and BUGS.score(asked, asked.answer) == 1


@pytest.mark.parametrize("letters", [1, 2, 4])
def test_a_random_bug_has_the_size_that_was_asked_for(letters):
    drawn = {BUGS.bug(BREAKING, letters, random.Random(seed)) for seed in range(60)}
    assert len(drawn) > 15 and {edits(RIGHT, bug) for bug in drawn} == {letters}
    assert all(first_failure(bug, TESTS) is not None for bug in drawn)


def test_careless_menders_overlook_letters():
    # "ihhc" for "cdhi": three letters are broken. Who overlooks none mends all, who overlooks all changes nothing.
    item = BUGS.mending(BREAKING, "ihhc")
    assert BUGS.careless(item, random.Random(0), 0.0) == RIGHT
    assert BUGS.careless(item, random.Random(0), 1.0) == "ihhc"
    kept = [edits(RIGHT, BUGS.careless(item, random.Random(seed), 0.4)) for seed in range(1000)]
    assert abs(sum(kept) / 3000 - 0.4) < 0.036  # four standard errors
    assert BUGS.careless(BREAKING, random.Random(0), 1.0) == "ddhi"
