"""``CD3``: reach a target with three numbers, each used exactly once.

``3,7,2:13=`` → ``3*2+7``. Operators are ``+ - * /`` with the usual precedence, and parentheses; as in the television
game, a division that leaves a remainder is against the rules, so every intermediate value is an integer. With
m = 5n + 4, level n draws numbers from 1 to m and targets from 0 to 4m (a sum of three numbers is at most 3m).

Finding an expression is a search, checking one is a short evaluation: the gap that critique and self-correction live
on. Many items have several solutions, and :meth:`Countdown.solutions` lists them all.
"""

import random
import re
from itertools import permutations

from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task

# Every way to combine three numbers, up to reordering: operands that share a letter may be swapped without changing
# the value. Parentheses stand only around a sum inside a product; x-(y-z), x/(y/z) and the like have a form without.
SHAPES = (
    *("x+x+x", "x+x-y", "x-y-y", "x*x*x", "x*x/y", "x/y/y"),
    *("x*x+y", "x*x-y", "x-y*y", "x/y+z", "x/y-z", "x-y/z"),
    *("(x+x)*y", "(x-y)*z", "(x+x)/y", "(x-y)/z", "x/(y+y)", "x/(y-z)"),
)
MAX_DEPTH = 8  # of nested parentheses; one suffices, the rest is lenience that cannot exhaust the stack
_TOKEN = re.compile(r"[1-9][0-9]*|[-+*/()]")  # no leading zeros; [0-9] because \d also matches '٣'


def evaluate(expression: str) -> int | None:
    """The value of an expression over positive integers, or ``None`` if it breaks the rules; total on every string.

    Against the rules are: any other character (spaces too), a unary sign, a leading zero, a division by zero or with
    a remainder, parentheses nested deeper than ``MAX_DEPTH``, more than ``MAX_ANSWER_CHARS`` characters.
    """
    if len(expression) > MAX_ANSWER_CHARS:
        return None
    tokens = _TOKEN.findall(expression)
    stack = ["", *reversed(tokens)]  # next token last; "" marks the end, so that looking ahead never fails
    try:
        value = _sum(stack, depth=0)
    except ValueError:
        return None
    # findall skips what it does not know, so the tokens have to add up to the whole text.
    return value if stack == [""] and "".join(tokens) == expression else None


def _sum(stack: list[str], depth: int) -> int:
    value = _product(stack, depth)
    while stack[-1] in ("+", "-"):
        sign = 1 if stack.pop() == "+" else -1
        value += sign * _product(stack, depth)
    return value


def _product(stack: list[str], depth: int) -> int:
    value = _factor(stack, depth)
    while stack[-1] in ("*", "/"):
        operator, factor = stack.pop(), _factor(stack, depth)
        if operator == "/" and (factor == 0 or value % factor):
            raise ValueError("division by zero or with a remainder")
        value = value * factor if operator == "*" else value // factor
    return value


def _factor(stack: list[str], depth: int) -> int:
    token = stack.pop()
    if token.isdigit():
        return int(token)
    if token != "(" or depth == MAX_DEPTH:
        raise ValueError("expected a number or a parenthesis that is not nested too deeply")
    value = _sum(stack, depth + 1)
    if stack.pop() != ")":
        raise ValueError("parenthesis never closed")
    return value


def _fill(shape: str, numbers: tuple[int, ...]) -> str:
    """The canonical expression of ``shape``: interchangeable operands stand in descending order."""
    # The letters of a shape are in alphabetical order, so sorting by letter keeps every group in its place.
    letters = re.findall("[xyz]", shape)
    operands = iter(sorted(zip(letters, numbers, strict=True), key=lambda pair: (pair[0], -pair[1])))
    return re.sub("[xyz]", lambda _: str(next(operands)[1]), shape)


def _read(prompt: str) -> tuple[tuple[int, ...], int]:
    """``3,7,2:13=`` → ``((3, 7, 2), 13)``."""
    numbers, target = prompt.rstrip("=").split(":")
    return tuple(map(int, numbers.split(","))), int(target)


def expressions(numbers: tuple[int, ...]) -> dict[str, int]:
    """Every canonical expression that uses each of three ``numbers`` once, with its value (integers >= 0 only)."""
    filled = (_fill(shape, order) for shape in SHAPES for order in permutations(numbers))
    return {text: value for text in filled if (value := evaluate(text)) is not None and value >= 0}


class Countdown(Task):
    name = "countdown"
    levels = range(1, 13)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        # The shape is drawn once and the numbers until they fit it. Redrawing both would make nearly every item of a
        # high level a plain sum, because products leave the range of targets and divisions are seldom exact.
        shape, largest = rng.choice(SHAPES), 5 * level + 4
        while True:
            numbers = [rng.randint(1, largest) for _ in range(3)]
            answer = _fill(shape, tuple(numbers))
            target = evaluate(answer)
            if target is not None and 0 <= target <= 4 * largest:
                rng.shuffle(numbers)  # the order in which the answer uses them would give it away
                return f"{','.join(map(str, numbers))}:{target}=", answer

    def check(self, item: Item, answer: str) -> bool:
        _, target = _read(item.prompt)
        return self.admissible(item, answer) and evaluate(answer) == target

    def admissible(self, item: Item, completion: str) -> bool:
        """An expression of the three numbers that breaks no rule."""
        answer = self.read(completion)
        # Numbers are compared as text and first, so that evaluate() never computes with anything but the three given.
        used = sorted(re.findall("[0-9]+", answer))
        return used == sorted(map(str, _read(item.prompt)[0])) and evaluate(answer) is not None

    def max_answer_chars(self, level: int) -> int:
        return 3 * len(str(5 * level + 4)) + len("(+)*")

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A near miss: one of the eight wrong canonical expressions whose values are closest to the target."""
        numbers, target = _read(item.prompt)
        wrong = {text: abs(value - target) for text, value in expressions(numbers).items() if value != target}
        return rng.choice(sorted(wrong, key=lambda text: wrong[text])[:8])

    def solutions(self, item: Item) -> set[str]:
        """Every canonical expression that solves ``item``; ``item.answer`` is one of them."""
        numbers, target = _read(item.prompt)
        return {text for text, value in expressions(numbers).items() if value == target}
