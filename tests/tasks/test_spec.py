"""Programs from one example: which ones fit it, and what can be known after each kind of feedback."""

import random
import re
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item
from minirl.tasks.dsl import OPERATIONS, behaviour, functions, run
from minirl.tasks.spec import AMBIGUOUS, UnitTests, specification

SPEC = UnitTests()
LETTERS = "adefilrstu"

# Without the first (f), without the last (l), without repetitions (u): what makes one 2 of two. Every other operation
# makes something else of them: a 24, d 44, e 22, i 33, r, s and t 22. The specification means u: of its tests, drawn
# once and for all, 3886 → 386 and 6788 → 678.
TWOS = Item("spec", 0, 0, 1, "22>2=", "u")
# Plus one, and at two operations that without odd digits (6 and 4 are even) or without repetitions. The tests of i are
# 9189 → 0290 and 0923 → 1034.
MORE = Item("spec", 0, 0, 2, "53>64=", "i")


def digits(text: str) -> tuple[int, ...]:
    return tuple(map(int, text))


def read(prompt: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    values, output = prompt.removesuffix("=").split(">")
    return digits(values), digits(output)


def said(item: Item, completion: str, grade: str) -> str:
    """What feedback says before it repeats the problem."""
    feedback = SPEC.feedback(item, completion, grade)
    assert feedback.endswith(item.prompt)
    return feedback.removesuffix(item.prompt)


def told(item: Item, grade: str, *completions: str) -> list[tuple[str, str]]:
    """A history of attempts and the feedback to each."""
    return [(completion, SPEC.feedback(item, completion, grade)) for completion in completions]


# --- specifications --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "answer", "tests"),
    [
        # Typed in, and checked by hand: they change only when the generator does, and then every base is out of date.
        ("22>2=", "u", ["3886>386", "6788>678"]),
        ("22>2=", "f", ["91967>1967", "5311>311"]),
        ("22>2=", "l", ["54004>5400", "8682>868"]),
        ("53>64=", "i", ["9189>0290", "0923>1034"]),
        ("31>13=", "s", ["74032>02347", "9535>3559"]),
        ("31>13=", "r", ["7247>7427", "22748>84722"]),
        ("31>13=", "t", ["4170>1704", "64769>47696"]),
    ],
)
def test_specifications(prompt: str, answer: str, tests: list[str]) -> None:
    examples = tuple(map(read, [prompt, *tests]))
    specification.cache_clear()
    assert specification(prompt, answer) == examples
    random.seed(0)  # nor does it depend on the global generator
    specification.cache_clear()
    # Of the coordinates of an item it does not depend: the same task is always tested in the same way.
    assert SPEC.examples(Item("spec", 7, 8, 4, prompt, answer)) == list(examples)


@pytest.mark.parametrize("level", SPEC.levels)
def test_the_examples_determine_the_function(level: int) -> None:
    every = ["".join(letters) for length in (1, 2) for letters in product(LETTERS, repeat=length)]
    for item in SPEC.items(0, range(100), level):
        shown, *tests = SPEC.examples(item)
        assert shown == read(item.prompt) and len(tests) == 2
        for values, output in (shown, *tests):
            assert run(item.answer, values) == output and output and output != values
        assert all(len(values) in (4, 5) for values, _ in tests)
        # Of all 110 programs of one or two operations, those that fit the three are spellings of the answer.
        fit = [program for program in every if all(run(program, v) == output for v, output in (shown, *tests))]
        assert item.answer in fit and {behaviour(program) for program in fit} == {behaviour(item.answer)}
        assert all(SPEC.score(item, program) == (program in fit) for program in every)


@pytest.mark.parametrize(
    ("level", "operations", "lengths", "fewest"),
    [(1, 1, {2, 3}, 1), (2, 2, {2, 3}, 3), (3, 1, {4, 5}, 1), (4, 2, {4, 5}, 1)],
)
def test_levels(level: int, operations: int, lengths: set[int], fewest: int) -> None:
    assert AMBIGUOUS == 3
    items = SPEC.items(1, range(3000), level)
    assert {len(item.prompt.split(">")[0]) for item in items} == lengths
    # All functions but "", which is no program. At level 2 "plus two" and "twice, plus one" are rare, since it takes
    # inputs such as 22>44 and 00>11 for as many as three functions to make the same.
    wanted, asked = set(functions(operations)[1:]), {item.answer for item in items}
    assert asked <= wanted and wanted - asked <= ({"ii", "di"} if level == 2 else set())
    left = [len(SPEC.possible(item, [])) for item in items]
    assert min(left) == fewest
    for item, count in zip(items[:200], left, strict=False):
        # By trying all programs: so many different functions make the output of the input that is shown.
        programs = ("".join(letters) for n in range(1, operations + 1) for letters in product(LETTERS, repeat=n))
        values, output = read(item.prompt)
        assert len({behaviour(program) for program in programs if run(program, values) == output}) == count


