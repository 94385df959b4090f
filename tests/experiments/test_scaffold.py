"""``minirl new``: what it lays out runs, is seen, and says what is still to be done."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from minirl.cli import main
from minirl.errors import ConfigError
from minirl.experiments import registry, scaffold
from minirl.experiments.registry import FAMILIES, project_root, technique
from minirl.experiments.scaffold import SKELETON, lay_out

PARTS = ["module", "notebook", "smoke.yaml", "tiny.yaml", "claim.draft.yaml", "test"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project in the place of this one."""
    (tmp_path / "reproductions").mkdir()
    for module in (registry, scaffold):
        if hasattr(module, "project_root"):
            monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    return tmp_path


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_the_four_places(root):
    written = lay_out("my-idea", "self_play")
    assert [str(path.relative_to(root)) for path in written] == [
        "minirl/techniques/self_play/my_idea.py",
        "notebooks/self_play/my-idea.ipynb",
        "reproductions/my-idea/smoke.yaml",
        "reproductions/my-idea/tiny.yaml",
        "reproductions/my-idea/claim.draft.yaml",
        "tests/techniques/test_my_idea.py",
    ]
    found = files(root)
    assert found.pop("minirl/techniques/self_play/__init__.py") == ""  # the first of its family
    assert len(found) == len(PARTS)
    for name, text in found.items():
        assert not [word for word in ("new-idea", "new_idea", "new_family", "NewIdea", "New idea") if word in text], (
            name
        )
        assert "TODO" in text or name.endswith("smoke.yaml"), name
    tree = ast.parse(found["minirl/techniques/self_play/my_idea.py"])
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["MyIdea"]
    nbformat.validate(nbformat.reads(found["notebooks/self_play/my-idea.ipynb"], as_version=4))


@pytest.mark.parametrize(
    ("slug", "module", "name"), [("lambda", "lambda_", "Lambda"), ("exception", "exception", "Exception_")]
)
def test_names_that_python_keeps_for_itself(slug, module, name, root):
    lay_out(slug, "critique")
    text = (root / f"minirl/techniques/critique/{module}.py").read_text()
    assert f"class {name}(Method)" in text and f'name: ClassVar[str] = "{slug}"' in text
    test = (root / f"tests/techniques/test_{module}.py").read_text()
    assert f"from minirl.techniques.critique.{module} import {name}, rewards" in test


@pytest.mark.parametrize(
    ("slug", "family", "message"),
    [
        ("my-idea", "selfplay", "unknown family 'selfplay'. Did you mean 'self_play'?"),
        (
            "My Idea",
            "self_play",
            "'My Idea' is no slug: lower-case letters, digits and single hyphens, such as 'my-idea'",
        ),
        (
            "my_idea",
            "self_play",
            "'my_idea' is no slug: lower-case letters, digits and single hyphens, such as 'my-idea'",
        ),
        ("../up", "self_play", "'../up' is no slug: lower-case letters, digits and single hyphens, such as 'my-idea'"),
        (
            "2-turns",
            "self_play",
            "'2-turns' is no slug: lower-case letters, digits and single hyphens, such as 'my-idea'",
        ),
        ("pair-sft", "critique", "there is a method 'pair_sft' already, so 'pair-sft' is taken; choose another slug"),
    ],
)
def test_mistakes(slug, family, message, root):
    with pytest.raises(ConfigError) as caught:
        lay_out(slug, family)
    assert str(caught.value) == message
    assert files(root) == {}


def test_a_technique_that_is_there(tmp_path):
    with pytest.raises(ConfigError, match=r"^there is a technique 'score' already$"):
        lay_out("score", "critique")


def test_nothing_is_overwritten(root):
    test = root / "tests" / "techniques" / "test_my_idea.py"
    test.parent.mkdir(parents=True)
    test.write_text("mine")
    with pytest.raises(ConfigError, match=r"^nothing was written, because this is there already: .*test_my_idea.py$"):
        lay_out("my-idea", "self_play")
    assert files(root) == {"tests/techniques/test_my_idea.py": "mine"}


