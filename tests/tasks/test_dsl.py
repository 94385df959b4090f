"""List programs: the interpreter against an independent one, and items that determine their answer."""

import random
import time
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item
from minirl.tasks.dsl import (
    HIDDEN,
    MAX_OPERATIONS,
    OPERATIONS,
    ListPrograms,
    behaviour,
    fitting,
    functions,
    one_edit,
    run,
)

DSL = ListPrograms()
LETTERS = "adefilrstu"


def problem(prompt: str, answer: str) -> Item:
    return Item("dsl", 0, 0, len(answer), prompt, answer)


def digits(text: str) -> tuple[int, ...]:
    return tuple("0123456789".index(digit) for digit in text)


def reference(program: str, text: str) -> str:
    """Another interpreter, on strings and with loops: shares neither code nor data types with the first."""
    for letter in program:
        out = ""
        if letter == "a":
            total = 0
            for digit in text:
                total += int(digit)
                out += str(total)[-1]
        elif letter == "d":
            for digit in text:
                out += "0246802468"[int(digit)]
        elif letter == "e":
            for digit in text:
                out += digit if digit in "02468" else ""
        elif letter == "f":
            for position, digit in enumerate(text):
                out += digit if position else ""
        elif letter == "i":
            for digit in text:
                out += "1234567890"[int(digit)]
        elif letter == "l":
            for position, digit in enumerate(text, start=1):
                out += digit if position < len(text) else ""
        elif letter == "r":
            for digit in text:
                out = digit + out
        elif letter == "s":
            for digit in "0123456789":
                out += digit * text.count(digit)
        elif letter == "t":
            for position in range(len(text)):
                out += text[(position + 1) % len(text)]
        elif letter == "u":
            for digit in text:
                out += digit if digit not in out else ""
        text = out
    return text


# --- the interpreter -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "values", "output"),
    [
        ("a", "3792", "3091"),  # 3, 10, 19, 21
        ("d", "3792", "6484"),
        ("e", "3792", "2"),
        ("f", "3792", "792"),
        ("i", "3792", "4803"),
        ("l", "3792", "379"),
        ("r", "3792", "2973"),
        ("s", "3792", "2379"),
        ("t", "3792", "7923"),
        ("u", "3732", "372"),
        ("e", "0505", "00"),  # zero is even
        ("s", "5150", "0155"),
        ("u", "5150", "510"),  # the first of equals stays
        ("id", "37", "86"),  # from left to right: 4, 8 → 8, 16
        ("di", "37", "75"),  # 6, 14 → 4; plus one
        ("ffff", "37", ""),  # nothing left to drop is not an error
        *((letter, "", "") for letter in LETTERS),
    ],
)
def test_run(program: str, values: str, output: str) -> None:
    assert run(program, digits(values)) == digits(output)
    assert reference(program, values) == output


@pytest.mark.parametrize(
    "program", ["", " ", "x", "R", "r r", "r\n", "rx", "r1", "ｒ", "r;", "a" * (MAX_OPERATIONS + 1), "r" * 10**6]
)
def test_run_refuses(program: str) -> None:
    assert run(program, (1, 2, 3)) is None


def test_every_short_program_against_the_reference() -> None:
    for length in (1, 2, 3):
        for program in map("".join, product(LETTERS, repeat=length)):
            for values in ("", "7", "3792", "05050", "99189"):
                assert run(program, digits(values)) == digits(reference(program, values)), (program, values)


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(st.text(LETTERS, min_size=1, max_size=MAX_OPERATIONS), st.text("0123456789", max_size=12))
def test_long_programs_against_the_reference(program: str, values: str) -> None:
    output = run(program, digits(values))
    assert output == digits(reference(program, values))
    assert len(output) <= len(values)  # no operation makes a list longer: memory is bounded by the input


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.text() | st.text(LETTERS, max_size=300), st.lists(st.integers(0, 9), max_size=12))
def test_run_is_total(program: str, values: list[int]) -> None:
    output = run(program, values)
    assert (output is not None) == (1 <= len(program) <= MAX_OPERATIONS and all(c in LETTERS for c in program))
    assert output is None or all(type(value) is int and 0 <= value <= 9 for value in output)


def test_long_input_takes_no_longer_than_eight_passes() -> None:
    started = time.process_time()
    run("asudirat", tuple(range(10)) * 10_000)
    run("r" * 10**7, (1, 2, 3))
    assert time.process_time() - started < 1.0


# --- functions -------------------------------------------------------------------------------------------------------


