"""How an arm is trained: by the engine of its experiment, in as many processes as that has ranks.

Both engines leave the same behind: ``metrics.jsonl``, ``timing.jsonl``, and a policy. Both continue from their newest
checkpoint. Of several ranks, the first is the process that asked; it starts the others on this machine and is the only
one that writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minirl import ranks
from minirl.config import Experiment, validate
from minirl.engines.state import checkpoint_tensors, moves, restore
from minirl.errors import RunError
from minirl.experiments.checksums import file_checksums
from minirl.experiments.resolve import load_method, load_sampler
from minirl.experiments.rundir import (
    MetricsLog,
    append_all,
    load_newest_checkpoint,
    open_log,
    read_json,
    read_metrics,
    save_checkpoint,
    write_json,
)
from minirl.loops import Learner, Record, derive_seed, run_phases
from minirl.policy.models import Policy, load_policy, with_adapter
from minirl.rollouts.fit import check_fit
from minirl.tasks import get
from minirl.techniques.base import Phase

if TYPE_CHECKING:
    from minirl.engines.trl import PhaseTrainer

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
        """What training starts from: the base, with a fresh adapter, which adds nothing, if the experiment trains one.

        Raises :class:`ConfigError` if it cannot read the task.
        """
        experiment = self.experiment
        policy = load_policy(experiment.base, self.device(), experiment.dtype or "float32")
        check_fit(policy, get(experiment.task.name), experiment.task.level)
        return with_adapter(policy, experiment.lora, derive_seed(self.seed, "adapter")) if experiment.lora else policy

    def learner(self) -> Learner:
        train, rule = self.experiment.train, load_sampler(self.experiment, self.arm)
        return Learner(self.policy(), self.experiment.task, train, self.seed, rule)

    def phases(self) -> list[Phase]:
        return load_method(self.experiment, self.arm).phases(self.experiment.train)


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
    with other_ranks(job) as store, joined(job, 0, store):
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
def other_ranks(job: Job, **more: Any) -> Iterator[Path]:
    """The other ranks of ``job``, as processes that end with this context; nothing if there are none. They get ``more``
    on their way, and all meet by the file that is returned.

    Raises :class:`RunError` with what a rank said that has failed.
    """
    count = job.experiment.ranks or 1
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
            given = {"experiment": job.experiment.model_dump(mode="json"), "arm": job.arm, "seed": job.seed, **more}
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
            yield store
        except RuntimeError as error:  # of a collective: the other end has closed the connection
            if workers:
                time.sleep(1)  # it may not have ended yet
            if reason := failed():
                raise RunError(reason) from error
            raise
        for _, worker, _ in workers:
            worker.wait()


def joined(job: Job, rank: int, store: Path) -> contextlib.AbstractContextManager[None]:
    """This process as a ``rank`` of ``job``, which meets the others by ``store``; nothing if it is the only one."""
    count = job.experiment.ranks or 1
    return contextlib.nullcontext() if count == 1 else ranks.joined(rank, count, store, job.experiment.device)


def work() -> None:
    """Be a rank other than the first: what it is to do comes from standard input."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    given = json.load(sys.stdin)
    job = Job(validate(Experiment, given["experiment"], "ranks"), given["arm"], given["seed"])
    torch.set_num_threads(job.experiment.threads)
    rank, store = given["rank"], Path(given["store"])
    store.with_name(f"ready-{rank}").touch()
    if job.experiment.engine == "trl":
        from minirl.engines.trl import launched

        with launched(rank, job.experiment.ranks or 1, given["port"]):
            trainer_on_trl(job, Path(given["checkpoints"])).train(resume_from_checkpoint=given["checkpoint"])
        return
    with joined(job, rank, store):
        learner = job.learner()
        share_state(learner)
        for _ in run_phases(learner, job.phases()):
            pass


def end_with(parent: int) -> None:
    """End this process when ``parent`` has: killed, it could not end the ranks that it has started."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def train_on_trl(job: Job, directory: Path, watch: Callable[[Record], None], warn: Callable[[str], None]) -> Policy:
    """On TRL's GRPOTrainer."""
    from minirl.engines.trl import launched  # imported late: an extra

    checkpoints, metrics, passes = directory / "checkpoints", directory / "metrics.jsonl", job.experiment.train.passes
    checkpoint, warnings = newest_checkpoint(checkpoints)
    done = checkpoint[0] // passes if checkpoint else 0
    kept = read_metrics(metrics)[:done]
    if len(kept) < done:
        warnings.append(f"{metrics.name} is shorter than the checkpoint says; this arm begins again")
        checkpoint, kept = None, []
    for warning in warnings:
        warn(warning)
    path, count = str(checkpoint[1]) if checkpoint else None, job.experiment.ranks or 1
    lines = metrics.read_bytes().splitlines(keepends=True)[: len(kept)] if kept else []
    log, port = Log(directory, sum(map(len, lines))), free_port()
    for record in kept:
        watch(record)

    def write(record: Record) -> None:
        log.append(record)
        watch(record)

    on_the_way = {"checkpoints": str(checkpoints), "checkpoint": path, "port": port}
    with (
        contextlib.closing(log),
        other_ranks(job, **on_the_way),
        launched(0, count, port) if count > 1 else contextlib.nullcontext(),
    ):
        trainer = trainer_on_trl(job, checkpoints)
        trainer.on_record, trainer.on_checkpoint = write, lambda path: write_json(path / SEAL, checksums(path))
        trainer.train(resume_from_checkpoint=path)
    return trainer.policy


def trainer_on_trl(job: Job, checkpoints: Path) -> PhaseTrainer:
    """The trainer of ``job`` in this process."""
    from transformers import PrinterCallback

    from minirl.engines.trl import PhaseTrainer

    train = job.experiment.train
    trainer = PhaseTrainer(
        job.policy(),
        load_method(job.experiment, job.arm),
        job.experiment.task,
        train,
        job.seed,
        checkpoints,
        sampler=load_sampler(job.experiment, job.arm),
        save_steps=train.checkpoint_every * train.passes,
        save_total_limit=2,
        disable_tqdm=True,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below ``directory`` but the seal."""
    return {name: digest for name, digest in file_checksums(directory).items() if name != SEAL}


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
