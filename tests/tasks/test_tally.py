"""Tallies: chains without products, in any order, and what is said of attempts. What is as in chains is tested there.

Two problems serve in most tests. In PLAIN nobody errs. In MISLED it is widely believed that 0-2 is 5, and nothing else
that is wrong.
"""

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item
from minirl.tasks.chain import Chain, misconception, read, write
from minirl.tasks.tally import CRITICS, QUESTION, SIGNED, Tally

TALLY = Tally()
# 3+7 = 10 → 0; 0-4 = -4 → 6; 6+1 = 7.
PLAIN = Item("tally", 0, 0, 3, "3+7-4+1=", "+70-46+17")
# 3+7 = 10 → 0; 0-2 = -2 → 8; 8+9 = 17 → 7. From 5: 5+9 = 14 → 4.
MISLED = Item("tally", 0, 0, 3, "3+7-2+9=", "+70-28+97")
AS_BELIEVED = "+70-25+94"


class Dial(random.Random):
    """A generator whose numbers in [0, 1) are given, and the one integer that may be asked for after them."""

    def __init__(self, *numbers: float, integer: int = 0) -> None:
        super().__init__(0)
        self.numbers, self.integer = list(numbers), integer

    def random(self) -> float:
        return self.numbers.pop(0)

    def randrange(self, stop: int) -> int:  # type: ignore[override]
        assert not self.numbers and self.integer < stop
        return self.integer


def share(texts: list[str], text: str) -> float:
    return texts.count(text) / len(texts)


def test_what_is_believed_in_these_tests() -> None:
    # Typed in: misconceptions are a fixed table, the same for chains and tallies.
    assert [misconception(*step) for step in ((3, "+7"), (0, "-4"), (6, "+1"))] == [None] * 3
    assert [misconception(*step) for step in ((3, "+7"), (0, "-2"), (8, "+9"))] == [None, 5, None]
    assert [misconception(*step) for step in ((5, "+9"), (1, "-2"), (9, "+9"))] == [None] * 3  # after other slips
    assert [misconception(*step) for step in ((0, "+3"), (0, "-3"), (7, "+3"))] == [4, None, None]


# --- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", TALLY.levels)
def test_only_sums_and_differences(level: int) -> None:
    seen: Counter[str] = Counter()
    for item in TALLY.items(0, range(200), level):
        value, operations = read(item.prompt)
        assert len(item.prompt) == 2 * level + 2 and item.prompt == f"{value}{''.join(operations)}="
        seen.update(operations)
        # The result by adding everything up at once, an oracle that knows no steps.
        assert int(item.answer[-1]) == (value + sum(map(int, operations))) % 10
        assert TALLY.steps(item, item.answer) == [True] * level
    assert set(SIGNED) == {sign + digit for sign in "+-" for digit in "123456789"}
    assert seen.keys() == set(SIGNED)


def test_one_wrong_step_makes_a_wrong_result() -> None:
    # Sums and differences lose nothing: other than in chains, an error does not vanish by itself.
    for item in TALLY.items(0, range(30), 4):
        for i in range(4):
            results = {write(item.prompt, {i: digit})[-1] for digit in range(10)}
            assert len(results) == 10


