"""Small tables of names and numbers for notebooks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class TableView:
    """A table in a notebook, the same Markdown as text."""

    markdown: str

    def __repr__(self) -> str:
        return self.markdown

    def _repr_markdown_(self) -> str:
        return self.markdown


def show_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> TableView:
    """A line a row. Floats have three digits, and NaN is a dash; everything else stands as it is, Markdown included.

    Raises ``ValueError`` for a row that has not as many cells as there are heads.
    """
    lines = [list(heads), ["---"] * len(heads)]
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"a row of {len(row)} cells under {len(heads)} heads: {list(row)}")
        lines.append([_cell(value) for value in row])
    return TableView("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3f}"
    return str(value).replace("|", "\\|")
