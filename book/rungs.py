"""The tables of what lies beyond tiny: configs and what they need, why others have none, how right a plan is, and what
ten steps on a real model took."""

import functools
from collections.abc import Iterable
from statistics import mean, median

from book.results import arms_text, count_text, effect_cell, has_results, mark, page_link, settled, table
from minirl.experiments.plan import BEYOND, Machine, absent, compared, plan, size
from minirl.experiments.registry import BITS_16, Technique, project_root, techniques
from minirl.experiments.report import how_many_hold
from minirl.experiments.resolve import load_experiment
from minirl.experiments.rundir import read_json

# Of no machine: the table has no times, and so needs no measured rates.
NOWHERE = Machine("none", memory=1, devices=1, generating=1.0, learning=1.0, bandwidth=1.0)
COMPARED = ("score", "ufo", "co-reward", "spiral", "nft", "raft", "sec")


def with_config() -> Iterable[tuple[Technique, str]]:
    """Every technique and tier beyond tiny for which there is a config."""
    return ((item, tier) for tier in BEYOND for item in techniques() if tier in item.tiers())


@functools.cache
def rungs_table() -> str:
    """Markdown: configs beyond tiny, what they need by plan, and what came out."""
    rows = []
    for item, tier in with_config():
        experiment = load_experiment(item.slug, tier)
        model = f"`{experiment.base}`" + (", adapter" if experiment.lora else "")
        engine = (experiment.engine or "local") + (f", {experiment.ranks} ranks" if experiment.ranks else "")
        task = f"`{experiment.task.name}`, level {experiment.task.level}"
        state = settled(item.slug, tier).entry["verdict"] if has_results(item, tier) else "not run"
        rows.append((tier, f"`{item.slug}`", model, task, engine, *needs(item.slug, tier), state))
    header = ("tier", "technique", "model", "task", "engine", "memory of a GPU", "tokens a seed", "state")
    return table(header, rows, "lllllrrl")


def needs(slug: str, tier: str) -> tuple[str, str]:
    """Memory and tokens by plan."""
    made = plan(slug, tier, machine=NOWHERE)
    return size(made.peak), count_text(made.tokens["seed"])


def no_rungs_table() -> str:
    """Markdown: techniques without a config beyond tiny, and why."""
    rows = []
    for item in techniques():
        reasons = {tier: reason for tier in BEYOND if (reason := absent(item, tier))}
        for reason in dict.fromkeys(reasons.values()):
            tiers = ", ".join(tier for tier, why in reasons.items() if why == reason)
            rows.append((f"`{item.slug}`", tiers, reason))
    return table(("technique", "no config at", "because"), rows)


@functools.cache
def plans_table() -> str:
    """Markdown: what is planned over what was measured, for some configs at tiny."""
    rows = []
    for row in compared(COMPARED):
        shares = [planned / measured for planned, measured in (row["tokens"], row["peak_mb"], row["core_s"])]
        rows.append((f"`{row['slug']}`", *(f"{share:.2f}" for share in shares)))
    return table(("technique", "tokens", "peak memory", "core-seconds"), rows, "lrrr")


def real_model_table() -> str:
    """Markdown: what every method's steps on a real model took, as ``benchmarks/real_model.py`` measured them."""
    kept = read_json(project_root() / "benchmarks" / "results" / "real-model.json")
    rows = []
    for arm, steps in kept["arms"].items():
        seconds, cores, tokens, peak = (
            [step[key] for step in steps] for key in ("wall_s", "core_s", "tokens", "peak_mb")
        )
        spread = f"{median(seconds):.0f} ({min(seconds):.0f}–{max(seconds):.0f})"
        rows.append(
            (f"`{arm}`", str(len(steps)), spread, f"{mean(cores):.0f}", count_text(mean(tokens)), f"{max(peak):.0f}")
        )
    header = ("method", "steps", "seconds a step, median (range)", "core-seconds a step", "tokens a step", "MB")
    machine = f"{kept['hardware']['capability']}, {kept['threads']} of {kept['hardware']['cores']} cores"
    return table(header, rows, "lrrrrr") + f"\n*From `benchmarks/results/real-model.json`: {machine}.*\n"


def precision_table() -> str:
    """Markdown: claims that were settled once more with 16-bit updates, below what they came to in float32; the effect
    is that of the first condition on two arms that were trained."""
    rows = []
    for item in (item for item in techniques() if has_results(item, "tiny", BITS_16)):
        for precision, one in (("float32", settled(item.slug)), ("bfloat16", settled(item.slug, variant=BITS_16))):
            entry = one.entry
            first = next(
                c for c in entry["conditions"] if c["comparator"] and "base" not in (c["treatment"], c["comparator"])
            )
            effect = f"{first['metric']}, {arms_text(first)}: {effect_cell(first)}"
            rows.append((page_link(one), precision, effect, f"{mark(entry['verdict'])}, {how_many_hold(entry)}"))
    header = ("claim", "updates in", "effect [95 %]", "verdict, conditions that hold")
    return table(header, rows) + "\n*From `reproductions/*/results/tiny/` and `tiny-bfloat16/`.*\n"