# --- other orders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "others"),
    [
        ("3+7-4=", {"3-4+7="}),
        ("3+7+7=", set()),  # all operations are equal
        ("3+7=", set()),
        ("3+1+2+2=", {"3+2+1+2=", "3+2+2+1="}),
        ("3+7-4+1=", {f"3{a}{b}{c}=" for a, b, c in permutations(["+7", "-4", "+1"])} - {"3+7-4+1="}),
    ],
)
def test_rephrased_by_hand(prompt: str, others: set[str]) -> None:
    items = [Item("tally", 0, i, len(prompt) // 2 - 1, prompt, write(prompt)) for i in range(200)]
    drawn = Counter(TALLY.rephrased(item).prompt for item in items)
    if not others:
        assert set(drawn) == {prompt}
        return
    # Never the same order, and of n others each for one item in n; four standard errors.
    assert set(drawn) == others
    n = len(others)
    assert max(abs(count / 200 - 1 / n) for count in drawn.values()) <= 4 * (1 / n * (1 - 1 / n) / 200) ** 0.5


@pytest.mark.parametrize("level", TALLY.levels)
def test_rephrased_is_the_same_problem_in_another_order(level: int) -> None:
    for item in TALLY.items(1, range(100), level):
        other = TALLY.rephrased(item)
        (start, operations), (same, reordered) = read(item.prompt), read(other.prompt)
        assert start == same and Counter(operations) == Counter(reordered)
        assert (operations == reordered) == (len(set(operations)) == 1)
        assert other.answer == write(other.prompt) and other.answer[-1] == item.answer[-1]
        assert replace(other, prompt=item.prompt, answer=item.answer) == item  # all else stays
        random.seed(0)  # no generator but the item's own
        assert TALLY.rephrased(item) == other


def test_other_orders_come_by_other_entries_of_the_table() -> None:
    # 0+3 is believed to be 4; in the other order 0-3 = 7 and 7+3 = 0 mislead nobody. This is what makes votes over both
    # orders worth more than over one.
    item = Item("tally", 0, 0, 2, "0+3-3=", "+33-30")
    other = TALLY.rephrased(item)
    assert (other.prompt, other.answer) == ("0-3+3=", "-37+30")
    assert TALLY.misleading(item) and not TALLY.misleading(other)
    assert TALLY.result(item, TALLY.careless(item, random.Random(0), 0.25)) == "1"  # 4-3
    assert TALLY.result(other, TALLY.careless(other, random.Random(0), 0.25)) == "0"


@pytest.mark.parametrize(
    ("prompt", "misleading"),
    [
        ("3+7-4+1=", False),
        ("3+7-2+9=", True),  # the second step
        ("0+3=", True),
        ("3+7-2=", True),  # the last step counts
        ("3-2+7=", True),  # 3-2 is believed to be 9
        ("1-2+7=", True),  # 1-2 = 9, and 9+7 is believed to be 0
        ("1-2+9=", False),  # 1-2 = 9 and 9+9 = 8 for everyone
        ("5-4+2=", True),  # 5-4 = 1, and 1+2 is believed to be 0
        ("4-4+2=", False),  # 4-4 = 0, and 0+2 is 2: what is believed of 1+2 does not lie in the way
    ],
)
def test_misleading_by_hand(prompt: str, misleading: bool) -> None:
    item = Item("tally", 0, 0, len(prompt) // 2 - 1, prompt, write(prompt))
    assert TALLY.misleading(item) is misleading


@pytest.mark.parametrize("level", (1, 3, 8))
def test_only_misleading_items_are_ever_got_wrong(level: int) -> None:
    # With a rate of a quarter everyone who can err does.
    for item in TALLY.items(2, range(100), level):
        assert TALLY.misleading(item) == (TALLY.careless(item, random.Random(0), 0.25) != item.answer)


# --- results and critiques -------------------------------------------------------------------------------------------

SAID = [
    # answer, result, critique
    ("+70-46+17", "7", "+"),
    (" +70-46+17\n", "7", "+"),
    ("+71-47+18", "8", "-a"),  # a slip at the start, carried on
    ("+70-47+18", "8", "-b"),
    ("+70-46+18", "8", "-c"),
    ("+71-47+17", "7", "+"),  # 7+1 is not 7: a second slip that undoes the first; the result is what counts
    ("+71-47+19", "9", "-a"),  # two slips: the first one is named
    ("+70-47+19", "9", "-b"),
    ("+70-46", "", "-c"),  # stops early, and is no answer
    ("+70-46+1", "", "-c"),
    ("", "", "-a"),
    ("7", "", "-a"),  # the result alone
    ("+70+46+17", "", "-b"),  # another operation
    ("+7x-46+17", "", "-a"),
    ("-46+70+17", "", "-a"),  # the order of another item
    ("+70-46+17+18", "", "-d"),  # goes on
    ("+70-46+17\xa0", "", "-d"),
    ("+70-46+1٧", "", "-c"),
    (" " * 256 + "+70-46+17", "", "-a"),  # too long
]


@pytest.mark.parametrize(("answer", "result", "critique"), SAID)
def test_result_and_critique_by_hand(answer: str, result: str, critique: str) -> None:
    assert TALLY.result(PLAIN, answer) == result
    assert TALLY.critique(PLAIN, answer) == critique
    assert TALLY.feedback(PLAIN, answer, "located") == f"{critique}{PLAIN.prompt}"
    assert TALLY.feedback(PLAIN, answer, "critique") == QUESTION == "!"  # a question gives nothing away


COMPLETIONS = st.builds("+7{}-4{}+1{}{}".format, *[st.sampled_from("0671x")] * 3, st.sampled_from(" +"))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=12) | COMPLETIONS)
def test_results_and_critiques_are_total(completion: str) -> None:
    assert (TALLY.critique(PLAIN, completion) == "+") == (TALLY.result(PLAIN, completion) == "7")
    assert TALLY.critique(PLAIN, completion) in {"+", "-a", "-b", "-c", "-d"}
    assert TALLY.result(PLAIN, completion) in {"", *"0123456789"}


# --- attempts after feedback -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "said", "careful", "careless"),
    [
        # Told that b is wrong: 0-2 is done with care, and is 8, whatever is believed of it.
        ("+70-25+94", "-b", "+70-28+97", "+70-28+97"),
        # Told that a is wrong: after 3+7 = 0 comes 0-2, carelessly.
        ("+71-29+98", "-a", "+70-28+97", "+70-25+94"),
        # Told that c is wrong: what stands before it is kept, right or wrong.
        ("+70-28+96", "-c", "+70-28+97", "+70-28+97"),
        ("+70-25+93", "-c", "+70-25+94", "+70-25+94"),  # 5+9 = 14 → 4
        # A false alarm: b is done once more and is what it was.
        ("+70-28+97", "-b", "+70-28+97", "+70-28+97"),
        # Blamed too late: +71 is kept, and 1-2 = 9, 9+9 = 8 follow from it.
        ("+71-29+98", "-b", "+71-29+98", "+71-29+98"),
        # Too much text: all three steps are kept, and nothing else.
        ("+70-25+93+11", "-d", "+70-25+93", "+70-25+93"),
        # What is kept has a gap: b is done like any step nobody was warned of.
        ("+70-", "-c", "+70-28+97", "+70-25+94"),
        ("+70-2x+94", "-c", "+70-28+97", "+70-25+94"),
        # Nobody said where: all is done anew.
        ("+70-25+94", "-", "+70-28+97", "+70-25+94"),
        ("+70-25+94", "?", "+70-28+97", "+70-25+94"),
        ("", "-", "+70-28+97", "+70-25+94"),
    ],
)
def test_revised_by_hand(attempt: str, said: str, careful: str, careless: str) -> None:
    history = [("+79-27+96", f"-a{MISLED.prompt}"), (attempt, f"{said}{MISLED.prompt}")]  # the last word counts
    assert {TALLY.revise(MISLED, history, random.Random(i), 0.0) for i in range(20)} == {careful}
    assert {TALLY.revise(MISLED, history, random.Random(i), 0.25) for i in range(20)} == {careless}


