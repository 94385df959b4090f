"""Reference pages made from the code itself: config keys, commands, and the public functions of every package."""

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from book.results import table
from minirl.cli import build_parser
from minirl.config import BudgetConfig, EvaluationConfig, Experiment, TaskConfig, TrainConfig
from minirl.experiments.claims import Claim, ClaimEvaluation, Condition, Note, Paper
from minirl.experiments.registry import project_root, techniques
from minirl.rollouts.samplers import SAMPLERS
from minirl.techniques.base import Method

CONFIG: tuple[type[BaseModel], ...] = (Experiment, TaskConfig, TrainConfig, EvaluationConfig, BudgetConfig)
CLAIM: tuple[type[BaseModel], ...] = (Claim, Condition, ClaimEvaluation, Paper, Note)


# --- Docstrings -----------------------------------------------------------------------------------------------------


def markdown(docstring: str) -> str:
    """A docstring as Markdown: roles and literals become code, simple tables become tables."""
    text = "\n".join(_tables(inspect.cleandoc(docstring).splitlines()))  # first: columns are read off by position
    text = re.sub(r":[a-z]+:`(?:~[\w.]*\.)?([\w.]+)`", r"`\1`", text)
    text = re.sub(r":[a-z]+:`([^`<]+) <[^`>]+>`", r"\1", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"^::\n\n((?:    .*\n|\n)+)", _literal, text + "\n", flags=re.MULTILINE).strip()


def _literal(match: re.Match[str]) -> str:
    lines = [line.removeprefix("    ") for line in match.group(1).rstrip().splitlines()]
    return "\n".join(["```text", *lines, "```", "", ""])


def _tables(lines: list[str]) -> Iterator[str]:
    """Lines with simple tables (rows between rules of ``=``) as Markdown tables."""
    rule = re.compile(r"\s*=+( +=+)+\s*$")
    at = 0
    while at < len(lines):
        if not rule.match(lines[at]):
            yield lines[at]
            at += 1
            continue
        starts = [match.start() for match in re.finditer("=+", lines[at])]
        end = next((i for i in range(at + 3, len(lines)) if rule.match(lines[i])), len(lines) - 1)
        rows: list[list[str]] = []
        for line in (line for line in lines[at + 1 : end] if not rule.match(line)):
            cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
            if rows and not cells[0] and len(rows) > 1:  # the continuation of the row above
                rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
            else:
                rows.append(cells)
        rows = [[re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in rows]
        yield from ["", *table(rows[0], rows[1:]).splitlines(), ""]
        at = end + 1


# --- Config keys ----------------------------------------------------------------------------------------------------


def type_text(annotation: Any) -> str:
    """A type as a reader writes it: ``int``, ``one of a, b``, ``str or none``."""
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(type_text, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation is type(None):
        return "none"
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return "`" + re.sub(r"(?:\w+\.)+(?=\w)", "", text) + "`"


def limits_text(field: FieldInfo) -> str:
    """The limits of a number: ``≥ 2``."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)]
    return ", ".join(found)


def default_text(field: FieldInfo) -> str:
    """The default, or that there is none."""
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "`none`" if value is None else f"`{value!r}`"


def model_table(model: type[BaseModel]) -> str:
    """The keys of a config model: type, default and, where the code has it, meaning."""
    rows = []
    for name, field in model.model_fields.items():
        kind = " ".join(filter(None, (type_text(field.annotation), limits_text(field))))
        rows.append([f"`{name}`", kind, default_text(field), markdown(field.description or "")])
    header = ["key", "type", "default", "meaning"]
    columns = 4 if any(row[3] for row in rows) else 3
    return table(header[:columns], [[part.replace("|", "\\|") for part in row[:columns]] for row in rows])


def model_section(model: type[BaseModel]) -> str:
    """A heading, what the model says of itself, and its keys."""
    return f"### {model.__name__}\n\n{markdown(model.__doc__ or '')}\n\n{model_table(model)}"


def config_reference() -> str:
    """Keys of ``reproductions/SLUG/TIER.yaml``."""
    return "\n".join(map(model_section, CONFIG))


def claim_reference() -> str:
    """Keys of ``claim.yaml``."""
    return "\n".join(map(model_section, CLAIM))


def method_reference() -> str:
    """What an arm can set, for every method: ``arms: {NAME: {method: …, KEY: …}}``."""
    from minirl.experiments.registry import load_module
    from minirl.techniques import baselines  # noqa: F401 – importing defines its methods

    for item in techniques():
        load_module(item)
    found, pending = [], [Method]
    while pending:
        cls = pending.pop()
        found.append(cls)
        pending += cls.__subclasses__()
    named = sorted((cls for cls in found if "name" in vars(cls)), key=lambda cls: cls.name)
    return "\n".join(f"### {cls.name}\n\n{markdown(cls.__doc__ or '')}\n\n{model_table(cls)}" for cls in named)


def sampler_reference() -> str:
    """What says which problems come next: ``sampler: {rule: …, KEY: …}``."""
    return "\n".join(
        f"### {name}\n\n{markdown(rule.__doc__ or '')}\n\n{model_table(rule)}" for name, rule in SAMPLERS.items()
    )


# --- Commands -------------------------------------------------------------------------------------------------------


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)


def cli_reference() -> str:
    """Every command with its ``--help``."""
    parts = []
    for parser in commands(build_parser()):
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=92)
        parts.append(f"## {parser.prog}\n\n```text\n{parser.format_help().strip()}\n```\n")
    return "\n".join(parts)


# --- Functions and classes ------------------------------------------------------------------------------------------


def module_files(package: str) -> list[Path]:
    """The files of a part of minirl: a package with all below it, or a single module."""
    folder = project_root() / "minirl" / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """``def f(x: int) -> int`` on one line, or ``class C(Base)``; decorators above it."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        head = f"class {node.name}" + (f"({bases})" if bases else "")
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        head = f"def {node.name}({ast.unparse(node.args)}){returns}"
    if len(head) > 92 and isinstance(node, ast.FunctionDef):
        inside = re.sub(r", (?=\w+:|\*)", ",\n    ", ast.unparse(node.args))
        head = f"def {node.name}(\n    {inside},\n){returns}"
    decorators = map(ast.unparse, node.decorator_list)
    kept = [text for text in decorators if text.startswith("dataclass") or text == "property"]
    return "\n".join([*(f"@{text}" for text in kept), head])


def members(tree: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes that have a docstring, in the order of the file."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node for node in found if not node.name.startswith("_") and ast.get_docstring(node)]


def described(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """Signature and docstring."""
    return [f"```python\n{signature(node)}\n```", "", markdown(ast.get_docstring(node) or ""), ""]


def module_section(path: Path) -> str:
    """A module: what it says of itself, then its public functions and classes with signature and docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    doc, found = ast.get_docstring(tree), members(tree)
    if not doc and not found:
        return ""
    parts = path.relative_to(project_root()).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    lines = [f"## {name}", "", markdown(doc or "").replace("\n# ", "\n"), ""]
    for node in found:
        lines += [f"### {node.name}", "", *described(node)]
        for method in members(node) if isinstance(node, ast.ClassDef) else []:
            lines += described(method)
    return "\n".join(lines)


def api_page(package: str) -> str:
    """One page for a part of minirl."""
    return f"# minirl.{package}\n\n" + "\n".join(filter(None, map(module_section, module_files(package))))
