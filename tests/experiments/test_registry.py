"""Every technique has its parts, and they fit together."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from minirl.errors import ConfigError
from minirl.experiments import registry
from minirl.experiments.claims import load_claim
from minirl.experiments.registry import (
    FAMILIES,
    Technique,
    claim_path,
    load_module,
    method_class,
    module_name,
    project_root,
    technique,
    techniques,
    to_register,
)
from minirl.experiments.run import load_experiment, load_method
from minirl.techniques.base import Method

ALL = techniques()
SLUGS = [item.slug for item in ALL]
CONFIGS = [(item, path) for item in ALL for path in sorted(item.reproduction.glob("[!c]*.yaml"))]  # not claim*.yaml
TIERS = ("smoke", "tiny", "small", "large")
each_technique = pytest.mark.parametrize("item", ALL, ids=SLUGS)


def split(stem: str) -> tuple[str, str]:
    """``tiny-ablations`` → tier and variant."""
    tier, _, variant = stem.partition("-")
    return tier, variant


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "name"),
    [
        ("score", "score"),
        ("self-evolving-curriculum", "self_evolving_curriculum"),
        ("lambda", "lambda_"),  # a keyword
        ("pass", "pass_"),
        ("max", "max_"),  # a builtin
        ("print", "print_"),
        ("match", "match"),  # a soft keyword may be a name
    ],
)
def test_module_names(slug, name):
    assert module_name(slug) == name
    assert name.isidentifier()


def test_slugs_come_back_from_module_names(tmp_path, monkeypatch):
    (tmp_path / "reproductions").mkdir()
    for family, file in (("critique", "lambda_.py"), ("self_play", "a_b.py"), ("self_play", "__init__.py")):
        folder = tmp_path / "minirl" / "techniques" / family
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
    monkeypatch.setattr(registry, "project_root", lambda: tmp_path)
    assert techniques() == [Technique("lambda", "critique"), Technique("a-b", "self_play")]
    for item in techniques():
        assert item.module.exists()


def test_unknown_techniques_and_methods():
    with pytest.raises(ConfigError, match=r"^unknown technique 'skore'\. Did you mean 'score'\?$"):
        technique("skore")
    with pytest.raises(ConfigError, match=r"^unknown method 'multi_turn_lr'\. Did you mean 'multi_turn_rl'\?$"):
        method_class("multi_turn_lr")


def test_methods_have_names_of_their_own():
    classes, pending = [], [Method]
    for item in ALL:
        load_module(item)
    while pending:
        found = pending.pop().__subclasses__()
        classes += [cls for cls in found if cls.__module__.startswith("minirl.")]
        pending += found
    named = [cls.name for cls in classes]
    assert len(named) == len(set(named)) >= 3
    assert all(method_class(cls.name) is cls for cls in classes)


def test_the_repository_is_found_from_anywhere(tmp_path):
    code = "from minirl.experiments.registry import project_root; print(project_root())"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(project_root())
    assert (project_root() / "pyproject.toml").exists()


def test_an_installation_without_repository_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.minirl, "__file__", str(tmp_path / "minirl" / "__init__.py"))
    with pytest.raises(ConfigError, match=r"minirl was installed without its repository\. Clone it and install with"):
        project_root()


# --- Every technique ------------------------------------------------------------------------------------------------


def test_there_are_techniques():
    assert "score" in SLUGS
    assert len(SLUGS) == len(set(SLUGS))
    assert {item.family for item in ALL} <= set(FAMILIES)


@each_technique
def test_it_has_all_its_parts(item):
    for part in (item.module, item.notebook, item.test, *(item.reproduction / f"{t}.yaml" for t in ("smoke", "tiny"))):
        assert part.is_file(), f"{item.slug} lacks {part.relative_to(project_root())}"
    assert claim_path(item, "tiny").is_file(), to_register(item)
    assert item.tiers()[:2] == ["smoke", "tiny"]
    assert item.family == item.module.parent.name == item.notebook.parent.name


def test_nothing_lies_around_without_its_technique():
    folders = {path.name for path in (project_root() / "reproductions").iterdir() if path.is_dir()}
    assert folders == set(SLUGS)
    notebooks = {path.stem for family in FAMILIES for path in (project_root() / "notebooks" / family).glob("*.ipynb")}
    assert notebooks == set(SLUGS)


@each_technique
def test_nothing_of_it_is_left_to_do(item):
    """``minirl new`` writes TODO wherever a thought is needed."""
    parts = [item.module, item.notebook, item.test, *sorted(item.reproduction.glob("*.yaml"))]
    left = [
        f"{path.relative_to(project_root())}:{number}: {line.strip()}"
        for path in parts
        if path.exists()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "TODO" in line
    ]
    assert not left, "\n".join([f"{item.slug} is not finished:", *left])


@each_technique
def test_its_module_opens_with_the_paper_and_the_departures(item):
    text = item.module.read_text(encoding="utf-8")
    words = ast.get_docstring(ast.parse(text))
    assert words.splitlines()[0] == f"{item.title}."
    assert re.search(r"arXiv \d{4}\.\d{4,5}", words), f"{item.module.name} does not say which paper: arXiv 2409.12917"
    assert "Departures from the paper\n" in words
    assert re.search(r"^1\. ", words, re.MULTILINE)
    assert len(text.splitlines()) < 150  # the idea fits on three screens
    assert callable(load_module(item).evaluate)


@each_technique
def test_its_claim_is_about_its_config(item):
    claim, experiment = load_claim(claim_path(item, "tiny")), load_experiment(item.slug, "tiny")
    assert (claim.slug, claim.tier) == (item.slug, "tiny")
    assert claim.arms.keys() - {"base"} == experiment.arms.keys()
    if claim.evaluation.items != "exact":
        assert claim.evaluation.items == experiment.evaluation.items


@pytest.mark.parametrize(("item", "path"), CONFIGS, ids=[f"{item.slug}-{path.stem}" for item, path in CONFIGS])
def test_every_config_loads(item, path):
    tier, variant = split(path.stem)
    assert tier in TIERS
    experiment = load_experiment(item.slug, tier, variant=variant)
    assert (experiment.slug, experiment.tier) == (item.slug, tier)
    for arm in experiment.arms:
        phases = load_method(experiment, arm).phases(experiment.train)
        # Without phases an arm is the base, asked in another way.
        assert not phases or sum(phase.updates for phase in phases) == experiment.train.updates


@pytest.mark.parametrize(("item", "path"), CONFIGS, ids=[f"{item.slug}-{path.stem}" for item, path in CONFIGS])
def test_training_and_evaluation_see_different_problems(item, path):
    from minirl.experiments.bases import CORPUS_SEED
    from minirl.loops import derive_seed

    experiment = load_experiment(item.slug, split(path.stem)[0], variant=split(path.stem)[1])
    training = {derive_seed(seed, "problems") for seed in range(100)}
    held_out = {experiment.evaluation.seed, experiment.evaluation.seed + 1}  # to report, to develop
    assert not training & held_out
    assert not {*training, *held_out} & {CORPUS_SEED, CORPUS_SEED - 1}


def training(arms: dict[str, dict]) -> dict[str, dict]:
    """Arms without how often, and on how much, the policy is measured along the way."""
    return {arm: {k: v for k, v in some.items() if k not in ("watch", "probes")} for arm, some in arms.items()}


def test_smoke_only_shortens_tiny():
    for item in ALL:
        smoke, tiny = (load_experiment(item.slug, tier) for tier in ("smoke", "tiny"))
        assert training(smoke.arms) == training(tiny.arms)
        assert (smoke.base, smoke.task) == (tiny.base, tiny.task)
        assert smoke.train.updates < tiny.train.updates


# --- Notebooks ------------------------------------------------------------------------------------------------------


def sources():
    found = sorted((project_root() / "notebooks").rglob("*.ipynb"))
    return [path for path in found if "checkpoints" not in str(path) and path.parent.name != "00_foundations"]


each_notebook = pytest.mark.parametrize("path", sources(), ids=[path.stem for path in sources()])


@each_notebook
def test_a_source_holds_no_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook.metadata


@each_notebook
def test_its_first_code_cell_holds_the_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    first, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert first.metadata.get("tags") == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in others)
    assigned = {
        target.id: ast.literal_eval(line.value) for line in ast.parse(first.source).body for target in line.targets
    }
    assert assigned == {"tier": "tiny", "seed": 0, "overrides": {}, "out": None}


@each_notebook
def test_its_code_is_python_that_shows_and_does_not_copy(path):
    """No function of the package is defined again, and everything it imports exists."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("minirl"):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@each_notebook
def test_an_exercise_not_yet_attempted_does_nothing(path):
    """Its answer is None or full of None, and what checks the answer waits for it."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code" and re.match(r"ex\d", cell.id)]
    assert cells
    for source in cells:
        scope: dict = {}
        exec(source, scope)  # the repository's own notebook, not a model's text
        assert "None" in source
