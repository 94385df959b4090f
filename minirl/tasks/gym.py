"""``gym.NAME``: problems of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), scored here.

reasoning-gym (the extra ``gym``) makes the problems. Its scorers are **never called**: some of them, ``countdown`` and
``puzzle24`` among them, hand what a model wrote to sympy's ``parse_expr``, which executes it. So a data set can be used
if its answer can be compared by a rule of ours (:data:`KINDS`), and all others are refused (so are a few whose items
depend on the hash seed of the process, such as ``ransom_note``, or take seconds to make):

- ``number``: one number is right (:class:`minirl.tasks.words.NumberInWords`);
- ``line``: one line of text is right;
- ``expression``: an arithmetic expression is computed by the parser of :mod:`minirl.tasks.countdown`, which knows
  numbers, ``+ - * /`` and parentheses and nothing else.

Level 1 is the bottom of the data set's curriculum; at level k every attribute of the difficulty has gone up k − 1
times, as far as it goes. A data set without a curriculum has one level, its default config.

Departures from reasoning-gym: item (seed, index, level) is the only item of a data set with a seed of its own, drawn
from all three, and so depends on nothing else (reasoning-gym's item i has the seed *seed + i*, so that neighbouring
seeds share items). There is no partial credit. ``countdown`` and ``puzzle24`` are asked in other words, and only those
items are kept whose own solution divides without a remainder, as ours must. Prompts say how to end a reply.
"""

import random
import re
from functools import cache
from typing import Any, ClassVar

from minirl.config import nearest
from minirl.errors import ConfigError
from minirl.tasks.base import Item
from minirl.tasks.countdown import evaluate
from minirl.tasks.words import MARK, LineInWords, NumberInWords, TaskInWords, folded

# What kind of answer a data set asks for. Each was looked at: one number or one line, and only one that is right.
KINDS: dict[str, tuple[str, ...]] = {
    "number": (
        *("aiw", "basic_arithmetic", "binary_alternation", "chain_sum", "circuit_logic", "count_bits", "count_primes"),
        *("decimal_chain_sum", "dice", "gcd", "gsm_symbolic", "largest_island", "lcm", "leg_counting"),
        *("letter_counting", "maze", "number_sequence", "products", "rectangle_count", "rotten_oranges"),
        *("self_reference", "simple_equations", "simple_geometry"),
    ),
    "line": (
        *("acre", "base_conversion", "caesar_cipher", "calendar_arithmetic", "color_cube_rotation"),
        *("course_schedule", "family_relationships", "game_of_life_halting", "mahjong_puzzle", "spell_backward"),
        *("string_insertion", "string_manipulation", "string_splitting", "string_synthesis", "syllogism"),
        "word_sequence_reversal",
    ),
    "expression": ("countdown", "puzzle24"),
}
# Beyond these levels a curriculum asks for answers longer than anyone reads here, or makes no valid config.
HIGHEST = {"caesar_cipher": 2, "string_insertion": 2, "string_manipulation": 2, "word_sequence_reversal": 1}
TARGET_OF_PUZZLE24 = 24


@cache
def load(dataset: str) -> TaskInWords:
    """The task ``gym.<dataset>``. Raises :class:`ConfigError` without reasoning-gym and for what it cannot score."""
    try:
        import reasoning_gym  # noqa: F401 – imported late: an extra, and it takes seconds
        from reasoning_gym.factory import CURRICULA, DATASETS
    except ImportError as error:
        raise ConfigError(f"the tasks gym.* need reasoning-gym: pip install 'minirl[gym]' ({error})") from error
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    if dataset not in DATASETS:
        raise ConfigError(f"reasoning-gym has no data set {dataset!r}.{nearest(dataset, kinds)}")
    if dataset not in kinds:
        raise ConfigError(
            f"gym.{dataset} cannot be used: minirl does not call reasoning-gym's scorers, of which some execute what a "
            "model wrote, and has a rule of its own only for answers that are one number or one line, and only where "
            f"every process draws the same items.{nearest('', kinds)}"
        )
    base = {"number": GymNumber, "line": GymLine, "expression": GymExpression}[kinds[dataset]]
    steps = 1
    if dataset in CURRICULA:
        steps = max(len(attribute.levels) for attribute in CURRICULA[dataset]().attributes.values())
    levels = range(1, min(steps, HIGHEST.get(dataset, steps)) + 1)
    fields = {"name": f"gym.{dataset}", "dataset": dataset, "levels": levels, "__doc__": base.__doc__}
    # The module is what results depend on; without it, it would be the one that makes abstract classes.
    task: TaskInWords = type(base.__name__, (base,), {**fields, "__module__": __name__})()
    return task


