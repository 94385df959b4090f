"""Files of a run that survive being killed: atomic writes, metrics that can be cut back, checksummed checkpoints."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from minirl.errors import MinirlError, RunError
from minirl.loops import Learner
from minirl.techniques.base import Pairs

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
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> RunError:
    """What a full disk, a directory without permission and the like are to be called."""
    why = getattr(error, "strerror", None) or error
    return RunError(
        f"cannot write {path}: {why}. What was complete before is untouched; make room or choose another --out, then "
        "run the same command again to resume."
    )


def as_json(value: Any) -> str:
    """``value`` as indented JSON; NaN and infinity are refused."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def as_json_compact(value: Any) -> str:
    """JSON on few lines: per-item values as one line each would be thousands."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n"


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_atomically(path, as_json(value))


def write_json_compact(path: Path, value: Any) -> None:
    """``value`` as JSON on few lines, atomically."""
    write_atomically(path, as_json_compact(value))


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
            # Unbuffered, so that closing it does not try again to write what a full disk has refused.
            file = open(directory / ".lock", "a+b", buffering=0)  # noqa: SIM115 – closed with the last of its holders
        except OSError as error:
            raise RunError(f"cannot write {directory}: {error.strerror}; choose another --out") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                file.seek(0)
                holder = file.read(20).decode(errors="replace").strip()
            who = f"another process ({holder})" if holder else "another process"
            raise RunError(f"{directory} is in use by {who}; wait for it, or choose another --out") from error
        with contextlib.suppress(OSError):  # a courtesy to who comes next; the disk may be full
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        _held[key] = [file, 0]
    _held[key][1] += 1
    try:
        yield  # the operating system releases the lock when the process ends, however it ends
    finally:
        _held[key][1] -= 1
        if not _held[key][1]:
            _held.pop(key)[0].close()


def clear(directory: Path) -> None:
    """Remove what a run has left in ``directory``, which nobody else may be using. Raises :class:`RunError`.

    The manifest goes last: whatever is left if this is killed still says of which run it is.
    """
    if not directory.exists():
        return
    with locked(directory):
        manifest = directory / "manifest.json"
        others = [path for path in directory.iterdir() if path not in (manifest, directory / ".lock")]
        try:
            for path in [*others, manifest]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot clear {directory}: {error}; choose another --out") from error


class MetricsLog:
    """``metrics.jsonl``: one record a line, in order. What a checkpoint remembers of it are ``bytes_written`` and the
    ``sha256`` of so many."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open for appending after cutting the file back to ``keep_bytes`` (what the checkpoint has seen)."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if path.stat().st_size < keep_bytes:
                raise RunError(f"{path} is shorter than its checkpoint says; start over with --no-resume")
            # Unbuffered: what could not be written must not be tried again when this object is thrown away.
            self.file = open(path, "r+b", buffering=0)  # noqa: SIM115 – closed by close(), after the last update
            self.digest = hashlib.sha256(self.file.read(keep_bytes))
            self.file.truncate(keep_bytes)
        except OSError as error:
            raise cannot_write(path, error) from error

    @property
    def bytes_written(self) -> int:
        return self.file.tell()

    @property
    def sha256(self) -> str:
        return self.digest.hexdigest()

    def append(self, record: dict[str, Any]) -> None:
        """Add a line. Raises :class:`RunError` if the disk is full."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        append_all(self.file, line, self.path)
        self.digest.update(line)

    def close(self) -> None:
        self.file.close()


def open_log(path: Path) -> FileIO:
    """``path`` for appending lines, after cutting off a last one that a crash left unfinished."""
    try:
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from error


def append_all(file: FileIO, data: bytes, path: Path) -> None:
    """Write ``data`` to the unbuffered ``file`` at ``path``. Raises :class:`RunError` if the disk is full."""
    try:
        while data:  # a disk that is nearly full takes a part
            data = data[file.write(data) :]
    except OSError as error:
        raise cannot_write(path, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line cut off by a crash is left out.

    Raises :class:`RunError` if another line is damaged.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise RunError(f"{path} is damaged in line {number} ({error}); the same command again mends it") from error
    return records


def checkpoint_tensors(learner: Learner, moving_reference: bool) -> dict[str, torch.Tensor]:
    """All that training changes. A reference that does not move does not, nor do weights that are not trained: a run
    starts from them."""
    tensors: dict[str, torch.Tensor] = {}
    trained = {name: p for name, p in learner.policy.model.named_parameters() if p.requires_grad}
    if moving_reference:
        for name, parameter in learner.reference.model.named_parameters():
            if name in trained:
                tensors[f"reference/{name}"] = parameter
    if learner.pairs is not None:
        pairs = learner.pairs
        tensors |= {"pairs/ids": pairs.ids, "pairs/own": pairs.own, "pairs/confidence": pairs.confidence}
    tensors |= {f"memory/{name}": value for name, value in learner.memory.items()}
    if learner.sampler:
        tensors |= {f"sampler/{name}": value for name, value in learner.sampler.state().items()}
    for name, parameter in trained.items():
        tensors[f"model/{name}"] = parameter.detach()
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    return tensors


def save_checkpoint(
    directory: Path,
    learner: Learner,
    metrics_bytes: int,
    moving_reference: bool = False,
    metrics_sha256: str | None = None,
) -> None:
    """Write all that ``learner`` needs to continue, as ``update-NNNNNN.safetensors`` plus a JSON file that seals it.

    The JSON file is written last and holds the checksum of the other: a checkpoint without it does not count.
    """
    tensors = checkpoint_tensors(learner, moving_reference)
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    stem = f"update-{learner.updates_done:06d}"
    write_atomically(directory / f"{stem}.safetensors", data)
    write_json(
        directory / f"{stem}.json",
        {
            "updates_done": learner.updates_done,
            "generated_tokens": learner.generated_tokens,
            "metrics_bytes": metrics_bytes,
            "metrics_sha256": metrics_sha256,
            "sha256": hashlib.sha256(data).hexdigest(),
        },
    )
    for old in sorted(directory.glob("update-*.json"))[:-KEEP_CHECKPOINTS]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_newest_checkpoint(directory: Path, learner: Learner, metrics: Path | None = None) -> tuple[int, list[str]]:
    """Bring ``learner`` to the newest undamaged checkpoint: ``(metrics_bytes, warnings)``; (0, []) if there is none.

    Undamaged means that the records up to it, in the file ``metrics``, are, too. Raises :class:`RunError` if there are
    checkpoints and all are damaged; ``learner`` is of no use then.
    """
    warnings: list[str] = []
    seals = sorted(directory.glob("update-*.json"), reverse=True)
    for seal in seals:
        try:
            state = read_json(seal)
            data = seal.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != state["sha256"]:
                raise RunError(f"{seal.with_suffix('.safetensors').name}: checksum differs")
            if metrics is not None:
                _check_metrics(metrics, state)
            restore(learner, safetensors.torch.load(data))
            learner.updates_done, learner.generated_tokens = state["updates_done"], state["generated_tokens"]
            return state["metrics_bytes"], warnings
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, MinirlError, SafetensorError) as error:
            warnings.append(f"checkpoint {seal.stem} is damaged ({error}); trying the one before")
    if seals:
        reasons = "; ".join(warning.removesuffix("; trying the one before") for warning in warnings)
        raise RunError(f"every checkpoint in {directory} is damaged: {reasons}")
    return 0, warnings


def _check_metrics(path: Path, state: dict[str, Any]) -> None:
    """Raise :class:`RunError` unless ``path`` begins with the records that the checkpoint's seal ``state`` has seen."""
    with open(path, "rb") as file:
        seen = file.read(state["metrics_bytes"])
    if len(seen) < state["metrics_bytes"]:
        raise RunError(f"{path.name} is shorter than it says")
    if state.get("metrics_sha256") not in (None, hashlib.sha256(seen).hexdigest()):  # None: by an older version
        raise RunError(f"{path.name}: checksum differs")


