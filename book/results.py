"""What committed results say, as the book shows it: the box of a technique's page, tables, the figure, and numbers.

Nothing here is typed by hand. Effects and verdicts come from :mod:`minirl.experiments.claims`, as those of
``minirl claims`` do; costs, hardware and commits come from the per-seed files.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minirl.config import nearest
from minirl.errors import ConfigError
from minirl.experiments.claims import Claim, Condition, evaluate_claim, holds_when
from minirl.experiments.registry import (
    BITS_16,
    FRESH,
    Technique,
    changed_in,
    claim_path,
    label,
    result_files,
    results_directory,
    technique,
    techniques,
)
from minirl.experiments.report import how_many_hold, in_short, settled_claim
from minirl.experiments.rundir import read_json
from minirl.experiments.staleness import stale_parts
from minirl.show.figures import effect_forest

ARXIV = "https://arxiv.org/abs/"
SOURCES = "*From `reproductions/*/results/*/seed-*.json`.*"
BADGE = '<span class="stale">stale</span>'


@dataclass(frozen=True)
class Settled:
    """A claim with its committed results. ``stale`` names what has changed since the runs; empty if nothing has."""

    item: Technique
    claim: Claim
    entry: Mapping[str, Any]
    documents: Sequence[Mapping[str, Any]]
    stale: tuple[str, ...]


@functools.cache
def settled(slug: str, tier: str = "tiny", variant: str = "") -> Settled:
    """The claim of a technique with its results, or with those of a variant that settles it once more. Raises
    :class:`ConfigError` if there are none.

    The verdict is that of the committed summary, which `make test` compares with the per-seed files; whether it is
    stale is found anew.
    """
    item = technique(slug)
    summary = results_directory(item, tier, variant) / "summary.json"
    if not summary.exists():
        raise ConfigError(
            f"{slug} has no committed results at {label(tier, variant)}, so its page has nothing to show; "
            f"run `{run_again(slug, tier, variant)} --publish`"
        )
    documents = [read_json(path) for path in result_files(item, tier, variant)]
    stale = tuple(stale_parts(item, tier, documents, variant))
    return Settled(item, settled_claim(item, tier, variant), read_json(summary), documents, stale)


def all_settled() -> list[Settled]:
    """Every claim that has results, in the order of the registry and of tiers."""
    return [settled(item.slug, tier) for item in techniques() for tier in item.tiers() if has_results(item, tier)]


def has_results(item: Technique, tier: str, variant: str = "") -> bool:
    return claim_path(item, tier).exists() and (results_directory(item, tier, variant) / "summary.json").exists()


# --- How numbers are written ----------------------------------------------------------------------------------------


def effect_text(effect: float, interval: Sequence[float | None]) -> str:
    """``+0.094 [+0.077, +0.112]``; an end that a single seed leaves open is infinite."""
    low, high = interval
    ends = f"[{'−∞' if low is None else f'{low:+.3f}'}, {'+∞' if high is None else f'{high:+.3f}'}]"
    return f"{effect:+.3f} {ends}".replace("-", "−")


def arms_text(condition: Mapping[str, Any]) -> str:
    """``score − naive``, or ``one → two → three`` for a trend."""
    if condition.get("order"):
        return " → ".join(f"`{arm}`" for arm in condition["order"])
    return " − ".join(f"`{arm}`" for arm in (condition["treatment"], condition["comparator"]) if arm)


def effect_cell(condition: Mapping[str, Any]) -> str:
    """Effect and interval for a table, where they must not break."""
    return effect_text(condition["effect"], condition["interval"]).replace(" ", "\u00a0")


def count_text(value: float) -> str:
    """A count to three digits: 806,278 → 806 k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def ranges(numbers: Iterable[int]) -> str:
    """``0–4`` for 0, 1, 2, 3, 4; else a list."""
    ordered = sorted(numbers)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}–{ordered[-1]}"
    return ", ".join(map(str, ordered))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table; ``align`` has a letter for every column, ``r`` for right."""
    rules = ["---:" if side == "r" else "---" for side in align.ljust(len(header), "l")]
    lines = [" | ".join(header), " | ".join(rules), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


# --- Technique pages ------------------------------------------------------------------------------------------------


def condition_table(entry: Mapping[str, Any]) -> str:
    """The conditions of a claim: what was registered, what was found."""
    rows = [
        (
            c["metric"],
            arms_text(c),
            holds_when(c["kind"], c["margin"]),
            effect_cell(c),
            mark(c["verdict"]),
        )
        for c in entry["conditions"]
    ]
    return table(("metric", "arms", "holds if effect", "effect [95 %]", "verdict"), rows)


def mark(verdict: str) -> str:
    """A verdict; what is not supported catches the eye."""
    return verdict if verdict == "supported" else f"**{verdict}**"


def paper_line(claim: Claim, title: str | None) -> str:
    """Title and link, and the paper's own numbers."""
    link = f"[arXiv {claim.paper.arxiv}]({ARXIV}{claim.paper.arxiv})" if claim.paper.arxiv else "no single paper"
    return f"**Paper.** {f'*{title}*, ' if title else ''}{link}. {claim.paper.numbers.strip()}"


