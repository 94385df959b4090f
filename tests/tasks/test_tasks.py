"""What every task promises: items are pure functions of their coordinates, scorers survive anything a model writes."""

import ast
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirl.tasks
from minirl.errors import ConfigError
from minirl.policy.tokenizer import ALPHABET
from minirl.tasks import Item, Task, get, names, to_dataset
from minirl.tasks.base import MAX_ANSWER_CHARS
from minirl.tasks.game import Game

TASKS = {name: get(name) for name in names() if not isinstance(get(name), Game)}  # games: test_rules.py
EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
EVERY_LEVEL = pytest.mark.parametrize(
    ("task", "level"),
    [pytest.param(task, level, id=f"{task.name}-{level}") for task in TASKS.values() for level in task.levels],
)
ITEMS_PER_LEVEL = 300

# Two items a task, typed in and checked by hand. They change only when a generator does, and then every base and every
# committed result made with it is out of date.
# add: 2+6 = 8; 52+29 = 81.
# bucket: two candidates and one of them; five candidates and one of them.
# bugs: 7-1, 0-1, 3*6, 3*6 = 6, 9, 8, 8, where t has 3*7 = 21 → 1 at the first place; 8+5, 7+1, 2+1, 8+1 = 3, 8, 3, 9
#   and 6+5, 2+1, 7+1, 9+1 = 1, 3, 8, 0, where o has 8-1 = 7 at the last.
# chain: 1-3 = -2 → 8; 3+7 = 10 → 0, 0+1 = 1, 1*3 = 3, 3+5 = 8.
# checks: 6-2 = 4; 7-8 = -1 → 9, 9+2 = 11 → 1, 1+5 = 6, 6-3 = 3.
# constr: five letters, a c first, a twice; seven letters, a b last, a twice, no d, and e, a, a are three vowels.
# countdown: 8-5 = 3, 3/3 = 1; 39/39 = 1, 1+44 = 45.
# doors: c is the only one of its prompt that is open; of seven that are listed after t, s is one of three.
# dsl: the first digit goes last; 13784 → without the first 3784 → running sum 3, 10, 18, 22, that is 3082 → plus one
#   4193. 96056 → 6056 → 6, 6, 11, 17: 6617 → 7728. 19071 → 9071 → 9, 9, 16, 17: 9967 → 0078.
# gaps: 4+3 = 7, 7+1 = 8, 8+9 = 17 → 7, 7-1 = 6; #2 makes 9 of 2, #1 makes 9 of 9, #2 makes 8 of 9, 8-9 = -1 → 9.
# guess: two of the letters a to d; four of them.
# ledger: 8+6 = 14 → 4, 4+6 = 10 → 0; 2*9 = 18 → 8, 8-8 = 0, 0+9 = 9, 9+3 = 12 → 2.
# lookup: the code of H, which is what it is, and one drawn for Z.
# routes: 7+7 = 14 → 4; 7+1 = 8, 8-6 = 2, 2-9 = -7 → 3, 3-2 = 1.
# spec: the first digit goes last; 1371 → 1731 → running sum 1, 8, 11, 12, that is 1812.
# taste: a rock, a paper, a twig and a scissors; two of each kind, the rocks i and q, and a twig of them.
# tally: 1+2 = 3; 7+8 = 15 → 5, 5-8 = -3 → 7, 7+2 = 9, 9-8 = 1.
GOLDEN = {
    "add": {(0, 0, 1): ("2+6=", "08"), (3, 17, 2): ("52+29=", "081")},
    "bucket": {(0, 0, 1): ("rg=", "r"), (3, 17, 4): ("pmayu=", "u")},
    "bugs": {
        (0, 0, 1): ("Mtott:7066>6988=", "oott"),
        (3, 17, 4): ("Bhiii:8728>3839;6279>1380=", "hiio"),
    },
    "chain": {(0, 0, 1): ("1-3=", "-38"), (3, 17, 4): ("3+7+1*3+5=", "+70+11*33+58")},
    "checks": {(0, 0, 1): ("6-2=", "-24"), (3, 17, 4): ("7-8+2+5-3=", "-89+21+56-33")},
    "constr": {(0, 0, 1): ("#5,<c,*2a=", "caaeb"), (3, 17, 3): ("#7,>b,*2a,!d,@3=", "efaacfb")},
    "countdown": {(0, 0, 1): ("8,5,3:1=", "(8-5)/3"), (0, 4, 9): ("44,39,39:45=", "39/39+44")},
    "doors": {(0, 0, 1): ("ch=", "c"), (3, 17, 4): ("tvgksxhy=", "s")},
    "dsl": {
        (0, 0, 1): ("84577>45778;71160>11607;28539>85392=", "t"),
        (3, 17, 3): ("13784>4193;96056>7728;19071>0078=", "fai"),
    },
    "gaps": {(0, 0, 1): ("4+3+1+9-1=", "+37+18+97-16"), (3, 17, 2): ("2#2#1#2-9=", "#29#19#28-99")},
    "guess": {(0, 0, 1): ("#2,abcd=", "bc"), (3, 17, 4): ("#4,abcd=", "caab")},
    "ledger": {(0, 0, 2): ("8+6+6=", "+64+60"), (3, 17, 4): ("2*9-8+9+3=", "*98-80+99+32")},
    "lookup": {(0, 0, 1): ("H=", "bea"), (3, 17, 4): ("Z=", "ced")},
    "routes": {(0, 0, 1): ("7+7=", "+74"), (3, 17, 4): ("7+1-6-9-2=", "+18-62-93-21")},
    "spec": {(0, 0, 1): ("032>320=", "t"), (3, 17, 4): ("1371>1812=", "ra")},
    "taste": {(0, 0, 1): ("qcpr=", "q"), (3, 17, 2): ("rqdwtiob=", "d")},
    "tally": {(0, 0, 1): ("1+2=", "+23"), (3, 17, 4): ("7+8-8+2-8=", "+85-87+29-81")},
}