@torch.no_grad()
def restore(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    """Undo :func:`checkpoint_tensors`, but for the counts. Raises KeyError or :class:`RunError` if something lacks."""
    for name, parameter in learner.reference.model.named_parameters():
        if f"reference/{name}" in tensors:
            parameter.copy_(tensors[f"reference/{name}"])
    learner.pairs = None
    if "pairs/ids" in tensors:  # what they cost and their statistics are in the records already
        ids, own, confidence = (tensors[f"pairs/{name}"] for name in ("ids", "own", "confidence"))
        device = learner.policy.device
        learner.pairs = Pairs(ids.to(device), own.to(device), confidence.to(device), generated_tokens=0)
    memory = {name.removeprefix("memory/"): value for name, value in tensors.items() if name.startswith("memory/")}
    learner.memory = {name: value.to(learner.policy.device) for name, value in memory.items()}
    if learner.sampler:
        known = {name.removeprefix("sampler/"): value for name, value in tensors.items() if name.startswith("sampler/")}
        if known.keys() != learner.sampler.state().keys():
            raise RunError("it does not hold what the sampler knows")
        learner.sampler.load(known)
    for name, parameter in learner.policy.model.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.copy_(tensors[f"model/{name}"])
        keys = [key.split("/")[1] for key in tensors if key.startswith("optimizer/") and key.endswith(f"/{name}")]
        learner.optimizer.state[parameter] = {
            key: tensors[f"optimizer/{key}/{name}"].to(parameter.device, copy=True) for key in keys
        }
