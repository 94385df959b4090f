"""The adapter to reasoning-gym: which data sets, that items are pure, and scores by hand. Its scorers never run."""

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirl.tasks
from minirl.errors import ConfigError
from minirl.tasks import get, names
from minirl.tasks.base import MAX_ANSWER_CHARS
from minirl.tasks.gym import HIGHEST, KINDS, entry, solves
from minirl.tasks.words import RIGHT, WRONG, TaskInWords

DATASETS = [name for kind in KINDS.values() for name in kind]
EVERY_DATASET = pytest.mark.parametrize("dataset", DATASETS)
SAMPLE = ("chain_sum", "gsm_symbolic", "syllogism", "countdown", "puzzle24")  # one of each kind, and those asked for


def task(dataset: str) -> TaskInWords:
    found = get(f"gym.{dataset}")
    assert isinstance(found, TaskInWords)
    return found


def test_names_are_those_without_the_extra():
    assert not [name for name in names() if "gym" in name]
    assert task("chain_sum") is task("chain_sum") and task("chain_sum").name == "gym.chain_sum"
    assert type(task("chain_sum")).__module__ == "minirl.tasks.gym"  # what a result depends on


def test_unknown_and_refused_data_sets():
    with pytest.raises(ConfigError, match=r"reasoning-gym has no data set 'chain_summ'. Did you mean 'chain_sum'\?"):
        get("gym.chain_summ")
    with pytest.raises(ConfigError, match="unknown task 'gym'"):
        get("gym")
    for dataset in ("polynomial_multiplication", "sudoku", "composite", "ransom_note"):
        with pytest.raises(ConfigError, match=f"gym.{dataset} cannot be used: minirl does not call reasoning-gym's"):
            get(f"gym.{dataset}")


def test_without_reasoning_gym_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # importing it fails
    with pytest.raises(ConfigError, match=r"pip install 'minirl\[gym\]'"):
        get("gym.gcd_of_a_name_not_cached")


def test_its_scorers_never_run(monkeypatch):
    from reasoning_gym.factory import DATASETS as THEIRS

    def refuse(*_, **__):
        raise AssertionError("a scorer of reasoning-gym was called")

    for dataset in DATASETS:
        monkeypatch.setattr(THEIRS[dataset][0], "score_answer", refuse)
    for dataset in SAMPLE:
        item = task(dataset).item(0, 0, 1)
        assert task(dataset).score(item, item.answer) == 1
        task(dataset).feedback(item, "Answer: 1", "binary")


@EVERY_DATASET
def test_every_level_makes_items_that_can_be_read(dataset):
    one = task(dataset)
    last = one.levels[-1]
    assert last == HIGHEST.get(dataset, last)
    for level in {1, last}:
        for index in range(3 if dataset not in KINDS["expression"] else 1):
            item = one.item(3, index, level)
            assert item == one.item(3, index, level)
            assert (item.task, item.seed, item.index, item.level) == (one.name, 3, index, level)
            assert "Answer:" in item.prompt and item.prompt not in item.answer
            assert len(item.answer) <= MAX_ANSWER_CHARS + len("Answer: ")
            assert one.score(item, item.answer) == 1
            assert one.score(item, f"Well. {item.answer}") == 1
            wrong = one.corrupt(item, random.Random(index))
            assert wrong == one.corrupt(item, random.Random(index))
            assert one.score(item, wrong) == 0
    with pytest.raises(ValueError, match="has levels"):
        one.item(0, 0, last + 1)


def test_another_process_with_another_hash_seed_draws_the_same_items():
    code = (
        "import json, random; from dataclasses import asdict; from minirl.tasks import get\n"
        f"rows = [asdict(get('gym.' + name).item(7, index, 1)) for name in {DATASETS} for index in range(2)]\n"
        "print(json.dumps(rows))"
    )
    random.seed(0)  # the global generator is not a coordinate
    here = [asdict(task(dataset).item(7, index, 1)) for dataset in DATASETS for index in range(2)]
    root = str(Path(minirl.tasks.__file__).parents[2])
    env = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": root}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout.splitlines()[-1]) == here


def test_items_of_neighbouring_seeds_and_indices_differ():
    prompts = [item.prompt for seed in (1, 2) for item in task("gsm_symbolic").items(seed, range(-3, 20), 1)]
    assert len(set(prompts)) == len(prompts)


def test_levels_climb_the_curriculum():
    # chain_sum: two terms of one digit at first; up to one more of each a level.
    assert entry("chain_sum", 5, 1)["metadata"]["difficulty"] == {"num_terms": (2, 2), "num_digits": (1, 1)}
    assert entry("chain_sum", 5, 3)["metadata"]["difficulty"] == {"num_terms": (2, 4), "num_digits": (1, 3)}
    assert task("gsm_symbolic").levels == range(1, 2)  # no curriculum


def test_golden_items():
    item = task("chain_sum").item(0, 0, 1)
    assert item.prompt.startswith("State the final answer to the following arithmetic problem: ")
    question, said = item.prompt.split(": ", 1)[1].split(" =", 1)
    assert said.strip() == 'Write your final answer after "Answer:".'
    assert (question, item.answer) == GOLDEN


GOLDEN = ("9 - 8", "Answer: 1")


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        ("(8-5)*2", True),
        ("2*(8-5)", True),
        ("8-5*2", False),  # −2
        ("(8-5)*2*1", False),  # another number
        ("8-2", False),  # not all of them
        ("6", False),
        ("(8-5)*2+0", False),
        ("__import__('os').system('touch x')", False),
        ("8-5*2+(8-5)*2", False),
        ("(8 - 5) * 2", False),  # read() has taken the spaces out
        ("", False),
    ],
)
def test_expressions_by_hand(expression, right):
    assert solves(expression, [2, 5, 8], 6) is right


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("{}", 1),
        ("Let us see.\nAnswer: {} = 24", 1),
        ("Answer: $( {} )$", 1),
        ("Answer: {}+0", 0),
        ("Answer: __import__('os').system('touch x') or {}", 0),
        ("Answer: 24", 0),
        ("Answer:", 0),
    ],
)
def test_puzzle24_by_hand(completion, score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = task("puzzle24")
    item = one.item(0, 0, 1)
    assert one.score(item, completion.format(one.reference(item))) == score
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dataset", SAMPLE)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(text=st.text() | st.text("0123456789+-*/()= \n", max_size=40).map(lambda text: f"Answer: {text}"))
def test_scorers_are_total(dataset, text):
    one = task(dataset)
    item = one.item(6, 0, 1)
    score = one.score(item, text)
    assert score in (0.0, 1.0)
    assert one.feedback(item, text, "binary").startswith(RIGHT if score else WRONG)