def test_the_skeleton_has_the_house_s_shape():
    """So that only the thoughts are missing: first lines, parameters, exercises as in every notebook."""
    words = ast.get_docstring(ast.parse((SKELETON / "technique.py").read_text()))
    assert "Departures from the paper\n" in words and words.splitlines()[0].endswith(".")
    notebook = nbformat.read(SKELETON / "notebook.ipynb", as_version=4)
    ours = nbformat.read(technique("score").notebook, as_version=4)
    first, theirs = (next(c for c in n.cells if c.cell_type == "code") for n in (notebook, ours))
    assert (first.source, first.metadata) == (theirs.source, theirs.metadata)
    assert notebook.metadata == ours.metadata


# --- In a copy of the project ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """This project without its results, with a technique laid out in it."""
    root, here = tmp_path_factory.mktemp("project"), project_root()
    for name in ("minirl", "notebooks", "reproductions", "tests"):
        shutil.copytree(here / name, root / name, ignore=shutil.ignore_patterns("results", "__pycache__", "shipped"))
    (root / "minirl" / "policy" / "shipped").symlink_to(here / "minirl" / "policy" / "shipped")
    shutil.copy(here / "pyproject.toml", root)
    return root


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def test_what_is_laid_out_is_seen_and_runs(copy):
    code = (
        "from minirl.cli import main\n"
        "assert main(['new', 'my-idea', '--family', 'curriculum']) == 0\n"
        "assert main(['list']) == main(['claims']) == 0\n"
        "assert main(['reproduce', 'my-idea', '--tier', 'smoke']) == 1\n"
        "assert main(['reproduce', 'my-idea', '--tier', 'smoke', '--seeds', '0']) == 0\n"
    )
    done = python(copy, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "minirl/techniques/curriculum/my_idea.py\n" in done.stdout
    assert "my-idea          curriculum       tiers smoke, tiny · being written\n    My idea: TODO" in done.stdout
    assert "my-idea (tiny): registered" not in done.stdout  # `minirl claims`: a draft is no claim
    unfinished = "my-idea has no registered claim yet: finish claim.draft.yaml, rename it to claim.yaml and commit it"
    assert f"minirl: {unfinished} before the first run at tiny; until then say which --seeds\n" in done.stderr
    assert f"*{unfinished} before the first run at tiny.*" in done.stdout  # where the verdict would stand
    results = copy / "runs" / "my-idea" / "smoke" / "seed-0"
    assert (results / "notebook.html").exists() and (results / "figure.png").exists()
    tokens = [(results / f"arms/{arm}/metrics.jsonl").read_bytes() for arm in ("my_idea", "baseline", "shuffled")]
    assert tokens[0] == tokens[1] != tokens[2]  # so far it is the baseline


def test_pytest_says_what_is_left_to_do(copy):
    if not (copy / "tests" / "techniques" / "test_my_idea.py").exists():
        lay = "from minirl.experiments.scaffold import lay_out; lay_out('my-idea', 'curriculum')"
        assert python(copy, "-c", lay).returncode == 0
    tests = ["tests/experiments/test_registry.py", "tests/techniques/test_my_idea.py", "-k", "my-idea or my_idea"]
    said = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests).stdout
    failed = {line.split(" - ")[0].split("::")[1] for line in said.splitlines() if line.startswith("FAILED")}
    assert failed == {
        "test_it_has_all_its_parts[my-idea]",
        "test_nothing_of_it_is_left_to_do[my-idea]",
        "test_its_module_opens_with_the_paper_and_the_departures[my-idea]",
        "test_its_claim_is_about_its_config[my-idea]",
        "test_rewards_by_hand",
    }
    assert "my-idea has no registered claim yet: finish claim.draft.yaml" in said
    assert "minirl/techniques/curriculum/my_idea.py:1: " in said and "TODO" in said
    passed = int(said.splitlines()[-1].split(" passed")[0].split()[-1])
    assert passed >= 8  # configs, training and held-out problems, notebook


def test_the_help_names_every_family(capsys):
    with pytest.raises(SystemExit):
        main(["new", "--help"])
    assert ", ".join(FAMILIES) in " ".join(capsys.readouterr().out.split())
