"""Lay out the sources of the book in ``book/_source/``, from which Jupyter Book builds the pages.

``python -m book.assemble``, run by ``make book``. Pages come from three places only: the hand-written chapters in
``book/``, executed notebooks that are committed (the foundations and ``reproductions/<slug>/results/tiny``), and what
is generated from registry, results and code, which chapters pull in with a line ``<!-- insert: NAME -->``.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from book import ladder, reference, results, rungs, systems, trust
from book.typed import all_typed
from minirl.config import nearest
from minirl.errors import ConfigError, MinirlError
from minirl.experiments.registry import Technique, project_root, results_directory, technique, techniques
from minirl.experiments.rundir import write_atomically

BOOK = Path(__file__).parent
SOURCE = BOOK / "_source"
INSERT = re.compile(r"^<!-- insert: (\S+) -->$", re.MULTILINE)

INSERTS: dict[str, Callable[[], str]] = {
    "verdicts": results.verdict_table,
    **{name: partial(results.forest_markdown, name) for name in results.FORESTS},
    "effects": results.effects_table,
    "costs": results.cost_table,
    "systems-summary": systems.systems_summary,
    "systems": systems.systems_tables,
    "config": reference.config_reference,
    "methods": reference.method_reference,
    "samplers": reference.sampler_reference,
    "claims-config": reference.claim_reference,
    "cli": reference.cli_reference,
    "trust": trust.trust_table,
    "rungs": rungs.rungs_table,
    "no-rungs": rungs.no_rungs_table,
    "plans": rungs.plans_table,
    "real-model": rungs.real_model_table,
    "precision": rungs.precision_table,
    "ladder": ladder.ladder_markdown,
    "ladder-rungs": ladder.ladder_table,
    "ladder-not-run": ladder.not_run_table,
}


# --- Hand-written chapters ------------------------------------------------------------------------------------------


def chapter(text: str, where: str) -> str:
    """A chapter with its generated parts and measured numbers put in. Raises :class:`ConfigError` naming the page."""

    def insert(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in INSERTS:
            raise ConfigError(f"{where}: nothing is called {name!r} to insert.{nearest(name, INSERTS)}")
        return INSERTS[name]().strip()

    return results.resolve(INSERT.sub(insert, text), where)


# --- Notebooks ------------------------------------------------------------------------------------------------------


def markdown_cell(text: str, name: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def technique_notebook(notebook: dict[str, Any], box: str, rerun: str) -> dict[str, Any]:
    """An executed notebook as a page: its title, the box, everything else, and how to run it again.

    Left out is the cell in which papermill repeats the parameters. Raises :class:`ConfigError` unless the first cell
    begins with the title.
    """
    first, *rest = notebook["cells"]
    title, _, text = "".join(first["source"]).partition("\n")
    if first["cell_type"] != "markdown" or not title.startswith("# "):
        raise ConfigError("the first cell of a technique's notebook is Markdown and begins with its title, `# …`")
    opening = [markdown_cell(title, "page-title"), markdown_cell(box, "page-box"), markdown_cell(text, "page-opening")]
    rest = [cell for cell in rest if "injected-parameters" not in cell["metadata"].get("tags", [])]
    return notebook | {"cells": [*opening, *rest, markdown_cell(rerun, "page-rerun")]}


def with_alternatives(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with a text for every figure: the heading under which it stands."""
    heading, cells = "", []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for line in re.findall(r"^#+ (.*)$", "".join(cell["source"]), re.MULTILINE):
                heading = re.sub(r"[`*$\"]", "", line)
        elif any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            image = {"image": {"alt": f"Figure: {heading}, drawn by the cell above"}}
            cell = cell | {"metadata": cell["metadata"] | {"mystnb": image}}
        cells.append(cell)
    return notebook | {"cells": cells}