def test_space_before_an_attempt_moves_no_step() -> None:
    assert TALLY.critique(MISLED, f" {AS_BELIEVED}") == "-b"
    assert TALLY.revise(MISLED, [(f" {AS_BELIEVED}", f"-b{MISLED.prompt}")], random.Random(0), 0.25) == MISLED.answer


def test_who_said_nothing_and_is_told_so_does_the_first_step_with_care() -> None:
    item = Item("tally", 0, 0, 1, "0+3=", "+33")  # believed to be 4
    assert TALLY.revise(item, [("", f"-a{item.prompt}")], random.Random(0), 0.25) == "+33"


def test_to_be_told_where_is_worth_more_than_in_chains() -> None:
    # There the one who is told redoes the step with the same misconception.
    history = [(AS_BELIEVED, f"-b{MISLED.prompt}")]
    assert Chain().revise(MISLED, history, random.Random(0), 0.25) == AS_BELIEVED
    assert TALLY.revise(MISLED, history, random.Random(0), 0.25) == MISLED.answer


@pytest.mark.parametrize("said", ["-a", "-", "?"])
def test_later_steps_are_done_carelessly_at_the_rate(said: str) -> None:
    # One entry of the table in four is misconceived, so that a rate of 0.1 makes a slip of 0.4 of those that are.
    history = [("+71-29+98", f"{said}{MISLED.prompt}")]
    revised = [TALLY.revise(MISLED, history, random.Random(i), 0.1) for i in range(2000)]
    assert set(revised) == {MISLED.answer, AS_BELIEVED}
    assert abs(share(revised, AS_BELIEVED) - 0.4) < 0.044  # four standard errors


