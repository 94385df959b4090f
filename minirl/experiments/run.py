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
import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from minirl.config import Experiment, TrainConfig
from minirl.errors import ConfigError, RunError
from minirl.evaluation.attempts import Evaluation
from minirl.experiments import training
from minirl.experiments.checksums import (
    IDENTITY,
    announce,
    damage,
    discard_if_damaged,
    file_checksum,
    file_checksums,
    known,
    write_checked,
)
from minirl.experiments.fingerprint import changes, fingerprint
from minirl.experiments.registry import (
    claim_path,
    load_module,
    project_root,
    run_directory,
    technique,
)
from minirl.experiments.resolve import REFERENCE_ARM, load_experiment, load_method, takes
from minirl.experiments.rundir import (
    cannot_write,
    locked,
    read_json,
    read_metrics,
)
from minirl.loops import Record
from minirl.policy.models import Policy, load_policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get

SCHEMA = 1
SCRATCH = ".policy.tmp"  # one name: what a killed process left is cleared away


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
            self._clear_scratch()
            for warning in (discard_if_damaged(directory), self._check_manifest()):
                _warn(warning)
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
        return load_policy(self.experiment.base, self.experiment.device, self.experiment.dtype or "float32")

    def policy(self, arm: str) -> Policy:
        """The trained policy of ``arm``. Raises :class:`RunError` before :meth:`train` has finished."""
        if arm == REFERENCE_ARM:
            return self.base()
        directory = self.arm_directory(arm) / "policy"
        if not directory.exists():
            raise RunError(f"arm {arm!r} is not trained yet; call run.train({arm!r}) first")
        if reason := self._damage(arm):
            raise RunError(f"{self.directory}: {reason}; run.train({arm!r}) computes it again")
        return load_policy(directory, self.experiment.device, self.experiment.dtype or "float32")

    def _damage(self, arm: str) -> str:
        """What is wrong with the files that training ``arm`` has left, "" if nothing."""
        return damage(self.directory, f"arms/{arm}/policy", f"arms/{arm}/metrics.jsonl")

    def metrics(self, arm: str) -> list[Record]:
        """The records of ``arm`` so far."""
        return read_metrics(self.arm_directory(arm) / "metrics.jsonl")

    def train(self, arm: str, watch: Callable[[str, Record], None] = lambda *_: None) -> Policy:
        """Train ``arm`` (or what is left of it) and return its policy; ``watch(arm, record)`` sees every update.

        Each record also carries ``updates``, the number there will be (about, if tokens are limited), so that a watcher
        can estimate the end.
        """
        directory, train = self.arm_directory(arm), self.experiment.train
        if (directory / "policy").exists() and (reason := self._damage(arm)):
            _warn(f"{reason}; training {arm} again, which gives the same bytes")
            _remove(directory / "policy")
        if (directory / "policy").exists():
            shutil.rmtree(directory / "checkpoints", ignore_errors=True)  # of a process killed in between
            for record in self.metrics(arm):
                watch(arm, {**record, "updates": planned_updates(record, train)})
            return self.policy(arm)
        job = training.Job(self.experiment, arm, self.seed)
        policy = training.train(
            job,
            directory,
            watch=lambda record: watch(arm, {**record, "updates": planned_updates(record, train)}),
            warn=lambda warning: _warn(f"{arm}: {warning}"),
        )
        self._save_policy(arm, policy)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return self.policy(arm)

    def _save_policy(self, arm: str, policy: Policy) -> None:
        """Make the policy and the records of ``arm`` its result: both are complete now."""
        directory = self.arm_directory(arm) / "policy"
        scratch = directory.with_name(SCRATCH)
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            policy.save(scratch)
            sums = {f"arms/{arm}/policy/{name}": digest for name, digest in file_checksums(scratch).items()}
            metrics = directory.with_name("metrics.jsonl")
            announce(self.directory, {**sums, f"arms/{arm}/{metrics.name}": file_checksum(metrics)})
            scratch.rename(directory)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise cannot_write(directory, error) from error

    def held_out(self, purpose: str = "report") -> list[Item]:
        """The evaluation items: the same for every seed and arm. ``develop`` gives others, to tune on."""
        evaluation = self.experiment.evaluation
        offset = {"report": 0, "develop": 1}[purpose]
        return self.task.items(evaluation.seed + offset, range(evaluation.items), self.experiment.task.level)

    def evaluate(self, arm: str, purpose: str = "report") -> tuple[Evaluation, Rollouts]:
        """Evaluate a trained arm (or ``base``) on the held-out items, and remember the result for :meth:`finish`.

        How is the technique's business: the function ``evaluate`` of its module, which gets those of the run's settings
        that its signature names and what the arm's method adds to them, and, if it has one, the function
        ``learning``, which reads metrics off the records of training.
        The noise of sampling depends on the run's seed and the item, not on the arm: arms are compared pairwise.
        """
        module = load_module(technique(self.experiment.slug))
        shared = {
            "seed": int.from_bytes(hashlib.sha256(f"{self.seed}/evaluate".encode()).digest()[:7], "big"),
            "turns": self.experiment.train.turns,
            "temperature": self.experiment.evaluation.temperature,
            "batch": self.experiment.evaluation.batch,
            "feedback": self.experiment.train.feedback,
        }
        wanted = inspect.signature(module.evaluate).parameters
        settings = {name: value for name, value in shared.items() if takes(wanted, name)}
        if arm != REFERENCE_ARM:
            settings |= load_method(self.experiment, arm).evaluation()
        evaluation, rollouts = module.evaluate(self.policy(arm), self.task, self.held_out(purpose), **settings)
        records = self.metrics(arm) if arm != REFERENCE_ARM else []
        if records and hasattr(module, "learning"):
            evaluation = replace(evaluation, metrics={**evaluation.metrics, **module.learning(records)})
        if purpose == "report":
            write_checked(
                self.directory,
                f"arms/{arm}/evaluation.json",
                {
                    "metrics": evaluation.metrics,
                    "items": evaluation.items,
                    "generated_tokens": records[-1]["generated_tokens"] if records else 0,
                    **self._seconds(arm),
                },
                compact=True,
            )
        return evaluation, rollouts

    def _timings(self, arm: str) -> list[dict[str, float]]:
        """What each update cost. Times are no results: a damaged line is left out."""
        path, found = self.arm_directory(arm) / "timing.jsonl", []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                spent = {key: float(entry[key]) for key in ("update", "core_s", "wall_s")}
                found.append({**spent, "peak_mb": float(entry.get("peak_mb", 0))})
        return found

    def _seconds(self, arm: str) -> dict[str, float]:
        newest = {line["update"]: line for line in self._timings(arm)}  # an update redone after a crash counts once
        return {key: round(sum(line[key] for line in newest.values()), 2) for key in ("core_s", "wall_s")}

    def _training_peak(self, arm: str) -> int:
        """Largest ``peak_mb`` of any process that trained ``arm``; this one may only have evaluated it."""
        return int(max((line["peak_mb"] for line in self._timings(arm)), default=0))

    def finish(self) -> dict[str, Any]:
        """Gather what :meth:`evaluate` has found into ``results.json`` and return it.

        Raises :class:`RunError` if an arm has not been evaluated.
        """
        arms = {}
        for arm in [REFERENCE_ARM, *self.arms]:
            path = self.arm_directory(arm) / "evaluation.json"
            if reason := damage(self.directory, f"arms/{arm}/evaluation.json"):
                _warn(f"{reason}; evaluating {arm} again")
                self.evaluate(arm)
            if not path.exists():
                raise RunError(f"arm {arm!r} has not been evaluated; call run.evaluate({arm!r}) before run.finish()")
            arms[arm] = read_json(path)
        claim = claim_path(technique(self.experiment.slug), self.experiment.tier)
        held_out = self.experiment.evaluation.model_dump()
        if not any(arm["items"] for arm in arms.values()):  # computed, not measured on items
            held_out["items"] = "exact"
        results = {
            "schema": SCHEMA,
            "slug": self.experiment.slug,
            "tier": self.experiment.tier,
            "variant": self.variant,
            "seed": self.seed,
            "claim_sha256": _sha256_or_none(claim),
            "fingerprint": self.identity["fingerprint"],
            "evaluation": {**held_out, "level": self.experiment.task.level},
            "arms": arms,
            "core_s": round(sum(arm["core_s"] for arm in arms.values()), 1),
            "wall_s": round(sum(arm["wall_s"] for arm in arms.values()), 1),
            "peak_mb": max(training.peak_mb(), *(self._training_peak(arm) for arm in self.arms)),
        }
        cost = {key: results[key] for key in ("core_s", "wall_s", "peak_mb")}
        manifest = {**read_json(self.directory / "manifest.json"), "finished": now(), **cost}
        write_checked(self.directory, "manifest.json", manifest)
        write_checked(self.directory, "results.json", results, compact=True)  # last: a run with results is finished
        return results

    def _clear_scratch(self) -> None:
        """Remove what killed processes had begun to write. Nobody else writes: the directory is ours."""
        for path in [*self.directory.glob(".*.tmp"), *self.directory.glob("arms/**/.*.tmp")]:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_manifest(self) -> str:
        """Write the manifest, or make sure that the one that is there belongs to the same run.

        Returns what is to be said of it. A damaged one is written again if the directory is known to be of this run.
        """
        own = {IDENTITY: hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()}
        reason = damage(self.directory, "manifest.json")
        new = not (self.directory / "arms").exists()
        if reason and own[IDENTITY] in known(self.directory).get(IDENTITY, []):
            write_checked(self.directory, "manifest.json", self._manifest())
            return "" if new else f"{reason}; the rest of the directory is of this run, so it is written again"
        if (self.directory / "manifest.json").exists() or not new:
            check_identity(self.directory, self.identity)
            return self._elsewhere()
        announce(self.directory, own)
        write_checked(self.directory, "manifest.json", self._manifest())
        return ""

    def _elsewhere(self) -> str:
        """What has changed under a run since it was begun that may change the last digits of what is still to do."""
        if (self.directory / "results.json").exists():
            return ""
        then, today = read_json(self.directory / "manifest.json"), self._surroundings()
        for manifest in (then, today):
            manifest |= {"hardware": {**manifest.get("hardware", {}), "cores": None}}  # how many does not matter
        differing = [key for key in today if key in then and then[key] != today[key]]
        if not differing:
            return ""
        return f"the run was begun with other {', '.join(differing)} (see manifest.json): last digits may differ"

    def _manifest(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            **self.identity,
            "commit": git_commit(),
            "lock_sha256": _sha256_or_none(project_root() / "requirements.lock"),
            **self._surroundings(),
            "started": now(),
        }

    def _surroundings(self) -> dict[str, Any]:
        """What the last digits depend on besides the code: bytes are equal where these are."""
        packages = ["torch", "transformers", "numpy", "safetensors", "tokenizers"]
        packages += ["peft"] * (self.experiment.lora is not None)
        packages += ["trl", "accelerate"] * (self.experiment.engine == "trl")
        return {
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in packages},
            "hardware": {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "capability": torch.backends.cpu.get_cpu_capability(),
                "device": self.experiment.device,
            },
            "threads": self.experiment.threads,
            "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        }