def test_of_what_fits_nothing_is_likelier() -> None:
    # Where six programs fit, each is the right one in a sixth of the items, whatever its place in the alphabet.
    ranks = Counter[int]()
    for item in SPEC.items(2, range(6000), 2):
        programs = SPEC.possible(item, [])
        if len(programs) == 6:
            ranks[programs.index(item.answer)] += 1
    mean = ranks.total() / 6
    assert mean > 50 and set(ranks) == set(range(6))
    assert max(abs(count - mean) for count in ranks.values()) < 4 * mean**0.5


# --- feedback --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "answer", "explain", "test"),
    [
        (TWOS, "u", "+", "+"),
        (TWOS, " uu\n", "+", "+"),
        (TWOS, "22!u", "+", "+"),
        # What fits the example fails a test.
        (TWOS, "f", "-?", "-3886>386;886!"),
        (TWOS, "l", "-?", "-3886>386;388!"),
        (TWOS, "lu", "-?", "-3886>386;38!"),
        (TWOS, "2!f", "-?", "-3886>386;886!"),  # of the program, not of what was written before it
        # The example comes first.
        (TWOS, "r", "-?", "-22>2;22!"),
        (TWOS, "a", "-?", "-22>2;24!"),  # 2, 2+2
        (TWOS, "ff", "-?", "-22>2;!"),  # nothing is left
        (TWOS, "", "-?", "-22>2;?!"),  # no program
        (TWOS, "x", "-?", "-22>2;?!"),
        (TWOS, "u" * 9, "-?", "-22>2;?!"),
        (TWOS, "u!", "-?", "-22>2;?!"),
        (TWOS, "__import__('os')", "-?", "-22>2;?!"),
        # The last of equals instead of the first: 3886 → 6883 → 683 → 386, 6788 → 678. All three examples are met by
        # luck. Of the hidden 31415926 it makes 3415926, u 3145926; that is not shown.
        (TWOS, "rur", "-?", "-!"),
        (MORE, "i", "+", "+"),
        (MORE, "ie", "-?", "-9189>0290;020!"),  # 0290 without the 9
        (MORE, "iu", "-?", "-9189>0290;029!"),
        (MORE, "ii", "-?", "-53>64;75!"),
        (MORE, "r", "-?", "-53>64;35!"),
    ],
)
def test_feedback_by_hand(item: Item, answer: str, explain: str, test: str) -> None:
    assert said(item, answer, "nudge") == "?"
    assert said(item, answer, "binary") == explain[0]
    assert said(item, answer, "explain") == explain
    assert said(item, answer, "test") == test


def test_hidden_inputs_decide_where_examples_do_not() -> None:
    assert run("u", digits("31415926")) == digits("3145926")
    assert run("rur", digits("31415926")) == digits("3415926")
    assert all(run("rur", values) == output for values, output in SPEC.examples(TWOS))
    assert SPEC.first_failure(TWOS, "rur") == 3 and SPEC.score(TWOS, "rur") == 0.0


# --- placebo ---------------------------------------------------------------------------------------------------------


def test_a_placebo_has_the_form_of_a_test_that_failed() -> None:
    for level in SPEC.levels:
        for item in SPEC.items(3, range(150), level):
            shown = SPEC.examples(item)
            for answer in (*SPEC.possible(item, [])[:3], "r", "fff", "x"):
                test, placebo = (said(item, answer, grade) for grade in ("test", "placebo"))
                if ">" not in test:
                    assert placebo == test  # + and -! have nothing that could be replaced
                    continue
                match = re.fullmatch(r"-(\d{4,5})>(\d{1,5});(\d{0,5}|\?)!", placebo)
                assert match
                values, wanted, given = match.groups()
                # What is given is true, and neither what is wanted nor what was put in, as of any test that failed.
                output = run(answer, digits(values))
                assert given == ("?" if output is None else "".join(map(str, output)))
                assert wanted not in (given, values)
                assert any(run(program, digits(values)) == digits(wanted) for program in functions(2)[1:])
                assert (digits(values), digits(wanted)) not in shown