QUESTIONS = {"critique"}  # grades that ask for something and tell nothing
FALLIBLE = {"criticised"}  # grades that may be wrong


def _telling(task: Task) -> list[str]:
    """The grades of ``task`` whose word on right and wrong is true; ``nudge``, which has none, comes first."""
    return [grade for grade in task.grades if grade not in QUESTIONS | FALLIBLE]


HOSTILE = {
    "empty": "",
    "blank": " \t\n",
    "huge": "1" * 10**6,
    "huge sum": "1+" * 500_000 + "1",
    "huge text": "a" * 10**6,
    "longest digits": "9" * MAX_ANSWER_CHARS,
    "longest zeros": "0" * MAX_ANSWER_CHARS,
    "longest letters": "a" * MAX_ANSWER_CHARS,
    "all letters": "abcdefghijklmnopqrstuvwxyz",
    "digits beyond int()": "9" * 5000,
    "deep": "(" * 100_000 + "1" + ")" * 100_000,
    "deep within the limit": "(" * 127 + "1" + ")" * 127,
    "never closed": "(" * MAX_ANSWER_CHARS,
    "never opened": ")" * MAX_ANSWER_CHARS,
    "many minuses": "-" * (MAX_ANSWER_CHARS - 1) + "1",
    "superscript": "²",
    "arabic-indic": "١٢",
    "arabic-indic digit": "٣",
    "fullwidth": "１２",
    "power tower": "9**9**9",
    "long power tower": "**".join("9" * 80),
    "import": "__import__('os').system('x')",
    "call": "exit()",
    "lambda": "(lambda:1/0)()",
    "comprehension": "[0 for _ in iter(int,1)]",
    "shift": "1<<99999999",
    "newline": "\n1\n+\n1\n",
    "carriage return": "1\r1",
    "NUL": "\0",
    "NUL inside": "1\x001",
    "escape": "\x1b[2J1",
    "exponent": "1e3",
    "hexadecimal": "0x10",
    "binary": "0b11",
    "underscore": "1_000",
    "decimal point": "1.0",
    "double minus": "--1",
    "minus": "-1",
    "plus": "+1",
    "not a number": "nan",
    "infinity": "inf",
    "division by zero": "1/0",
    "modulo": "1%1",
    "format": "%s{0}",
    "surrogate": "\ud800",
    "tokens": "<pad><eos><unk>",
}


def _disguises(answer: str) -> dict[str, str]:
    """A right answer in forms that ``int()``, a Python parser or a careless comparison would still read as right."""
    middle = len(answer) // 2
    disguises = {
        "arabic-indic": answer.translate({ord("0") + i: 0x0660 + i for i in range(10)}),
        "fullwidth": answer.translate({code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}),
        "upper case": answer.upper(),
        "non-breaking space": answer + "\xa0",
        "plus": "+" + answer,
        "two minuses": "--" + answer,
        "NUL at the end": answer + "\0",
        "NUL at the start": "\0" + answer,
        "underscore": answer[:middle] + "_" + answer[middle:],
        "comment": answer + "#",
        "second line": answer + "\n" + answer,
        "line continued": answer[:middle] + "\\\n" + answer[middle:],
        "decimal point": answer + ".0",
        "exponent": answer + "e0",
        "said twice": answer + "=" + answer,
        "too deep": "(" * 100 + answer + ")" * 100,
        "too long": " " * MAX_ANSWER_CHARS + answer,
    }
    return {name: text for name, text in disguises.items() if text != answer}  # no digits, or nothing but digits


