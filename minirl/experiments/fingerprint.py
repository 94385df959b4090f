"""What a result depends on, as hashes: a result is stale when one of them has changed since.

A result depends on the resolved config, the base's weights and every module that the technique, its arms' methods, the
task and the loops import (not on the notebook, which drives and shows). Comments, docstrings and layout do not count:
rewording an explanation must not put a badge on a number.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minirl.config import Experiment
from minirl.experiments.registry import method_class, project_root, technique
from minirl.policy.fetched import FETCHABLE
from minirl.policy.models import base_directory
from minirl.tasks import get

# What every run uses besides its technique; the show and experiments packages only display and store.
ROOTS = ("minirl/loops.py",)
ENGINES = {"trl": "minirl/engines/trl.py"}  # what else runs on another engine use
PLACE = ("budget", "threads", "ranks", "device")  # keys that say where, and not what
GIVEN = ("config", "base")  # parts of a fingerprint that are no code


@functools.cache  # the techniques share most of their files
def code_hash(source: str) -> str:
    """Hash of what Python code means: comments, docstrings, layout and quotes do not change it.

    Made from the syntax tree rather than from tokens, which differ between versions of Python. Of the text itself if
    it does not parse.
    """
    try:
        meaning = _meaning(ast.parse(source))
    except (SyntaxError, ValueError):
        meaning = source
    return short_hash(meaning.encode())


def _meaning(node: object) -> str:
    """A syntax tree as text. Empty fields are left out, so that fields which newer versions of Python add are too."""
    if isinstance(node, list):
        return f"[{','.join(map(_meaning, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(fields.get("body"), list):  # strings that stand alone are docstrings: they do nothing
        fields["body"] = [line for line in fields["body"] if not _is_text(line)]
    kept = [f"{name}={_meaning(value)}" for name, value in fields.items() if value is not None and value != []]
    return f"{type(node).__name__}({','.join(kept)})"


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def imported_files(path: Path, root: Path) -> set[Path]:
    """``path`` and all files of the package that it imports, directly or not."""
    found: set[Path] = set()
    pending = [path]
    while pending:
        current = pending.pop()
        if current in found:
            continue
        found.add(current)
        for name in _imported_names(current.read_text(encoding="utf-8")):
            target = root / name.replace(".", "/")
            for file in (target.with_suffix(".py"), target / "__init__.py"):
                if file.exists():
                    pending.append(file)
    return found


@functools.cache
def _imported_names(source: str) -> tuple[str, ...]:
    """What ``source`` imports of this package: modules, and names that may be modules."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("minirl"):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("minirl")]
    return tuple(names)


def fingerprint(experiment: Experiment) -> dict[str, str]:
    """Part → hash for everything a result of ``experiment`` depends on.

    Where it runs (:data:`PLACE`) is not part of the config that counts.
    """
    root = project_root()
    modules = {method_class(arm["method"]).__module__ for arm in experiment.arms.values()}
    modules.add(type(get(experiment.task.name)).__module__)
    starts = [technique(experiment.slug).module, *(root / name for name in ROOTS)]
    starts += [root / ENGINES[experiment.engine]] if experiment.engine in ENGINES else []
    starts += [root / f"{module.replace('.', '/')}.py" for module in sorted(modules)]
    files = set().union(*(imported_files(start, root) for start in starts))
    parts = {str(path.relative_to(root)): code_hash(path.read_text(encoding="utf-8")) for path in sorted(files)}
    parts["config"] = config_hash(experiment.model_dump(mode="json"))
    base = base_directory(experiment.base)
    if base is not None:
        parts["base"] = short_hash((base / "model.safetensors").read_bytes())
    elif experiment.base in FETCHABLE:  # known also where it is not fetched
        parts["base"] = FETCHABLE[experiment.base].digest
    return parts


def code_parts(parts: Mapping[str, str]) -> dict[str, str]:
    """The code in a fingerprint: all but what a run was given, its ``config`` and its ``base``."""
    return {part: digest for part, digest in parts.items() if part not in GIVEN}


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of a resolved config as results carry it, without where it runs (:data:`PLACE`)."""
    counted = {key: value for key, value in config.items() if key not in PLACE}
    return short_hash(json.dumps(counted, sort_keys=True).encode())


def short_hash(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()[:16]


def changes(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Names of the parts that differ between two fingerprints."""
    return sorted(part for part in {*then, *now} if then.get(part) != now.get(part))
