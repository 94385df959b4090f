"""Find numbers that were typed by hand where a measured one would stand: decimals and percentages in prose.

They belong into the role ``{measured}`…```, or into a cell that computes them. Exempt are code, maths, addresses, arXiv
ids and versions, the level of an interval, nothing and everything (0 % and 100 %), exercises (their numbers are
premises), and any line that says why its number is typed: ``<!-- typed: the margin of the claim -->``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from minirl.experiments.registry import FAMILIES

NUMBER = re.compile(r"(?<![\w.,@-])[-+−]?(?:\d+\.\d+(?:\s?%)?|\d+\s?(?:%|percent\b|per cent\b))(?![\w]|\.\d)")
MARKER = re.compile(r"<!-- typed: \S.* -->")
GENERATED = {"objectives.md", "supply.md"}  # by tests, with names and versions of others in them
EXERCISE = re.compile(r"\s*\*\*(?:Exercise )?\d+\.")
EXEMPT = (
    re.compile(r"```.*?```|~~~.*?~~~", re.DOTALL),
    re.compile(r"\$\$.*?\$\$", re.DOTALL),
    re.compile(r"``.*?``|`[^`\n]*(?:\n[^`\n]*)?`"),
    re.compile(r"\$[^$\n]+\$"),
    re.compile(r"\]\([^)]*\)|https?://\S+"),
    re.compile(r"\b\d{4}\.\d{5}\b"),  # arXiv
    re.compile(r"\b(?:Python|TRL|Book|Linux|version)\s+\d+(?:\.\d+)+"),
    re.compile(r"\b9[059]\s?%(?=\s+(?:\w+[\s-])?intervals?\b)"),
    re.compile(r"(?<![\d.])(?:0|100)\s?%"),
)


def typed_numbers(text: str) -> list[str]:
    """Lines of ``text`` that have a decimal or percentage typed by hand, each as ``NUMBER in: line``."""
    if EXERCISE.match(text):
        return []
    lines, rest = text.splitlines(), text
    for pattern in EXEMPT:  # newlines stay, so that lines keep their numbers
        rest = pattern.sub(lambda match: "\n" * match.group().count("\n") or " ", rest)
    found = []
    for line, left in zip(lines, rest.splitlines(), strict=False):
        numbers = NUMBER.findall(left)
        if numbers and not MARKER.search(line):
            found.append(f"{', '.join(map(str.strip, numbers))} in: {line.strip()}")
    return found


def prose(root: Path) -> Iterator[tuple[str, str]]:
    """Where it stands and the text, of everything that is checked: chapters, and Markdown of techniques' notebooks."""
    for path in sorted((root / "book").rglob("*.md")):
        where = path.relative_to(root)
        if not where.parts[1].startswith("_") and where.name not in GENERATED:
            yield str(where), path.read_text(encoding="utf-8")
    for family in FAMILIES:
        for path in sorted((root / "notebooks" / family).glob("*.ipynb")):
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "markdown":
                    yield f"{path.relative_to(root)}, cell {cell['id']!r}", "".join(cell["source"])


def all_typed(root: Path) -> list[str]:
    """Every number typed by hand, with its place."""
    return [f"{where}: {line}" for where, text in prose(root) for line in typed_numbers(text)]