def _constraints(item: Item) -> int:
    """How many parts of ``item`` are credited one by one: only ``constr`` gives partial credit."""
    return item.prompt.count(",") + 1 if item.task == "constr" else 1


def _head(task: Task, item: Item, completion: str, grade: str) -> str:
    """What feedback says before it repeats the problem."""
    feedback = task.feedback(item, completion, grade)
    assert feedback.endswith(item.prompt)
    return feedback.removesuffix(item.prompt)


# --- items -----------------------------------------------------------------------------------------------------------


@EVERY_TASK
def test_golden_items(task: Task) -> None:
    assert len(GOLDEN[task.name]) >= 2
    for (seed, index, level), (prompt, answer) in GOLDEN[task.name].items():
        assert task.item(seed, index, level) == Item(task.name, seed, index, level, prompt, answer)


def test_another_process_with_another_hash_seed_draws_the_same_items() -> None:
    code = (
        "import json, random; from dataclasses import asdict; from minirl.tasks import get\n"
        f"rows = [(asdict(i), t.corrupt(i, random.Random(5))) for t in map(get, {list(TASKS)}) for level in t.levels\n"
        "        for i in t.items(7, range(20), level)]\n"
        "print(json.dumps(rows))"
    )
    root = str(Path(minirl.tasks.__file__).parents[2])
    here = [
        [asdict(item), task.corrupt(item, random.Random(5))]
        for task in TASKS.values()
        for level in task.levels
        for item in task.items(7, range(20), level)
    ]
    for hash_seed in ("1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
        there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert json.loads(there.stdout) == here


@EVERY_LEVEL
def test_items_depend_on_their_coordinates_and_on_nothing_else(task: Task, level: int) -> None:
    items = task.items(1, range(50), level)
    random.seed(0)  # the global generator is not a coordinate
    assert [task.item(1, index, level) for index in reversed(range(50))] == items[::-1]
    assert [(item.task, item.seed, item.index, item.level) for item in items] == [
        (task.name, 1, index, level) for index in range(50)
    ]
    # One-digit addition has only 100 prompts, so a few draws coincide by chance. All prompts of guess at a level
    # are the same: there it is the hidden codes that differ, of which the smallest size has 16. Lookup has 8 keys at
    # its first level.
    fewest, most_equal = {"guess": (12, 5), "lookup": (8, 12)}.get(task.name, (30, 5))
    drawn, other_seed = (
        [item.answer if task.name == "guess" else item.prompt for item in task.items(seed, range(50), level)]
        for seed in (1, 2)
    )
    assert len(set(drawn)) >= fewest
    assert sum(a == b for a, b in zip(drawn, other_seed, strict=True)) <= most_equal


@EVERY_LEVEL
def test_prompts_and_answers_fit_the_alphabet_and_the_declared_length(task: Task, level: int) -> None:
    for item in task.items(2, range(ITEMS_PER_LEVEL), level):
        assert set(item.prompt + item.answer) <= set(ALPHABET)
        assert item.prompt.endswith("=")
        assert 1 <= len(item.answer) <= task.max_answer_chars(level) <= MAX_ANSWER_CHARS
        # Two attempts, each ended by a token, with feedback between them fit into a context of 128 tokens.
        attempts = (item.answer, task.corrupt(item, random.Random(0)), "", "0", HOSTILE["all letters"])
        feedback = max(len(task.feedback(item, text, grade)) for text in attempts for grade in task.grades)
        assert len(item.prompt) + feedback + 2 * (task.max_answer_chars(level) + 1) <= 128


@EVERY_TASK
def test_unknown_level_says_which_levels_there_are(task: Task) -> None:
    first, last = task.levels[0], task.levels[-1]
    for level in (first - 1, last + 1, -1, 10**9):
        with pytest.raises(ValueError) as error:
            task.item(0, 0, level)
        assert str(error.value) == f"task {task.name!r} has levels {first}–{last}, not level {level}"
        with pytest.raises(ValueError, match="has levels"):
            task.items(0, range(1), level)


def test_get_finds_tasks_by_name_and_lists_them_otherwise() -> None:
    assert all(get(name) is task and task.name == name for name, task in TASKS.items())
    with pytest.raises(ConfigError) as error:
        get("adddition")
    assert str(error.value) == "unknown task 'adddition'. Did you mean 'add'?"
    with pytest.raises(ConfigError) as error:
        get("poker")
    assert str(error.value) == f"unknown task 'poker'. There is: {', '.join(names())}."


# --- scores ----------------------------------------------------------------------------------------------------------


@EVERY_LEVEL
def test_references_are_right_and_corruptions_wrong(task: Task, level: int) -> None:
    corruptions = set()
    for item in task.items(3, range(ITEMS_PER_LEVEL), level):
        wrong = task.corrupt(item, random.Random(item.index))
        assert wrong == task.corrupt(item, random.Random(item.index))
        assert task.score(item, item.answer) == 1.0
        parts = _constraints(item)
        assert task.score(item, wrong) == (parts - 1) / parts  # one part goes wrong, which is all where there is one
        # Plausible means that only the scorer can tell: same characters, no longer than an honest answer.
        assert set(wrong) <= set(ALPHABET)
        assert 1 <= len(wrong) <= task.max_answer_chars(level)
        corruptions.add(wrong)
    assert len(corruptions) > 10  # not one stock wrong answer


@EVERY_TASK
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_answers_score_zero_at_once(task: Task, answer: str) -> None:
    items = [item for level in task.levels for item in task.items(4, range(3), level)]
    started = time.process_time()
    for item in items:
        for variant in (answer, item.answer + answer, answer + item.answer):
            if variant.strip() != item.answer:  # whitespace around an answer is forgiven
                # Leading zeros are forgiven by addition, so that no run of zeros may pass for the answer to 0+0.
                assert task.score(item, variant) == float(_is_zero_padding(task, item, variant))
    assert time.process_time() - started < 1.0  # 36 items, about a millisecond


def _is_zero_padding(task: Task, item: Item, answer: str) -> bool:
    return task.name == "add" and len(answer) <= 2 * len(item.answer) and answer.lstrip("0") == item.answer.lstrip("0")


@EVERY_TASK
def test_right_answers_in_disguise_score_zero(task: Task) -> None:
    for level in task.levels:
        for item in task.items(5, range(20), level):
            assert {name: task.score(item, text) for name, text in _disguises(item.answer).items()} == dict.fromkeys(
                _disguises(item.answer), 0.0
            )


@EVERY_TASK
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    completion=st.text()
    | st.text(st.characters(categories=["Nd", "No", "Cs", "Cc", "Zs"]))
    | st.text(ALPHABET, max_size=40)
    | st.text("0123456789+-*/()", max_size=20)
    | st.text("abcdef", max_size=13)
    | st.text("adefilrstu", max_size=9),
    index=st.integers(0, 50),
)
def test_scorers_are_total(task: Task, completion: str, index: int) -> None:
    for level in (task.levels[0], task.levels[-1]):
        item = task.item(6, index, level)
        score = task.score(item, completion)
        parts = _constraints(item)
        assert type(score) is float and score in [met / parts for met in range(parts + 1)]
        admissible = task.admissible(item, completion)
        assert type(admissible) is bool and (admissible or score == 0.0)
        if not completion.isascii() or len(completion) > MAX_ANSWER_CHARS:
            assert score == 0.0
        assert task.feedback(item, completion, "binary") == ("+" if score == 1 else "-") + item.prompt
        for grade in _telling(task)[1:]:
            head = _head(task, item, completion, grade)
            assert ("-" in head) == (score < 1)
        for grade in set(task.grades) - QUESTIONS:
            assert set(_head(task, item, completion, grade)) <= set(ALPHABET)  # nothing a policy could not read