@pytest.mark.parametrize("attempt", ["+70-28+97", "+70-25+94", "+71-46+17", "x", ""])
def test_what_was_called_right_is_repeated(attempt: str) -> None:
    # Also where a critic who was wrong said so.
    assert TALLY.revise(MISLED, [(attempt, f"+{MISLED.prompt}")], random.Random(0), 1.0) == attempt


@pytest.mark.parametrize("level", (1, 4, 8))
@pytest.mark.parametrize("rate", (0.0, 0.1, 0.3))
def test_careless_is_what_it_is_in_chains(level: int, rate: float) -> None:
    # From the same numbers the same answers, so the same in distribution, too.
    for item in TALLY.items(3, range(100), level):
        here, there = random.Random(item.index), random.Random(item.index)
        assert TALLY.careless(item, here, rate) == Chain().careless(item, there, rate)
        assert here.getstate() == there.getstate()


# --- critiques by clerks ---------------------------------------------------------------------------------------------


def criticised(item: Item, attempt: str, rng: random.Random, rate: float) -> str:
    return TALLY.revise(item, [("+99", f"-a{item.prompt}"), (attempt, QUESTION)], rng, rate)


@pytest.mark.parametrize(
    ("attempt", "critique"),
    [(a, c) for a, _, c in SAID if c != "-d" and a != "+71-47+17"],
)
def test_who_has_no_misconceptions_and_is_not_vague_says_what_is_true(attempt: str, critique: str) -> None:
    # The one number that is drawn decides whether an objection is vague: below a third. Then its letter is drawn.
    assert criticised(PLAIN, attempt, Dial(0.34), 0.0) == critique
    vague = [criticised(PLAIN, attempt, Dial(0.33, integer=letter), 0.0) for letter in range(3)]
    assert vague == (["+"] * 3 if critique == "+" else ["-a", "-b", "-c"])


def test_clerks_look_at_steps_and_not_at_the_result() -> None:
    # 3+7-4: of the hundred answers with two digits ten have the right result, 6, and one of these both steps right. To
    # the nine others, where two slips cancel, a clerk objects, though the critique that is true is that all is well.
    item = Item("tally", 0, 0, 2, "3+7-4=", "+70-46")
    answers = [f"+7{first}-4{second}" for first in range(10) for second in range(10)]
    truth = [TALLY.critique(item, answer) for answer in answers]
    said = [criticised(item, answer, Dial(0.5), 0.0) for answer in answers]
    assert truth.count("+") == 10 and said.count("+") == 1
    different = [answer for answer, a, b in zip(answers, truth, said, strict=True) if a != b]
    assert different == [f"+7{first}-46" for first in range(1, 10)]
    assert {said[answers.index(answer)] for answer in different} == {"-a"}