def test_a_placebo_depends_on_the_prompt_and_the_program_alone() -> None:
    # Sorted, reversed or turned: 31 becomes 13. Whichever is meant, the other two are wrong, and a placebo says of each
    # the same thing, where a test speaks of the truth.
    meant = {answer: Item("spec", 0, 0, 1, "31>13=", answer) for answer in "rst"}
    for attempt in "rst":
        others = [item for answer, item in meant.items() if answer != attempt]
        assert len({SPEC.feedback(item, attempt, "placebo") for item in others}) == 1
        assert len({SPEC.feedback(item, attempt, "test") for item in others}) == 2
        for item in others:
            again = [Item("spec", 5, 6, 2, item.prompt, item.answer), item]
            assert {SPEC.feedback(i, text, "placebo") for i in again for text in (attempt, f"13!{attempt}\n")} == {
                SPEC.feedback(item, attempt, "placebo")
            }
    assert len({said(meant["s"], attempt, "placebo") for attempt in ("r", "t", "i", "d", "rr")}) == 5


def test_a_placebo_wants_the_truth_by_chance_alone() -> None:
    # One of 84 programs is the right one, and some others make the same of four or five digits. A test always does.
    wanted = []
    for item in SPEC.items(4, range(1500), 2):
        text = said(item, SPEC.careless(item, random.Random(item.index), 0.0), "placebo")
        if ">" in text:
            values, output = read(text[1:].partition(";")[0])
            wanted.append(run(item.answer, values) == output)
    assert len(wanted) > 1000 and sum(wanted) / len(wanted) < 0.05


# --- what can be known -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "history", "left"),
    [
        (TWOS, [], "f l u"),
        (TWOS, told(TWOS, "nudge", "f"), "f l u"),
        (TWOS, told(TWOS, "binary", "f"), "l u"),
        (TWOS, told(TWOS, "binary", "f", "l"), "u"),
        (TWOS, told(TWOS, "binary", "f", "f"), "l u"),
        (TWOS, told(TWOS, "binary", "22!f"), "l u"),  # as the scorer has read it
        (TWOS, told(TWOS, "binary", "rrf"), "l u"),  # the same by another spelling
        (TWOS, told(TWOS, "binary", "r"), "f l u"),  # which everybody knew
        (TWOS, told(TWOS, "binary", "x"), "f l u"),  # no program
        (TWOS, told(TWOS, "binary", ""), "f l u"),
        (TWOS, told(TWOS, "explain", "f"), "l u"),
        (TWOS, told(TWOS, "test", "f"), "u"),  # of 3886 f makes 886, l 388
        (TWOS, told(TWOS, "test", "l"), "u"),
        (TWOS, told(TWOS, "test", "r"), "f l u"),  # -22>2;22! shows what is in the prompt
        (TWOS, told(TWOS, "test", "x", "r"), "f l u"),
        (TWOS, told(TWOS, "test", "rur"), "f l u"),  # -!
        (TWOS, told(TWOS, "test", "l", "r"), "u"),  # what was said before is still known
        (TWOS, [("f", "-1123>123;123!22>2=")], "u"),  # of 1123 f and u make 123, but f is called wrong
        (TWOS, [("l", "-1123>123;112!22>2=")], "f u"),  # believed, true or not
        (TWOS, [("l", "-1123>999;112!22>2=")], ""),  # nothing makes 999 of it
        (MORE, [], "i ie iu"),
        (MORE, told(MORE, "binary", "iu"), "i ie"),
        (MORE, told(MORE, "binary", "ei"), "i ie iu"),  # nothing is left of 53
        (MORE, told(MORE, "binary", "ui"), "i ie"),  # the same as iu
        (MORE, told(MORE, "test", "iu"), "i"),  # -9189>0290;029!, and without odd digits it is 020
    ],
)
def test_possible(item: Item, history: list[tuple[str, str]], left: str) -> None:
    assert SPEC.possible(item, history) == left.split()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.text(LETTERS, max_size=4) | st.text(max_size=6), max_size=4),
    st.sampled_from(["nudge", "binary", "explain", "test"]),
    st.integers(0, 60),
)
def test_the_truth_is_always_possible(answers: list[str], grade: str, index: int) -> None:
    item = SPEC.item(5, index, 1 + index % 4)
    history = [turn for turn in told(item, grade, *answers) if not turn[1].startswith("+")]
    for t in range(len(history) + 1):
        left = SPEC.possible(item, history[:t])
        assert item.answer in left
        assert set(left) <= set(SPEC.possible(item, history[: max(t - 1, 0)]))  # hearing more leaves no more


