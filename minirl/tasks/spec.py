"""``SPEC``: a program from one example; more are tested.

``53>64=`` → ``i``: programs are those of :mod:`minirl.tasks.dsl`, strings of one-letter operations on lists of digits.
The prompt shows one example, and several programs fit it. Two more examples belong to the specification and are not
shown: whoever has written a program that fits can only find out by having it tested.

===== ========== =======================================================================
level operations digits in the input that is shown
===== ========== =======================================================================
1     1          2 or 3
2     1 or 2     2 or 3, and at least ``AMBIGUOUS`` functions fit: a matter of luck
3     1          4 or 5, as in tests. For bases
4     1 or 2     4 or 5, as in tests. For bases
===== ========== =======================================================================

The inputs of tests have four or five digits, and the three examples together determine the function. Feedback of the
grade ``test`` shows the first example that fails, as a failing unit test does: what was wanted and what the program
gave. That is new information, which ``binary`` feedback only gives away program by program. :meth:`UnitTests.possible`
says which programs are left, all about equally likely: what a reader of the feedback could know.
"""

import random
from collections.abc import Sequence
from functools import lru_cache

from minirl.tasks.base import Item
from minirl.tasks.dsl import Example, ListPrograms, behaviour, digits, fits, fitting, functions, one_edit, run

AMBIGUOUS = 3
TESTS = 2
SIZES = {1: (1, (2, 3)), 2: (2, (2, 3)), 3: (1, (4, 5)), 4: (2, (4, 5))}  # level → operations, digits shown
TESTED = (4, 5)  # digits of a test's input


def _draw(rng: random.Random, program: str, lengths: Sequence[int]) -> Example | None:
    """An input and its output, or None if the output is empty or the input itself: then it shows too little."""
    values = tuple(rng.randrange(10) for _ in range(rng.choice(lengths)))
    output = run(program, values)
    return (values, output) if output and output != values else None


@lru_cache(maxsize=2**14)
def specification(prompt: str, program: str) -> tuple[Example, ...]:
    """The example of ``prompt`` and those that are not shown; together no other function fits them."""
    shown = _read(prompt)
    rng = random.Random(f"spec/{prompt}{program}")
    while True:
        tests = [_draw(rng, program, TESTED) for _ in range(TESTS)]
        examples = (shown, *(test for test in tests if test))
        if len(examples) == 1 + TESTS and len(fitting(examples, 2)) == 1:
            return examples


def _read(prompt: str) -> Example:
    """``53>64=`` → ``((5, 3), (6, 4))``."""
    values, output = prompt.rstrip("=").split(">")
    return tuple(map(int, values)), tuple(map(int, output))


class UnitTests(ListPrograms):
    name = "spec"
    levels = range(1, 5)
    grades = ("nudge", "binary", "explain", "test", "placebo")

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        operations, lengths = SIZES[level]
        while True:
            # Program and input are drawn together: of two programs that fit a prompt neither is the more likely one.
            program = rng.choice(functions(operations)[1:])
            shown = _draw(rng, program, lengths)
            if shown and (level != 2 or len(fitting([shown], operations)) >= AMBIGUOUS):
                return f"{digits(shown[0])}>{digits(shown[1])}=", program

    def examples(self, item: Item) -> list[Example]:
        return list(specification(item.prompt, item.answer))

    def max_answer_chars(self, level: int) -> int:
        return 6 + SIZES[level][0] + 1  # a guess at an output, the sign after it, and a superfluous operation

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """Another program that fits what is shown; if there is none, a one-edit bug."""
        others = [program for program in self.possible(item, []) if program != item.answer]
        return rng.choice(others or [p for p in one_edit(item.answer) if not fits(p, self.examples(item))])

    def careless(self, item: Item, rng: random.Random, rate: float) -> str:
        """Any program that fits what is shown, since nobody can know which is meant; with probability ``rate`` one of
        the right length that may fit or not."""
        if rng.random() < rate:
            return rng.choice(functions(SIZES[item.level][0])[1:])
        return rng.choice(self.possible(item, []))

    def revise(self, item: Item, history: Sequence[tuple[str, str]], rng: random.Random, rate: float) -> str:
        """What was called right is repeated; else any program that agrees with all that was said, as carelessly as the
        first. Whoever is asked to explain says first what the last program gives on the example that is shown."""
        attempt, feedback = history[-1]
        if feedback.startswith("+"):
            return attempt
        asked = f"{digits(run(self.read(attempt), _read(item.prompt)[0]))}!" if feedback.startswith("-?") else ""
        if rng.random() < rate:
            return asked + self.careless(item, rng, 1.0)
        # Who has read what cannot be, as placebo has it, believes the prompt alone.
        return asked + rng.choice(self.possible(item, history) or self.possible(item, []))

    def possible(self, item: Item, history: Sequence[tuple[str, str]]) -> list[str]:
        """The programs, one for each function, that fit what is shown and agree with ``history``: attempts, each with
        the feedback that followed it. What was called wrong is not right, and what a test wants has to be given. Never
        empty for feedback that was given to ``item``, ``placebo`` apart."""
        wrong, known = set(), [_read(item.prompt)]
        for attempt, feedback in history:
            said = feedback.removesuffix(item.prompt)
            if said.startswith("-"):
                wrong.add(self.read(attempt))
            if ">" in said:
                known.append(_read(said[1:].partition(";")[0]))
        programs = fitting(known, SIZES[item.level][0])
        return [program for program in programs if not any(_same(program, other) for other in wrong)]

    def feedback(self, item: Item, completion: str, grade: str = "nudge") -> str:
        """``test`` shows the first example that fails: ``-``, input, wanted and given output, as in
        ``-9189>0290;020!53>64=``. The given output is ``?`` if the answer is no program, and may be empty. Where only
        hidden inputs fail (a program of three operations may fit three examples by luck) there is nothing to show:
        ``-!53>64=``. ``explain`` says ``-?`` of a wrong program and so asks what it gives. ``placebo`` looks like
        ``test`` and says nothing, for controls: what is wanted is what a random program gives on a random input."""
        if grade not in ("explain", "test", "placebo"):
            return super().feedback(item, completion, grade)
        failure, examples, program = self.first_failure(item, completion), self.examples(item), self.read(completion)
        if failure is None:
            return f"+{item.prompt}"
        if grade == "explain":
            return f"-?{item.prompt}"
        if failure == len(examples):
            return f"-!{item.prompt}"
        values, wanted = examples[failure]
        if grade == "placebo":
            rng, drawn = random.Random(f"placebo/{item.prompt}{program}"), None
            while drawn is None or drawn[1] == run(program, drawn[0]):  # what is wanted is not what was given
                drawn = _draw(rng, rng.choice(functions(2)[1:]), TESTED)
            values, wanted = drawn
        return f"-{digits(values)}>{digits(wanted)};{digits(run(program, values))}!{item.prompt}"


def _same(program: str, other: str) -> bool:
    return run(other, ()) is not None and behaviour(program) == behaviour(other)