def planned_updates(record: Record, train: TrainConfig) -> int:
    """How many updates there will be, by what was spent up to ``record``."""
    if not train.tokens:
        return train.updates
    return min(train.updates, math.ceil(record["update"] * max(1.0, train.tokens / max(1, record["generated_tokens"]))))


def identity(experiment: Experiment, seed: int) -> dict[str, Any]:
    """What must be equal for a run to be continued: the resolved config, the seed, and the code and base behind it."""
    return {
        "config": experiment.model_dump(mode="json"),
        "seed": seed,
        "fingerprint": fingerprint(experiment),
    }


def check_identity(directory: Path, mine: Mapping[str, Any]) -> None:
    """Raise :class:`RunError` if the run in ``directory`` has another :func:`identity`: its results are not ours."""
    way_out = "choose another --out, or start over with --no-resume"
    try:
        theirs = read_json(directory / "manifest.json")
        schema = theirs["schema"]
    except (RunError, LookupError, TypeError) as error:
        raise RunError(
            f"{directory}: manifest.json is missing or damaged, so it is not known what is there; {way_out}"
        ) from error
    if schema != SCHEMA:
        raise RunError(
            f"{directory} holds a run of another version of minirl (schema {schema}, here {SCHEMA}); {way_out}"
        )
    for key in ("config", "seed"):
        if theirs.get(key) != mine[key]:
            difference = _difference(theirs.get(key), mine[key])
            raise RunError(f"{directory} holds a run with another {key} ({difference}); {way_out}")
    changed = changes(theirs.get("fingerprint", {}), mine["fingerprint"])
    if changed:
        raise RunError(f"{directory} holds a run of other code; changed since: {', '.join(changed)}; {way_out}")


def _warn(text: str) -> None:
    """Say what happened, if anything did. Training and its results go on as if it had not."""
    if text:
        print(f"minirl: {text}", file=sys.stderr, flush=True)


def _remove(directory: Path) -> None:
    """Remove ``directory`` so that it is never seen in part."""
    scratch = directory.with_name(SCRATCH)
    shutil.rmtree(scratch, ignore_errors=True)
    directory.rename(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


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