def test_functions_are_counted_once() -> None:
    """Every program of at most three operations does the same as exactly one of the functions, which is no longer.

    The hidden inputs decide what is the same; that they decide rightly is checked on 200 other lists, short and long.
    """
    rng = random.Random(0)
    others = ["".join(rng.choice("0123456789") for _ in range(length)) for length in range(10) for _ in range(20)]
    known = {"".join(f"{reference(program, values)};" for values in others): program for program in functions(3)}
    assert len(known) == len(functions(3)) == 1 + 10 + 74 + 492
    for length in (1, 2, 3):
        for program in map("".join, product(LETTERS, repeat=length)):
            shortest = known["".join(f"{reference(program, values)};" for values in others)]
            assert (len(shortest), shortest) <= (length, program)
            assert behaviour(program) == (behaviour(shortest) if shortest else HIDDEN)


def test_hidden_inputs_tell_functions_of_four_operations_apart() -> None:
    # 200 other lists find no function that the hidden ones take for another: counts agree at every length.
    rng = random.Random(1)
    lists = [tuple(rng.randrange(10) for _ in range(length)) for length in range(10) for _ in range(20)]
    layer, found = [tuple(lists)], {tuple(lists)}
    for _ in range(4):
        after = {tuple(operation(values) for values in before) for before in layer for operation in OPERATIONS.values()}
        layer = sorted(after - found)
        found |= after
    assert len(found) == len(functions(4)) == 1 + 10 + 74 + 492 + 3091


def test_functions_by_hand() -> None:
    assert functions(1) == ("", *LETTERS)
    # Of 100 programs of two operations, 26 say nothing new. 16 pairs commute; alphabetical order is kept.
    commuting = {"a": "dl", "d": "flrt", "e": "rsu", "f": "il", "i": "lrtu", "s": "u"}
    known = {late + early: early + late for early, others in commuting.items() for late in others}
    known |= {"ee": "e", "ss": "s", "uu": "u", "rr": ""}  # once is enough, or twice is none
    known |= {"rs": "s", "ts": "s"}  # sorting forgets the order
    known |= {"de": "d"}  # all doubles are even
    known |= {"rf": "lr", "rl": "fr", "tl": "f"}  # which end is which
    for program, shortest in known.items():
        assert behaviour(program) == (behaviour(shortest) if shortest else HIDDEN)
    every = map("".join, product(LETTERS, repeat=2))
    assert functions(2) == ("", *LETTERS, *(program for program in every if program not in known))


def test_one_edit_by_hand() -> None:
    edits = one_edit("rs")
    assert edits == sorted(set(edits))
    dropped, swapped = {"r", "s"}, {"sr"}
    replaced = {f"{x}s" for x in LETTERS} | {f"r{x}" for x in LETTERS}
    inserted = {f"{x}rs" for x in LETTERS} | {f"r{x}s" for x in LETTERS} | {f"rs{x}" for x in LETTERS}
    assert set(edits) == (dropped | swapped | replaced | inserted) - {"rs"}
    assert "" not in one_edit("r")  # nothing is no program


# --- items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "count"), [(1, 300), (2, 300), (3, 150), (4, 40)])
def test_examples_determine_the_answer(level: int, count: int) -> None:
    for item in DSL.items(0, range(count), level):
        assert len(item.answer) == level
        examples = [tuple(pair.split(">")) for pair in item.prompt.removesuffix("=").split(";")]
        assert len(examples) == 3
        for values, output in examples:
            assert 4 <= len(values) <= 5 and output not in ("", values)
            assert reference(item.answer, values) == output
        if level <= 2:  # all 110 programs, by the other interpreter: those that fit are the same function
            for program in ("".join(p) for n in range(1, level + 1) for p in product(LETTERS, repeat=n)):
                if all(reference(program, values) == output for values, output in examples):
                    assert len(program) == level and behaviour(program) == behaviour(item.answer)
                    assert DSL.score(item, program) == 1.0
        pairs = [(digits(values), digits(output)) for values, output in examples]
        assert fitting(pairs, level) == [item.answer]


def test_every_function_is_asked_for() -> None:
    for level in (1, 2, 3):
        asked = Counter(item.answer for item in DSL.items(1, range(4000 if level == 3 else 1000), level))
        wanted = {program for program in functions(level) if len(program) == level}
        # 'die' leaves nothing of any list: what is doubled is even, plus one odd.
        assert wanted - asked.keys() <= {"die"} and ("die" in wanted) == (level == 3)
        assert max(asked.values()) < 3.5 * sum(asked.values()) / len(wanted) + 10  # none dominates


def test_answers_by_another_spelling_are_right() -> None:
    # Reversing and adding one commute, so 'ri' is 'ir'; 'rir' adds one and is not.
    item = problem("1234>5432;904>510;77>88=", "ir")
    assert [DSL.score(item, program) for program in ("ir", "ri", "rrri", "irrr")] == [1.0] * 4
    assert [DSL.score(item, program) for program in ("rir", "i", "r")] == [0.0] * 3