def test_no_task_runs_model_text(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    for task in TASKS.values():
        item = task.item(0, 0, task.levels[0])
        for template in ("__import__('os').system('{}')", "{}+0*__import__('os').system('x')"):
            assert task.score(item, template.format(item.answer)) == 0.0
    assert ran == []


def test_no_task_calls_an_evaluator() -> None:
    builtin = {"eval", "exec", "compile", "__import__"}  # as bare names: re.compile is innocent
    elsewhere = {"literal_eval", "parse_expr", "sympify", "import_module"}
    for path in Path(minirl.tasks.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None)
            imported = getattr(node, "attr", None) or getattr(node, "name", None)
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert name not in builtin | elsewhere, where
            # The package finds tasks by file name; what it imports is never model text.
            assert imported not in elsewhere or path.name == "__init__.py", where


class Listener(Task):
    """Accepts everything and remembers what ``check`` was shown."""

    name = "listener"
    levels = range(1, 2)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        return "=", "1"

    def check(self, item: Item, answer: str) -> bool:
        self.seen.append(answer)
        return True

    def max_answer_chars(self, level: int) -> int:
        return 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        return "0"


def test_check_only_sees_some_short_ascii_without_surrounding_whitespace() -> None:
    task = Listener()
    item = task.item(0, 0, 1)
    scores = {name: task.score(item, answer) for name, answer in HOSTILE.items()}
    assert all(1 <= len(answer) <= MAX_ANSWER_CHARS and answer.isascii() for answer in task.seen)
    refused = {name for name, score in scores.items() if score == 0.0}
    expected = {n for n, answer in HOSTILE.items() if len(answer) > MAX_ANSWER_CHARS or not answer.isascii()}
    assert refused == expected | {"empty", "blank"}  # who says nothing is wrong, whatever a task would make of it
    task.seen.clear()
    assert task.score(item, "x" * MAX_ANSWER_CHARS) == 1.0
    assert task.score(item, "x" * (MAX_ANSWER_CHARS + 1)) == 0.0
    assert task.score(item, " 1\n") == 1.0
    assert task.seen == ["x" * MAX_ANSWER_CHARS, "1"]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("7", "7"),
        (" \t7 \n", "7"),
        ("7 7", "7 7"),  # space inside is part of what was said
        ("", ""),
        (" \n", ""),
        ("x" * MAX_ANSWER_CHARS, "x" * MAX_ANSWER_CHARS),
        ("x" * (MAX_ANSWER_CHARS + 1), ""),
        ("7" + " " * MAX_ANSWER_CHARS, ""),  # too long before anyone looks at what is in it
        ("７", ""),
        ("7\xa0", ""),  # which strip() would take for space
    ],
)
def test_read_by_hand(completion: str, answer: str) -> None:
    task = Listener()
    assert task.read(completion) == answer
    assert task.admissible(task.item(0, 0, 1), completion) is (answer != "")  # unless a task asks for more


