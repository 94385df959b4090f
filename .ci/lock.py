"""Rewrite the lock files and environment.yml from the environment this runs in (`make lock`).

With the argument `book` it runs in the environment of the book and writes book/requirements.lock.

A lock holds the exact versions of everything that pyproject.toml needs, extras included, directly or not: no hashes
and no local version parts, since a CPU and a CUDA build of torch are the same release, and no index address.

What only the extra ``gym`` needs is in requirements-gym.lock, to be installed after the other and without dependencies:
one of its packages is a C extension without wheels, which minirl makes no use of, and nobody should need a compiler.
"""

import re
import sys
import tomllib
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Exact versions of everything, from `make lock`. Direct requirements are in pyproject.toml.\n"
GYM_HEADER = (
    "# What the extra gym needs besides, from `make lock`; install without dependencies: pycosat, a C extension\n"
    "# without wheels, is left out, and minirl needs nothing of what needs it.\n"
)
UNUSED = "pycosat"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOWEST = f"{PROJECT['requires-python'].removeprefix('>=')}.0"  # the lock has to install there: Debian 12 has 3.11.2


def closure(requirements: list[str]) -> dict[str, str]:
    """Name → installed version of the requirements and all that they need here."""
    found: dict[str, str] = {}
    pending = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if name == UNUSED:
            continue
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError as error:
            extras = "trl,sandbox,humaneval,games,models,maths,gym,slurm,test"
            raise SystemExit(f"{name} is required but not installed: pip install -e '.[{extras}]' first") from error
        if not SpecifierSet(metadata(name).get("Requires-Python") or "").contains(LOWEST):
            raise SystemExit(f"{name} {found[name]} does not run on Python {LOWEST}: install an older version of it")
        for text in requires(name) or []:
            pending += [(Requirement(text), extra) for extra in {"", *requirement.extras}]
    return found


def environment_yml(lock: str) -> str:
    """The conda/mamba environment with the same pins."""
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    lines = [
        "# Made from requirements.lock by `make lock`.",
        "name: minirl",
        "channels: [conda-forge]",
        "dependencies:",
    ]
    lines += [f'  - "python {PROJECT["requires-python"]},<3.14"', "  - pip", "  - pip:"]
    lines += [f"      - {pin}" for pin in pins] + ["      - -e ."]
    return "\n".join(lines) + "\n"


def lock_text(wanted: list[str], header: str = HEADER, without: Collection[str] = ()) -> str:
    """The lock of ``wanted`` and all that they need here, except ``without``."""
    pins = closure(wanted)
    names = [name for name in sorted(pins) if name not in without and not re.match("minirl$", name)]
    return header + "".join(f"{name}=={pins[name]}\n" for name in names)


def main(what: str = "") -> None:
    if what == "book":
        (ROOT / "book" / "requirements.lock").write_text(lock_text(PYPROJECT["dependency-groups"]["book"]))
        return
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [r for name, group in extras.items() if name != "gym" for r in group]
    lock = lock_text(wanted)
    (ROOT / "requirements.lock").write_text(lock)
    (ROOT / "requirements-gym.lock").write_text(lock_text(extras["gym"], GYM_HEADER, closure(wanted)))
    (ROOT / "environment.yml").write_text(environment_yml(lock))


if __name__ == "__main__":
    main(*sys.argv[1:])
