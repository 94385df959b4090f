"""How an arm is trained: by the engine of its experiment, in as many processes as that has ranks.

Both engines leave the same behind: ``metrics.jsonl``, ``timing.jsonl``, and a policy. Both continue from their newest
checkpoint. Of several ranks, the first is the process that asked; it starts the others on this machine and is the only
one that writes.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from minirl.config import Experiment, validate
from minirl.engines import ranks
from minirl.errors import RunError
from minirl.experiments.checksums import file_checksum
from minirl.experiments.resolve import load_method, load_sampler
from minirl.experiments.rundir import (
    MetricsLog,
    append_all,
    checkpoint_tensors,
    load_newest_checkpoint,
    open_log,
    read_json,
    read_metrics,
    restore,
    save_checkpoint,
    write_json,
)
from minirl.loops import Learner, Record, derive_seed, run_phases
from minirl.policy.models import Policy, load_policy, with_adapter
from minirl.rollouts.fit import check_fit
from minirl.tasks import get
from minirl.techniques.base import OnlinePhase, Phase, PreferencePhase, SupervisedPhase

RSS_UNITS_PER_MB = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
SEAL = "minirl.json"  # in a checkpoint of TRL, written last: what its files are
MEET_S = 120  # for the other ranks to start: they import torch


@dataclass(frozen=True)
class Job:
    """One arm to train: everything that another process needs to know of it."""

    experiment: Experiment
    arm: str
    seed: int

    def device(self) -> str:
        """Where this process computes: of several GPUs, every rank has its own."""
        device, place = self.experiment.device, ranks.here()
        return f"cuda:{place.rank}" if device == "cuda" and place.count > 1 else device

    def policy(self) -> Policy:
        """What training starts from: the base, with a fresh adapter if the experiment trains one."""
        return start(self.experiment, self.seed, self.device())

    def learner(self) -> Learner:
        train, rule = self.experiment.train, load_sampler(self.experiment, self.arm)
        return Learner(self.policy(), self.experiment.task, train, self.seed, rule)

    def phases(self) -> list[Phase]:
        return load_method(self.experiment, self.arm).phases(self.experiment.train)


def start(experiment: Experiment, seed: int, device: str) -> Policy:
    """The policy before training, which is the base: a fresh adapter adds nothing.

    Raises :class:`ConfigError` if it cannot read the task.
    """
    policy = load_policy(experiment.base, device, experiment.dtype or "float32")
    check_fit(policy, get(experiment.task.name), experiment.task.level)
    return with_adapter(policy, experiment.lora, derive_seed(seed, "adapter")) if experiment.lora else policy


class Log:
    """The records of an arm in ``directory``, and what each update cost."""

    def __init__(self, directory: Path, keep_bytes: int) -> None:
        self.metrics = MetricsLog(directory / "metrics.jsonl", keep_bytes)
        self.path = directory / "timing.jsonl"
        self.timing = open_log(self.path)
        self.clock = (time.perf_counter(), time.process_time())

    def append(self, record: Record) -> None:
        """Add a record. The core-seconds of other ranks are taken to be those of this one."""
        self.metrics.append(record)
        (wall, core), self.clock = self.clock, (time.perf_counter(), time.process_time())
        spent = {
            "update": record["update"],
            "wall_s": self.clock[0] - wall,
            "core_s": (self.clock[1] - core) * ranks.here().count,
            "peak_mb": peak_mb(),
        }
        append_all(self.timing, json.dumps(spent).encode() + b"\n", self.path)

    def close(self) -> None:
        self.metrics.close()
        self.timing.close()


def train(job: Job, directory: Path, watch: Callable[[Record], None], warn: Callable[[str], None]) -> Policy:
    """Train ``job`` (or what is left of it) in ``directory``; ``watch`` sees every record, also those of before.

    Raises :class:`RunError`, and what the engine raises.
    """
    engine = train_on_trl if job.experiment.engine == "trl" else train_locally
    return engine(job, directory, watch, warn)


def train_locally(job: Job, directory: Path, watch: Callable[[Record], None], warn: Callable[[str], None]) -> Policy:
    """On the loops of :mod:`minirl.loops`."""
    phases, checkpoints, metrics = job.phases(), directory / "checkpoints", directory / "metrics.jsonl"
    with other_ranks(job):
        learner = job.learner()
        try:
            keep_bytes, warnings = load_newest_checkpoint(checkpoints, learner, metrics)
        except RunError as error:
            learner = job.learner()  # a part of a checkpoint may have reached the other
            keep_bytes, warnings = 0, [f"{error}; this arm begins again"]
        for warning in warnings:
            warn(warning)
        share_state(learner)
        log = Log(directory, keep_bytes)
        for record in read_metrics(metrics):
            watch(record)
        with contextlib.closing(log):
            for record in run_phases(learner, phases):
                log.append(record)
                if learner.updates_done % job.experiment.train.checkpoint_every == 0:
                    written = log.metrics
                    save_checkpoint(checkpoints, learner, written.bytes_written, moves(phases), written.sha256)
                watch(record)
    return learner.policy


def moves(phases: list[Phase]) -> bool:
    """Whether the reference is ever anything but the policy at the start: then a checkpoint has to hold it."""
    return any(
        isinstance(phase, PreferencePhase)
        or (isinstance(phase, OnlinePhase) and phase.reference_decay < 1)
        or (isinstance(phase, SupervisedPhase) and phase.from_policy)
        for phase in phases
    )


def share_state(learner: Learner) -> None:
    """Give the learners of all ranks the state of the first one's, which may come from a checkpoint."""
    state = None
    if ranks.here().rank == 0 and learner.updates_done:
        tensors = {name: tensor.cpu() for name, tensor in checkpoint_tensors(learner, moving_reference=True).items()}
        state = (tensors, learner.updates_done, learner.generated_tokens)
    state = ranks.from_first(state)
    if ranks.here().rank > 0 and state:
        tensors, learner.updates_done, learner.generated_tokens = state
        restore(learner, tensors)