def entry(dataset: str, seed: int, level: int) -> dict[str, Any]:
    """The one problem with ``seed``: its question, answer and metadata."""
    from reasoning_gym.factory import CURRICULA, DATASETS

    made_by, config = DATASETS[dataset]
    settings = {"seed": seed, "size": 1}
    if dataset not in CURRICULA:
        return made_by(config(**settings))[0]
    curriculum = CURRICULA[dataset]()
    for name in curriculum.attributes:
        for _ in range(level - 1):
            curriculum.increment_attr_level(name)
    return made_by(curriculum.generate_configuration(settings))[0]


class GymTask(TaskInWords):
    """What all data sets share: where a problem comes from."""

    dataset: ClassVar[str]

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        found = entry(self.dataset, rng.getrandbits(62), level)
        return self.ask(found["question"]), f"{MARK} {found['answer']}"


class GymNumber(GymTask, NumberInWords):
    """A data set of which one number is right."""


class GymLine(GymTask, LineInWords):
    """A data set of which one line of text is right."""

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """The answer to another problem."""
        right = folded(self.reference(item))
        for _ in range(30):
            answer = self.make(rng, item.level)[1]
            if folded(self.read(answer)) != right:
                return answer
        return f"{MARK} {self.reference(item)[::-1]}?"


class GymExpression(GymTask):
    """Reach a target with all the given numbers; any expression that does is right."""

    wanted = "the expression"

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        while True:
            facts = entry(self.dataset, rng.getrandbits(62), level)
            numbers = facts["metadata"]["numbers"]
            target = facts["metadata"].get("target", TARGET_OF_PUZZLE24)
            solution = "".join(str(facts["answer"]).split())
            if solves(solution, numbers, target):
                listed = ", ".join(map(str, numbers))
                question = (
                    f"Make {target} from the numbers {listed}. Use each of them exactly once, with + - * / and "
                    "parentheses. No division may leave a remainder."
                )
                return self.ask(question), f"{MARK} {solution}"

    def read(self, completion: str) -> str:
        """The expression, without spaces and what follows an equals sign."""
        return "".join(super().read(completion).partition("=")[0].split())

    def check(self, item: Item, answer: str) -> bool:
        return solves(answer, *_asked(item.prompt))

    def corrupt(self, item: Item, rng: random.Random) -> str:
        """The solution with other operators."""
        numbers, target = _asked(item.prompt)
        pieces = re.split(r"([-+*/])", self.reference(item))
        for _ in range(30):
            drawn = "".join(rng.choice("+-*") if piece in tuple("+-*/") else piece for piece in pieces)
            if not solves(drawn, numbers, target):
                return f"{MARK} {drawn}"
        return f"{MARK} {numbers[0]}"


def solves(expression: str, numbers: list[int], target: int) -> bool:
    """Whether ``expression`` uses each of ``numbers`` once and comes to ``target``."""
    used = re.findall("[0-9]+", expression)  # as text, and first: nothing but the given numbers is computed with
    return sorted(used) == sorted(map(str, numbers)) and evaluate(expression) == target


def _asked(prompt: str) -> tuple[list[int], int]:
    """Numbers and target that a prompt of :class:`GymExpression` names."""
    target, listed = prompt.removeprefix("Make ").split(".", 1)[0].split(" from the numbers ")
    return [int(number) for number in listed.split(", ")], int(target)
