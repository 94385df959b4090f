"""What the fault-injection suite runs in processes of its own, and what it does to them.

A process that has imported everything and trained nothing waits for orders and forks: a fresh process for every
attempt, without seconds of imports.
"""

import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import soak
from benchmarks.soak import Calls, ended, forked, overrides, work
from minirl.errors import MinirlError
from minirl.experiments.run import identity, load_experiment, open_run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["minirl.experiments.run"])
SPEC: dict[str, Any] = {
    "slug": "score",
    "arms": ["score", "pair_sft"],  # one that acts while it learns, one that does not
    "train": {"updates": 6, "prompts": 2, "samples": 2, "checkpoint_every": 2},
    "items": 8,
}
MOUNT_PRIVATE, NEW_NAMESPACE, NEW_USER, READ_ONLY, REMOUNT = 0x40000 | 0x4000, 0x20000, 0x10000000, 1, 32


def reopen(out: Path, seed: int = 0, **changes: Any) -> Any:
    return open_run(SPEC["slug"], tier="smoke", seed=seed, out=out, overrides=overrides(SPEC) | changes)


# --- What is done in a process --------------------------------------------------------------------------------------


def whole(out: Path) -> None:
    work(SPEC, out)


def counted(out: Path) -> None:
    """A whole run; beside it, the calls it makes in each stage."""
    calls = Calls()
    sys.setprofile(calls)
    work(SPEC, out)
    sys.setprofile(None)
    out.with_suffix(".counts").write_text(json.dumps(calls.counts))


def struck(out: Path, stage: str, number: int, how: int) -> None:
    """A run that gets the signal ``how`` before a call that it makes in ``stage``."""
    sys.setprofile(Calls(stage, number, lambda: os.kill(os.getpid(), how)))
    work(SPEC, out)


def killed_after(out: Path, arm: str, update: int) -> None:
    """Killed after an update of an arm; arms before it are complete."""

    def watch(_: str, record: dict[str, Any]) -> None:
        if record["update"] == update:
            os.kill(os.getpid(), signal.SIGKILL)

    run = reopen(out)
    for one in SPEC["arms"]:
        run.train(one, watch if one == arm else lambda *_: None)


def paused(out: Path) -> None:
    """A run that waits in the middle of training until the file ``go on`` is beside it."""

    def wait() -> None:
        out.with_suffix(".paused").touch()
        while not out.with_suffix(".go on").exists():
            time.sleep(0.01)

    sys.setprofile(Calls("training", 1000, wait))
    work(SPEC, out)


def little_soak(out: Path) -> None:
    """The soak, with one kind of run and a few kills."""
    soak.SPECS = {"small": SPEC}
    out.mkdir()
    log = soak.soak(soak.library, 2, 1, out, print)
    soak.write_log(out / "log.json", {"schema": 1, "library": log})


# --- Disks ----------------------------------------------------------------------------------------------------------


def mount_small_disk(place: Path) -> str:
    """Mount a disk of 20 MB on ``place``, for this process alone; why it cannot be done, "" if it was."""
    libc, user = ctypes.CDLL(None, use_errno=True), os.getuid()
    if libc.unshare(NEW_NAMESPACE | (NEW_USER if user else 0)):
        return f"no namespaces: {os.strerror(ctypes.get_errno())}"
    if user:
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/gid_map").write_text(f"0 {os.getgid()} 1")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        except OSError as error:
            return f"no user namespace: {error}"
    libc.mount(None, b"/", None, MOUNT_PRIVATE, None)
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=20m,mode=755"):
        return f"cannot mount: {os.strerror(ctypes.get_errno())}"
    return ""


def read_only(place: Path, flag: int) -> None:
    if ctypes.CDLL(None).mount(None, bytes(place), None, REMOUNT | flag, None):
        raise OSError("cannot remount")


def fill(place: Path) -> None:
    with open(place / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def on_a_bad_disk(place: Path, report: Path) -> None:
    """One run on a disk that is full when a stage begins, and has room when the run is called again; then that run on
    the disk read-only. ``report`` gets what each said; beside it the run is copied."""
    if reason := mount_small_disk(place):
        report.write_text(json.dumps({"skip": reason}))
        return
    said: dict[str, str] = {}
    out = place / "run"

    def attempt(name: str) -> None:
        try:
            work(SPEC, out)
            said[name] = "nothing"
        except MinirlError as error:
            said[name] = str(error)
        finally:
            sys.setprofile(None)

    for stage in BAD_DISK_STAGES:
        sys.setprofile(Calls(stage, 1, partial(fill, place)))
        attempt(stage)
        (place / "filler").unlink(missing_ok=True)
    read_only(place, READ_ONLY)
    attempt("read-only")
    read_only(place, 0)
    work(SPEC, out)
    shutil.copytree(out, report.parent / "run")
    report.write_text(json.dumps(said))


BAD_DISK_STAGES = ("opening", "evaluating", "training", "checkpointing", "saving the policy", "aggregating")


# --- Spoiling files -------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    os.truncate(path, random.Random(path.name).randrange(path.stat().st_size))


def flip_a_bit(path: Path) -> None:
    data, chance = bytearray(path.read_bytes()), random.Random(path.name)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = {"cut short": cut_short, "one bit": flip_a_bit, "gone": remove}


# --- The process that forks -----------------------------------------------------------------------------------------


class Hands:
    """Starts processes that do something with a directory."""

    def __init__(self) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs,))
        self.process.start()

    def start(self, act: Callable[..., Any], out: Path, *arguments: Any) -> int:
        """The id of a process that does ``act(out, …)``; what it says is added to the file ``out.log``."""
        self.connection.send((act, out, arguments))
        return self._answer()

    def wait(self, process: int) -> int:
        """Its exit status, or minus the signal that ended it."""
        self.connection.send(process)
        return self._answer()

    def do(self, act: Callable[..., Any], out: Path, *arguments: Any) -> int:
        return self.wait(self.start(act, out, *arguments))

    def _answer(self) -> int:
        assert self.connection.poll(120), "no answer"
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)


def _serve(connection: Any) -> None:
    identity(load_experiment(SPEC["slug"], "smoke", overrides(SPEC)), 0)  # hashes that every process would make
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        if isinstance(order, int):
            connection.send(ended(order))
        else:
            act, out, arguments = order
            connection.send(forked(partial(act, out, *arguments), out.with_suffix(".log")))


def updates_run(out: Path, arm: str) -> list[int]:
    """Numbers of the updates that were computed, in the order in which they were."""
    return [json.loads(line)["update"] for line in (out / "arms" / arm / "timing.jsonl").read_text().splitlines()]