def cost_line(settled: Settled) -> str:
    """Seeds, items, time, memory, machine and commit of the runs, from the per-seed files."""
    entry, manifests = settled.entry, [document["manifest"] for document in settled.documents]
    items = "exact evaluation" if entry["items"] == "exact" else f"{entry['items']} held-out items"
    machines = sorted({f"{m['hardware']['cores']} cores {m['hardware']['machine']}" for m in manifests})
    devices = sorted({m["hardware"]["device"] for m in manifests})
    threads = sorted({m["threads"] for m in manifests})
    commits = sorted({commit_text(m["commit"]) for m in manifests})
    cost = f"{entry['core_s']:.0f} core-seconds to train all arms of one seed, {entry['wall_s']:.0f} s of wall-clock"
    trained = cost if entry["wall_s"] else "Nothing is trained"
    return (
        f"**Runs.** Seeds {ranges(entry['seeds'])}, {items}. {trained}; at most "
        f"{entry['peak_mb']:.0f} MB. Device {', '.join(devices)} ({'; '.join(machines)}, threads a run: "
        f"{ranges(threads)}). Commit {', '.join(commits)}."
    )


def commit_text(commit: str) -> str:
    """A commit in short; results of a tree with uncommitted changes say so."""
    name, _, dirty = commit.partition("-")
    return f"`{name[:10]}`" + (" with uncommitted changes" if dirty else "")


def box(settled: Settled, title: str | None) -> str:
    """What a technique's page opens with: claim, verdict, effects, paper, and where the numbers come from."""
    entry, claim = settled.entry, settled.claim
    stale = ""
    if settled.stale:
        changed = ", ".join(f"`{part}`" for part in settled.stale)
        again = f"`minirl reproduce {settled.item.slug} --tier {entry['tier']} --publish`"
        stale = f"{BADGE} Changed since these runs: {changed}. Run {again} again.\n\n"
    return (
        f":::{{admonition}} Claim at tier {entry['tier']}: {entry['verdict']}\n:class: claim {entry['verdict']}\n\n"
        f"{stale}{claim.statement.strip()}\n\n{condition_table(entry)}\n{paper_line(claim, title)}\n\n"
        f"{cost_line(settled)} Registered {claim.registered}.{again_lines(settled)}\n\n{files_line(settled)}\n:::\n"
    )


def files_line(settled: Settled) -> str:
    """Which files the page's numbers and figures come from, and how to follow one."""
    folder = f"reproductions/{settled.item.slug}/results/{settled.entry['tier']}"
    return (
        f"**Files.** Numbers over all seeds: `{folder}/seed-{min(settled.entry['seeds'])}.json` and those beside it. "
        f"Curves, figure and rollouts: its first seed. `minirl why {settled.item.slug}` follows a number to them."
    )


def again_lines(one: Settled) -> str:
    """What the claim came to with fresh seeds and with 16-bit updates, with all effects, where it was run."""
    lines = ""
    for variant in (FRESH, BITS_16):
        if has_results(one.item, one.entry["tier"], variant):
            again = settled(one.item.slug, one.entry["tier"], variant).entry
            effects = "; ".join(f"{c['metric']} {arms_text(c)} {effect_cell(c)}" for c in again["conditions"])
            name = changed_in(variant).capitalize()
            lines += f"\n\n**{name}.** {ranges(again['seeds'])}: {in_short(again)}. {effects}."
    return lines


def run_again(slug: str, tier: str, variant: str = "") -> str:
    """The command that makes the results of a tier, or of a variant of it."""
    return (
        f"minirl sweep {slug} --tier {tier} --variant {variant}"
        if variant
        else f"minirl reproduce {slug} --tier {tier}"
    )


def rerun_commands(item: Technique) -> list[str]:
    """The commands that make a page's numbers again, and the quick look."""
    commands = [f"minirl reproduce {item.slug} --tier smoke --seeds 0"]
    for tier in item.tiers():
        if has_results(item, tier):
            commands.append(run_again(item.slug, tier))
            for path in sorted(item.reproduction.glob(f"{tier}-*.yaml")):
                variant = path.stem.removeprefix(f"{tier}-")
                if result_files(item, tier, variant):
                    commands.append(run_again(item.slug, tier, variant))
    return [*commands, "minirl claims"]