# One item a task with answers that are right, wrong, and no answers at all.
ANSWERS: dict[str, tuple[Item, list[str], list[str], list[str]]] = {
    "add": (
        Item("add", 0, 0, 2, "52+29=", "081"),
        ["081", "81", "000081", " 081\n"],
        ["082", "0", "7", "999999"],
        ["0000081", "52+29", "+81", "-81", "8 1", "081=", "8.1", "x", "", "٨١", "²"],
    ),
    "bucket": (
        Item("bucket", 0, 0, 3, "bkqz=", "q"),
        ["q", " q\n"],
        ["b", "k", "z"],
        ["a", "Q", "=", "qq", "kq", "bkqz", "q=", "", "ｑ"],
    ),
    "bugs": (
        Item("bugs", 0, 0, 1, "Mtott:7066>6988=", "oott"),
        ["oott", " oott\n"],
        ["tott", "cccc", "ocht"],  # the last passes the test that is shown: 9-0 is 0-1, 6+5 is not 3*6
        ["oot", "oottt", "OOTT", "oo tt", "oott=", "oota", "6988", "Moott", "?", "", "оott"],  # Cyrillic о
    ),
    "chain": (
        Item("chain", 0, 0, 3, "3+7-4*2=", "+70-46*22"),
        ["+70-46*22", "+71-46*22", "+79-49*22"],  # steps may be wrong
        ["+70-46*23", "+71-47*24", "+70-47*24"],
        [
            *("2", "062", "+70-46", "+70-46*2", "+70-46*22+11", "+70-46*222", "+70+46*22", "+70-46*12"),
            *("-46+70*22", "+70-46*2x", "x+70-46*22", "+70-46*22=", "", "+7٠-46*22"),
        ],
    ),
    "checks": (
        Item("checks", 0, 0, 2, "3+7-4=", "+70-46"),
        ["+70-46", "+71-46", " +79-46\n"],  # two slips may cancel
        ["+70-47", "+71-47", "+70-40"],
        [
            *("6", "06", "+70", "+70-4", "+70-46+11", "+70-466", "+70+46", "+60-46", "-46+70", "+7x-46", "+70-46="),
            *("+70 -46", "", "+7٠-46", "++", "+-", "!"),  # critiques are no answers
        ],
    ),
    "constr": (
        Item("constr", 0, 0, 2, "#6,<b,>e,*2c=", "bccade"),
        ["bccade", "bcecce", "bccfde", " bccade\n"],
        ["bccadf", "f", "b" * 12],  # the second meets nothing that was asked for
        ["b" * 13, "bccadg", "BCCADE", "bcc ade", "bccade=", "#6,<b,>e,*2c", "6", "", "bссade"],  # Cyrillic с
    ),
    "countdown": (
        Item("countdown", 0, 0, 1, "3,7,2:13=", "3*2+7"),
        ["3*2+7", "7+2*3", "((3)*2)+7", " 3*2+7\n"],
        ["3+7+2", "3-7-2", "(3+7)*2", "3*7*2"],
        [
            *("7/2*3", "2/(7-3)", "3*2", "3*2+7+7", "3*2+8", "13", "6+7", "3*02+7", "32+7", "-3*2+7", "3*2+7="),
            *("3 * 2+7", "3*2+7=13", "(3*2+7", "3**2+7", "", "３*2+7"),
        ],
    ),
    "doors": (
        Item("doors", 0, 0, 2, "bkqz=", "q"),  # written by hand, so only the answer is known to be open
        ["q", " q\n"],
        ["b", "k", "z"],
        ["a", "Q", "=", "qq", "kq", "bkqz", "q=", "", "ｑ"],
    ),
    "dsl": (
        Item("dsl", 0, 0, 1, "53178>87135;2946>6492;40062>26004=", "r"),
        ["r", "rrr", "rtlftr!r", " r\n", "31785! r"],  # what follows the last ! is the program
        ["s", "rr", "adefilrs", "r!s", "x!s"],
        ["x", "rx", "r" * 9, "R", "r r", "r=", "87135", "r!", "!", "r!x", "", "г"],  # Cyrillic г
    ),
    "gaps": (
        Item("gaps", 0, 0, 2, "3+7#1-4#2=", "+70#16-42#29"),
        ["+70#16-42#29", " +70#16-42#29\n"],
        ["+70#16-42#28", "+71#16-42#29", "+79#10-46#29"],  # every step counts, not the last alone
        [
            *("9", "#29", "+70#16-42", "+70#16-42#2", "+70#16-42#299", "+70#26-42#29", "-42+70#16#29", ""),
            *("+70#1x-42#29", "+70#16-42#29=", "+70 #16-42#29", "+7٠#16-42#29", "!+70#16-42#29"),
        ],
    ),
    "guess": (
        Item("guess", 0, 0, 2, "#3,abcd=", "bca"),
        ["bca", " bca\n"],
        ["acb", "aaa", "ddd"],
        ["bc", "bcaa", "bce", "BCA", "b c", "bca=", "-*.+", "", "bсa"],  # Cyrillic с
    ),
    "ledger": (
        Item("ledger", 0, 0, 2, "8+6+6=", "+64+60"),
        ["+64+60", "+65+60", " +69+60\n"],  # steps may be wrong
        ["+64+61", "+65+61", "+60+66"],
        [
            *("0", "40", "+64", "+64+6", "+64+60+60", "+64+600", "-64+60", "+54+60", "+6x+60", "+64+60=", "64+60"),
            *("+64 +60", "", "+6٤+60"),
        ],
    ),
    "lookup": (
        Item("lookup", 0, 0, 1, "C=", "acc"),
        ["acc", " acc\n"],
        ["aca", "fff", "bac"],
        ["ac", "accc", "acg", "ACC", "a c", "acc=", "-a.c", "...", "", "aсc"],  # Cyrillic с
    ),
    "routes": (
        Item("routes", 0, 0, 2, "3+7-4=", "+70-46"),
        ["+70-46", "-49+76", "+71-46", " -40+76\n"],  # in any order; steps may be wrong
        ["+70-47", "-49+77", "+70-40", "-46+70"],
        [
            *("6", "+70", "-49+7", "+70-46+76", "-49+76-49", "+70+76", "-46-46", "-49+766", "+70-36", "-4x+76"),
            *("-49 +76", "-49+76=", "7+04-6", "", "-49+7٦", "-a", "+", "!"),
        ],
    ),
    "spec": (
        Item("spec", 0, 0, 1, "22>2=", "u"),
        ["u", "uu", " u\n", "22! u", "f!u"],  # what follows the last ! is the program
        ["f", "l", "rur", "r", "adefilrs", "u!f", "x!l"],  # the first three make 2 of 22 as well
        ["x", "ux", "u" * 9, "U", "u u", "u=", "2", "22>2", "u!", "!", "u!x", "?", "", "υ"],  # Greek υ
    ),
    "tally": (
        Item("tally", 0, 0, 2, "3+7-4=", "+70-46"),
        ["+70-46", "+71-46", " +79-46\n"],  # two slips may cancel
        ["+70-47", "+71-47", "+70-40"],
        [
            *("6", "06", "+70", "+70-4", "+70-46+11", "+70-466", "+70+46", "+60-46", "-46+70", "+7x-46", "+70-46="),
            *("+70 -46", "", "+7٠-46", "-b", "+", "!"),  # critiques are no answers
        ],
    ),
    "taste": (
        Item("taste", 0, 0, 1, "qcpr=", "q"),
        ["q", "c", "p", "r", " q\n"],
        ["a", "b", "z"],  # not on the list
        ["Q", "=", "qq", "qc", "qcpr", "q=", "", "ｑ"],
    ),
}


