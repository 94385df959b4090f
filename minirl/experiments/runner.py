"""Running notebooks: one process per seed through papermill, as many at a time as there are cores for."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minirl.config import parse_overrides
from minirl.errors import RunError
from minirl.experiments.registry import project_root, run_directory, technique
from minirl.experiments.run import REFERENCE_ARM, check_identity, identity, load_experiment, load_method, open_run

POLL_S = 0.5
KERNEL_START_S = 120
MAX_SEEDS = 10_000


@dataclass
class Job:
    """One seed: where it runs, and its process while it does."""

    seed: int
    directory: Path
    process: subprocess.Popen | None = None
    failed: str = ""

    @property
    def notebook(self) -> Path:
        return self.directory / "notebook.ipynb"

    @property
    def results(self) -> Path:
        return self.directory / "results.json"

    def done(self) -> bool:
        """Whether this seed has its results and its executed notebook."""
        return self.results.exists() and (self.directory / "notebook.html").exists()


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
) -> list[Job]:
    """Execute the technique's notebook once per seed and return the jobs, all of them done.

    ``jobs`` run side by side (default: cores divided by the config's threads). With ``resume`` seeds that are done are
    kept and unfinished ones continue; without, they start over. Raises :class:`RunError` if a seed fails, after the
    others have ended, or if what is kept was made with another config or other code.
    """
    experiment = load_experiment(slug, tier, overrides)  # a mistake shows here, not in the fifth notebook
    limit = parallel(jobs, experiment.threads)
    all_jobs = [Job(seed, out / f"seed-{seed}" if out else run_directory(slug, tier, "", seed)) for seed in seeds]
    if not resume:
        for job in all_jobs:
            shutil.rmtree(job.directory, ignore_errors=True)
    waiting = [job for job in all_jobs if not job.done()]
    for job in all_jobs:
        if job.done():
            check_identity(job.directory, identity(experiment, job.seed))
            print(f"{slug} {tier} seed {job.seed}: complete in {shown(job.directory)} (start over with --no-resume)")
    phases = [load_method(experiment, arm).phases(experiment.train) for arm in experiment.arms]
    updates = sum(phase.updates for of_an_arm in phases for phase in of_an_arm)
    running: list[Job] = []
    bar = tqdm(
        total=updates * len(waiting),
        desc=f"{slug} {tier}",
        unit="update",
        initial=sum(_updates_done(job) for job in waiting),  # what a resumed run has done does not count as speed
        disable=not waiting,
        mininterval=1.0 if sys.stderr.isatty() else 20.0,  # a log file is not redrawn in place
        dynamic_ncols=True,
    )
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                running.append(_start(waiting.pop(0), slug, tier, overrides or [], experiment.threads))
            time.sleep(POLL_S)
            for job in [job for job in running if job.process and job.process.poll() is not None]:
                running.remove(job)
                _conclude(job)
            counts = [_updates_done(job) for job in all_jobs if job.process is not None]
            bar.set_postfix_str(", ".join(f"seed {job.seed}" for job in running), refresh=False)
            bar.update(min(sum(counts), bar.total) - bar.n)
    except BaseException as interruption:
        for job in running:
            _stop(job)
        if isinstance(interruption, KeyboardInterrupt):
            raise RunError("interrupted; the same command continues where it stood") from interruption
        raise
    finally:
        bar.close()
    failures = [job for job in all_jobs if job.failed]
    if failures:
        raise RunError("\n".join(f"seed {job.seed} failed: {job.failed}" for job in failures))
    return all_jobs


def _start(job: Job, slug: str, tier: str, overrides: list[str], threads: int) -> Job:
    root = project_root()
    try:
        job.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {job.directory}: {error.strerror}; choose another --out") from error
    parameters = {"tier": tier, "seed": job.seed, "overrides": parse_overrides(overrides), "out": shown(job.directory)}
    command = [sys.executable, "-m", "papermill", shown(technique(slug).notebook), shown(job.notebook)]
    command += ["-y", json.dumps(parameters), "--no-progress-bar", "--log-level", "WARNING"]
    command += ["--start-timeout", str(KERNEL_START_S)]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
    environment |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    with open(job.directory / "log.txt", "wb") as log:
        job.process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return job


def _stop(job: Job) -> None:
    """End the process group of a job: papermill and the kernel it started."""
    if job.process and job.process.poll() is None:
        os.killpg(job.process.pid, signal.SIGTERM)
        try:
            job.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(job.process.pid, signal.SIGKILL)


def _conclude(job: Job) -> None:
    """After papermill has ended: render the HTML, or keep the reason of the failure."""
    log = (job.directory / "log.txt").read_text(errors="replace").strip()
    if job.process is None or job.process.returncode != 0 or not job.results.exists():
        job.failed = (
            f"{reason(log)}\n  executed so far: {shown(job.notebook)}; whole log: {shown(job.directory / 'log.txt')}"
        )
        return
    from nbconvert import HTMLExporter  # late: slow to import

    from minirl.experiments.rundir import write_atomically

    html, _ = HTMLExporter(embed_images=True).from_filename(str(job.notebook))
    write_atomically(job.notebook.with_suffix(".html"), html)


def reason(log: str) -> str:
    """The message of the last exception in ``log``, all its lines; the last line if there is none."""
    heads = list(re.finditer(r"^\w[\w.]*(?:Error|Exception|Interrupt|Exit): ", log, re.MULTILINE))
    return log[heads[-1].start() :].rstrip() if heads else (log.rstrip().splitlines() or ["no message"])[-1]


def _updates_done(job: Job) -> int:
    """Updates of all arms so far: lines of their metrics files, counted without parsing them."""
    return sum(path.read_bytes().count(b"\n") for path in job.directory.glob("arms/*/metrics.jsonl"))


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
            shutil.rmtree(directory, ignore_errors=True)
    waiting = [(s, d) for s, d in zip(seeds, directories, strict=True) if not (d / "results.json").exists()]
    for seed, directory in zip(seeds, directories, strict=True):
        if (seed, directory) not in waiting:
            check_identity(directory, identity(experiment, seed))
    # Spawned, not forked: a forked copy of torch's thread pool can hang.
    with ProcessPoolExecutor(limit, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(_sweep_one, slug, tier, variant, seed, overrides or [], directory): seed
            for seed, directory in waiting
        }
        for future in tqdm(as_completed(futures), total=len(futures), desc=f"{slug} {tier}-{variant}", unit="seed"):
            future.result()
    return directories


def _sweep_one(slug: str, tier: str, variant: str, seed: int, overrides: list[str], directory: Path) -> None:
    run = open_run(slug, tier=tier, seed=seed, overrides=overrides, out=directory, variant=variant)
    run.evaluate(REFERENCE_ARM)
    for arm in run.arms:
        run.train(arm)
        run.evaluate(arm)
    run.finish()
    run.close()


def over_budget(results: dict[str, Any], core_s: float, peak_mb: float) -> str | None:
    """A sentence if a seed cost more than 1.5 times its declared budget, else None."""
    for name, spent, budget in (("core_s", results["core_s"], core_s), ("peak_mb", results["peak_mb"], peak_mb)):
        if spent > 1.5 * budget:
            return f"seed {results['seed']} used {name} {spent:.0f}, more than 1.5 times its budget of {budget:.0f}"
    return None
