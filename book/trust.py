"""The table "what was tried × what came of it", counted in the pages that the tests generate and in the soak's log."""

import re
from pathlib import Path
from typing import Any

from minirl.errors import ConfigError
from minirl.experiments.registry import project_root
from minirl.experiments.rundir import read_json

REFERENCE = Path(__file__).parent / "reference"
SOAK = "benchmarks/results/soak.json"


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose head begins with ``head``. Raises :class:`ConfigError` if there is none."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(head)}.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    if found is None:
        raise ConfigError(f"book/reference/{page}: no table whose head begins with {head!r}")
    lines = found[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def trust_table() -> str:
    """Markdown: faults, kills, attacks and bad input, with how many there were and what came of them."""
    faults, attacks = rows("faults.md", "| what goes wrong"), rows("sandbox.md", "| kind | attack")
    passed = [row for row in attacks if "passed" in " ".join(row[2:4])]
    cases = rows("bad-input.md", "| input | case")
    fuzzed = sum(int(row[2]) for row in rows("bad-input.md", "| input | what is tried"))
    soak = read_json(project_root() / SOAK)

    def killed(part: dict[str, Any]) -> str:
        differ, lost = len(part["differing"]), len(part["lost"])
        return f"{differ} files differ, {lost} results lost, in {part['runs']} runs"

    same = "nothing complete is lost; continued, the bytes are those of the undisturbed run; it says what happened"
    table = [
        ("faults injected into runs", f"{len(faults)} kinds", same, "faults"),
        ("random kills of library runs", f"{soak['library']['kills']:,}", killed(soak["library"]), "faults"),
        ("random kills of whole notebooks", f"{soak['notebooks']['kills']:,}", killed(soak["notebooks"]), "faults"),
        ("attacks on the sandbox", str(len(attacks)), f"{len(passed)} pass", "sandbox"),
        ("bad input, single cases", str(len(cases)), "one clear error of ours, or it works", "bad-input"),
        ("bad input, random", f"{fuzzed} of each kind", "accepted, or one clear error of ours", "bad-input"),
    ]
    lines = ["| what was tried | cases | what came of it | all of them |", "|---|--:|---|---|"]
    lines += [f"| {tried} | {n} | {came} | [{page}](reference/{page}.md) |" for tried, n, came, page in table]
    return "\n".join(lines)
