"""What a result depends on, as hashes: a result is stale when one of them has changed since.

A result depends on the resolved config, the base's weights, the notebook's code and every module that the technique's
module, the loops and the evaluation import. Comments, docstrings and layout do not count: rewording an explanation
must not put a badge on a number.
"""

import ast
import hashlib
import io
import json
import tokenize
from pathlib import Path

from minirl.config import Experiment
from minirl.experiments.registry import method_class, project_root, technique
from minirl.policy.models import base_directory

# What every run uses besides its technique; the show and experiments packages only display and store.
ROOTS = ("minirl/loops.py", "minirl/evaluation/correction.py")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


def code_hash(source: str) -> str:
    """Hash of Python code without comments, docstrings and layout; of the text itself if it does not parse."""
    words: list[str] = []
    at_start = True  # of a statement: a string there is a docstring
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return hashlib.sha256(source.encode()).hexdigest()[:16]
    for i, token in enumerate(tokens):
        if token.type in LAYOUT:
            at_start = at_start or token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            if token.type in (tokenize.INDENT, tokenize.DEDENT):
                words.append("{" if token.type == tokenize.INDENT else "}")
            continue
        alone = tokens[i + 1].type in (tokenize.NEWLINE, tokenize.COMMENT) if i + 1 < len(tokens) else False
        if not (at_start and token.type == tokenize.STRING and alone):
            words.append(token.string)
        at_start = False
    return hashlib.sha256("\x00".join(words).encode()).hexdigest()[:16]


def imported_files(path: Path, root: Path) -> set[Path]:
    """``path`` and all files of the package that it imports, directly or not."""
    found: set[Path] = set()
    pending = [path]
    while pending:
        current = pending.pop()
        if current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("minirl"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("minirl")]
            else:
                continue
            for name in names:
                target = root / name.replace(".", "/")
                for file in (target.with_suffix(".py"), target / "__init__.py"):
                    if file.exists():
                        pending.append(file)
    return found


def fingerprint(experiment: Experiment) -> dict[str, str]:
    """Part → hash for everything a result of ``experiment`` depends on.

    Where it runs (``budget``, ``threads``) is not part of the config that counts.
    """
    root, item = project_root(), technique(experiment.slug)
    files: set[Path] = set()
    for start in [item.module, *(root / name for name in ROOTS), *_method_files(experiment)]:
        files |= imported_files(start, root)
    parts = {str(path.relative_to(root)): code_hash(path.read_text(encoding="utf-8")) for path in sorted(files)}
    counted = experiment.model_dump(mode="json", exclude={"budget", "threads", "device"})
    parts["config"] = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]
    base = base_directory(experiment.base)
    if base is not None:
        parts["base"] = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()[:16]
    return parts


def _method_files(experiment: Experiment) -> list[Path]:
    modules = {method_class(arm["method"]).__module__ for arm in experiment.arms.values()}
    return [project_root() / f"{module.replace('.', '/')}.py" for module in sorted(modules)]


def changes(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Names of the parts that differ between two fingerprints."""
    return sorted(part for part in {*then, *now} if then.get(part) != now.get(part))
