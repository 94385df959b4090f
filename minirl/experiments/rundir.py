"""Files of a run that survive being killed: atomic writes, metrics that can be cut back, checksummed checkpoints."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from minirl.errors import RunError
from minirl.loops import Learner

_held: dict[Path, list[Any]] = {}  # directory → its lock file and how many holders it has in this process
KEEP_CHECKPOINTS = 2  # the newest may be the one that a crash or a bad disk has damaged


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write ``path`` so that it holds either its old content or all of the new one, never a part.

    Raises :class:`RunError` if the disk is full or the directory cannot be written.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. What was complete before is untouched; make room or "
            f"choose another --out, then run the same command again to resume."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_json_compact(path: Path, value: Any) -> None:
    """JSON on few lines: per-item values as one line each would be thousands."""
    write_atomically(path, json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``. Raises :class:`RunError` if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged ({error}); run the command that writes it again") from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process, which may do so several times (a notebook's cell that is run again).

    Raises :class:`RunError` if another process is running in it, or if it cannot be written.
    """
    try:
        key = directory.resolve()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise RunError(f"{str(directory)[:200]!r} is no directory: {error}; choose another --out") from error
    if key not in _held:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = open(directory / ".lock", "w")  # noqa: SIM115 – closed with the last of its holders
        except OSError as error:
            raise RunError(f"cannot write {directory}: {error.strerror}; choose another --out") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise RunError(f"{directory} is in use by another process; wait for it, or choose another --out") from error
        _held[key] = [file, 0]
    _held[key][1] += 1
    try:
        yield  # the operating system releases the lock when the process ends, however it ends
    finally:
        _held[key][1] -= 1
        if not _held[key][1]:
            _held.pop(key)[0].close()


class MetricsLog:
    """``metrics.jsonl``: one record a line, in order. ``bytes_written`` is what a checkpoint remembers."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open for appending after cutting the file back to ``keep_bytes`` (what the checkpoint has seen)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if path.stat().st_size < keep_bytes:
            raise RunError(f"{path} is shorter than its checkpoint says; start over with --no-resume")
        self.file = open(path, "r+b")  # noqa: SIM115 – closed by close(); lives as long as the training loop
        self.file.truncate(keep_bytes)
        self.file.seek(keep_bytes)

    @property
    def bytes_written(self) -> int:
        return self.file.tell()

    def append(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line cut off by a crash is left out."""
    lines = path.read_text().split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]


def save_checkpoint(directory: Path, learner: Learner, metrics_bytes: int, moving_reference: bool = False) -> None:
    """Write all that ``learner`` needs to continue, as ``update-NNNNNN.safetensors`` plus a JSON file that seals it.

    A reference that does not move is not saved: the run starts from it. The JSON file is written last and holds the
    checksum of the other: a checkpoint without it does not count.
    """
    tensors: dict[str, torch.Tensor] = {}
    if moving_reference:
        for name, parameter in learner.reference.model.named_parameters():
            tensors[f"reference/{name}"] = parameter
    for name, parameter in learner.policy.model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach()
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    stem = f"update-{learner.updates_done:06d}"
    write_atomically(directory / f"{stem}.safetensors", data)
    write_json(
        directory / f"{stem}.json",
        {
            "updates_done": learner.updates_done,
            "generated_tokens": learner.generated_tokens,
            "metrics_bytes": metrics_bytes,
            "sha256": hashlib.sha256(data).hexdigest(),
        },
    )
    for old in sorted(directory.glob("update-*.json"))[:-KEEP_CHECKPOINTS]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_newest_checkpoint(directory: Path, learner: Learner) -> tuple[int, list[str]]:
    """Bring ``learner`` to the newest undamaged checkpoint: ``(metrics_bytes, warnings)``; (0, []) if there is none.

    Raises :class:`RunError` if there are checkpoints and all are damaged.
    """
    warnings: list[str] = []
    seals = sorted(directory.glob("update-*.json"), reverse=True)
    for seal in seals:
        try:
            state = read_json(seal)
            data = seal.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != state["sha256"]:
                raise RunError(f"{seal.with_suffix('.safetensors').name}: checksum differs")
            _restore(learner, safetensors.torch.load(data))
            learner.updates_done, learner.generated_tokens = state["updates_done"], state["generated_tokens"]
            return state["metrics_bytes"], warnings
        except (OSError, KeyError, RunError, safetensors.SafetensorError) as error:
            warnings.append(f"checkpoint {seal.stem} is damaged ({error}); trying the one before")
    if seals:
        raise RunError(f"every checkpoint in {directory} is damaged; start over with --no-resume")
    return 0, warnings


@torch.no_grad()
def _restore(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    for name, parameter in learner.reference.model.named_parameters():
        if f"reference/{name}" in tensors:
            parameter.copy_(tensors[f"reference/{name}"])
    for name, parameter in learner.policy.model.named_parameters():
        parameter.copy_(tensors[f"model/{name}"])
        keys = [key.split("/")[1] for key in tensors if key.startswith("optimizer/") and key.endswith(f"/{name}")]
        learner.optimizer.state[parameter] = {key: tensors[f"optimizer/{key}/{name}"].clone() for key in keys}
