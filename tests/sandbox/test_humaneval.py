"""HumanEval in the sandbox: its own solutions pass, spoilt ones do not."""

import gzip
import random

import pytest

from minirl.sandbox import BACKENDS, SandboxError, humaneval, why_not
from minirl.sandbox.humaneval import HumanEval, Problem, grade_completion, problems
from minirl.tasks.base import Item

OUTSIDE = ["HumanEval/38", "HumanEval/50"]  # monty has no module string


@pytest.fixture
def data():
    try:
        return problems()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def works():
    """The sandboxes that work here."""
    found = [backend for backend in BACKENDS if not why_not(backend)]
    if not found:
        pytest.skip("; ".join(f"{backend}: {why_not(backend)}" for backend in BACKENDS))
    return found


def test_all_canonical_solutions_pass_in_monty_but_those_outside_its_subset(data, works):
    if "monty" not in works:
        pytest.skip(why_not("monty"))
    outcomes = {problem.name: grade_completion(problem, problem.solution, backend="monty").status for problem in data}
    assert len(outcomes) == 164
    assert [name for name, status in outcomes.items() if status != "passed"] == OUTSIDE
    assert {outcomes[name] for name in OUTSIDE} == {"refused"}


def test_canonical_solutions_pass_in_bubblewrap(data, works):
    """Every sixteenth and those that monty can't, to be quick; all were tried by hand and pass."""
    if "bubblewrap" not in works:
        pytest.skip(why_not("bubblewrap"))
    for number, problem in enumerate(data):
        if number % 16 == 0 or problem.name in OUTSIDE:
            assert grade_completion(problem, problem.solution, backend="bubblewrap").passed, problem.name


@pytest.mark.parametrize("how", ["empty", "without its return"])
def test_mutilated_solutions_fail(how, data, works):
    for problem in data[:: 1 if works[0] == "monty" else 8]:
        item = Item("humaneval", 0, 0, 1, problem.prompt, problem.solution)
        wrong = "    pass\n" if how == "empty" else HumanEval().corrupt(item, random.Random(0))
        assert not grade_completion(problem, wrong, backend=works[0]).passed, problem.name


def test_a_solution_with_another_answer_fails(data, works):
    """Each canonical solution, with its function wrapped so that the second call returns something else."""
    for problem in data[::4]:
        if problem.name in OUTSIDE and works == ["monty"]:
            continue
        wrong = f"\n_right, _calls = {problem.entry}, []\ndef {problem.entry}(*args):\n    _calls.append(1)\n"
        wrong += "    return _right(*args) if len(_calls) < 2 else 'something else'\n"
        assert grade_completion(problem, problem.solution + wrong).status == "failed", problem.name


def test_a_test_that_compares_with_itself_compares_with_the_reference(data, works):
    """HumanEval/33 as published calls the program's own function for the expected value: a constant would pass."""
    problem = next(one for one in data if one.name == "HumanEval/33")
    assert "tuple(sort_third(" in problem.test
    assert grade_completion(problem, "    return []\n").status == "failed"


def test_the_task_rewards_what_passes(data, works):
    task = HumanEval()
    item = task.item(seed=0, index=3, level=1)
    assert item == task.item(seed=0, index=3, level=1)
    assert item.prompt in {problem.prompt for problem in data}
    assert task.score(item, item.answer) == 1
    assert task.score(item, task.corrupt(item, random.Random(0))) == 0
    assert task.score(item, "    import sys\n    sys.exit(0)\n") == 0
    assert task.score(item, "#" * 100_000) == 0
    assert task.score(item, "") == 0


def test_missing_or_other_data_is_an_error(monkeypatch, tmp_path):
    problems.cache_clear()
    try:
        monkeypatch.setattr(humaneval.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SandboxError, match=r"pip install 'minirl\[humaneval\]'"):
            problems()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b"{}"))

        class Spec:
            origin = str(tmp_path / "__init__.py")

        monkeypatch.setattr(humaneval.importlib.util, "find_spec", lambda name: Spec)
        with pytest.raises(SandboxError, match=r"not that of release 1\.0\.3"):
            problems()
    finally:
        problems.cache_clear()


def test_a_problem_of_ones_own(works):
    problem = Problem(
        "mine/0",
        "def double(x):\n",
        "double",
        "    return 2 * x\n",
        "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == double(3)\n",
    )
    assert grade_completion(problem, problem.solution).passed
    assert grade_completion(problem, "    return 4\n").status == "failed"
