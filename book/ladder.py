"""The ladder: the same claims from bases of several sizes, and the rungs on which nobody has stood yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from book.results import Settled, count_text, effect_cell, has_results, mark, page_link, settled, table
from minirl.errors import ConfigError
from minirl.experiments.plan import BEYOND
from minirl.experiments.registry import result_files, technique
from minirl.experiments.report import how_many_hold
from minirl.experiments.resolve import load_experiment
from minirl.experiments.rundir import read_json
from minirl.policy.models import base_directory
from minirl.show import figures


@dataclass(frozen=True)
class Climber:
    """A technique on the ladder: what a base is able to do (metrics of the claim's arm ``base``), and the metric whose
    conditions are drawn."""

    competence: tuple[str, ...]
    effect: str


CLIMBERS = {
    "score": Climber(("accuracy@1", "copy_rate"), "delta"),
    "expo": Climber(("explained", "easy"), "hard"),
    "adalign": Climber(("cooperation", "payoff"), "cooperation"),
}
SIZES = ("700k",)  # from scratch, beside the base of the tier itself
HIGHER = ("4M", "30M")  # from scratch on a GPU, of which none was there


def parameters(slug: str, size: str) -> int:
    """Of the base from which a rung starts."""
    folder = base_directory(load_experiment(slug, "tiny", variant=size).base)
    if folder is None:
        raise ConfigError(f"{slug}: the ladder starts from bases that ship")
    return read_json(folder / "card.json")["parameters"]


def rungs(slug: str) -> Iterator[tuple[int, Settled]]:
    """Every rung of a technique that was run, the tier's own base first: parameters and the settled claim."""
    for size in ("", *SIZES):
        if has_results(technique(slug), "tiny", size):
            yield parameters(slug, size), settled(slug, variant=size)


def drawn_conditions(rung: Settled) -> list[Mapping[str, Any]]:
    """Those on the technique's metric that compare two arms."""
    metric = CLIMBERS[rung.item.slug].effect
    return [c for c in rung.entry["conditions"] if c["metric"] == metric and c["comparator"]]


def mean_cost(rung: Settled, key: str) -> float:
    """A cost of all arms together, mean over seeds."""
    return float(np.mean([sum(arm[key] for arm in document["arms"].values()) for document in rung.documents]))


def ladder_table() -> str:
    """Markdown: every rung that was run, with the base's competence, verdict, effect and costs."""
    rows = []
    for slug, climber in CLIMBERS.items():
        for size, rung in rungs(slug):
            able, first = rung.entry["arms"]["base"]["metrics"], drawn_conditions(rung)[0]
            rows.append(
                (
                    page_link(rung),
                    count_text(size),
                    ", ".join(f"{name} {able[name]:.2f}" for name in climber.competence),
                    f"{mark(rung.entry['verdict'])} ({how_many_hold(rung.entry)})",
                    f"{first['metric']} {effect_cell(first)}",
                    count_text(mean_cost(rung, "generated_tokens")),
                    f"{mean_cost(rung, 'core_s'):.0f}",
                )
            )
    header = ("technique", "parameters", "the base alone", "claim", "effect [95 %]", "tokens a seed", "core-seconds")
    return table(header, rows, "lrlllrr")


def not_run_table() -> str:
    """Markdown: the rungs that were not run, and what each waits for."""
    rows = [(f"{size}, from scratch", "all three", "a base of that size, and a GPU to make it on") for size in HIGHER]
    for tier in BEYOND:
        for slug in CLIMBERS:
            item = technique(slug)
            if tier in item.tiers() and not result_files(item, tier):
                rows.append((f"`{tier}`: `{load_experiment(slug, tier).base}`", page_link(settled(slug)), "a GPU"))
    return table(("rung", "technique", "waits for"), rows)


def drawn(slug: str) -> dict[str, list[dict[str, Any]]]:
    """Line → points of a technique's panel, a point a rung."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for size, rung in rungs(slug):
        for condition in drawn_conditions(rung):
            low, high = condition["interval"]
            point = {"parameters": size, "low": low, "high": high}
            point |= {key: condition[key] for key in ("effect", "verdict", "margin")}
            lines.setdefault(f"{condition['treatment']} − {condition['comparator']}", []).append(point)
    return lines


def ladder_figure() -> Figure:
    """Effects over the number of parameters, one panel a technique."""
    return figures.ladder({f"{slug}: {climber.effect}": drawn(slug) for slug, climber in CLIMBERS.items()})


def ladder_markdown() -> str:
    """The figure as an image of the book, with a text for those who cannot see it."""
    said = "; ".join(
        f"{slug} {line} "
        + ", ".join(f"{point['effect']:+.2f} at {count_text(point['parameters'])}" for point in points)
        for slug in CLIMBERS
        for line, points in drawn(slug).items()
    )
    return f"```{{image}} _static/ladder.png\n:alt: Effects by size of the base. {said}.\n:width: 100%\n```"