@contextlib.contextmanager
def other_ranks(job: Job) -> Iterator[None]:
    """The other ranks of ``job``, as processes that end with this context; nothing if there are none.

    Raises :class:`RunError` with what a rank said that has failed.
    """
    count = job.experiment.ranks or 1
    if count == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="minirl-ranks-") as scratch, contextlib.ExitStack() as stack:
        store, workers = Path(scratch) / "store", []
        for rank in range(1, count):
            said = stack.enter_context(open(Path(scratch) / f"rank-{rank}", "w+", encoding="utf-8"))
            worker = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE, stdout=said, stderr=said, text=True,
                start_new_session=True,  # an interrupt is for this process, which ends them
            )  # fmt: skip
            stack.callback(worker.wait)
            stack.callback(worker.kill)  # in this order: the last first
            workers.append((rank, worker, said))
            given = {"experiment": job.experiment.model_dump(mode="json"), "arm": job.arm, "seed": job.seed}
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError), worker.stdin as pipe:
                json.dump({**given, "rank": rank, "store": str(store)}, pipe)

        def failed() -> str:
            """What the first rank said that has ended badly, "" if none has."""
            for rank, worker, said in workers:
                if worker.poll():
                    said.seek(0)
                    return f"rank {rank} ended with status {worker.returncode}: {said.read()[-2000:].strip()}"
            return ""

        deadline = time.monotonic() + MEET_S
        while len(list(Path(scratch).glob("ready-*"))) < count - 1:
            if failed() or time.monotonic() > deadline:
                raise RunError(failed() or f"the other ranks have not started within {MEET_S} s")
            time.sleep(0.05)
        try:
            with ranks.joined(0, count, store, job.experiment.device):
                yield
        except RuntimeError as error:  # gloo: the other end has closed the connection
            time.sleep(1)  # it may not have ended yet
            if reason := failed():
                raise RunError(reason) from error
            raise
        for _, worker, _ in workers:
            worker.wait()


def work() -> None:
    """Be a rank other than the first: what it is to do comes from standard input."""
    given = json.load(sys.stdin)
    job = Job(validate(Experiment, given["experiment"], "ranks"), given["arm"], given["seed"])
    torch.set_num_threads(job.experiment.threads)
    store = Path(given["store"])
    store.with_name(f"ready-{given['rank']}").touch()
    with ranks.joined(given["rank"], job.experiment.ranks or 1, store, job.experiment.device):
        learner = job.learner()
        share_state(learner)
        for _ in run_phases(learner, job.phases()):
            pass


def train_on_trl(job: Job, directory: Path, watch: Callable[[Record], None], warn: Callable[[str], None]) -> Policy:
    """On TRL's GRPOTrainer."""
    from transformers import PrinterCallback

    from minirl.engines.trl import PhaseTrainer  # imported late: an extra

    experiment, checkpoints = job.experiment, directory / "checkpoints"
    settings = experiment.train
    trainer = PhaseTrainer(
        job.policy(),
        load_method(experiment, job.arm),
        experiment.task,
        settings,
        job.seed,
        checkpoints,
        save_steps=settings.checkpoint_every * settings.passes,
        save_total_limit=2,
        disable_tqdm=True,
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint, warnings = newest_checkpoint(checkpoints)
    for warning in warnings:
        warn(warning)
    done = checkpoint[0] // settings.passes if checkpoint else 0
    metrics = directory / "metrics.jsonl"
    kept = read_metrics(metrics)[:done]
    if len(kept) < done:
        warn(f"{metrics.name} is shorter than the checkpoint says; this arm begins again")
        checkpoint, kept = None, []
    lines = metrics.read_bytes().splitlines(keepends=True)[: len(kept)] if kept else []
    log = Log(directory, sum(map(len, lines)))
    for record in kept:
        watch(record)

    def write(record: Record) -> None:
        log.append(record)
        watch(record)

    trainer.on_record, trainer.on_checkpoint = write, lambda path: write_json(path / SEAL, checksums(path))
    trainer.generated_tokens = kept[-1]["generated_tokens"] if kept else 0
    with contextlib.closing(log):
        trainer.train(resume_from_checkpoint=str(checkpoint[1]) if checkpoint else None)
    return trainer.policy


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below ``directory`` but the seal."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != SEAL)
    return {str(path.relative_to(directory)): file_checksum(path) for path in files}


def newest_checkpoint(directory: Path) -> tuple[tuple[int, Path] | None, list[str]]:
    """The newest undamaged checkpoint of TRL in ``directory`` with its optimiser step, and what to say of others."""
    found = {int(path.name.partition("-")[2]): path for path in directory.glob("checkpoint-*")}
    warnings: list[str] = []
    for step, path in sorted(found.items(), reverse=True):
        try:
            if read_json(path / SEAL) == checksums(path):
                return (step, path), warnings
            reason = "checksum differs"
        except (RunError, OSError) as error:
            reason = str(error)
        warnings.append(f"{path.name} is damaged ({reason}); trying the one before")
    return None, warnings


def peak_mb() -> int:
    """The most memory this process has held, in MiB.

    On Linux from /proc, because there ``getrusage`` starts from what the parent held when it started the process.
    """
    status = Path("/proc/self/status")
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    if peak:
        return round(int(peak[1]) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / RSS_UNITS_PER_MB)


if __name__ == "__main__":
    work()