def rerun(item: Technique) -> str:
    """The last section of a technique's page."""
    commands = "\n".join(rerun_commands(item))
    return (
        "## Run it again\n\nThe first command shows in seconds that it works. The others make the numbers of this page "
        f"again, and the last settles all claims from what is committed.\n\n```console\n{commands}\n```\n"
    )


# --- Numbers in prose -----------------------------------------------------------------------------------------------

ROLE = re.compile(r"``.*?``|\{measured\}`([^`]*)`")  # what stands between double backticks is shown as it is
COSTS = {"core_s": "{:.0f} core-seconds", "wall_s": "{:.0f} s", "peak_mb": "{:.0f} MB", "items": "{}"}


def measured(reference: str) -> str:
    """What ``{measured}`reference``` stands for in a hand-written chapter.

    ============================ ======================================================================
    reference                    text
    ============================ ======================================================================
    ``SLUG:METRIC:ARM``          mean over seeds with its interval, ``0.824 [0.781, 0.868]``
    ``SLUG:METRIC:ARM-OTHER``    effect with its interval, the wider of two as in every verdict
    ``SLUG:verdict``             supported, contradicted or inconclusive
    ``SLUG:seeds``               how many seeds
    ``SLUG:KEY``                 ``core_s``, ``wall_s``, ``peak_mb`` of a seed; ``items``
    ``SLUG@VARIANT:…``           the same where the claim was settled once more: ``fresh``, ``700k``
    ============================ ======================================================================

    Raises :class:`ConfigError` with the nearest name for an unknown technique, metric, arm or key.
    """
    parts = reference.split(":")
    if len(parts) not in (2, 3):
        raise ConfigError(f"measured number {reference!r} is not SLUG:METRIC:ARM, SLUG:METRIC:ARM-OTHER or SLUG:KEY")
    slug, _, variant = parts[0].partition("@")
    entry = settled(slug, variant=variant).entry
    if len(parts) == 2:
        key = parts[1]
        if key in ("verdict", "seeds"):
            return entry["verdict"] if key == "verdict" else str(len(entry["seeds"]))
        if key not in COSTS:
            known = nearest(key, [*COSTS, "verdict", "seeds"])
            raise ConfigError(f"measured number {reference!r}: unknown key {key!r}.{known}")
        return COSTS[key].format(entry[key])
    _, metric, arms = parts
    names = arms.split("-")
    for arm in names:
        if arm not in entry["arms"]:
            raise ConfigError(f"measured number {reference!r}: unknown arm {arm!r}.{nearest(arm, entry['arms'])}")
        known = entry["arms"][arm]["metrics"]
        if known.get(metric) is None:
            defined = [name for name, value in known.items() if value is not None]
            raise ConfigError(f"measured number {reference!r}: unknown metric {metric!r}.{nearest(metric, defined)}")
    if len(names) > 2:
        raise ConfigError(f"measured number {reference!r}: a difference is between two arms")
    effect, low, high = _effect(slug, variant, metric, tuple(names))
    return effect_text(effect, (low, high)) if len(names) == 2 else f"{effect:.3f} [{low:.3f}, {high:.3f}]"


@functools.cache
def _effect(slug: str, variant: str, metric: str, arms: tuple[str, ...]) -> tuple[float, float, float]:
    """Effect and interval of any metric of one arm, or between two, as a condition of the claim would have them."""
    found = settled(slug, variant=variant)
    names = dict(zip(("treatment", "comparator"), arms, strict=False))
    condition = Condition.model_validate({"metric": metric, "kind": "superiority", "margin": 0, **names})
    asked = found.claim.model_copy(update={"conditions": [condition]})
    (result,) = evaluate_claim(asked, found.documents).conditions
    return result.effect, result.interval.low, result.interval.high


