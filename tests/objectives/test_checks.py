"""Every objective has the checks that it can have, and the page that says so is current."""

import inspect
from pathlib import Path

import pytest
from checks_table import checks, render

from minirl.experiments.registry import project_root
from minirl.objectives import (
    advantages,
    distillation,
    kl,
    negative_aware,
    policy_gradient,
    preference,
    supervised,
    value,
)

PAGE = project_root() / "book" / "reference" / "objectives.md"
SPLIT_DEPENDENT = {"bnpo"}  # by definition
MODULES = (advantages, distillation, kl, negative_aware, policy_gradient, preference, supervised, value)


@pytest.fixture
def found(request):
    """What the collected tests check; skips when only some of them were asked for."""
    here = Path(__file__).parent
    collected = {Path(item.path) for item in request.session.items}
    if set(here.glob("test_*.py")) - collected or request.config.option.keyword:
        pytest.skip("only a part of the objectives' tests was asked for")
    return checks(request.session.items)


def test_the_page_is_current(found, request):
    if request.config.getoption("--write-objectives"):
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(render(found), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == render(found), "rewrite it: pytest tests/objectives --write-objectives"


def test_every_objective_has_its_checks(found):
    # By hand, in micro-batches and under a mask: every one of them. TRL and identities: where they exist.
    kinds = {name: kinds for family in found.values() for name, kinds in family.items()}
    assert set(policy_gradient.OBJECTIVES) <= set(kinds)
    for name, done in kinds.items():
        required = {"hand", "mask"} if name in SPLIT_DEPENDENT else {"hand", "micro", "mask"}
        assert required <= done, f"{name} lacks {', '.join(required - done)}"


def functions():
    for module in MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                yield pytest.param(function, id=f"{module.__name__.split('.')[-1]}.{name}")


@pytest.mark.parametrize("function", list(functions()))
def test_an_objective_fits_on_a_screen(function):
    lines = inspect.getsource(function).splitlines()
    assert len(lines) <= 70
    if not function.__name__.startswith("_"):
        assert function.__doc__
