"""Countdown: the evaluator against an independent one, and the canonical expressions against all expressions."""

import random
import re
from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item, get
from minirl.tasks.base import MAX_ANSWER_CHARS
from minirl.tasks.countdown import MAX_DEPTH, SHAPES, Countdown, evaluate, expressions

COUNTDOWN = get("countdown")
assert isinstance(COUNTDOWN, Countdown)


def problem(prompt: str, answer: str = "") -> Item:
    return Item("countdown", 0, 0, 1, prompt, answer)


def apply(left: Fraction | None, operator: str, right: Fraction | None) -> Fraction | None:
    """One exact step; ``None`` once a division by zero or with a remainder has happened."""
    if left is None or right is None or (operator == "/" and (right == 0 or (left / right).denominator != 1)):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else None}[operator]


def all_trees(numbers: tuple[int, ...]) -> dict[str, Fraction | None]:
    """Every way to combine three numbers, fully parenthesised: 6 orders, 16 operator pairs, 2 trees."""
    trees = {}
    for (a, b, c), (o, p) in product(permutations(numbers), product("+-*/", repeat=2)):
        trees[f"(({a}{o}{b}){p}{c})"] = apply(apply(Fraction(a), o, Fraction(b)), p, Fraction(c))
        trees[f"({a}{o}({b}{p}{c}))"] = apply(Fraction(a), o, apply(Fraction(b), p, Fraction(c)))
    return trees


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("10", 10),
        ("1+2*3", 7),  # * before +
        ("(1+2)*3", 9),
        ("9-3-2", 4),  # from the left: 9-(3-2) would be 8
        ("9-(3-2)", 8),
        ("24/4/2", 3),  # from the left: 24/(4/2) would be 12
        ("24/(4/2)", 12),
        ("6/3*2", 4),
        ("2*6/3", 4),
        ("2-3*4", -10),
        ("(2-8)/3", -2),  # exact, although negative
        ("(2-2)/5", 0),
        ("((3))", 3),
        ("(" * MAX_DEPTH + "3" + ")" * MAX_DEPTH, 3),
        ("+".join("1" * 128), 128),  # 255 characters
    ],
)
def test_evaluate(expression: str, value: int) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *("", "()", "(", ")", "+", "1+", "*1", "1+)", "(1", "1)", ")1(", "(1))", "1(2)", "(1)(2)", "(1)2", "1++2"),
        *("-1", "+1", "3*-2", "3-(-2)", "2**3", "2//1", "6%4", "1/0", "1/(2-2)", "7/2", "2*(7/2)", "7/2*2"),
        *("0", "07", "1+02", "0x1", "1e1", "1_0", "1.0", "1,0", "1 + 2", "1+2 ", "1+2\n", "\n1", "1\0", "a", "1=1"),
        *("٣", "1+²", "1−1", "１"),
        "(" * (MAX_DEPTH + 1) + "3" + ")" * (MAX_DEPTH + 1),
        "(" * 10**6,
        "1" * (MAX_ANSWER_CHARS + 1),
        "+".join("1" * 129),  # 257 characters
    ],
)
def test_evaluate_refuses(expression: str) -> None:
    assert evaluate(expression) is None


Written = tuple[str, int, Fraction | None]  # text, precedence of its outermost operator (3: none), value


def combine(parts: tuple[Written, str, Written, bool, bool]) -> Written:
    """``left operator right``, with the parentheses that precedence demands and, where asked, needless ones."""
    (left, left_level, a), operator, (right, right_level, b), wrap_left, wrap_right = parts
    level = 1 if operator in "+-" else 2
    left = f"({left})" if wrap_left or left_level < level else left
    right = f"({right})" if wrap_right or right_level <= level else right  # a-(b-c) is not a-b-c
    return f"{left}{operator}{right}", level, apply(a, operator, b)


LEAVES = st.integers(1, 12).map(lambda number: (str(number), 3, Fraction(number)))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner, st.booleans(), st.booleans()).map(combine),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(EXPRESSIONS)
def test_evaluate_longer_expressions(written: Written) -> None:
    text, _, value = written
    assert evaluate(text) == value  # eight leaves nest at most seven deep, within MAX_DEPTH


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 4, 8), (3, 7, 2), (6, 6, 6), (1, 1, 5), (12, 6, 3), (10, 4, 14)])
def test_all_expressions_against_an_independent_evaluator(numbers: tuple[int, ...]) -> None:
    """Scores, targets and solutions are exact: nothing reachable is missing, nothing else is accepted."""
    trees = all_trees(numbers)
    for text, value in trees.items():
        assert evaluate(text) == value
    reachable = {int(value) for value in trees.values() if value is not None and value >= 0}
    prompt = ",".join(map(str, numbers))
    for target in range(max(reachable) + 2):
        item = problem(f"{prompt}:{target}=")
        right = {text for text in trees if COUNTDOWN.score(item, text) == 1.0}
        assert right == {text for text, value in trees.items() if value == target}
        solutions = COUNTDOWN.solutions(item)
        assert bool(solutions) == (target in reachable) == bool(right)
        assert all(COUNTDOWN.score(item, text) == 1.0 for text in solutions)


