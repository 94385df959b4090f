"""Running seeds, as many at a time as there are cores for: notebooks through papermill, or runs without a notebook."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minirl.config import Experiment, parse_overrides
from minirl.errors import RunError
from minirl.experiments.checksums import damage
from minirl.experiments.launchers import Command, Launcher, Process
from minirl.experiments.registry import label, project_root, run_directory, technique
from minirl.experiments.run import REFERENCE_ARM, check_identity, identity, load_experiment, load_method, open_run
from minirl.experiments.rundir import clear

POLL_S = 0.5
KERNEL_START_S = 120
LOCAL = ("smoke", "tiny")  # tiers that need nothing from a hub, and must not wait for one
MAX_SEEDS = 10_000


@dataclass
class Job:
    """One seed: where it runs, and its process while it does."""

    seed: int
    directory: Path
    process: Process | None = None
    failed: str = ""

    @property
    def notebook(self) -> Path:
        return self.directory / "notebook.ipynb"

    @property
    def results(self) -> Path:
        return self.directory / "results.json"

    def done(self) -> bool:
        """Whether this seed has its results, undamaged, and its executed notebook."""
        return finished(self.directory) and (self.directory / "notebook.html").exists()


def finished(directory: Path) -> bool:
    """Whether the run in ``directory`` has its results. Damaged ones do not count, and it says so."""
    if not (directory / "results.json").exists():
        return False
    if reason := damage(directory, "results.json", "manifest.json"):
        print(f"minirl: {shown(directory)}: {reason}; it is made again", file=sys.stderr, flush=True)
    return not reason


def parse_seeds(text: str) -> list[int]:
    """``0-4``, ``1,3`` or ``0-2,7`` as a list. Raises :class:`RunError`."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        if found is None:
            raise RunError(f"--seeds {text[:80]!r}: expected numbers and ranges such as 0-4 or 0,2,5")
        span = range(int(found[1]), int(found[2] or found[1]) + 1)
        if len(seeds) + len(span) > MAX_SEEDS:
            raise RunError(f"--seeds {text[:80]!r}: these are more than {MAX_SEEDS} seeds")
        seeds += span
    if not seeds or len(set(seeds)) < len(seeds):
        raise RunError(f"--seeds {text[:80]!r}: give at least one seed, each once")
    return seeds