def resolve(text: str, where: str) -> str:
    """``text`` with every ``{measured}`` role replaced, but for those quoted as code.

    Raises :class:`ConfigError` that names the page.
    """

    def value(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group()
        try:
            return measured(match.group(1))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    return ROLE.sub(value, text)


# --- All techniques on common axes ----------------------------------------------------------------------------------


def region_of(condition: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of the region of effects that satisfies a condition, as ``minirl claims --json`` has it."""
    keys = ("metric", "treatment", "comparator", "order", "kind", "margin")
    region = Condition.model_validate({key: condition[key] for key in keys if condition.get(key) is not None}).region()
    return region.low, region.high


def forest_rows(picked: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Conditions with the name they go under, largest effect first, as rows of a forest figure."""
    rows = []
    for name, condition in picked:
        low, high = (math.nan if end is None else end for end in condition["interval"])
        rows.append(
            {
                "label": f"{name}\n{condition['metric']}: {arms_text(condition).replace('`', '')}",
                "effect": condition["effect"],
                "low": low,
                "high": high,
                "margin": [end for end in region_of(condition) if math.isfinite(end)],
                "verdict": condition["verdict"],
            }
        )
    return sorted(rows, key=lambda row: -row["effect"])


def on_a_share(condition: Mapping[str, Any]) -> bool:
    """Whether a condition's metric is a share of something: those in nats and bits, ``log…``, have no place on the axis
    of shares."""
    return not condition["metric"].startswith("log")


def main_effects() -> list[tuple[str, Mapping[str, Any]]]:
    """The first condition of every claim that is on a share: treatment against the baseline that matters most.

    Where the claim as a whole is not what this condition is, its verdict stands beside the name.
    """
    rows = []
    for one in all_settled():
        shares = (condition for condition in one.entry["conditions"] if on_a_share(condition))
        condition, verdict = next(shares, one.entry["conditions"][0]), one.entry["verdict"]
        whole = "" if verdict == condition["verdict"] else f" (claim {verdict})"
        rows.append((one.item.slug + whole, condition))
    return rows


def open_and_null() -> list[tuple[str, Mapping[str, Any]]]:
    """Conditions that do not hold, or are open, or predict that there is no effect."""
    return [
        (one.item.slug, condition)
        for one in all_settled()
        for condition in one.entry["conditions"]
        if on_a_share(condition)
        and (condition["verdict"] != "supported" or condition["kind"] in ("null", "equivalence"))
    ]


FORESTS: dict[str, Callable[[], list[tuple[str, Mapping[str, Any]]]]] = {
    "what-helps": main_effects,
    "what-does-not": open_and_null,
}


def forest(name: str) -> Figure:
    """One of the two figures of all techniques, on one axis."""
    return effect_forest(
        forest_rows(FORESTS[name]()), x_label="effect: a share of the problems, or a difference of two"
    )


def forest_markdown(name: str) -> str:
    """The figure as an image of the book, with a text for those who cannot see it."""
    rows = forest_rows(FORESTS[name]())
    said = "; ".join(f"{row['label'].splitlines()[0]} {row['effect']:+.2f} {row['verdict']}" for row in rows)
    return (
        f"```{{image}} _static/{name}.png\n:alt: Effects with their intervals. {said}.\n:width: 100%\n```\n\n{SOURCES}"
    )


def page_link(one: Settled, text: str = "") -> str:
    """A link to the technique's page, from a page at the root of the book, with a badge if its results are stale."""
    badge = f" {BADGE}" if one.stale else ""
    return f"[{text or f'`{one.item.slug}`'}]({one.item.family}/{one.item.slug}.ipynb){badge}"


def effects_table() -> str:
    """Every condition of every claim: nothing is left out because it came to nothing."""
    rows = [
        (
            page_link(one),
            c["metric"],
            arms_text(c),
            holds_when(c["kind"], c["margin"]),
            effect_cell(c),
            mark(c["verdict"]),
        )
        for one in all_settled()
        for c in one.entry["conditions"]
    ]
    header = ("technique", "metric", "arms", "holds if effect", "effect [95 %]", "verdict")
    return table(header, rows) + f"\n{SOURCES}\n"


def verdict_table() -> str:
    """One row a claim: its verdict, how many of its conditions hold, and what a seed costs."""
    rows = []
    for one in all_settled():
        entry = one.entry
        costs = (f"{entry['core_s']:.0f}", f"{entry['peak_mb']:.0f}")
        again = has_results(one.item, entry["tier"], FRESH)
        fresh = mark(settled(one.item.slug, entry["tier"], FRESH).entry["verdict"]) if again else "–"
        rows.append((page_link(one, one.item.title), mark(entry["verdict"]), how_many_hold(entry), fresh, *costs))
    header = ("technique", "verdict", "conditions that hold", "fresh seeds", "core-seconds", "MB")
    return table(header, rows, "llrlrr") + f"\n{SOURCES}\n"


def cost_table() -> str:
    """Every arm of every claim: what it generated to learn and what it took, mean over seeds."""
    rows = []
    for one in all_settled():
        for arm, role in one.claim.arms.items():
            per_seed = [document["arms"][arm] for document in one.documents]
            tokens, core, wall = (
                float(np.mean([d[key] for d in per_seed])) for key in ("generated_tokens", "core_s", "wall_s")
            )
            rows.append((page_link(one), f"`{arm}`", role, count_text(tokens), f"{core:.0f}", f"{wall:.0f}"))
    header = ("technique", "arm", "role", "generated tokens", "core-seconds", "seconds of wall-clock")
    return table(header, rows, "lllrrr") + f"\n{SOURCES}\n"