@pytest.mark.parametrize(
    ("prompt", "solutions"),
    [
        ("3,7,2:13=", {"3*2+7"}),
        # The sum, the product, and the product without the 1 that division by 1 leaves alone.
        ("1,2,3:6=", {"3+2+1", "3*2*1", "3*2/1"}),
        # Swapping the twos gives the same text, so it is listed once.
        ("4,2,2:4=", {"4+2-2", "4*2/2", "4/2+2", "(4-2)*2"}),
        # The others miss: 2/2+2 = 3, (2-2)*2 = 0, 2/2/2 and 2/(2+2) leave a remainder.
        ("2,2,2:2=", {"2*2-2", "2+2-2", "2*2/2", "(2+2)/2"}),
        ("5,5,5:7=", set()),
    ],
)
def test_solutions_by_hand(prompt: str, solutions: set[str]) -> None:
    assert COUNTDOWN.solutions(problem(prompt)) == solutions


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("3*2+7", 1.0),
        ("7+2*3", 1.0),  # any order
        (" 3*2+7\n", 1.0),
        ("((3)*(2))+7", 1.0),  # needless parentheses are forgiven
        ("3*2+7=13", 0.0),
        ("=3*2+7", 0.0),
        ("13", 0.0),
        ("6+7", 0.0),  # not the numbers given
        ("3*2+7+0", 0.0),
        ("3*2+7*1", 0.0),  # an extra number
        ("3*2+7+3-3", 0.0),  # a number used twice more
        ("7+7-3/3", 0.0),  # 13, with the wrong numbers
        ("3+2+7", 0.0),  # 12
        ("3*2+07", 0.0),
        ("32-7", 0.0),  # digits glued together
        ("-(-3*2-7)", 0.0),
        ("7--3*2", 0.0),
        ("2*3 +7", 0.0),
        ("3*2+7.0", 0.0),
        ("3*2+7;", 0.0),
        ("(3*2)+(7", 0.0),
    ],
)
def test_scores(answer: str, score: float) -> None:
    assert COUNTDOWN.score(problem("3,7,2:13="), answer) == score


def test_a_division_with_a_remainder_is_against_the_rules() -> None:
    item = problem("2,3,6:4=")
    assert COUNTDOWN.score(item, "2/3*6") == 0.0  # 4, by way of two thirds
    assert COUNTDOWN.score(item, "2*6/3") == 1.0
    # Rounding division would make 7/2 = 3, and so 3+4 = 7.
    assert COUNTDOWN.score(problem("7,2,4:7="), "7/2+4") == 0.0


@pytest.mark.parametrize("level", COUNTDOWN.levels)
def test_items_keep_to_the_rules_of_their_level(level: int) -> None:
    largest = 5 * level + 4
    items = COUNTDOWN.items(0, range(300), level)
    seen: set[int] = set()
    targets: set[int] = set()
    for item in items:
        left, target = re.fullmatch(r"(\d+,\d+,\d+):(\d+)=", item.prompt).groups()
        numbers = [int(number) for number in left.split(",")]
        assert all(1 <= number <= largest for number in numbers)
        assert 0 <= int(target) <= 4 * largest
        assert item.answer in COUNTDOWN.solutions(item)
        seen.update(numbers)
        targets.add(int(target))
    assert max(seen) == largest and min(seen) == 1
    assert min(targets) == 0 and max(targets) > 3 * largest  # targets that sums alone do not reach
    # Each shape has one chance in 18: about 17 of 300 items. Redrawing shape and numbers together fails this.
    shapes = [re.sub(r"\d+", "n", item.answer) for item in items]
    assert all(shapes.count(re.sub("[xyz]", "n", shape)) >= 5 for shape in SHAPES)
    # A prompt that listed the numbers as the answer uses them would agree in over half of the items.
    same = sum(re.findall(r"\d+", item.answer) == item.prompt.split(":")[0].split(",") for item in items)
    assert same < 0.4 * len(items)


def test_canonical_expressions_by_hand() -> None:
    """All of them for 1, 2 and 6, shape by shape: no twins (1+2+6), no needless parentheses, nothing below zero."""
    assert set(expressions((2, 6, 1))) == {
        *("6+2+1", "6+2-1", "6+1-2", "6-2-1"),
        *("6*2*1", "6*2/1", "6*1/2", "6/2/1"),
        *("6*2+1", "6*1+2", "2*1+6", "6*2-1", "6*1-2", "6-2*1"),
        *("6/2+1", "6/1+2", "2/1+6", "6/2-1", "6/1-2", "6-2/1"),
        *("(6+2)*1", "(6+1)*2", "(2+1)*6", "(6-2)*1", "(6-1)*2", "(2-1)*6"),
        *("(6+2)/1", "(6-2)/1", "6/(2+1)", "6/(2-1)"),
    }


def test_corruptions_use_the_same_numbers_and_land_close() -> None:
    for item in COUNTDOWN.items(2, range(300), 2):
        target = int(item.prompt.rstrip("=").split(":")[1])
        wrong = COUNTDOWN.corrupt(item, random.Random(item.index))
        assert sorted(re.findall(r"\d+", wrong)) == sorted(re.findall(r"\d+", item.answer))
        values = expressions(tuple(int(number) for number in re.findall(r"\d+", item.answer))).values()
        distance = abs(evaluate(wrong) - target)
        assert distance > 0
        assert sum(0 < abs(value - target) < distance for value in values) < 8
    # All eight are drawn: a single stock mistake a base could memorise instead of learning to check.
    item = problem("3,7,2:13=")
    assert len({COUNTDOWN.corrupt(item, random.Random(draw)) for draw in range(200)}) == 8