def technique_page(item: Technique) -> dict[str, Any]:
    """The page of a technique: its executed notebook at tiny, with a box for every tier that was run.

    Raises :class:`ConfigError` if there is no such notebook.
    """
    results.settled(item.slug)  # says what to do if there are no results at all
    path = results_directory(item, "tiny") / "notebook.ipynb"
    if not path.exists():
        again = f"minirl reproduce {item.slug} --tier tiny --publish"
        raise ConfigError(f"{item.slug} has no executed notebook, so the book lacks its page; run `{again}`")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = [results.settled(item.slug, tier) for tier in item.tiers() if results.has_results(item, tier)]
    boxes = [results.box(one, systems.paper_title(item.slug, one.claim.paper.arxiv)) for one in found]
    return technique_notebook(notebook, "\n".join(boxes), results.rerun(item))


# --- The table of contents ------------------------------------------------------------------------------------------


def toc_files(toc: Any) -> Iterator[str]:
    """The pages that a table of contents names, in order, without suffix."""
    if isinstance(toc, dict):
        yield from (toc[key] for key in ("root", "file") if key in toc)
        for below in toc.values():
            yield from toc_files(below)
    elif isinstance(toc, list):
        for entry in toc:
            yield from toc_files(entry)


def check_toc(pages: list[str], items: list[Technique]) -> None:
    """Every technique has its page. Raises :class:`ConfigError` that names those without."""
    missing = [item.slug for item in items if f"{item.family}/{item.slug}" not in pages]
    if missing:
        raise ConfigError(f"book/_toc.yml lacks the page of {', '.join(missing)}; add it as `- file: FAMILY/SLUG`")


# --- All together ---------------------------------------------------------------------------------------------------


def page(name: str) -> tuple[str, str]:
    """Suffix and content of the page ``name``: chapter, foundations notebook, technique or generated page."""
    known = {f"{item.family}/{item.slug}": item.slug for item in techniques()}
    written, foundations = BOOK / f"{name}.md", project_root() / "notebooks" / f"{name}.ipynb"
    if name in known:
        notebook = technique_page(technique(known[name]))
    elif written.exists():
        return ".md", chapter(written.read_text(encoding="utf-8"), f"book/{name}.md")
    elif name.startswith("reference/api/"):
        return ".md", reference.api_page(Path(name).name)
    elif foundations.exists():
        notebook = json.loads(foundations.read_text(encoding="utf-8"))
    else:
        raise ConfigError(f"book/_toc.yml names the page {name!r}, of which there is no source")
    return ".ipynb", json.dumps(with_alternatives(notebook), ensure_ascii=False, indent=1) + "\n"


def assemble(target: Path = SOURCE) -> list[str]:
    """Write all sources to ``target``, replacing what is there; the names of the pages."""
    toc_file = BOOK / "_toc.yml"
    pages = list(toc_files(yaml.safe_load(toc_file.read_text(encoding="utf-8"))))
    check_toc(pages, techniques())
    if typed := all_typed(project_root()):
        listed = "\n  ".join(typed)
        raise ConfigError(f"numbers typed by hand; use {{measured}}`…`, or say why in <!-- typed: … -->:\n  {listed}")
    content = {name: page(name) for name in pages}  # mistakes show before anything is removed
    shutil.rmtree(target, ignore_errors=True)
    for name, (suffix, text) in content.items():
        write_atomically(target / f"{name}{suffix}", text)
    for static in (toc_file, BOOK / "_config.yml"):
        write_atomically(target / static.name, static.read_text(encoding="utf-8"))
    shutil.copytree(BOOK / "_static", target / "_static")
    (target / "figures").mkdir()
    for item in techniques():
        shutil.copy(results_directory(item, "tiny") / "figure.png", target / "figures" / f"{item.slug}.png")
    for name in results.FORESTS:
        results.forest(name).savefig(target / "_static" / f"{name}.png", dpi=150)
    ladder.ladder_figure().savefig(target / "_static" / "ladder.png", dpi=150)
    return pages


if __name__ == "__main__":
    try:
        print(f"assembled {len(assemble())} pages in {SOURCE.name}/")
    except MinirlError as error:
        sys.exit(f"book: {error}")