def test_what_grades_are_worth() -> None:
    # Of a wrong program that fits, binary feedback rules out that one function; a test says mostly which one is right.
    left = Counter[int]()
    for item in SPEC.items(6, range(200), 2):
        programs = SPEC.possible(item, [])
        wrong = next(program for program in programs if program != item.answer)
        others = [program for program in programs if program != wrong]
        assert SPEC.possible(item, told(item, "binary", wrong)) == others
        assert SPEC.possible(item, told(item, "explain", wrong)) == others
        after = SPEC.possible(item, told(item, "test", wrong))
        assert item.answer in after and set(after) <= set(others)
        left[len(after)] += 1
    assert left[1] > 120


# --- demonstrations --------------------------------------------------------------------------------------------------


def shares(written: Counter[str], expected: dict[str, float]) -> None:
    """Asserts that texts were written as often as expected, within 4.5 standard errors."""
    total = written.total()
    assert set(written) == set(expected)
    for text, share in expected.items():
        assert abs(written[text] / total - share) <= 4.5 * (share * (1 - share) / total) ** 0.5


@pytest.mark.parametrize(
    ("rate", "fitting", "other"),
    [
        (0.0, 1 / 3, 0.0),
        (0.3, 0.7 / 3 + 0.3 / 10, 0.3 / 10),
        (1.0, 1 / 10, 1 / 10),
    ],
)
def test_a_careless_attempt_is_any_program_that_fits_or_at_the_rate_any_at_all(
    rate: float, fitting: float, other: float
) -> None:
    written = Counter(SPEC.careless(TWOS, random.Random(i), rate) for i in range(4000))
    shares(written, {letter: fitting if letter in "flu" else other for letter in LETTERS if rate or letter in "flu"})


def test_careless_attempts_have_at_most_the_operations_of_the_level() -> None:
    for level, operations in ((1, 1), (2, 2), (3, 1), (4, 2)):
        item = SPEC.item(0, 0, level)
        written = {SPEC.careless(item, random.Random(i), 1.0) for i in range(2000)}
        assert written == set(functions(operations)[1:])


ANY = dict.fromkeys(LETTERS, 0.1)


@pytest.mark.parametrize(
    ("history", "careful", "careless"),
    [
        (told(TWOS, "binary", "u"), {"u": 1.0}, {"u": 1.0}),  # called right, and therefore repeated
        ([("f", "+22>2=")], {"f": 1.0}, {"f": 1.0}),  # whatever the truth
        ([("2!f", "+22>2=")], {"2!f": 1.0}, {"2!f": 1.0}),
        (told(TWOS, "nudge", "f"), dict.fromkeys("flu", 1 / 3), ANY),
        (told(TWOS, "binary", "f"), dict.fromkeys("lu", 1 / 2), ANY),
        (told(TWOS, "binary", "f", "l"), {"u": 1.0}, ANY),
        (told(TWOS, "test", "f"), {"u": 1.0}, ANY),
        (told(TWOS, "test", "f", "a"), {"u": 1.0}, ANY),
        (told(TWOS, "test", "rur"), dict.fromkeys("flu", 1 / 3), ANY),
        # Whoever is asked says what the last program makes of 22: 2, 22, nothing, or ? where it is no program.
        (told(TWOS, "explain", "f"), {"2!l": 1 / 2, "2!u": 1 / 2}, {f"2!{p}": 0.1 for p in LETTERS}),
        (told(TWOS, "explain", "f", "r"), {"22!l": 1 / 2, "22!u": 1 / 2}, {f"22!{p}": 0.1 for p in LETTERS}),
        (told(TWOS, "explain", "ff"), {f"!{p}": 1 / 3 for p in "flu"}, {f"!{p}": 0.1 for p in LETTERS}),
        (told(TWOS, "explain", "x"), {f"?!{p}": 1 / 3 for p in "flu"}, {f"?!{p}": 0.1 for p in LETTERS}),
        (told(TWOS, "explain", "22!a"), {f"24!{p}": 1 / 3 for p in "flu"}, {f"24!{p}": 0.1 for p in LETTERS}),
        # A placebo is believed as long as that is possible (f, u: 123), and else only the prompt is.
        ([("l", "-1123>123;112!22>2=")], dict.fromkeys("fu", 1 / 2), ANY),
        ([("l", "-1123>999;112!22>2=")], dict.fromkeys("flu", 1 / 3), ANY),
        ([(p, "-22>2=") for p in "flu"], dict.fromkeys("flu", 1 / 3), ANY),
    ],
)
def test_revise(history: list[tuple[str, str]], careful: dict[str, float], careless: dict[str, float]) -> None:
    for rate, expected in ((0.0, careful), (1.0, careless)):
        shares(Counter(SPEC.revise(TWOS, history, random.Random(i), rate) for i in range(1500)), expected)


