"""``GUESS``: find a hidden code; feedback tells which letters are in place.

``#3,abcd=`` → ``bca``. The prompt says the size only: three letters, each one of a to d, repetition allowed. Which code
it is depends on the index, so the first attempt is a guess, and everything after it is a matter of using what was said.

===== ========= ======= ===== ==============
level positions letters codes prompt
===== ========= ======= ===== ==============
1     2         a to d  16    ``#2,abcd=``
2     3         a to d  64    ``#3,abcd=``
3     3         a to e  125   ``#3,abcde=``
4     4         a to d  256   ``#4,abcd=``
===== ========= ======= ===== ==============

Feedback of the grade ``located`` has one sign a position (:func:`signs`): ``+`` in place, ``*`` elsewhere in the code,
``.`` not in it. Letters are counted as in Mastermind: those in place are matched first, every letter of the code is
matched once, and of equal letters in the guess the leftmost is served first. Mastermind itself gives only the totals.

What a player can know at any time is :func:`consistent`: the codes that agree with all that was said, equally likely.
Two exact references follow from it at every level: :func:`optimal` is the most that any player can reach within t turns
of located feedback, :func:`guessing` is what one reaches who names any consistent code. With ``binary`` feedback the
game is ``BUCKET`` with as many candidates as there are codes, and the most is t / codes.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from string import ascii_lowercase

from minirl.tasks.base import Item, Task

SIZES = {1: (2, 4), 2: (3, 4), 3: (3, 5), 4: (4, 4)}  # level → positions, letters


@cache
def codes(positions: int, letters: int) -> tuple[str, ...]:
    """All codes of a size, in alphabetical order."""
    return tuple("".join(code) for code in product(ascii_lowercase[:letters], repeat=positions))


@cache
def signs(code: str, guess: str) -> str:
    """``signs("bca", "caa")`` → ``*.+``: one sign for each position of ``guess``, which is as long as ``code``."""
    left = Counter(c for c, g in zip(code, guess, strict=True) if c != g)  # not in place, and not yet matched
    said = ""
    for c, g in zip(code, guess, strict=True):
        if c == g:
            said += "+"
        elif left[g]:
            left[g] -= 1
            said += "*"
        else:
            said += "."
    return said


def consistent(history: Iterable[tuple[str, str]], positions: int, letters: int) -> list[str]:
    """The codes of a size that agree with every pair of an answer (:meth:`Guess.read`) and what feedback said before
    the problem: ``?``, ``+``, ``-``, or ``-`` with signs, of whichever grade. Empty if there is none. Total."""
    size, pairs = codes(positions, letters), list(history)
    return [code for code in size if all(_agrees(code, guess if guess in size else "", said) for guess, said in pairs)]


def _agrees(code: str, guess: str, said: str) -> bool:
    """Whether ``said`` could be the feedback to ``guess``, a code or "" for none, if ``code`` is hidden."""
    if said in ("?", "+", "-"):
        return said == "?" or (said == "+") == (guess == code)
    return guess != "" and said == f"-{signs(code, guess)}"


# --- exact references ------------------------------------------------------------------------------------------------


def optimal(positions: int, letters: int, turns: int) -> float:
    """The highest probability with which any player finds a code within ``turns`` turns of located feedback.

    Exact, by dynamic programming over the sets of codes that are still possible. A guess need not be possible itself.
    The player knows how many turns there are, and may play for exactly that: no single player need reach the values
    of all turns. Below a second at every level; 216 codes of three letters take seconds.
    """
    _require(turns)
    possible = codes(positions, letters)
    return _most_found(possible, turns, possible) / len(possible)


@cache
def _most_found(possible: tuple[str, ...], turns: int, guesses: tuple[str, ...]) -> int:
    """The largest number of the ``possible`` codes on which one way to play ends within ``turns``."""
    if turns < 2 or len(possible) < 3:
        return min(turns, len(possible))
    if possible == guesses:
        # Before the first guess letters and positions are interchangeable. That the leftmost of equal letters is served
        # first changes how an answer is written, not which codes get the same one.
        options = tuple({tuple(sorted(Counter(guess).values())): guess for guess in guesses}.values())
    else:
        options = guesses
    limit = _limit(len(possible[0]), turns - 1)
    splits = [split(possible, guess) for guess in options]
    bounds = [sum(min(len(part), limit) for part in parts.values()) for parts in splits]
    most = 0
    for bound, parts in sorted(zip(bounds, splits, strict=True), key=lambda pair: -pair[0]):
        if bound <= most:
            break  # and no later guess can do better
        # A hit is a part of one code, which counts as found one turn later just as well: turns - 1 is at least 1.
        most = max(most, sum(_most_found(part, turns - 1, guesses) for part in parts.values()))
    return most


def split(possible: tuple[str, ...], guess: str) -> dict[str, tuple[str, ...]]:
    """The ``possible`` codes by the signs that ``guess`` would get."""
    parts = defaultdict(list)
    for code in possible:
        parts[signs(code, guess)].append(code)
    return {said: tuple(part) for said, part in parts.items()}


def _limit(positions: int, turns: int) -> int:
    """How many codes of k positions a player can find at most: a turn finds one and has 3^k − 1 other answers."""
    return sum((3**positions - 1) ** turn for turn in range(turns))


def guessing(positions: int, letters: int, turns: int) -> float:
    """The probability of a find within ``turns`` turns of located feedback for a player who names one of the codes
    that are still possible, each with the same probability. Exact."""
    _require(turns)
    possible = codes(positions, letters)
    return _expected_found(possible, turns) / len(possible)


@cache
def _expected_found(possible: tuple[str, ...], turns: int) -> float:
    """On how many of the ``possible`` codes that player ends within ``turns``, on average over the guesses."""
    if turns < 2 or len(possible) <= turns:  # the last turn finds one code; and a possible guess rules itself out
        return min(turns, len(possible))
    found = sum(_expected_found(part, turns - 1) for guess in possible for part in split(possible, guess).values())
    return found / len(possible)


class Guess(Task):
    name = "guess"
    levels = range(1, 5)
    grades = ("nudge", "binary", "located")

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        positions, letters = SIZES[level]
        return f"#{positions},{ascii_lowercase[:letters]}=", rng.choice(codes(positions, letters))

    def check(self, item: Item, answer: str) -> bool:
        return answer == item.answer

    def max_answer_chars(self, level: int) -> int:
        return SIZES[level][0]

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """Another code, each with the same chance: before any feedback all are equally plausible."""
        return rng.choice([code for code in codes(*SIZES[item.level]) if code != item.answer])

    def admissible(self, item: Item, completion: str) -> bool:
        """One of the codes."""
        return self.read(completion) in codes(*SIZES[item.level])

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:  # noqa: ARG002
        """Any code: nobody can know which one it is."""
        return rng.choice(codes(*SIZES[item.level]))

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:  # noqa: ARG002
        """Any code that agrees with all that was said, right ones included."""
        said = [(self.read(attempt), feedback.removesuffix(item.prompt)) for attempt, feedback in history]
        return rng.choice(consistent(said, *SIZES[item.level]))

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``located`` says ``-`` and one sign a position of a wrong code, as in ``-*.+#3,abcd=``; ``-`` alone of what
        is no code; ``+`` of the right one. So the first sign is that of ``binary``, even if all letters occur."""
        if grade != "located":
            return super().feedback(item, completion, grade)
        if self.score(item, completion) == 1:
            return f"+{item.prompt}"
        said = signs(item.answer, self.read(completion)) if self.admissible(item, completion) else ""
        return f"-{said}{item.prompt}"


def _require(turns: int) -> None:
    if turns < 0:
        raise ValueError(f"turns {turns} is negative")