@pytest.mark.parametrize(
    ("task", "answer", "right", "admissible"),
    [
        pytest.param(name, answer, right, admissible, id=f"{name}-{answer!a}")
        for name, (_, *kinds) in ANSWERS.items()
        for answers, right, admissible in zip(kinds, (True, False, False), (True, True, False), strict=True)
        for answer in answers
    ],
)
def test_what_is_an_answer_at_all_by_hand(task: str, answer: str, right: bool, admissible: bool) -> None:
    item = ANSWERS[task][0]
    assert (TASKS[task].score(item, answer) == 1.0) is right
    assert TASKS[task].admissible(item, answer) is admissible
    assert admissible or TASKS[task].score(item, answer) == 0.0


def test_every_task_has_such_answers() -> None:
    assert ANSWERS.keys() == TASKS.keys() and all(all(kinds) for kinds in ANSWERS.values())


@EVERY_LEVEL
def test_right_answers_and_plausible_mistakes_are_admissible(task: Task, level: int) -> None:
    for item in task.items(10, range(50), level):
        assert task.admissible(item, item.answer) and task.admissible(item, f" {item.answer}\n")
        wrong = task.corrupt(item, random.Random(0))
        # Two doors may both be open: then nothing that is an answer at all is wrong.
        assert task.admissible(item, wrong) or (task.name, level, task.score(item, wrong)) == ("doors", 1, 0.0)
        for nothing in ("", " ", "\xa0", item.answer + "\xa0", " " * MAX_ANSWER_CHARS + item.answer):
            assert not task.admissible(item, nothing)


