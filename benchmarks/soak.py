"""Kill runs at random moments, resume them, and compare every byte with undisturbed ones.

    python benchmarks/soak.py --kills 200 --notebooks 10 --seed 0 --out benchmarks/results/soak.json

Library runs are forked from this process, which has imported everything; some kills strike at a call that minirl makes,
counted by a profiler, the others after a time. Notebooks are run by the command ``minirl reproduce``; what is
killed is the kernel, papermill, the command, or all of them. Each run is killed a few times and then left to finish.

Compared at the end: metrics, policies, evaluations and results, without seconds and memory. After every kill: whether
what was complete before is there still, byte for byte. The exit status is 1 if anything differs or is lost.
"""

import argparse
import contextlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import minirl
from minirl.cli import main as command
from minirl.experiments import run as run_module
from minirl.experiments.run import Run, git_commit, identity, load_experiment, now, open_run
from minirl.experiments.rundir import read_json, save_checkpoint, write_atomically

SMALL = {"updates": 6, "prompts": 2, "samples": 4, "checkpoint_every": 2}
SPECS: dict[str, dict[str, Any]] = {  # what may be in a checkpoint: technique, its arms, settings
    "two phases, and imitation": {"slug": "score", "arms": ["score", "pair_sft"], "train": SMALL},
    "a sampler, and a teacher that moves": {
        "slug": "sdpo",
        "arms": ["moving_teacher"],
        "train": SMALL,
        "sampler": "thompson",
    },
    "pairs": {"slug": "cream", "arms": ["cream"], "train": {**SMALL, "updates": 5}},
    "opponents of before": {"slug": "opponents", "arms": ["pool"], "train": SMALL},
}
NOTEBOOKS = {"score": ["train.updates=4", "train.prompts=2", "evaluation.items=16"]}  # and what makes them short
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STAGES = {  # the innermost of these functions that is at work
    "opening": Run.__init__,
    "training": Run.train,
    "checkpointing": save_checkpoint,
    "saving the policy": Run._save_policy,
    "evaluating": Run.evaluate,
    "aggregating": Run.finish,
}
CODES = {id(function.__code__): stage for stage, function in STAGES.items()}
PACKAGE = str(Path(minirl.__file__).parent)
COSTS = re.compile(rb'"(core_s|wall_s|peak_mb)": ?[0-9.e+-]+')
AT_A_CALL = 0.4  # share of kills that strike at a counted call
EARLY = 0.6  # a strike after the end of what is left strikes nothing
AFTER_THE_END = 0.2  # share of finished runs that are opened, and killed, once more


# --- A run, and what is left of it ----------------------------------------------------------------------------------


