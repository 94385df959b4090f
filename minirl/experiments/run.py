"""One run: one seed of one reproduction, all its arms, in one directory that can be killed and resumed.

::

    out/
      manifest.json            what was run, with what, on what
      arms/<arm>/metrics.jsonl one record an update, no timings: the same bytes on every rerun
      arms/<arm>/timing.jsonl  seconds and peak memory, for every update
      arms/<arm>/checkpoints/  the newest two
      arms/<arm>/policy/       the trained policy, a Hugging Face directory
      arms/<arm>/evaluation.json
      results.json             what claims are settled from

A notebook drives it: ``run = open_run("score", tier=tier, seed=seed, …)``, ``run.train(arm)``, ``run.evaluate(arm)``,
``run.finish()``. Calling any of these again, in the same process or after a crash, continues where it stood.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from minirl.config import Experiment, described, load_yaml, merge, nearest, parse_overrides, validate
from minirl.errors import ConfigError, RunError
from minirl.evaluation.attempts import Evaluation
from minirl.experiments.fingerprint import changes, fingerprint
from minirl.experiments.registry import (
    claim_path,
    label,
    load_module,
    method_class,
    project_root,
    run_directory,
    technique,
)
from minirl.experiments.rundir import (
    MetricsLog,
    load_newest_checkpoint,
    locked,
    read_json,
    read_metrics,
    save_checkpoint,
    write_json,
    write_json_compact,
)
from minirl.loops import Learner, Record, run_phases
from minirl.policy.models import Policy, base_directory, base_names, load_policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.techniques.base import Method, OnlinePhase

SCHEMA = 1
RSS_UNITS_PER_MB = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # of tiers and arms: they become file names
MAX_PATH, MAX_THREADS = 4096, 1024
REFERENCE_ARM = "base"  # the untrained base, evaluated beside the arms


def load_experiment(slug: str, tier: str, overrides: Any = None, variant: str = "") -> Experiment:
    """The config ``reproductions/<slug>/<tier>.yaml`` (or ``<tier>-<variant>.yaml``) with overrides.

    ``overrides`` is a mapping, a list of ``key=value`` or one string of them separated by spaces. Raises
    :class:`ConfigError` for anything that is not exactly right.
    """
    item = technique(slug)
    path = item.reproduction / f"{label(tier, variant)}.yaml"
    if not isinstance(tier, str) or not NAME.fullmatch(label(tier, variant)) or not path.exists():
        raise ConfigError(f"{slug} has no config {path.name[-80:]}.{nearest(tier, item.tiers())}")
    if isinstance(overrides, str):
        overrides = overrides.split()
    if overrides is not None and not isinstance(overrides, Mapping | list | tuple):
        raise ConfigError(f"overrides must be a mapping or a list of key=value, not {type(overrides).__name__}")
    data = merge(load_yaml(path), parse_overrides(overrides or {}))
    source = described(path).removeprefix(f"{project_root()}/") + (" with overrides" if overrides else "")
    experiment = validate(Experiment, data, source)
    if (experiment.slug, experiment.tier) != (slug, tier):
        raise ConfigError(f"{source}: is for {experiment.slug} at {experiment.tier}, not {slug} at {tier}")
    base = experiment.base
    if not base.strip() or not base.isprintable() or len(base) > MAX_PATH:
        raise ConfigError(f"{source}: key 'base': neither a name nor a directory: {base[:80]!r}")
    if experiment.threads > MAX_THREADS:
        raise ConfigError(f"{source}: key 'threads': {experiment.threads} are more than {MAX_THREADS}")
    hint = nearest(base, base_names())
    if "Did you mean" in hint and "/" not in base and base_directory(base) is None and not Path(base).exists():
        raise ConfigError(f"{source}: key 'base': unknown base {base!r}.{hint}")  # others may be on the hub
    for arm in experiment.arms:
        if not NAME.fullmatch(arm):  # it becomes a directory of the run
            raise ConfigError(
                f"{source}: key 'arms': {arm[:80]!r} is no name for an arm; use letters, digits, '_', '-' and '.'"
            )
    if REFERENCE_ARM in experiment.arms:
        raise ConfigError(f"{source}: key 'arms.{REFERENCE_ARM}': this name means the untrained base; choose another")
    try:
        for arm in experiment.arms:
            load_method(experiment, arm).phases(experiment.train)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    try:
        levels = get(experiment.task.name).levels
    except ConfigError as error:
        raise ConfigError(f"{source}: key 'task.name': {error}") from error
    if experiment.task.level not in levels:
        raise ConfigError(
            f"{source}: key 'task.level': {experiment.task.name} has levels {levels.start} to {levels.stop - 1}, "
            f"not {experiment.task.level}"
        )
    grades = get(experiment.task.name).grades
    if experiment.train.feedback not in grades:
        raise ConfigError(
            f"{source}: key 'train.feedback': {experiment.task.name} has no grade {experiment.train.feedback!r}."
            f"{nearest(experiment.train.feedback, grades)}"
        )
    for arm in experiment.arms:
        own = getattr(load_method(experiment, arm), "grade", None)
        if own is not None and own not in grades:
            hint = nearest(own, grades)
            raise ConfigError(f"{source}: key 'arms.{arm}.grade': {experiment.task.name} has no grade {own!r}.{hint}")
    return experiment


def load_method(experiment: Experiment, arm: str) -> Method:
    """The method of an arm with its hyper-parameters. Raises :class:`ConfigError`."""
    if arm not in experiment.arms:
        raise ConfigError(
            f"{experiment.slug} at {experiment.tier}: unknown arm {arm!r}.{nearest(arm, experiment.arms)}"
        )
    settings = dict(experiment.arms[arm])
    name = settings.pop("method", None)
    if name is None:
        raise ConfigError(f"arms.{arm}: key 'method' is missing")
    try:
        method = method_class(str(name))
    except ConfigError as error:
        raise ConfigError(f"arms.{arm}: key 'method': {error}") from error
    return validate(method, settings, f"arms.{arm}")


def open_run(
    slug: str, *, tier: str, seed: int, overrides: Any = None, out: str | Path | None = None, variant: str = ""
) -> "Run":
    """Open (or continue) the run of ``seed`` in ``out``, by default ``runs/<slug>/<tier>/seed-<seed>``.

    These are the parameters of every notebook; they are checked here, at once. Raises :class:`ConfigError`, and
    :class:`RunError` if ``out`` belongs to another configuration or is in use.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"parameter 'seed' must be a whole number ≥ 0, got {seed!r}")
    if out is not None and not isinstance(out, str | Path):
        raise ConfigError(f"parameter 'out' must be a directory, got {out!r}")
    experiment = load_experiment(slug, tier, overrides, variant)
    _check_device(experiment.device)
    directory = Path(out) if out else run_directory(slug, tier, variant, seed)
    return Run(experiment, seed, directory, variant)


