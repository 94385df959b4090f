"""What counts as a change: rewording does not make a result stale, anything that could move a number does."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from minirl.experiments import fingerprint as module
from minirl.experiments.claims import sha256_of
from minirl.experiments.fingerprint import changes, code_hash, fingerprint, imported_files
from minirl.experiments.registry import claim_path, project_root, technique
from minirl.experiments.run import load_experiment
from minirl.experiments.staleness import stale_parts

CODE = '''"""A module."""

import math  # numbers


def area(radius, scale=2):
    """π r².

    More words.
    """
    if radius < 0:
        raise ValueError(f"radius {radius:.2f} is negative")
    square = radius * radius
    return math.pi * square


class Ball:
    """Round."""

    name = "ball"
'''

SAME = {
    "module docstring": ('"""A module."""', '"""Another\nstory."""'),
    "no module docstring": ('"""A module."""\n', ""),
    "comment": ("# numbers", "# numbers, and why they are here"),
    "comment of its own": ("    square =", "    # the square\n    square ="),
    "function docstring": ("π r².\n\n    More words.\n    ", "Other words."),
    "class docstring": ('    """Round."""\n', ""),
    "blank lines": ("\n\n\nclass", "\n\n\n\n\nclass"),
    "line break": ("math.pi * square", "(\n        math.pi\n        * square\n    )"),
    "trailing comma": ("radius, scale=2", "\n    radius,\n    scale=2,\n"),
    "quotes": ('name = "ball"', "name = 'ball'"),
    "spaces": ("radius * radius", "radius*radius"),
    "indentation": ("    return math.pi * square", "    return    math.pi * square"),
}

DIFFERENT = {
    "number": ("scale=2", "scale=3"),
    "number's type": ("scale=2", "scale=2.0"),
    "operator": ("radius * radius", "radius + radius"),
    "name": ("square = radius", "cube = radius"),
    "string": ('"ball"', '"bell"'),
    "text of an f-string": ("is negative", "is below zero"),
    "format of an f-string": ("{radius:.2f}", "{radius:.3f}"),
    "expression of an f-string": ("{radius:.2f}", "{scale:.2f}"),
    "f-string or not": ('f"radius', '"radius'),
    "indentation that changes what is in the branch": ("    square = r", "        square = r"),
    "indentation that moves a method": ("\n\nclass Ball:", "\n\n    class Ball:"),
    "statement boundary": ("math.pi * square", "math.pi\n    -square"),
    "import": ("import math  # numbers\n", ""),
    "default removed": ("scale=2", "scale"),
    "decorator": ("class Ball", "@property\nclass Ball"),
}


@pytest.mark.parametrize("what", SAME)
def test_words_and_layout_do_not_count(what):
    old, new = SAME[what]
    assert CODE.count(old) == 1
    assert code_hash(CODE.replace(old, new)) == code_hash(CODE)


@pytest.mark.parametrize("what", DIFFERENT)
def test_code_counts(what):
    old, new = DIFFERENT[what]
    assert CODE.count(old) == 1
    assert code_hash(CODE.replace(old, new)) != code_hash(CODE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = a\n-b", "x = a - b"),
        ("x = a\n(b)", "x = a(b)"),
        ("def f():\n    return\n    x", "def f():\n    return x"),
        ("x = 'a' 'b'", "x = 'a', 'b'"),
        ("x = b'a'", "x = 'a'"),
        ("x = 1", "x = True"),
        ("x = ''", "x = None"),
        ("def f(): return", "def f(): return None"),
        ("for x in y:\n    a\n    b", "for x in y:\n    a\nb"),
        ("f(a, *b)", "f(a, b)"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = f'{{a}}'", "x = f'{a}'"),
        ("x: int", "x: float"),
    ],
)
def test_pairs_that_look_alike(one, other):
    assert code_hash(one) != code_hash(other)


def test_the_hash_does_not_depend_on_the_version_of_python():
    # Pinned: a result made under one version must not be stale under another. Fields that other versions have and this
    # one lacks are empty here, and empty fields do not count.
    assert code_hash("def f(x: int = 2) -> str:\n    return f'{x:>3}' + g(*[1.5, None])\n") == "6fcf4df8c9f6c34b"


def test_what_is_no_python_is_hashed_as_text():
    assert code_hash("x = (") != code_hash("x = ((")
    assert code_hash("x = (") == code_hash("x = (")


# --- Which files ----------------------------------------------------------------------------------------------------


def test_imports_are_followed_through_all_forms(tmp_path):
    files = {
        "minirl/__init__.py": "",
        "minirl/start.py": "import os\nfrom minirl.a import name\nimport minirl.b.deep\nif 1:\n  from minirl import c",
        "minirl/a.py": "from minirl.b import package\nfrom minirlish import x",
        "minirl/b/__init__.py": "from minirl.d import thing",
        "minirl/b/deep.py": "if True:\n    import minirl.start",  # a circle
        "minirl/c.py": "import numpy",
        "minirl/d.py": "",
        "minirl/alone.py": "import minirl.start",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = {str(path.relative_to(tmp_path)) for path in imported_files(tmp_path / "minirl" / "start.py", tmp_path)}
    assert found == files.keys() - {"minirl/alone.py"}


@pytest.fixture(scope="module")
def parts():
    return fingerprint(load_experiment("score", "smoke"))


def test_score_depends_on_what_it_computes_with(parts):
    item = technique("score")
    assert {"config", "base", str(item.module.relative_to(project_root())), "minirl/loops.py"} <= parts.keys()
    for name in ("objectives/advantages", "objectives/kl", "policy/sampler", "policy/fast", "rollouts/episodes"):
        assert f"minirl/{name}.py" in parts
    for name in ("evaluation/correction", "techniques/baselines", "config"):
        assert f"minirl/{name}.py" in parts
    for name in parts:  # how it is stored, shown and judged does not change it
        assert not name.startswith(("minirl/experiments", "minirl/show", "minirl/cli", "minirl/evaluation/intervals"))


def test_every_module_that_a_run_imports_counts(parts):
    """Against Python itself: whatever the loops, the technique and its task load, unless it is empty."""
    experiment = load_experiment("score", "smoke")
    names = ["minirl.loops", "minirl.techniques.self_correction.score", "minirl.techniques.baselines"]
    code = f"""
