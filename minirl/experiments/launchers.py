"""Where the command of a seed runs: in a process here, or as a job of a cluster through submitit.

A launcher is a function: it takes a :class:`Command`, starts it, and returns what :func:`subprocess.Popen` would, as
far as :mod:`minirl.experiments.runner` looks at it (:class:`Process`). What runs is the same command either way.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minirl.config import parse_overrides
from minirl.errors import ConfigError
from minirl.experiments.rundir import locked, write_atomically, write_json

FOLDER = "submitit"  # in the directory of a run: what submitit keeps of its job, and the job's logs
DAY = 24 * 60  # minutes


@dataclass(frozen=True)
class Command:
    """What computes one seed, in ``directory``, where its output goes to ``log.txt``; and what it needs."""

    name: str
    words: tuple[str, ...]
    root: Path
    directory: Path
    environment: Mapping[str, str]
    threads: int = 1
    gpus: int = 0

    def start(self) -> "Here":
        """Begin it in a process group of its own. Raises :class:`RunError` if the directory is in use."""
        with locked(self.directory):
            pass  # before the log of whoever is running there is written over
        with open(self.directory / "log.txt", "wb") as log:
            return Here(
                self.words,
                cwd=self.root,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class Process(Protocol):
    """A command that was started. ``note`` is what to add when it is told that it failed."""

    note: str

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def stop(self) -> None: ...


Launcher = Callable[[Command], Process]


class Here(subprocess.Popen):
    """A process group of this machine."""

    note = ""

    def stop(self) -> None:
        """End it: papermill and the kernel it started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGTERM)
            try:
                self.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class OnTheNode:
    """What submitit calls where the job runs: the command, whose exit status it writes down.

    A job that is preempted or runs out of time is put back in the queue, and continues from the run's checkpoints.
    """

    command: Command

    def __call__(self) -> None:
        process = self.command.start()
        try:
            status = process.wait()
        finally:
            process.stop()
        write_atomically(status_file(self.command.directory), f"{status}\n")

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def status_file(directory: Path) -> Path:
    """Where the exit status of a run's job is, once it has ended by itself. Text: submitit's own is a pickle."""
    return directory / FOLDER / "status"


class ClusterJob:
    """A job of submitit's, of this process or of one that has ended."""

    def __init__(self, directory: Path, cluster: str, number: str, job: Any) -> None:
        self.directory, self.cluster, self.number, self.job = directory, cluster, number, job
        self.returncode: int | None = None
        self.note = ""

    def poll(self) -> int | None:
        """Its exit status, None while it waits or runs. −9 if it was ended from outside."""
        if self.returncode is None and not self.alive():
            self.returncode = -signal.SIGKILL
            with contextlib.suppress(OSError, ValueError):
                self.returncode = int(status_file(self.directory).read_text())
            self.note = f"; job {self.number} of the {self.cluster} cluster, its logs: {self.directory / FOLDER}"
        return self.returncode

    def alive(self) -> bool:
        """Whether it waits or runs."""
        if status_file(self.directory).exists():
            return False
        if self.cluster == "local" and self.job._process is None:  # submitit knows of its own children only
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.number), 0)
                return True
            return False
        return not self.job.done()

    def stop(self) -> None:
        """Nothing: a job outlives who has submitted it, and the same command finds it again."""


def launcher(name: str, settings: Sequence[str], jobs: int | None = None) -> Launcher:
    """The launcher called ``local`` or ``submitit``; ``settings`` are ``key=value``.

    Raises :class:`ConfigError` if they do not fit together, and as :func:`submitit_launcher`.
    """
    if name == "local":
        if settings:
            raise ConfigError("--slurm is for jobs of a cluster: add --launcher submitit")
        return Command.start
    if jobs is not None:
        raise ConfigError("--jobs is for this machine; how many jobs of a cluster run side by side is its business")
    return submitit_launcher(parse_overrides(settings))


def submitit_launcher(settings: Mapping[str, Any]) -> Launcher:
    """A launcher that sends commands to SLURM. ``settings`` are submitit's (``timeout_min``, ``mem_gb`` …) or those of
    sbatch (``partition``, ``account`` …); ``cluster: local`` is submitit without SLURM, to try it.

    Raises :class:`ConfigError` if submitit or SLURM is missing, or does not know a setting.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"submitit is not installed ({error}): pip install 'minirl[slurm]'") from error
    settings = dict(settings)
    cluster = str(settings.pop("cluster", "slurm"))
    shared = submitit.AutoExecutor._typed_parameters()
    settings = {key if key in shared else f"slurm_{key}": value for key, value in settings.items()}

    def executor(folder: Path, **defaults: Any) -> Any:
        try:
            made = submitit.AutoExecutor(folder, cluster=cluster)
            made.update_parameters(**{**defaults, **settings})
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            if "Could not detect" in str(error):
                raise ConfigError("no SLURM here: srun is not found; --slurm cluster=local tries it without") from error
            raise ConfigError(f"--slurm: {error}") from error
        return made

    submitted: dict[Path, ClusterJob] = {}

    def launch(command: Command) -> ClusterJob:
        folder = command.directory / FOLDER
        if known := submitted.get(command.directory) or _earlier(command.directory):
            return known
        with locked(command.directory):
            status_file(command.directory).unlink(missing_ok=True)
            (command.directory / "log.txt").write_bytes(b"")
        made = executor(
            folder,
            name=command.name,
            timeout_min=DAY,
            cpus_per_task=command.threads,
            gpus_per_node=command.gpus,
        )
        job = made.submit(OnTheNode(command))
        write_json(folder / "job.json", {"cluster": cluster, "id": job.job_id})
        submitted[command.directory] = ClusterJob(command.directory, cluster, job.job_id, job)
        return submitted[command.directory]

    executor(Path(tempfile.gettempdir()))  # a mistake shows here, not with the first job
    return launch


def _earlier(directory: Path) -> ClusterJob | None:
    """The job that was submitted for ``directory`` before, if it is alive or has done its work."""
    from submitit.local.local import LocalJob
    from submitit.slurm.slurm import SlurmJob

    try:
        known = json.loads((directory / FOLDER / "job.json").read_text())
        cluster, number = known["cluster"], str(int(known["id"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    job: Any = (LocalJob if cluster == "local" else SlurmJob)(directory / FOLDER, number)
    found = ClusterJob(directory, cluster, number, job)
    status = found.poll()
    return found if status is None or (status == 0 and (directory / "results.json").exists()) else None