def _check_device(device: str) -> None:
    """Raise :class:`ConfigError` if there is no such device here. A config may name one that other machines have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"key 'device': {device!r} cannot be used here: {reason}") from error


class Run:
    """See the module's docstring. One process at a time may hold a run."""

    def __init__(self, experiment: Experiment, seed: int, directory: Path, variant: str = "") -> None:
        self.experiment, self.seed, self.directory, self.variant = experiment, seed, directory, variant
        self.task = get(experiment.task.name)
        # Now, not at the end: what is on disk by then may no longer be what this process has imported.
        self.identity = identity(experiment, seed)
        torch.set_num_threads(experiment.threads)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(directory))
            self._check_manifest()
            self._lock = stack.pop_all()

    def close(self) -> None:
        """Release the directory (the end of the process does so too)."""
        self._lock.close()

    @property
    def arms(self) -> list[str]:
        """The trained arms, in the order of the config."""
        return list(self.experiment.arms)

    def arm_directory(self, arm: str) -> Path:
        if arm != REFERENCE_ARM:
            load_method(self.experiment, arm)  # a clear error for a mistyped arm
        return self.directory / "arms" / arm

    def base(self) -> Policy:
        """A fresh copy of the base."""
        return load_policy(self.experiment.base, self.experiment.device)

    def policy(self, arm: str) -> Policy:
        """The trained policy of ``arm``. Raises :class:`RunError` before :meth:`train` has finished."""
        if arm == REFERENCE_ARM:
            return self.base()
        directory = self.arm_directory(arm) / "policy"
        if not directory.exists():
            raise RunError(f"arm {arm!r} is not trained yet; call run.train({arm!r}) first")
        return load_policy(directory, self.experiment.device)

    def metrics(self, arm: str) -> list[Record]:
        """The records of ``arm`` so far."""
        return read_metrics(self.arm_directory(arm) / "metrics.jsonl")

    def train(self, arm: str, watch: Callable[[str, Record], None] = lambda *_: None) -> Policy:
        """Train ``arm`` (or what is left of it) and return its policy; ``watch(arm, record)`` sees every update.

        Each record also carries ``updates``, the number there will be, so that a watcher can estimate the end.
        """
        directory, train = self.arm_directory(arm), self.experiment.train
        if (directory / "policy").exists():
            for record in self.metrics(arm):
                watch(arm, {**record, "updates": train.updates})
            return self.policy(arm)
        phases = load_method(self.experiment, arm).phases(train)
        moving_reference = any(isinstance(phase, OnlinePhase) and phase.reference_decay < 1 for phase in phases)
        learner = Learner(self.base(), self.experiment.task, train, self.seed)
        keep_bytes, warnings = load_newest_checkpoint(directory / "checkpoints", learner)
        for warning in warnings:
            print(f"{arm}: {warning}", file=sys.stderr)
        log = MetricsLog(directory / "metrics.jsonl", keep_bytes)
        for record in self.metrics(arm):
            watch(arm, {**record, "updates": train.updates})
        with open(_without_torn_line(directory / "timing.jsonl"), "a") as timing:
            clock = (time.perf_counter(), time.process_time())
            for record in run_phases(learner, phases):
                log.append(record)
                now = (time.perf_counter(), time.process_time())
                spent = {"update": record["update"], "wall_s": now[0] - clock[0], "core_s": now[1] - clock[1]}
                spent["peak_mb"] = peak_mb()
                timing.write(json.dumps(spent) + "\n")
                timing.flush()
                clock = now
                if learner.updates_done % train.checkpoint_every == 0:
                    save_checkpoint(directory / "checkpoints", learner, log.bytes_written, moving_reference)
                watch(arm, {**record, "updates": train.updates})
        log.close()
        self._save_policy(learner.policy, directory / "policy")
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return self.policy(arm)

    def _save_policy(self, policy: Policy, directory: Path) -> None:
        scratch = directory.with_name(".policy.tmp")  # one name: what a killed process left is cleared away
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            policy.save(scratch)
            scratch.rename(directory)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise RunError(f"cannot write {directory}: {error}; make room and rerun to resume") from error

    def held_out(self, purpose: str = "report") -> list[Item]:
        """The evaluation items: the same for every seed and arm. ``develop`` gives others, to tune on."""
        evaluation = self.experiment.evaluation
        offset = {"report": 0, "develop": 1}[purpose]
        return self.task.items(evaluation.seed + offset, range(evaluation.items), self.experiment.task.level)

    def evaluate(self, arm: str, purpose: str = "report") -> tuple[Evaluation, Rollouts]:
        """Evaluate a trained arm (or ``base``) on the held-out items, and remember the result for :meth:`finish`.

        How is the technique's business: the function ``evaluate`` of its module, and, if it has one, the function
        ``learning``, which reads metrics off the records of training.
        The noise of sampling depends on the run's seed and the item, not on the arm: arms are compared pairwise.
        """
        settings = {
            "seed": int.from_bytes(hashlib.sha256(f"{self.seed}/evaluate".encode()).digest()[:7], "big"),
            "turns": self.experiment.train.turns,
            "temperature": self.experiment.evaluation.temperature,
            "batch": self.experiment.evaluation.batch,
            "feedback": self.experiment.train.feedback,
        }
        if arm != REFERENCE_ARM:
            settings |= load_method(self.experiment, arm).evaluation()
        module = load_module(technique(self.experiment.slug))
        evaluation, rollouts = module.evaluate(self.policy(arm), self.task, self.held_out(purpose), **settings)
        records = self.metrics(arm) if arm != REFERENCE_ARM else []
        if records and hasattr(module, "learning"):
            evaluation = replace(evaluation, metrics={**evaluation.metrics, **module.learning(records)})
        if purpose == "report":
            write_json_compact(
                self.arm_directory(arm) / "evaluation.json",
                {
                    "metrics": evaluation.metrics,
                    "items": evaluation.items,
                    "generated_tokens": records[-1]["generated_tokens"] if records else 0,
                    **self._seconds(arm),
                },
            )
        return evaluation, rollouts

    def _seconds(self, arm: str) -> dict[str, float]:
        path = self.arm_directory(arm) / "timing.jsonl"
        lines = read_metrics(path)
        newest = {line["update"]: line for line in lines}  # an update redone after a crash counts once
        return {key: round(sum(line[key] for line in newest.values()), 2) for key in ("core_s", "wall_s")}

    def _training_peak(self, arm: str) -> int:
        """Largest ``peak_mb`` of any process that trained ``arm``; this one may only have evaluated it."""
        lines = read_metrics(self.arm_directory(arm) / "timing.jsonl")
        return max((line.get("peak_mb", 0) for line in lines), default=0)

    def finish(self) -> dict[str, Any]:
        """Gather what :meth:`evaluate` has found into ``results.json`` and return it.

        Raises :class:`RunError` if an arm has not been evaluated.
        """
        arms = {}
        for arm in [REFERENCE_ARM, *self.arms]:
            path = self.arm_directory(arm) / "evaluation.json"
            if not path.exists():
                raise RunError(f"arm {arm!r} has not been evaluated; call run.evaluate({arm!r}) before run.finish()")
            arms[arm] = read_json(path)
        claim = claim_path(technique(self.experiment.slug), self.experiment.tier)
        results = {
            "schema": SCHEMA,
            "slug": self.experiment.slug,
            "tier": self.experiment.tier,
            "variant": self.variant,
            "seed": self.seed,
            "claim_sha256": _sha256_or_none(claim),
            "fingerprint": self.identity["fingerprint"],
            "evaluation": {**self.experiment.evaluation.model_dump(), "level": self.experiment.task.level},
            "arms": arms,
            "core_s": round(sum(arm["core_s"] for arm in arms.values()), 1),
            "wall_s": round(sum(arm["wall_s"] for arm in arms.values()), 1),
            "peak_mb": max(peak_mb(), *(self._training_peak(arm) for arm in self.arms)),
        }
        write_json_compact(self.directory / "results.json", results)
        manifest = self.directory / "manifest.json"
        cost = {key: results[key] for key in ("core_s", "wall_s", "peak_mb")}
        write_json(manifest, {**read_json(manifest), "finished": now(), **cost})
        return results

    def _check_manifest(self) -> None:
        """Write the manifest, or make sure that the one that is there belongs to the same run."""
        if (self.directory / "manifest.json").exists():
            check_identity(self.directory, self.identity)
        else:
            write_json(self.directory / "manifest.json", self._manifest())

    def _manifest(self) -> dict[str, Any]:
        packages = ("torch", "transformers", "numpy", "safetensors", "tokenizers")
        return {
            "schema": SCHEMA,
            **self.identity,
            "commit": git_commit(),
            "lock_sha256": _sha256_or_none(project_root() / "requirements.lock"),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in packages},
            "hardware": {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "capability": torch.backends.cpu.get_cpu_capability(),
                "device": self.experiment.device,
            },
            "threads": self.experiment.threads,
            "started": now(),
        }


