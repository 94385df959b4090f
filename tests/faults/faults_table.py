"""The page "fault × outcome" of the docs, made from the rows of ``test_faults.py`` and the log of the soak."""

from collections.abc import Sequence
from typing import Any

HEAD = """# Faults and what becomes of them

Made from the tests by `python -m pytest tests/faults --write-faults`; a test fails when it is out of date, and each row
is at least one test. The faults strike the real runner, kills at a call drawn by seed. After each, the run is continued
with the same call. Then metrics, policies, evaluations and results are compared with those of an undisturbed run, byte
for byte (without seconds and memory): **they are always equal**, and nothing that was complete is computed again unless
the row says so.

| what goes wrong | where | what becomes of it, and what it says |
|---|---|---|
"""

SOAK = """
## The soak

`python benchmarks/soak.py` kills runs at random moments, continues them, kills them again, and compares all bytes in
the end. Its log is in `benchmarks/results/soak.json`.

"""


def render(rows: Sequence[tuple[str, str, str]], soak: dict[str, Any]) -> str:
    """The page: ``rows`` are (fault, where, outcome); ``soak`` is the log of ``benchmarks/soak.py``."""
    lines = [f"| {fault} | {where} | {outcome} |" for fault, where, outcome in rows]
    lines += ["", f"{len(rows)} rows."]
    return HEAD + "\n".join(lines) + "\n" + SOAK + "\n".join(_soaked(soak)) + "\n"


def _soaked(soak: dict[str, Any]) -> list[str]:
    kinds = {"library": "library runs", "notebooks": "whole notebooks, by the runner"}
    lines = [
        "| what is killed | kills | by | struck | runs | updates, computed again | bytes compared | differ | lost |",
        "|---|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    for kind, name in kinds.items():
        part = soak[kind]
        by, struck = (_counts(part[key]) for key in ("kills_by", "struck_in"))
        again = f"{part['updates']:,}, {part['updates_computed_again']:,}"
        lines.append(
            f"| {name} | {part['kills']} | {by} | {struck} | {part['runs']} | {again} | {part['bytes_compared']:,} "
            f"| {len(part['differing'])} | {len(part['lost'])} |"
        )
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
