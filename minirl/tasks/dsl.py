"""``DSL``: find the program behind three examples.

``53178>87135;2946>6492;40062>26004=`` → ``r``. A program is a string of one-letter operations on a list of digits,
applied from left to right; all arithmetic is modulo ten, so that a list is always written as its digits.

====== ============================== ====== ==============================
letter operation                      letter operation
====== ============================== ====== ==============================
``a``  running sum (*accumulate*)     ``l``  drop the *last*
``d``  *double* each                  ``r``  *reverse*
``e``  keep the *even*                ``s``  *sort*, smallest first
``f``  drop the *first*               ``t``  *turn*: the first goes last
``i``  *increment* each               ``u``  keep the first of equals (*unique*)
====== ============================== ====== ==============================

Level n asks for programs of n operations that no shorter program can replace. The examples are drawn so that they
determine the answer: all programs of at most n operations that fit them compute the same function, and any of its
spellings is right. So that a longer program cannot pass by fitting three examples alone, every program must also agree
with the reference on hidden inputs. These are the same for all items: the first 192 digits of π in lists of eight,
which tell all functions of up to four operations apart.

Writing a program is a search; running one is a table look-up per letter. That gap is what execution feedback fills.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import ClassVar

from minirl.tasks.base import Item, Task

Values = tuple[int, ...]
Example = tuple[Values, Values]  # input, output

OPERATIONS: dict[str, Callable[[Values], Values]] = {
    "a": lambda values: tuple(x % 10 for x in accumulate(values)),
    "d": lambda values: tuple(2 * x % 10 for x in values),
    "e": lambda values: tuple(x for x in values if x % 2 == 0),
    "f": lambda values: values[1:],
    "i": lambda values: tuple((x + 1) % 10 for x in values),
    "l": lambda values: values[:-1],
    "r": lambda values: values[::-1],
    "s": lambda values: tuple(sorted(values)),
    "t": lambda values: values[1:] + values[:1],
    "u": lambda values: tuple(dict.fromkeys(values)),
}
MAX_OPERATIONS = 8  # twice the hardest level; no operation makes a list longer, so this bounds time and memory
EXAMPLES = 3
ATTEMPTS = 100  # at examples for one program, before another one is tried

_PI = (
    "314159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211"
    "706798214808651328230664709384460955058223172535940812848111745028410270193852110555964462294895"
)
HIDDEN: tuple[Values, ...] = tuple(tuple(map(int, _PI[i : i + 8])) for i in range(0, len(_PI), 8))


def run(program: str, values: Sequence[int]) -> Values | None:
    """What ``program`` makes of a list of digits, or ``None`` if it is no program: empty, longer than
    ``MAX_OPERATIONS``, or with a letter that is no operation. Total on every string; an empty list stays empty."""
    if not 1 <= len(program) <= MAX_OPERATIONS or not set(program) <= OPERATIONS.keys():
        return None
    values = tuple(values)
    for letter in program:
        values = OPERATIONS[letter](values)
    return values


@lru_cache(maxsize=2**14)
def behaviour(program: str) -> tuple[Values | None, ...]:
    """The outputs of ``program`` on the hidden inputs. Two programs are equivalent when these are equal."""
    return tuple(run(program, values) for values in HIDDEN)


@cache
def functions(operations: int) -> tuple[str, ...]:
    """One program for every function that at most ``operations`` operations compute: the shortest, and of those the
    first in alphabetical order. Shorter ones stand first, beginning with "", the identity. Every prefix of a member is
    a member."""
    found = {HIDDEN: ""}
    layer = [HIDDEN]
    for _ in range(operations):
        longer = []
        for before in layer:
            for letter, operation in OPERATIONS.items():
                after = tuple(operation(values) for values in before)
                if after not in found:
                    found[after] = found[before] + letter
                    longer.append(after)
        layer = longer
    return tuple(found.values())


def fitting(examples: Sequence[Example], operations: int) -> list[str]:
    """Those of ``functions(operations)`` that turn every input of ``examples`` into its output."""
    (first, wanted), *others = examples
    outputs = {"": first}
    for program in functions(operations)[1:]:  # each one is a shorter one, which came before, and a last operation
        outputs[program] = OPERATIONS[program[-1]](outputs[program[:-1]])
    return [program for program, output in outputs.items() if output == wanted and fits(program, others)]


def one_edit(program: str) -> list[str]:
    """Every program one edit away: an operation replaced, inserted or dropped, or two neighbours swapped."""
    edited = {program[:i] + program[i + 1 :] for i in range(len(program))}
    edited |= {program[:i] + letter + program[i:] for i in range(len(program) + 1) for letter in OPERATIONS}
    edited |= {program[:i] + letter + program[i + 1 :] for i in range(len(program)) for letter in OPERATIONS}
    edited |= {program[:i] + program[i + 1] + program[i] + program[i + 2 :] for i in range(len(program) - 1)}
    return sorted(edited - {program, ""})


def fits(program: str, examples: Sequence[Example]) -> bool:
    """Whether ``program`` turns every input into its output."""
    return all(run(program, values) == output for values, output in examples)


def _read(prompt: str) -> list[Example]:
    """``40>04;951>159=`` → ``[((4, 0), (0, 4)), ((9, 5, 1), (1, 5, 9))]``."""
    pairs = (pair.split(">") for pair in prompt.rstrip("=").split(";"))
    return [(tuple(map(int, values)), tuple(map(int, output))) for values, output in pairs]


def digits(values: Values | None) -> str:
    """A list as its digits, and ``?`` for the output of what is no program."""
    return "?" if values is None else "".join(map(str, values))


class ListPrograms(Task):
    name = "dsl"
    levels = range(1, 5)
    grades: ClassVar[tuple[str, ...]] = ("nudge", "binary", "example")

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        programs = [program for program in functions(level) if len(program) == level]
        while True:
            program = rng.choice(programs)
            # As in countdown, the program is drawn once and the inputs until they suit it, or programs that few inputs
            # show would be rare. The limit is for the one that none shows: die, since nothing doubled is odd.
            for _ in range(ATTEMPTS):
                inputs = [tuple(rng.randrange(10) for _ in range(rng.choice((4, 5)))) for _ in range(EXAMPLES)]
                examples = [(values, run(program, values) or ()) for values in inputs]
                visible = all(output and output != values for values, output in examples)
                if visible and fitting(examples, level) == [program]:
                    return ";".join(f"{digits(values)}>{digits(output)}" for values, output in examples) + "=", program

    def examples(self, item: Item) -> list[Example]:
        """All examples that a program for ``item`` is held to."""
        return _read(item.prompt)

    def check(self, item: Item, answer: str) -> bool:
        return fits(answer, self.examples(item)) and behaviour(answer) == behaviour(item.answer)

    def read(self, completion: str) -> str:
        """The program in a completion: what follows the last ``!``, if there is one. What comes before is the model's
        own working, such as a guess at what its last program gave."""
        return super().read(completion).rpartition("!")[2].strip()

    def admissible(self, item: Item, completion: str) -> bool:  # noqa: ARG002
        """A program."""
        return run(self.read(completion), ()) is not None

    def first_failure(self, item: Item, completion: str) -> int | None:
        """Index of the first example the program gets wrong, or ``None`` for a right program. A program that gets all
        of them right and the hidden inputs wrong has the index after the last example. Total on every string."""
        program, examples = self.read(completion), self.examples(item)
        for i, (values, output) in enumerate(examples):
            if run(program, values) != output:
                return i
        return None if self.score(item, completion) else len(examples)

    def max_answer_chars(self, level: int) -> int:
        return 6 + level + 1  # a guess at an output, the sign after it, and a superfluous operation

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """A one-edit bug (:func:`one_edit`) that at least one of the examples shows."""
        examples = self.examples(item)
        return rng.choice([program for program in one_edit(item.answer) if not fits(program, examples)])

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``example`` shows the first example that fails, with the output the program really gave:
        ``-53178>31785!53178>87135;…=``. The output is ``?`` if the answer is no program, and may be empty. Where only
        hidden inputs fail there is nothing to show: ``-!53178>…``."""
        if grade != "example":
            return super().feedback(item, completion, grade)
        failure, examples = self.first_failure(item, completion), self.examples(item)
        if failure is None:
            return f"+{item.prompt}"
        if failure == len(examples):
            return f"-!{item.prompt}"
        values, _ = examples[failure]
        output = run(self.read(completion), values)
        return f"-{digits(values)}>{digits(output)}!{item.prompt}"