def identity(experiment: Experiment, seed: int) -> dict[str, Any]:
    """What must be equal for a run to be continued: the resolved config, the seed, and the code and base behind it."""
    return {
        "config": experiment.model_dump(mode="json"),
        "seed": seed,
        "fingerprint": fingerprint(experiment),
    }


def check_identity(directory: Path, mine: Mapping[str, Any]) -> None:
    """Raise :class:`RunError` if the run in ``directory`` has another :func:`identity`: its results are not ours."""
    theirs = read_json(directory / "manifest.json")
    way_out = "choose another --out, or start over with --no-resume"
    for key in ("config", "seed"):
        if theirs.get(key) != mine[key]:
            difference = _difference(theirs.get(key), mine[key])
            raise RunError(f"{directory} holds a run with another {key} ({difference}); {way_out}")
    changed = changes(theirs.get("fingerprint", {}), mine["fingerprint"])
    if changed:
        raise RunError(f"{directory} holds a run of other code; changed since: {', '.join(changed)}; {way_out}")


def _without_torn_line(path: Path) -> Path:
    """``path`` after cutting off a last line that a crash left unfinished, so that the next one starts on its own."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return path


def peak_mb() -> int:
    """The most memory this process has held, in MiB.

    On Linux from /proc, because there ``getrusage`` starts from what the parent held when it started the process.
    """
    status = Path("/proc/self/status")
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    if peak:
        return round(int(peak[1]) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / RSS_UNITS_PER_MB)


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The commit of the repository, with ``-dirty`` if files differ from it; None outside git."""
    command = ["git", "-C", str(project_root()), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _sha256_or_none(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _difference(theirs: Any, mine: Any, path: str = "") -> str:
    """The first key at which two configs differ, in words."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in sorted({*theirs, *mine}):
            if theirs.get(key) != mine.get(key):
                return _difference(theirs.get(key), mine.get(key), f"{path}.{key}".lstrip("."))
    return f"{path or 'value'}: there {theirs!r}, here {mine!r}"
