"""``minirl slides``: the executed notebook of a technique, or of the foundations, as slides for a lecture."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minirl.errors import RunError
from minirl.experiments.registry import results_directory, techniques
from minirl.experiments.rundir import write_atomically
from minirl.experiments.workbook import find_notebook

MACHINERY = {"parameters", "injected-parameters"}  # tags of cells that say nothing to an audience


def slide_cells(cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cells that an audience sees, each with its place: a slide for every heading, and below it one for every
    output and for what is said after that.

    Left out is code that only prints or prepares, and what is said of the parameters. Of the rest, outputs alone are
    shown.
    """
    below, title = False, ""  # whether the slide at hand is full, and its heading
    for cell, after in itertools.zip_longest(cells, cells[1:]):
        text = cell["cell_type"] == "markdown"
        heading = text and cell["source"].startswith("#")
        said = text and not heading
        if _machinery(cell) or (said and after is not None and _machinery(after)):
            continue
        if not text and not any("data" in output for output in cell["outputs"]):
            continue
        if heading:
            title = heading_of(cell)
        place = "slide" if heading else "subslide" if below or said else "-"
        below = not said  # a sentence stands above the output that it announces
        shown = {"slideshow": {"slide_type": place}, "alt": f"Figure: {title}"}
        yield {**cell, "metadata": {**cell["metadata"], **shown}}


def heading_of(cell: Mapping[str, Any]) -> str:
    """The text of the heading that a cell begins with."""
    return cell["source"].partition("\n")[0].lstrip("# ")


def _machinery(cell: Mapping[str, Any]) -> bool:
    return bool(MACHINERY & set(cell["metadata"].get("tags", [])))


def executed(name: str) -> Path:
    """The committed notebook of this name with its outputs. Raises :class:`ConfigError`, :class:`RunError`."""
    path, own = find_notebook(name), {item.slug: item for item in techniques()}
    if name in own:
        path = results_directory(own[name], "tiny") / "notebook.ipynb"
    if not path.exists():
        raise RunError(f"{name} was not run at tiny yet: `minirl reproduce {name} --publish`")
    return path


def write_slides(name: str, target: Path, reveal: str | None = None, force: bool = False) -> Path:
    """Write the slides of a notebook to ``target``, one HTML file; the path.

    ``reveal`` is the address of reveal.js, which turns the pages: a directory beside ``target``, or an URL. Without it
    the browser fetches it from the network, as it does with what draws formulas. Raises :class:`ConfigError` for an
    unknown name, :class:`RunError` rather than overwrite a file without ``force``.
    """
    import nbformat  # imported late: nothing else needs the exporter
    from nbconvert import SlidesExporter

    document = nbformat.read(executed(name), as_version=4)
    if target.exists() and not force:
        raise RunError(f"{target} is there already; replace it with --force, or choose another place with --to")
    document.cells = [nbformat.from_dict(cell) for cell in slide_cells(document.cells)]
    document.metadata["title"] = heading_of(document.cells[0])
    settings: dict[str, Any] = {"reveal_scroll": True, "exclude_input": True, "exclude_output_prompt": True}
    if reveal is not None:
        settings["reveal_url_prefix"] = reveal
    html, _ = SlidesExporter(**settings).from_notebook_node(document)
    write_atomically(target, html)
    return target