def parallel(jobs: int | None, threads: int) -> int:
    """How many runs of ``threads`` threads go side by side: ``jobs``, or what the cores allow. Raises RunError."""
    if jobs is not None and jobs < 1:
        raise RunError(f"--jobs {jobs}: give at least 1")
    return jobs or max(1, (os.cpu_count() or 1) // threads)


def reproduce(
    slug: str,
    tier: str,
    seeds: list[int],
    *,
    jobs: int | None = None,
    resume: bool = True,
    overrides: list[str] | None = None,
    out: Path | None = None,
    launch: Launcher = Command.start,
) -> list[Job]:
    """Execute the technique's notebook once per seed and return the jobs, all of them done.

    ``jobs`` run side by side (default: cores divided by the config's threads; all that another ``launch`` takes). With
    ``resume`` seeds that are done are kept and unfinished ones continue; without, they start over. Raises
    :class:`RunError` if a seed fails, after the others have ended, or if what is kept was made with another config or
    other code.
    """
    experiment = load_experiment(slug, tier, overrides)  # a mistake shows here, not in the fifth notebook
    limit = parallel(jobs, experiment.threads) if launch is Command.start else len(seeds)
    all_jobs = _jobs(slug, tier, seeds, out, resume)
    waiting = [job for job in all_jobs if not job.done()]
    for job in all_jobs:
        if job not in waiting:
            check_identity(job.directory, identity(experiment, job.seed))
            print(f"{slug} {tier} seed {job.seed}: complete in {shown(job.directory)} (start over with --no-resume)")
    running: list[Job] = []
    bar = _bar(f"{slug} {tier}", _updates(experiment) * len(waiting), [job.directory for job in waiting])
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                job = waiting.pop(0)
                try:
                    running.append(_start(job, experiment, overrides or [], launch))
                except RunError as error:  # it may be in use; the other seeds are not
                    job.failed = str(error)
            time.sleep(POLL_S)
            for job in [job for job in running if job.process and job.process.poll() is not None]:
                running.remove(job)
                _conclude(job)
            counts = [_updates_done(job.directory) for job in all_jobs if job.process is not None]
            bar.set_postfix_str(", ".join(f"seed {job.seed}" for job in running), refresh=False)
            bar.update(min(sum(counts), bar.total) - bar.n)
    except BaseException as interruption:
        for job in running:
            if job.process:
                job.process.stop()
        if isinstance(interruption, KeyboardInterrupt):
            raise RunError("interrupted; the same command continues where it stood") from interruption
        raise
    finally:
        bar.close()
    failures = [job for job in all_jobs if job.failed]
    if failures:
        raise RunError("\n".join(f"seed {job.seed} failed: {job.failed}" for job in failures))
    return all_jobs


def submit(
    slug: str,
    tier: str,
    seeds: list[int],
    launch: Launcher,
    *,
    resume: bool = True,
    overrides: list[str] | None = None,
    out: Path | None = None,
) -> None:
    """Start all seeds that are not done, and wait for none: :func:`reproduce` with the same ``launch`` finds them."""
    experiment = load_experiment(slug, tier, overrides)
    for job in _jobs(slug, tier, seeds, out, resume):
        with contextlib.suppress(RunError):  # which will be told there, and stops no other seed
            if not job.done():
                _start(job, experiment, overrides or [], launch)


def _jobs(slug: str, tier: str, seeds: list[int], out: Path | None, resume: bool) -> list[Job]:
    """The jobs of the seeds; without ``resume`` nothing is left of earlier ones."""
    jobs = [Job(seed, out / f"seed-{seed}" if out else run_directory(slug, tier, "", seed)) for seed in seeds]
    for job in jobs if not resume else ():
        clear(job.directory)
    return jobs


def _start(job: Job, experiment: Experiment, overrides: list[str], launch: Launcher) -> Job:
    try:
        job.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {job.directory}: {error.strerror}; choose another --out") from error
    slug, tier, threads = experiment.slug, experiment.tier, experiment.threads
    parameters = {"tier": tier, "seed": job.seed, "overrides": parse_overrides(overrides), "out": shown(job.directory)}
    words = [sys.executable, "-m", "papermill", shown(technique(slug).notebook), shown(job.notebook)]
    words += ["-y", json.dumps(parameters), "--no-progress-bar", "--log-level", "WARNING"]
    words += ["--start-timeout", str(KERNEL_START_S)]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        **({"HF_HUB_OFFLINE": "1"} if tier in LOCAL else {}),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    gpus = (experiment.ranks or 1) if experiment.device.startswith("cuda") else 0
    name = f"minirl-{slug}-{tier}-{job.seed}"
    job.process = launch(
        Command(name, tuple(words), project_root(), job.directory.resolve(), environment, threads, gpus)
    )
    return job


def _conclude(job: Job) -> None:
    """After papermill has ended: render the HTML, or keep the reason of the failure."""
    log = (job.directory / "log.txt").read_text(errors="replace").strip()
    if job.process is None or job.process.returncode != 0 or not job.results.exists():
        status = job.process.returncode if job.process else None
        job.failed = (
            f"{killed(status, log) or reason(log)}\n"
            f"  executed so far: {shown(job.notebook)}; whole log: {shown(job.directory / 'log.txt')}"
            + (job.process.note if job.process else "")
        )
        return
    from nbconvert import HTMLExporter  # late: slow to import

    from minirl.experiments.rundir import write_atomically

    html, _ = HTMLExporter(embed_images=True).from_filename(str(job.notebook))
    write_atomically(job.notebook.with_suffix(".html"), html)


def killed(status: int | None, log: str) -> str:
    """What ended papermill (of exit ``status``) or the kernel from outside, in words; "" if nothing did."""
    if status is not None and status < 0:
        who = f"papermill was ended by {signal.Signals(-status).name}"
    elif "DeadKernelError" in log:
        who = "the notebook's kernel died"
    else:
        return ""
    return f"{who} (was memory short, or did someone end it?); the same command continues where it stood"


def reason(log: str) -> str:
    """The message of the last exception in ``log``, all its lines; the last line if there is none."""
    heads = list(re.finditer(r"^\w[\w.]*(?:Error|Exception|Interrupt|Exit): ", log, re.MULTILINE))
    return log[heads[-1].start() :].rstrip() if heads else (log.rstrip().splitlines() or ["no message"])[-1]


def _bar(title: str, updates: int, directories: Sequence[Path]) -> tqdm:
    """Progress with the time left, of runs that have ``updates`` to do in all, some of them done already."""
    return tqdm(
        total=updates,
        desc=title,
        unit="update",
        initial=sum(map(_updates_done, directories)),  # what a resumed run has done does not count as speed
        disable=not directories,
        mininterval=1.0 if sys.stderr.isatty() else 20.0,  # a log file is not redrawn in place
        dynamic_ncols=True,
    )


def _updates(experiment: Experiment) -> int:
    """Updates of all arms of one seed."""
    phases = [load_method(experiment, arm).phases(experiment.train) for arm in experiment.arms]
    return sum(phase.updates for of_an_arm in phases for phase in of_an_arm)


def _updates_done(directory: Path) -> int:
    """Updates of all arms so far: lines of their metrics files, counted without parsing them."""
    return sum(path.read_bytes().count(b"\n") for path in directory.glob("arms/*/metrics.jsonl"))


def shown(path: Path) -> str:
    """``path`` relative to the repository if it lies inside: what goes into notebooks and messages."""
    path = path.resolve()
    return str(path.relative_to(project_root())) if path.is_relative_to(project_root()) else str(path)


def sweep(
    slug: str,
    tier: str,
    variant: str,
    seeds: list[int],
    *,
    jobs: int | None = None,
    resume: bool = True,
    overrides: list[str] | None = None,
) -> list[Path]:
    """Train and evaluate all arms of ``<tier>-<variant>.yaml`` for every seed, without a notebook; the directories.

    With ``resume`` finished seeds are kept and unfinished ones continue; without, all start over.
    """
    experiment = load_experiment(slug, tier, overrides, variant)
    limit = parallel(jobs, experiment.threads)
    directories = [run_directory(slug, tier, variant, seed) for seed in seeds]
    if not resume:
        for directory in directories:
            clear(directory)
    runs = [
        PlainRun(slug, tier, variant, seed, directory, tuple(overrides or ()))
        for seed, directory in zip(seeds, directories, strict=True)
    ]
    for run in runs:
        if finished(run.directory):
            check_identity(run.directory, identity(experiment, run.seed))
    for _, error in complete(runs, limit, f"{slug} {label(tier, variant)}"):
        if error is not None:
            raise error
    return directories


@dataclass(frozen=True)
class PlainRun:
    """One seed without a notebook, and where it runs."""

    slug: str
    tier: str
    variant: str
    seed: int
    directory: Path
    overrides: tuple[str, ...] = ()

    @property
    def results(self) -> Path:
        return self.directory / "results.json"


def complete(runs: Sequence[PlainRun], limit: int, title: str) -> Iterator[tuple[PlainRun, BaseException | None]]:
    """Train and evaluate all arms of ``runs``, ``limit`` at a time; each with its error, if any, as soon as it is done.

    Runs that have results already come first. Unfinished ones continue where they stood.
    """
    waiting = [run for run in runs if not finished(run.directory)]
    yield from ((run, None) for run in runs if run not in waiting)
    updates = sum(_updates(load_experiment(run.slug, run.tier, list(run.overrides), run.variant)) for run in waiting)
    bar = _bar(title, updates, [run.directory for run in waiting])
    context = multiprocessing.get_context("spawn")  # not forked: a forked copy of torch's thread pool can hang
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(limit, mp_context=context, initializer=_end_with_parent, initargs=(theirs,))
    with bar, pool:
        try:
            futures = {pool.submit(_complete_one, run): run for run in waiting}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                bar.set_postfix_str(f"{len(waiting) - len(pending)} of {len(waiting)} seeds done", refresh=False)
                bar.update(min(sum(_updates_done(run.directory) for run in waiting), bar.total) - bar.n)
                yield from ((futures[future], _error(future.exception())) for future in done)
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                ours.close()  # which ends those that run; else they may reach their end
            pool.shutdown(wait=False, cancel_futures=True)  # those that have not begun
            raise


def _end_with_parent(alive: Connection) -> None:
    """End this process when the one that holds the other end of ``alive`` closes it or ends, however it does.

    A run may end at any moment, and nobody is left to use what an orphan would find.
    """

    def wait_for_the_end() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def _error(error: BaseException | None) -> BaseException | None:
    """What a run failed with, in words of ours if its process was killed."""
    if not isinstance(error, BrokenProcessPool):
        return error
    return RunError(
        "a process of these runs was ended from outside (was memory short?), and all stopped; the same command "
        "continues where they stood"
    )


def _complete_one(one: PlainRun) -> None:
    run = open_run(
        one.slug,
        tier=one.tier,
        seed=one.seed,
        overrides=list(one.overrides),
        out=one.directory,
        variant=one.variant,
    )
    with closing(run):
        run.evaluate(REFERENCE_ARM)
        for arm in run.arms:
            run.train(arm)
            run.evaluate(arm)
        run.finish()


def over_budget(results: dict[str, Any], core_s: float, peak_mb: float) -> str | None:
    """A sentence if a seed cost more than 1.5 times its declared budget, else None."""
    for name, spent, budget in (("core_s", results["core_s"], core_s), ("peak_mb", results["peak_mb"], peak_mb)):
        if spent > 1.5 * budget:
            return f"seed {results['seed']} used {name} {spent:.0f}, more than 1.5 times its budget of {budget:.0f}"
    return None