def test_revised_attempts_are_careless_at_the_rate() -> None:
    # 0.8 u, and 0.2 any of ten.
    history = told(TWOS, "test", "f")
    written = Counter(SPEC.revise(TWOS, history, random.Random(i), 0.2) for i in range(3000))
    shares(written, {p: 0.82 if p == "u" else 0.02 for p in LETTERS})


def test_what_bases_have_read() -> None:
    # Typed in: whoever changes what is drawn makes every base and every committed result out of date.
    careless = [SPEC.careless(MORE, random.Random(i), 0.5) for i in range(8)]
    assert careless == ["ie", "t", "i", "sr", "af", "iu", "i", "au"]
    history = told(MORE, "explain", "iu")
    revised = [SPEC.revise(MORE, history, random.Random(i), 0.5) for i in range(8)]
    assert revised == [f"64!{program}" for program in ("ie", "t", "i", "id", "il", "ie", "i", "ut")]


def test_an_explanation_is_read_over_and_tells_what_the_last_program_gives() -> None:
    for item in SPEC.items(7, range(100), 4):
        attempt = SPEC.careless(item, random.Random(item.index), 1.0)
        history = told(item, "explain", attempt)
        revised = SPEC.revise(item, history, random.Random(0), 0.0)
        assert SPEC.score(item, revised) == SPEC.score(item, SPEC.read(revised))
        if history[0][1].startswith("-?"):
            given = run(attempt, read(item.prompt)[0])
            assert given is not None
            assert revised.startswith("".join(map(str, given)) + "!")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.text(LETTERS, max_size=9) | st.text(max_size=6), min_size=1, max_size=4),
    st.sampled_from(SPEC.grades),
    st.integers(0, 60),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_whatever_is_answered_the_next_attempt_is_a_program(
    answers: list[str], grade: str, index: int, rate: float
) -> None:
    item = SPEC.item(8, index, 1 + index % 4)
    revised = SPEC.revise(item, told(item, grade, *answers), random.Random(index), rate)
    assert SPEC.admissible(item, revised)
    assert len(revised) <= SPEC.max_answer_chars(item.level) or revised == answers[-1]
    assert revised == SPEC.revise(item, told(item, grade, *answers), random.Random(index), rate)


def test_corruption_is_another_program_that_fits_or_a_bug() -> None:
    wrong = Counter(SPEC.corrupt(TWOS, random.Random(i)) for i in range(1000))
    shares(wrong, {"f": 1 / 2, "l": 1 / 2})
    # With one operation nothing but i fits 53>64: then it is one edit away, and some example shows it.
    lonely = Item("spec", 0, 0, 1, "53>64=", "i")
    assert SPEC.possible(lonely, []) == ["i"]
    bugs = {SPEC.corrupt(lonely, random.Random(i)) for i in range(2000)}
    replaced, inserted = set(LETTERS) - {"i"}, {f"i{p}" for p in LETTERS} | {f"{p}i" for p in LETTERS}
    assert bugs == replaced | inserted
    assert all(SPEC.first_failure(lonely, bug) in (0, 1, 2) for bug in bugs)


def test_all_operations_are_asked_for() -> None:
    assert "".join(OPERATIONS) == LETTERS