@EVERY_TASK
def test_whatever_is_right_is_admissible(task: Task) -> None:
    # Every answer one character from the reference, and what the other tests throw at the scorers.
    right = set()
    for level in task.levels[:4]:
        for item in task.items(12, range(5), level):
            whole, edits = item.answer, {item.answer, *HOSTILE.values(), *_disguises(item.answer).values()}
            for i in range(len(whole) + 1):
                edits |= {whole[:i] + letter + whole[i + skip :] for letter in ["", *ALPHABET] for skip in (0, 1)}
            for text in edits:
                score = task.score(item, text)
                assert task.admissible(item, text) or score == 0.0, (item, text)
                if score == 1.0 and text.strip() != whole:
                    right.add((item, text))
    # A zero in front, a wrong step that does not matter, /1 for *1, another letter where none was asked for, another
    # program: in reach wherever more than one answer is right at all.
    assert bool(right) == (task.name not in {"bucket", "gaps", "guess", "lookup"})


# --- demonstrations --------------------------------------------------------------------------------------------------


def test_careless_by_default() -> None:
    # The answer is 1, and the typical mistake 0.
    task, rng = Listener(), random.Random(0)
    item = task.item(0, 0, 1)
    assert {task.careless(item, rng, 0.0) for _ in range(50)} == {"1"}
    assert {task.careless(item, rng, 1.0) for _ in range(50)} == {"0"}
    mistakes = sum(task.careless(item, rng, 0.3) == "0" for _ in range(2000))
    assert abs(mistakes / 2000 - 0.3) < 0.041  # four standard errors