@pytest.mark.parametrize(
    ("answer", "score", "first_failure"),
    [
        ("s", 1.0, None),
        (" s\n", 1.0, None),
        ("ss", 1.0, None),
        ("rs", 1.0, None),  # sorting forgets the order
        ("us", 0.0, 2),  # no digit twice in the first two examples
        ("r", 0.0, 1),  # the first happens to be descending
        ("i", 0.0, 0),
        ("", 0.0, 0),
        ("x", 0.0, 0),
        ("S", 0.0, 0),
        ("s s", 0.0, 0),
        ("sort", 0.0, 0),
        ("s=", 0.0, 0),
        ("s" * MAX_OPERATIONS, 1.0, None),
        ("s" * (MAX_OPERATIONS + 1), 0.0, 0),
        ("s\xa0", 0.0, 0),  # not ASCII, though strip() takes it for space
        (" " * 256 + "s", 0.0, 0),  # too long
        # What comes before the last ! is the model's own working, whatever it says.
        ("12345!s", 1.0, None),
        ("!s\n", 1.0, None),
        ("r!s", 1.0, None),
        ("r!s!r!s", 1.0, None),
        ("s!r", 0.0, 1),  # r is the answer, and the first example happens to be descending
        ("s!", 0.0, 0),  # nothing came of it
        ("s!s s", 0.0, 0),
        ("!" * 255 + "s", 1.0, None),
        ("!" * 256 + "s", 0.0, 0),  # too long all the same
    ],
)
def test_scores(answer: str, score: float, first_failure: int | None) -> None:
    item = problem("321>123;4053>0345;11420>01124=", "s")
    assert DSL.score(item, answer) == score
    assert DSL.first_failure(item, answer) == first_failure


@pytest.mark.parametrize(
    ("completion", "program"), [("s", "s"), (" s\n", "s"), ("12!rs", "rs"), ("a!b!rs", "rs"), ("s!", ""), ("", "")]
)
def test_the_program_is_what_follows_the_last_exclamation_mark(completion: str, program: str) -> None:
    assert DSL.read(completion) == program


@pytest.mark.parametrize("level", DSL.levels)
def test_there_is_room_for_a_guess_at_an_output(level: int) -> None:
    # An output of five digits, the sign after it, and a program with one operation too many.
    for item in DSL.items(4, range(20), level):
        longest = max(len(pair.split(">")[1]) for pair in item.prompt.removesuffix("=").split(";"))
        assert len("9" * longest + "!" + item.answer + "r") <= DSL.max_answer_chars(level)


def test_hidden_inputs_refuse_what_fits_three_examples_by_luck() -> None:
    # The running sums of these are all equal, so sorting them changes nothing; those of 193 are 1, 0, 3.
    item = problem("1000>1111;5000>5555;3000>3333=", "a")
    assert DSL.score(item, "a") == 1.0
    assert run("as", digits("1000")) == digits("1111") and run("as", digits("193")) == digits("013")
    assert DSL.score(item, "as") == 0.0 and DSL.first_failure(item, "as") == 3
    assert DSL.feedback(item, "as", "example") == f"-!{item.prompt}"  # nothing to show, and nothing hidden shown
    assert DSL.feedback(item, "as", "binary") == f"-{item.prompt}"
    # What fails an example as well is refused for that.
    assert DSL.first_failure(item, "ras") == 0


def test_corruption_is_a_bug_that_shows() -> None:
    lengths: Counter[int] = Counter()
    for item in DSL.items(2, range(300), 2):
        wrong = DSL.corrupt(item, random.Random(item.index))
        assert wrong in one_edit(item.answer)
        assert DSL.first_failure(item, wrong) in (0, 1, 2)
        lengths[len(wrong) - len(item.answer)] += 1
    assert lengths.keys() == {-1, 0, 1}


@pytest.mark.parametrize(
    ("answer", "head"),
    [
        ("s", "+"),
        ("r", "-4053>3504!"),  # the first example that fails, and what the program makes of it
        ("i", "-321>432!"),
        ("eee", "-321>2!"),
        ("fff", "-321>!"),  # nothing
        ("", "-321>?!"),  # no program
        ("sort", "-321>?!"),
        ("__import__('os')", "-321>?!"),
        ("us", "-11420>0124!"),
        ("123!r", "-4053>3504!"),  # of the program, not of what was written before it
        ("s!i", "-321>432!"),
        ("i!", "-321>?!"),
    ],
)
def test_example_feedback(answer: str, head: str) -> None:
    item = problem("321>123;4053>0345;11420>01124=", "s")
    assert DSL.feedback(item, answer, "example") == head + item.prompt


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=10) | st.text(LETTERS, max_size=MAX_OPERATIONS + 1), st.integers(0, 20))
def test_failures_explain_scores(completion: str, index: int) -> None:
    item = DSL.item(3, index, 2)
    failure = DSL.first_failure(item, completion)
    assert (failure is None) == (DSL.score(item, completion) == 1.0)
    assert failure in (None, 0, 1, 2, 3)