@pytest.mark.parametrize(("attempt", "wrong"), [("+71-47+18", "a"), ("+70-47+18", "b"), ("+70-46+18", "c")])
def test_the_share_of_vague_letters(attempt: str, wrong: str) -> None:
    # One objection in three has any of three letters, so each of the two that are false stands in one of nine.
    said = [criticised(PLAIN, attempt, random.Random(i), 0.0) for i in range(3000)]
    for letter in "abc":
        expected = 7 / 9 if letter == wrong else 1 / 9
        assert abs(share(said, f"-{letter}") - expected) < 4.5 * (expected * (1 - expected) / 3000) ** 0.5
    assert len(set(said)) == 3  # vague about where, not about whether


def test_who_has_one_step_to_choose_from_is_never_vague() -> None:
    item = Item("tally", 0, 0, 1, "3+7=", "+70")
    assert {criticised(item, "+71", random.Random(i), 0.0) for i in range(100)} == {"-a"}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 1.0])
def test_misconceptions_make_critics_err_both_ways(rate: float) -> None:
    believes = min(1.0, 4 * rate)
    # Of the right attempt they say that 0-2 is not 8, of the one that everybody makes that all is well.
    right = [criticised(MISLED, MISLED.answer, random.Random(i), rate) for i in range(1000)]
    wrong = [criticised(MISLED, AS_BELIEVED, random.Random(i), rate) for i in range(1000)]
    tolerance = 4 * (believes * (1 - believes) / 1000) ** 0.5
    assert abs(share(right, "+") - (1 - believes)) <= tolerance
    assert abs(share(wrong, "+") - believes) <= tolerance
    # With the same generator it is the same clerk, who accepts exactly one of the two.
    assert all((a == "+") != (b == "+") for a, b in zip(right, wrong, strict=True))
    for said in (right, wrong):  # both kinds of objection are to step b: 2/3, and a third of the vague third
        objections = [text for text in said if text != "+"]
        assert not objections or abs(share(objections, "-b") - 7 / 9) < 4.5 * (14 / 81 / len(objections)) ** 0.5


@pytest.mark.parametrize(
    ("attempt", "critique"),
    [
        ("+70-25+94", "+"),
        ("+70-25+93", "-c"),  # goes on from what is written: 5+9 is 4
        ("+70-25+97", "-c"),
        ("+70-28+96", "-b"),  # c is wrong, but b comes first
        ("+71-29+98", "-a"),
        ("+70", "-b"),
    ],
)
def test_what_those_say_who_believe_it(attempt: str, critique: str) -> None:
    # First number: whether 0-2 is thought to be 5, where they get so far; last number: not vague.
    numbers = (0.5,) if critique == "-a" else (0.99, 0.5)
    assert criticised(MISLED, attempt, Dial(*numbers), 0.25) == critique


# --- feedback by critics who may be wrong ----------------------------------------------------------------------------


def overheard(item: Item, attempt: str) -> str:
    """What a careless critic says of an attempt, where it is feedback."""
    feedback = TALLY.feedback(item, attempt, "criticised")
    assert feedback.endswith(item.prompt)
    return feedback.removesuffix(item.prompt)


def test_of_an_attempt_the_same_is_always_said() -> None:
    said = [overheard(replace(MISLED, index=i), AS_BELIEVED) for i in range(50)]
    random.seed(0)  # no generator but the item's own
    assert [overheard(replace(MISLED, index=i), AS_BELIEVED) for i in range(50)] == said
    # The index, the seed and the attempt decide: others get other critics.
    assert len(set(said)) > 1
    assert [overheard(replace(MISLED, index=i, seed=1), AS_BELIEVED) for i in range(50)] != said
    assert len({overheard(MISLED, f"{space}{AS_BELIEVED}") for space in ("", " ", "  ", "   ", "    ", "\n")}) > 1