import importlib, json, sys
for name in {names}:
    importlib.import_module(name)
from minirl.tasks import get
get({experiment.task.name!r})
files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "minirl"]
print(json.dumps([file for file in files if open(file).read().strip()]))
"""
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert len(loaded) > 10
    counted = {str(Path(file).relative_to(project_root())) for file in loaded} - {"minirl/__init__.py"}
    assert counted <= parts.keys()


def test_the_package_itself_holds_nothing_that_could_count():
    # It is left out of fingerprints, so it may quiet a warning and no more.
    tree = ast.parse((project_root() / "minirl" / "__init__.py").read_text(encoding="utf-8"))
    _docstring, *rest = tree.body
    assert [ast.unparse(node).split("(")[0] for node in rest] == ["import warnings", "warnings.filterwarnings"]


def test_the_task_counts(parts):
    experiment = load_experiment("score", "smoke")
    assert f"minirl/tasks/{experiment.task.name}.py" in parts


def test_a_config_counts_but_not_where_it_runs(parts):
    def config(*overrides):
        return changes(parts, fingerprint(load_experiment("score", "smoke", list(overrides))))

    assert config() == []
    assert config("train.updates=3") == ["config"]
    assert config("arms.score.alpha=0.123") == ["config"]
    assert config("evaluation.seed=5") == ["config"]
    assert config("budget.core_s=1", "threads=2") == []


def test_a_change_of_code_or_base_is_named(parts, tmp_path, monkeypatch):
    real = module.code_hash
    monkeypatch.setattr(module, "code_hash", lambda text: real(text + ("\nx = 1" if "def run_phases" in text else "")))
    assert changes(parts, fingerprint(load_experiment("score", "smoke"))) == ["minirl/loops.py"]
    monkeypatch.setattr(module, "code_hash", real)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(module, "base_directory", lambda name: tmp_path)
    assert changes(parts, fingerprint(load_experiment("score", "smoke"))) == ["base"]


def test_changes():
    assert changes({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}) == ["a", "c", "d"]


# --- Stale results --------------------------------------------------------------------------------------------------


def test_stale_parts():
    item = technique("score")
    current = fingerprint(load_experiment("score", "tiny"))
    fresh = {"fingerprint": current, "claim_sha256": sha256_of(claim_path(item, "tiny"))}
    assert stale_parts(item, "tiny", [fresh, fresh]) == []
    old_code = {**fresh, "fingerprint": {**current, "minirl/loops.py": "old"}}
    old_base = {**fresh, "fingerprint": {**current, "base": "old"}}
    assert stale_parts(item, "tiny", [fresh, old_code]) == ["minirl/loops.py"]
    assert stale_parts(item, "tiny", [old_base, old_code]) == ["base", "minirl/loops.py"]
    assert stale_parts(item, "tiny", [{**fresh, "claim_sha256": "another"}]) == ["claim"]
