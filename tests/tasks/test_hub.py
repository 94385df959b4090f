"""Tasks from data sets: which rows a seed means, what a row becomes, and answers compared by hand. Data made here."""

import json
import os
import random
import subprocess
import time
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.errors import ConfigError
from minirl.loops import derive_seed
from minirl.tasks import get, names
from minirl.tasks import math as math_task
from minirl.tasks.equal import _WORKER, by_math_verify, equal
from minirl.tasks.gsm8k import Gsm8k
from minirl.tasks.hub import DERIVED, TEST_SEED
from minirl.tasks.math import Math, boxed

TRAIN, TEST = 30, 5
RUN = derive_seed(0, "problems")  # as a run with seed 0 asks for its training items


def gsm8k_row(split: str, i: int) -> dict[str, str]:
    return {
        "question": f"Ann has {i} eggs ({split}) and buys 1,000 more. How many has she?",
        "answer": f"She has {i}+1000 = <<{i}+1000={i + 1000}>>{i + 1000} eggs.\n#### 1,{i:03}",
    }


def math_row(split: str, i: int) -> dict[str, object]:
    return {
        "problem": f"Halve ${i}$ ({split}).",
        "solution": f"It is $\\boxed{{\\frac{{{i}}}{{2}}}}$.",
        "answer": f"\\frac{{{i}}}{{2}}",
        "level": i % 5 + 1,
        "subject": "Algebra",
    }


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    for task, row in (("gsm8k", gsm8k_row), ("math", math_row)):
        (tmp_path / "data" / task).mkdir(parents=True)
        for split, count in (("train", TRAIN), ("test", TEST)):
            lines = [json.dumps(row(split, i)) + "\n" for i in range(count)]
            (tmp_path / "data" / task / f"{split}.jsonl").write_text("".join(lines))
    monkeypatch.setenv("MINIRL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "data"


def numbers(task: Gsm8k, seed: int, indices: range) -> list[int]:
    """Which rows the items are."""
    return [int(item.prompt.split()[2]) for item in task.items(seed, indices, 1)]


def test_they_are_found_by_name_but_not_listed():
    assert isinstance(get("gsm8k"), Gsm8k) and isinstance(get("math"), Math)
    assert not {"gsm8k", "math", "hub", "equal", "words"} & set(names())


def test_which_rows_a_seed_means(data):
    task = Gsm8k()
    assert RUN >= DERIVED
    assert numbers(task, TEST_SEED, range(TEST)) == list(range(TEST))  # in their own order
    assert all("(test)" in item.prompt for item in task.items(TEST_SEED, range(TEST), 1))
    held_back = {0, 10, 20}
    developing = numbers(task, TEST_SEED + 1, range(3))  # what Run.held_out("develop") asks for
    assert set(developing) == held_back
    training = numbers(task, RUN, range(27))
    assert set(training) == set(range(TRAIN)) - held_back  # all of them, once
    assert all("(train)" in item.prompt for item in task.items(RUN, range(27), 1))
    again = numbers(task, RUN, range(27, 54))
    assert set(again) == set(training) and again != training  # another order
    assert numbers(task, derive_seed(1, "problems"), range(27)) != training
    assert set(numbers(task, RUN, range(-27, 0))) == set(training)  # before the first


def test_items_are_pure(data):
    one, other = Gsm8k(), Gsm8k()
    other.item(RUN, 40, 1)
    assert one.items(RUN, range(40), 1) == [other.item(RUN, i, 1) for i in reversed(range(40))][::-1]
    item = one.item(RUN, 3, 1)
    assert (item.task, item.seed, item.index, item.level) == ("gsm8k", RUN, 3, 1)


def test_more_than_the_test_split_has(data):
    with pytest.raises(ConfigError, match=r"has 5 problems at level 1, and number 6 was asked for; lower evaluation"):
        Gsm8k().item(TEST_SEED, TEST, 1)
    with pytest.raises(ValueError, match="task 'gsm8k' has levels 1–1, not level 2"):
        Gsm8k().item(TEST_SEED, 0, 2)


def test_a_row_of_gsm8k(data):
    task = Gsm8k()
    item = task.item(TEST_SEED, 2, 1)
    assert item.prompt.startswith("Ann has 2 eggs (test) and buys 1,000 more. How many has she?\n\n")
    assert item.answer == "She has 2+1000 = 1002 eggs.\nAnswer: 1,002"
    assert task.score(item, item.answer) == task.score(item, "It is 1002.") == task.score(item, "Answer: 1002.0") == 1
    assert task.score(item, "Answer: 1003") == task.score(item, "") == 0
    wrong = task.corrupt(item, random.Random(0))
    assert task.score(item, wrong) == 0 and wrong == task.corrupt(item, random.Random(0))


def test_levels_of_math(data):
    task = Math()
    assert task.levels == range(1, 7)
    # Rows 0, 5, 10, … are of level 1; of these six, the first is held back.
    assert [item.prompt.split("$")[1] for item in task.items(TEST_SEED, range(1), 1)] == ["0"]
    assert {item.prompt.split("$")[1] for item in task.items(RUN, range(5), 1)} == {"5", "10", "15", "20", "25"}
    assert len({item.prompt for item in task.items(TEST_SEED, range(TEST), 6)}) == TEST  # all levels together


def test_a_row_of_math(data):
    task = Math()
    item = task.item(TEST_SEED, 3, 6)
    assert item.answer == "It is $\\boxed{\\frac{3}{2}}$.\nAnswer: $\\frac{3}{2}$"
    for right in (item.answer, "Answer: 3/2", "Answer: $1.5$", "So it is \\boxed{ \\dfrac32 }, I think."):
        assert task.score(item, right) == 1
    for wrong in ("Answer: 2", "\\boxed{3}", "3/2 or so", "Answer:", "", task.corrupt(item, random.Random(1))):
        assert task.score(item, wrong) == 0
    assert "3" not in task.feedback(item, "Answer: 2", "binary")


@pytest.mark.parametrize(
    ("completion", "inside"),
    [
        ("\\boxed{7}", "7"),
        ("\\boxed{6} no, \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{7", ""),
        ("\\boxed{}", ""),
        ("{7}", ""),
        ("\\boxed{٧}", ""),
        ("", ""),
    ],
)
def test_boxed(completion, inside):
    assert boxed(completion) == inside


EQUAL = [
    ("\\frac{1}{2}", "0.5"),
    ("\\frac12", "1/2"),
    ("(1,2]", "(1, 2]"),
    ("x^2+2x+1", "(x+1)^2"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("1,2,3", "3,2,1"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("\\sin^2 x+\\cos^2 x", "1"),
    ("\\text{Evelyn}", "Evelyn"),
    ("90^\\circ", "90"),
    ("50\\%", "50"),
    ("x=5", "5"),
    ("10,080", "10080"),
    ("2\\frac{1}{2}", "2.5"),
    ("(-\\infty,3)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,3)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"),
    ("\\binom{5}{2}", "10"),
]
DIFFERENT = [
    ("3", "4"),
    ("1000", "1000.5"),
    ("1,2,3", "123"),
    ("(3,4)", "(4,3)"),
    ("\\pi", "3.14159"),
    ("x^2", "x^3"),
    ("0.333", "\\frac{1}{3}"),
    ("5", ""),
    ("1", "\\frac{1}{0}"),
    ("5", "__import__('os').system('touch x')"),
    ("5", "\\text{__import__('os').system('touch x')}"),
    ("5", "\\operatorname{exit}(5)"),
    ("5", "5}$ __import__('os').system('touch x') $"),
    ("5", "x" * 300),
    ("5", "{" * 200),
]


@pytest.mark.parametrize(("reference", "answer"), EQUAL)
def test_equal_by_hand(reference, answer):
    assert equal(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_different_by_hand(reference, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not equal(reference, answer)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_computed_is_wrong_soon():
    started = time.perf_counter()
    assert not equal("2", "9^{9^{9^{9}}}") and not equal("2", "99999999!")
    assert time.perf_counter() - started < 45
    assert equal("\\sqrt{8}", "2\\sqrt{2}")  # and the next one is compared


def test_the_process_that_compares_may_be_killed(monkeypatch):
    assert not equal("a+b", "a+c")
    assert _WORKER._process is not None
    _WORKER._process.kill()
    _WORKER._process.wait()
    assert equal("a+b", "b+a")


def test_that_process_executes_no_text():
    from minirl.tasks.equal import _no_code_from_text

    for text in ("1", "__import__('os').system('touch x')"):
        code = compile(text, "<string>", "eval")
        with pytest.raises(RuntimeError, match="text is not executed here"):
            _no_code_from_text("exec", (code,))
        with pytest.raises(RuntimeError, match="text is not executed here"):
            _no_code_from_text("compile", (text.encode(), "<string>"))
    with pytest.raises(RuntimeError, match=r"os\.system is not allowed here"):
        _no_code_from_text("os.system", (b"touch x",))
    _no_code_from_text("exec", (compile("1", "sympy/core.py", "eval"),))
    _no_code_from_text("open", ("file", "r", 0))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(text=st.text() | st.text("0123456789^{}_\\fracsqt+-*/()=,$ ", max_size=30))
def test_comparing_is_total(text):
    assert equal("\\frac{1}{2}", text) in (True, False)
    assert isinstance(Math().read(text), str)
    assert isinstance(Gsm8k().read(text), str)


def test_without_math_verify_the_extra_is_named(data, monkeypatch):
    monkeypatch.setattr(math_task.require.__globals__["importlib"].util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'minirl\[maths\]'"):
        Math().item(TEST_SEED, 0, 1)


def test_without_data_one_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIRL_DATA", raising=False)
    with pytest.raises(ConfigError) as error:  # the tests run without network
        Gsm8k().item(TEST_SEED, 0, 1)
    assert "openai/gsm8k cannot be had from the hub" in str(error.value)
    assert str(error.value).endswith("put test.jsonl into a folder gsm8k and name its parent in MINIRL_DATA.")


def test_data_in_another_form(data):
    for split in ("train", "test"):
        (data / "gsm8k" / f"{split}.jsonl").write_text(json.dumps({"q": "1+1?"}) + "\n")
    with pytest.raises(ConfigError, match=r"no column 'question', only q: it is not in the form of openai/gsm8k"):
        Gsm8k().item(TEST_SEED, 0, 1)
    for split in ("train", "test"):
        (data / "gsm8k" / f"{split}.jsonl").write_text(json.dumps({"question": "1+1?", "answer": "two"}) + "\n")
    with pytest.raises(ConfigError, match="gsm8k: an answer without '#### NUMBER': 'two'"):
        Gsm8k().item(TEST_SEED + 1, 0, 1)
    with pytest.raises(ConfigError, match="gsm8k has no rows for train at level 1"):
        Gsm8k().item(RUN, 0, 1)


def test_another_process_with_another_hash_seed_reads_the_same_rows(data, tmp_path):
    import sys

    import minirl.tasks

    task, code = (
        Gsm8k(),
        (
            "import json; from minirl.tasks import get\n"
            f"print(json.dumps([i.prompt for i in get('gsm8k').items({RUN}, range(30), 1)]))"
        ),
    )
    root = str(Path(minirl.tasks.__file__).parents[2])
    env = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": root, "HF_DATASETS_CACHE": str(tmp_path / "theirs")}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout.splitlines()[-1]) == [item.prompt for item in task.items(RUN, range(30), 1)]


def test_a_comparison_is_made_once():
    by_math_verify.cache_clear()
    for _ in range(3):
        equal("\\sqrt{18}", "3\\sqrt{2}")
    assert (by_math_verify.cache_info().hits, by_math_verify.cache_info().misses) == (2, 1)
