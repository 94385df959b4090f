"""From paper to code: every system of the list, and where it stands according to the registry."""

import csv
import functools
from collections.abc import Mapping
from pathlib import Path

from book.results import ARXIV, has_results, page_link, settled, table
from minirl.experiments.registry import FAMILIES, techniques

SYSTEMS = Path(__file__).parent / "systems.csv"
FAMILY_NAMES = {family: family.replace("_", "-").capitalize() for family in FAMILIES}
FAMILY_NAMES["beyond_language"] = "Outside language models"


@functools.cache
def systems() -> list[dict[str, str]]:
    """The list of systems: slug, title, arXiv id, year, family, class, kind and, outside language models, why."""
    with open(SYSTEMS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def paper_title(slug: str, arxiv: str | None) -> str | None:
    """The title of a technique's paper as the list of systems has it."""
    return next((row["title"] for row in systems() if row["slug"] == slug or (arxiv and row["arxiv"] == arxiv)), None)


def status(row: Mapping[str, str]) -> str:
    """Where a system stands, from the registry: never typed."""
    known = {item.slug: item for item in techniques()}
    if row["slug"] not in known:
        return f"outside: {row['why']}" if row["why"] else "planned"
    item = known[row["slug"]]
    found = [settled(item.slug, tier) for tier in item.tiers() if has_results(item, tier)]
    return ", ".join(page_link(one, one.entry["verdict"]) for one in found) or "registered, not run"


def systems_summary() -> str:
    """How many systems there are by family and status."""
    rows = []
    for family in FAMILY_NAMES:
        members = [status(row) for row in systems() if row["family"] == family]
        done = sum(text.startswith("[") for text in members)
        planned = sum(text in ("planned", "registered, not run") for text in members)
        outside = len(members) - done - planned
        rows.append((FAMILY_NAMES[family], *map(str, (done, planned, outside, len(members)))))
    return table(("family", "settled here", "planned", "outside", "all"), rows, "lrrrr")


def systems_tables() -> str:
    """Every system of the list with its status, family by family."""
    parts = []
    for family in FAMILY_NAMES:
        rows = []
        members = [row for row in systems() if row["family"] == family]
        for row in sorted(members, key=lambda row: (status(row) == "planned", row["slug"])):
            paper = f"[{row['title']}]({ARXIV}{row['arxiv']})" if row["arxiv"] else row["title"]
            rows.append((f"`{row['slug']}`", f"{paper}, {row['year']}", row["class"], row["kind"], status(row)))
        header = ("slug", "paper", "class", "kind", "status")
        parts.append(f"## {FAMILY_NAMES[family]}\n\n{table(header, rows)}")
    return "\n".join(parts)