def overrides(spec: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run of ``spec``, small enough to be run hundreds of times."""
    others = {arm: None for arm in load_experiment(spec["slug"], "smoke").arms if arm not in spec["arms"]}
    settings = {"arms": others, "train": spec["train"], "evaluation": {"items": spec.get("items", 8)}}
    return settings | ({"sampler": spec["sampler"]} if "sampler" in spec else {})


def work(spec: dict[str, Any], out: Path) -> None:
    """A whole run, from wherever it stands."""
    run = open_run(spec["slug"], tier="smoke", seed=0, out=out, overrides=overrides(spec))
    with contextlib.closing(run):
        run.evaluate("base")
        for arm in run.arms:
            run.train(arm)
            run.evaluate(arm)
        run.finish()


def outcome(out: Path) -> dict[str, bytes]:
    """Everything that may not depend on whether, when and how often a run was killed."""
    names = ("arms/*/metrics.jsonl", "arms/*/policy/*", "arms/*/evaluation.json", "results.json")
    files = [path for name in names for path in sorted(out.glob(name)) if path.is_file()]
    return {str(path.relative_to(out)): COSTS.sub(rb'"\1":0', path.read_bytes()) for path in files}


def complete(out: Path) -> dict[str, bytes]:
    """What no kill may take away: of arms that are trained, everything; evaluations; results."""
    trained = {path.parent.name for path in out.glob("arms/*/policy")}
    found = outcome(out)
    return {
        name: data
        for name, data in found.items()
        if name.endswith((".json", ".safetensors")) or name.split("/")[1] in trained
    }


def lost(before: dict[str, bytes], out: Path) -> list[str]:
    """The files of :func:`complete` that are not as they were."""
    after = outcome(out)
    return [name for name, data in before.items() if after.get(name) != data]


def lines(out: Path, name: str) -> int:
    """How many lines the files ``name`` of all arms have."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob(f"arms/*/{name}"))


# --- Striking -------------------------------------------------------------------------------------------------------


@dataclass
class Calls:
    """A profiler that counts the calls minirl makes (into itself and into C) by stage, and strikes before one."""

    stage: str = ""
    number: int = 0
    strike: Callable[[], None] = lambda: None
    counts: Counter[str] = field(default_factory=Counter)
    inside: list[str] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG002 – as profilers are called
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        stage = CODES.get(id(code))  # by identity: a code object's own hash is slow
        if stage and event == "call":
            self.inside.append(stage)
        elif stage and event == "return":
            self.inside.pop()
        elif self.inside and event in ("call", "c_call"):
            now_in = self.inside[-1]
            self.counts[now_in] += 1
            if now_in == self.stage and self.counts[now_in] == self.number:
                self.strike()


class Mark:
    """The stage another process is in, in memory that both share."""

    def __init__(self) -> None:
        self.memory, self.names = mmap.mmap(-1, 1), ["starting", *STAGES, "ending"]

    def set(self, stage: str) -> None:
        self.memory[0] = self.names.index(stage)

    def get(self) -> str:
        return self.names[self.memory[0]]

    def follow(self) -> None:
        """Mark what this process does from now on."""
        for stage, function in STAGES.items():
            owner = Run if function.__qualname__.startswith("Run.") else run_module

            def marked(*arguments: Any, stage: str = stage, function: Any = function, **keywords: Any) -> Any:
                before = self.get()
                self.set(stage)
                try:
                    return function(*arguments, **keywords)
                finally:
                    self.set(before)

            setattr(owner, function.__name__, marked)


def forked(act: Callable[[], Any], log: Path) -> int:
    """A process that does ``act`` and writes what it says to ``log``; its id. An interrupt ends it with status 130."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = act() or 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(process: int, within: float | None = None) -> int | None:
    """The exit status (negative: the signal) of ``process``; None if it still runs after ``within`` seconds."""
    deadline = None if within is None else time.monotonic() + within
    while True:
        found, status = os.waitpid(process, 0 if deadline is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(0.002)


# --- Library runs ---------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What happened, for the log."""

    runs: int = 0
    kills: list[dict[str, Any]] = field(default_factory=list)
    bytes_compared: int = 0
    files_compared: int = 0
    updates: int = 0
    computed_again: int = 0
    differing: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def compare(self, name: str, ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
        self.runs += 1
        self.files_compared += len(theirs)
        self.bytes_compared += sum(map(len, theirs.values()))
        both = sorted({*ours, *theirs})
        self.differing += [f"{name}: {file}" for file in both if ours.get(file) != theirs.get(file)]

    def count_updates(self, out: Path) -> None:
        """How many updates there are, and how many were computed more than once because of kills."""
        there = lines(out, "metrics.jsonl")
        self.updates += there
        self.computed_again += lines(out, "timing.jsonl") - there

    def to_json(self) -> dict[str, Any]:
        counts = {key: dict(sorted(Counter(kill[key] for kill in self.kills).items())) for key in ("by", "in", "at")}
        return {
            "runs": self.runs,
            "kills": len(self.kills),
            "kills_by": counts["by"],
            "struck_in": counts["in"],
            "struck_at": counts["at"],
            "updates": self.updates,
            "updates_computed_again": self.computed_again,
            "files_compared": self.files_compared,
            "bytes_compared": self.bytes_compared,
            "differing": self.differing,
            "lost": self.lost,
            "failed": self.failed,
        }


def measured(spec: dict[str, Any], out: Path) -> tuple[Counter[str], float]:
    """Run ``spec`` undisturbed in processes of its own: calls by stage, and seconds. Raises RuntimeError if it fails.

    What every fork of this process would have to find out anew (hashes of the code) is found out first.
    """
    identity(load_experiment(spec["slug"], "smoke", overrides(spec)), 0)
    report, start = out.with_suffix(".counts"), time.monotonic()
    ended(forked(partial(work, spec, out.with_suffix(".timed")), out.with_suffix(".log")))
    seconds = time.monotonic() - start

    def act() -> None:
        calls = Calls()
        sys.setprofile(calls)
        work(spec, out)
        sys.setprofile(None)
        report.write_text(json.dumps(calls.counts))

    log = out.with_suffix(".log")
    if ended(forked(act, log)):
        raise RuntimeError(f"the undisturbed run failed:\n{log.read_text()}")
    return Counter(json.loads(report.read_text())), seconds


def attempt(
    spec: dict[str, Any], out: Path, chance: random.Random, calls: Counter[str], seconds: float, mark: Mark
) -> tuple[int, dict[str, Any]]:
    """Go on with the run in ``out`` and kill it at random: the exit status, and what was done to it."""
    how = chance.choice(SIGNALS)
    updates = spec["train"]["updates"] * len(spec["arms"])
    share = max(0.1, 1 - lines(out, "metrics.jsonl") / updates)  # that is to be done: later there is nothing to strike
    mark.set("starting")
    if chance.random() < AT_A_CALL:
        stage = chance.choice(sorted(calls))
        number = chance.randint(1, max(1, int(EARLY * share * calls[stage])))

        def act() -> None:
            sys.setprofile(Calls(stage, number, lambda: os.kill(os.getpid(), how)))
            work(spec, out)

        status = ended(forked(act, out.with_suffix(".log")))
        return status or 0, {"by": how.name, "in": stage, "at": "a call", "number": number}

    def follow() -> None:
        mark.follow()
        work(spec, out)
        mark.set("ending")

    delay = chance.uniform(0, EARLY * seconds * max(share, 0.3))
    process = forked(follow, out.with_suffix(".log"))
    status = ended(process, delay)
    if status is None:
        os.kill(process, how)
        status = ended(process)
    return status or 0, {"by": how.name, "in": mark.get(), "at": "a time", "after_s": round(delay, 2)}


def library(kills: int, chance: random.Random, work_dir: Path, say: Callable[[str], None]) -> Tally:
    """Kill runs of the library until there were ``kills`` kills, and compare each with its undisturbed twin."""
    tally, mark, twins = Tally(), Mark(), {}
    for name, spec in SPECS.items():
        folder = work_dir / f"undisturbed {spec['slug']}"
        twins[name] = (*measured(spec, folder), outcome(folder))
    while len(tally.kills) < kills:
        name = list(SPECS)[tally.runs % len(SPECS)]
        spec, (calls, seconds, expected) = SPECS[name], twins[name]
        out = work_dir / f"run {tally.runs}"
        left, again, done = chance.randint(4, 12), chance.random() < AFTER_THE_END, False
        while left:
            before = complete(out)
            status, kill = attempt(spec, out, chance, calls, seconds, mark)
            if status in (130, *(-signal for signal in SIGNALS)):
                tally.kills.append({"run": tally.runs, "of": spec["slug"], **kill})
                tally.lost += [f"run {tally.runs}: {file}" for file in lost(before, out)]
                left, done = left - 1, False
                continue
            if status:
                tally.failed.append(f"run {tally.runs}: status {status}")
            done = True
            if not again:
                break
            again = False
        if not done and ended(forked(partial(work, spec, out), out.with_suffix(".log"))):
            tally.failed.append(f"run {tally.runs}: could not be finished")
        said = out.with_suffix(".log").read_text()
        if "damaged" in said:  # a kill damages nothing
            tally.failed.append(f"run {tally.runs}: it speaks of damage")
        if tally.failed:
            say(said)
        tally.count_updates(out)
        tally.compare(f"run {tally.runs}", outcome(out), expected)
        say(f"{tally.runs} runs, {len(tally.kills)} kills, {len(tally.differing)} files differ")
        shutil.rmtree(out)
    return tally


# --- Notebooks ------------------------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def tree(process: int) -> Iterator[int]:
    """``process`` and those that it started: the command, papermill, the kernel."""
    yield process
    for child in children(process):
        yield from tree(child)


VICTIMS = ("the kernel", "papermill", "the command", "all of them")


def notebooks(kills: int, chance: random.Random, work_dir: Path, say: Callable[[str], None]) -> Tally:
    """Kill ``minirl reproduce`` or what it started until there were ``kills`` kills; each run is killed some times."""
    tally, expected = Tally(), {}

    def reproduce(slug: str, out: Path) -> int:
        arguments = ["reproduce", slug, "--tier", "smoke", "--seeds", "0", "--out", str(out)]
        arguments += [word for setting in NOTEBOOKS[slug] for word in ("--set", setting)]
        return forked(lambda: command(arguments), out.with_suffix(".log"))

    for slug in NOTEBOOKS:
        out = work_dir / f"undisturbed notebook {slug}"
        if ended(reproduce(slug, out)):
            raise RuntimeError(out.with_suffix(".log").read_text())
        expected[slug] = outcome(out / "seed-0")
        say(f"undisturbed: {slug}")
    while len(tally.kills) < kills:
        slug = list(NOTEBOOKS)[tally.runs % len(NOTEBOOKS)]
        out = work_dir / f"notebook {tally.runs}"
        directory, left = out / "seed-0", min(chance.randint(3, 5), kills - len(tally.kills))
        updates = sum(data.count(b"\n") for name, data in expected[slug].items() if name.endswith("metrics.jsonl"))
        while left:
            before, victim = complete(directory), chance.choice(VICTIMS)
            how = chance.choice(SIGNALS) if victim == "the command" else signal.SIGKILL
            done = lines(directory, "metrics.jsonl")
            wanted, delay = chance.randint(min(done + 1, updates), updates + 1), chance.uniform(0, 1)
            process = reproduce(slug, out)
            status = None
            while (status := ended(process, 0.02)) is None:
                there = lines(directory, "metrics.jsonl")
                if there >= wanted or (directory / "results.json").exists():
                    break
            if status is None:
                status = ended(process, delay)
            if status is None:
                family = list(tree(process))
                struck = {"the kernel": family[2:], "papermill": family[1:2], "the command": family[:1]}
                for one in struck.get(victim, family):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, how)
                status = ended(process)
                for orphan in family[1:]:  # they end by themselves, or finish what they do
                    while Path(f"/proc/{orphan}").exists() and "Z" not in state(orphan):
                        time.sleep(0.1)
                tally.kills.append({"run": tally.runs, "of": slug, "by": how.name, "in": victim, "at": "a time"})
                tally.kills[-1] |= {"updates_done": there, "status": status}
                tally.lost += [f"notebook {tally.runs}: {file}" for file in lost(before, directory)]
                left -= 1
                say(f"notebooks: {len(tally.kills)} kills")
            elif status:
                tally.failed.append(f"notebook {tally.runs}: status {status}")
                break
            else:
                break
        if ended(reproduce(slug, out)):
            tally.failed.append(f"notebook {tally.runs}: could not be finished")
        if tally.failed:
            say(out.with_suffix(".log").read_text())
        tally.count_updates(directory)
        tally.compare(f"notebook {tally.runs}", outcome(directory), expected[slug])
        say(f"{tally.runs} notebooks, {len(tally.kills)} kills, {len(tally.differing)} files differ")
    return tally


def state(process: int) -> str:
    """The letter of a process's state, "Z" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return "Z"


# --- All together ---------------------------------------------------------------------------------------------------


def soak(
    act: Callable[..., Tally], kills: int, seed: int, work_dir: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """The log of :func:`library` or :func:`notebooks`: what was killed how often, where, and what came of it."""
    torch.set_num_threads(1)
    started, commit = now(), git_commit()
    tally = act(kills, random.Random(seed), work_dir, say)
    return {
        "seed": seed,
        "started": started,
        "finished": now(),
        "commit": commit,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        **tally.to_json(),
        "each": tally.kills,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill runs at random moments, resume them, compare every byte.")
    parser.add_argument("--kills", type=int, default=200, help="of library runs (default: 200, a few minutes)")
    parser.add_argument("--notebooks", type=int, default=10, help="kills of whole notebooks (default: 10, minutes)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--out", type=Path, default=None, help="log, JSON; a part of 0 kills stays as it is in there")
    options = parser.parse_args(arguments)
    log = read_json(options.out) if options.out and options.out.exists() else {"schema": 1}
    wrong = 0
    for name, act, kills in (("library", library, options.kills), ("notebooks", notebooks, options.notebooks)):
        if not kills:
            continue
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            part = soak(act, kills, options.seed, Path(folder), lambda text: print(text, flush=True))
        log[name] = part
        wrong += sum(len(part[key]) for key in ("differing", "lost", "failed"))
        print(json.dumps({name: {key: value for key, value in part.items() if key != "each"}}, indent=1), flush=True)
        if options.out:
            write_log(options.out, log)
    return int(wrong > 0)


def write_log(path: Path, log: dict[str, Any]) -> None:
    """The log with a line for every kill."""
    text = json.dumps(log, indent=1)
    rows = re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text)
    write_atomically(path, rows + "\n")


if __name__ == "__main__":
    sys.exit(main())
