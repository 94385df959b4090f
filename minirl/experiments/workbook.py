"""``minirl open``: a copy of a notebook to work in, with its parameters set."""

import ast
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from minirl.config import nearest
from minirl.errors import ConfigError, RunError
from minirl.experiments.registry import project_root, techniques
from minirl.experiments.run import load_experiment
from minirl.experiments.rundir import write_atomically


def notebooks() -> dict[str, Path]:
    """Every notebook by its name: a technique's slug, or the file's name without ``.ipynb``."""
    return {path.stem: path for path in sorted((project_root() / "notebooks").glob("*/*.ipynb"))}


def find_notebook(name: str) -> Path:
    """The notebook of this name. Raises :class:`ConfigError` with the nearest one."""
    known = notebooks()
    if name not in known:
        raise ConfigError(f"unknown notebook {name!r}.{nearest(name, known)}")
    return known[name]


def copy_notebook(slug: str, target: Path, parameters: dict[str, Any], force: bool = False) -> Path:
    """Copy the notebook of ``slug`` to ``target`` with ``parameters`` in its parameters cell; the path.

    Raises :class:`ConfigError` for an unknown slug (it names the nearest) and for parameters of a notebook that has
    none, :class:`RunError` rather than overwrite a file without ``force``.
    """
    source = find_notebook(slug)
    if target.exists() and not force:
        raise RunError(
            f"{target} is there already; go on in it with `jupyter lab {target}`, replace it with --force, or choose "
            "another place with --to"
        )
    if "tier" in parameters and slug in (item.slug for item in techniques()):
        load_experiment(slug, parameters["tier"])  # a mistyped tier shows here, not in the notebook
    document = json.loads(source.read_text(encoding="utf-8"))
    cells = [cell for cell in document["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if parameters and not cells:
        raise ConfigError(f"the notebook {slug!r} has no parameters, so {', '.join(parameters)} cannot be set")
    for cell in cells:
        cell["source"] = with_parameters("".join(cell["source"]), parameters).splitlines(keepends=True)
    write_atomically(target, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return target


def with_parameters(source: str, parameters: dict[str, Any]) -> str:
    """``source``, lines of ``name = value``, with other values; comments stay. :class:`ConfigError` for a new name."""
    lines = source.splitlines()
    values = {node.targets[0].id: node.value for node in ast.parse(source).body}  # type: ignore[attr-defined]
    for name, meant in parameters.items():
        if name not in values:
            raise ConfigError(f"the notebook has no parameter {name!r}.{nearest(name, values)}")
        place = values[name]
        line, literal = place.lineno - 1, json.dumps(meant) if isinstance(meant, str) else repr(meant)
        lines[line] = lines[line][: place.col_offset] + literal + lines[line][place.end_col_offset :]
    return "\n".join(lines)


def open_lab(path: Path) -> None:
    """Become JupyterLab, opened on ``path``. Raises :class:`RunError` if it is not installed."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise RunError("JupyterLab is not installed; run `pip install -e .` in the repository")
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(path)])