def test_critics_err_both_ways_at_their_rate() -> None:
    # Four times 0.075: three critics in ten believe that 0-2 is 5.
    believes = 4 * CRITICS
    assert believes == pytest.approx(0.3)
    items = [replace(MISLED, index=i) for i in range(2000)]
    right, wrong = ([overheard(item, attempt) for item in items] for attempt in (MISLED.answer, AS_BELIEVED))
    tolerance = 4 * (0.21 / 2000) ** 0.5
    assert abs(share(right, "+") - 0.7) < tolerance and abs(share(wrong, "+") - 0.3) < tolerance
    # Other than the clerks of one generator: who is asked about the one attempt is not who is asked about the other.
    assert len({(a == "+", b == "+") for a, b in zip(right, wrong, strict=True)}) == 4
    for said in (right, wrong):  # a letter is right in two of three objections, and in a third of the vague ones
        objections = [text for text in said if text != "+"]
        assert set(objections) == {"-a", "-b", "-c"}
        assert abs(share(objections, "-b") - 7 / 9) < 4 * (14 / 81 / len(objections)) ** 0.5


def test_where_nobody_errs_critics_do_not_either() -> None:
    items = [replace(PLAIN, index=i) for i in range(200)]
    assert {overheard(item, PLAIN.answer) for item in items} == {"+"}
    assert {overheard(item, "+70-47+18") for item in items} == {"-a", "-b", "-c"}  # vague about where at most


@pytest.mark.parametrize(
    "attempt", ["", " ", "+70\udfff", "²", "\0", "x" * 1000, "\ud800" * 300], ids=lambda text: ascii(text)[:20]
)
def test_critics_say_something_of_whatever_was_written(attempt: str) -> None:
    assert overheard(MISLED, attempt) == overheard(MISLED, attempt[:256]) in {"-a", "-b", "-c"}


def test_what_critics_say_is_heeded_like_located_feedback() -> None:
    # Of the believed attempt: told -b, 0-2 is done with care; told +, it is repeated; told -c, all before is kept.
    for index in range(100):
        item = replace(MISLED, index=index)
        feedback = TALLY.feedback(item, AS_BELIEVED, "criticised")
        revised = TALLY.revise(item, [(AS_BELIEVED, feedback)], random.Random(0), 0.0)
        kept = feedback[:2] in ("+3", "-c")
        assert revised == (AS_BELIEVED if kept else MISLED.answer)


def test_what_critics_have_said_to_bases() -> None:
    # Typed in, like what clerks write: whoever changes it makes bases out of date.
    said = "-b + -b -c + + -b +"
    assert [overheard(replace(MISLED, index=i), MISLED.answer) for i in range(8)] == said.split()
    said = "+ -b -b + -b -b -b -b"
    assert [overheard(replace(MISLED, index=i), AS_BELIEVED) for i in range(8)] == said.split()


# --- what bases have read --------------------------------------------------------------------------------------------


def test_what_clerks_write_is_what_bases_have_read() -> None:
    # Typed in: whoever changes what is drawn makes every base and every committed result out of date. At a rate of 1/8
    # half of all clerks believe that 0-2 is 5; the first number says which half, the second who is vague.
    drawn = {seed: random.Random(seed) for seed in (1, 2, 7)}
    assert [[round(rng.random(), 2) for _ in range(2)] for rng in drawn.values()] == [
        [0.13, 0.85],  # believes it; is not vague
        [0.96, 0.95],  # knows better; is not vague
        [0.32, 0.15],  # believes it; is vague: any of the three letters, and it is the third
    ]
    assert drawn[7].randrange(3) == 2
    written = [TALLY.careless(MISLED, random.Random(seed), 0.125) for seed in drawn]
    assert written == ["+70-25+94", "+70-28+97", "+70-25+94"]
    of_right = [criticised(MISLED, MISLED.answer, random.Random(seed), 0.125) for seed in drawn]
    assert of_right == ["-b", "+", "-c"]
    of_believed = [criticised(MISLED, AS_BELIEVED, random.Random(seed), 0.125) for seed in drawn]
    assert of_believed == ["+", "-b", "+"]
    told = [(AS_BELIEVED, f"-a{MISLED.prompt}")]
    assert [TALLY.revise(MISLED, told, random.Random(seed), 0.125) for seed in drawn] == written
    # Other orders are drawn from the item's coordinates.
    orders = [TALLY.rephrased(replace(PLAIN, index=index)).prompt for index in range(3)]
    assert orders == ["3+7+1-4=", "3-4+1+7=", "3+7+1-4="]