@pytest.mark.parametrize(
    ("history", "careful", "careless"),
    [
        ([("5", "-=")], "1", "0"),
        ([("5", "?=")], "1", "0"),
        ([("5", "+=")], "5", "5"),  # called right, and therefore repeated, whatever the answer is
        ([("5", "+="), ("6", "-=")], "1", "0"),  # the last word counts
        ([("5", "-="), ("6", "+=")], "6", "6"),
    ],
)
def test_revise_by_default(history: list[tuple[str, str]], careful: str, careless: str) -> None:
    task, rng = Listener(), random.Random(0)
    item = task.item(0, 0, 1)
    assert {task.revise(item, history, rng, 0.0) for _ in range(20)} == {careful}
    assert {task.revise(item, history, rng, 1.0) for _ in range(20)} == {careless}


@EVERY_LEVEL
def test_demonstrations_depend_on_the_generator_alone_and_could_have_been_written(task: Task, level: int) -> None:
    for item in task.items(11, range(20), level):
        wrong = task.corrupt(item, random.Random(0))
        told = [grade for grade in task.grades if grade not in QUESTIONS]
        histories = [[(wrong, task.feedback(item, wrong, grade))] for grade in told]
        for write in (
            lambda rng, item=item: task.careless(item, rng, 0.5),
            *(lambda rng, item=item, history=h: task.revise(item, history, rng, 0.5) for h in histories),
        ):
            text = write(random.Random(item.index))
            assert text == write(random.Random(item.index))
            assert 1 <= len(text) <= task.max_answer_chars(level) and set(text) <= set(ALPHABET)
            assert task.admissible(item, text)


# --- feedback --------------------------------------------------------------------------------------------------------


@EVERY_TASK
def test_feedback_grades(task: Task) -> None:
    for item in task.items(8, range(30), task.levels[0]):
        wrong = task.corrupt(item, random.Random(0))
        nudge, right, false = (sign + item.prompt for sign in "?+-")  # a sign, then the problem once more
        # A nudge must not leak whether the attempt was right: that would not be intrinsic self-correction.
        assert task.feedback(item, item.answer) == task.feedback(item, wrong) == nudge
        assert task.feedback(item, item.answer, "nudge") == task.feedback(item, "", "nudge") == nudge
        assert task.feedback(item, item.answer, "binary") == right
        assert task.feedback(item, wrong, "binary") == task.feedback(item, "", grade="binary") == false
        assert set(nudge + right + false) <= set(ALPHABET)
        with pytest.raises(ValueError) as error:
            task.feedback(item, item.answer, "oracle")
        assert str(error.value) == (
            f"task {task.name!r} has no feedback grade 'oracle'; one of: {', '.join(task.grades)}"
        )


@EVERY_TASK
def test_every_grade_that_is_named_tells_right_from_wrong(task: Task) -> None:
    assert task.grades[:2] == ("nudge", "binary")
    for item in task.items(8, range(30), task.levels[-1]):
        wrong = task.corrupt(item, random.Random(0))
        for grade in _telling(task)[1:]:
            assert "-" not in _head(task, item, item.answer, grade)
            assert "-" in _head(task, item, wrong, grade)


# --- data sets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demonstration:
    prompt: str
    completion: str


@EVERY_TASK
def test_items_become_prompt_and_completion_columns(task: Task) -> None:
    items = task.items(9, range(4), task.levels[1])
    data = to_dataset(items)
    assert set(data.column_names) == {"task", "seed", "index", "level", "prompt", "answer", "completion"}
    assert data["prompt"][:] == [item.prompt for item in items]
    assert data["completion"][:] == data["answer"][:] == [item.answer for item in items]
    assert data["index"][:] == [0, 1, 2, 3]
    # A scorer on the other side of TRL gets an item back from the columns of a row.
    row = {key: value for key, value in data[2].items() if key != "completion"}
    assert task.score(Item(**row), data[2]["completion"]) == 1.0


def test_dictionaries_and_other_dataclasses_become_data_sets() -> None:
    rows = [{"prompt": "1+1=", "completion": "3", "reward": 0.0}, {"prompt": "1+2=", "completion": "03", "reward": 1.0}]
    data = to_dataset(rows)
    assert [dict(row) for row in data] == rows
    # An answer becomes the completion only where there is none: a record of what a policy wrote stays what it wrote.
    attempt = {"prompt": "1+1=", "answer": "02", "completion": "03"}
    assert to_dataset([attempt])[0] == attempt
    solved = {"prompt": "1+1=", "answer": "02"}
    assert to_dataset([solved])[0] == {**solved, "completion": "02"}
    assert solved == {"prompt": "1+1=", "answer": "02"}  # the caller's row is left alone
    assert to_dataset([Demonstration("1+1=", "02")])[0] == {"prompt": "1+1=", "completion": "02"}
