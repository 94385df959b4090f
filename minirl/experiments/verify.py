"""``minirl verify``: the same seeds once more from nothing, and every number beside the committed one.

For whoever doubts a result, and for whoever has changed shared code and says that it changes no number. Metrics, the
scores of every item and generated tokens must come out exactly as committed; seconds, memory and what the documents
say of commit and machine may differ. With a stamp (:mod:`minirl.experiments.staleness`) results that came out identical
count as current although older code made them.
"""

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirl.config import nearest
from minirl.errors import ConfigError, MinirlError, RunError
from minirl.experiments import history
from minirl.experiments.audit import differences, manifest_of, not_in_commit
from minirl.experiments.claims import sha256_of
from minirl.experiments.fingerprint import GIVEN, changes, code_parts, fingerprint, short_hash
from minirl.experiments.registry import (
    FRESH,
    Technique,
    claim_path,
    label,
    project_root,
    published,
    result_files,
    results_directory,
    technique,
    techniques,
)
from minirl.experiments.run import identity, load_experiment, now
from minirl.experiments.rundir import read_json, write_atomically, write_json
from minirl.experiments.runner import PlainRun, complete, parallel, shown
from minirl.experiments.staleness import STAMP, Stamp, fingerprint_of, vouched

COSTS = ("core_s", "wall_s", "peak_mb")
OF_THE_RUN = ("fingerprint", "manifest", "claim_sha256")  # with what it was made: that is compared elsewhere
SHOWN = 5  # differences that are printed of a seed


@dataclass(frozen=True)
class Results:
    """One directory of committed results, and the seeds of it that are to be computed again."""

    item: Technique
    tier: str
    variant: str
    stored: Mapping[int, Mapping[str, Any]]  # seed → committed document

    @property
    def name(self) -> str:
        return f"{self.item.slug} ({label(self.tier, self.variant)})"

    def given_changed(self) -> list[str]:
        """What the runs were given that has changed since: config, base, claim. No stamp covers that."""
        current = fingerprint(load_experiment(self.item.slug, self.tier, variant=self.variant))
        found = {part for document in self.stored.values() for part in changes(fingerprint_of(document), current)}
        claim = sha256_of(claim_path(self.item, self.tier)) if claim_path(self.item, self.tier).exists() else None
        parts = [part for part in GIVEN if part in found]
        return parts + ["claim"] * any(document.get("claim_sha256") != claim for document in self.stored.values())


@dataclass(frozen=True)
class Check:
    """What became of one seed: ``numbers`` compared, and those that differ as ``(key, committed, now)``.

    ``elsewhere`` is what differs between the two machines and their versions, in words. ``failed`` says why there is
    nothing to compare.
    """

    results: Results
    seed: int
    numbers: int = 0
    differing: tuple[tuple[str, Any, Any], ...] = ()
    elsewhere: tuple[str, ...] = ()
    computed: Mapping[str, Any] | None = None  # the new document, with its manifest
    failed: str = ""

    @property
    def identical(self) -> bool:
        return not self.failed and not self.differing


def committed(slugs: Sequence[str], tier: str, seeds: Sequence[int], variant: str | None = None) -> list[Results]:
    """The directories of results to verify: of all techniques if none is named, with all variants if none is.

    Raises :class:`ConfigError` for what has no results, :class:`RunError` for a seed that is not among them.
    """
    found = []
    for item in [technique(slug) for slug in slugs] or techniques():
        variants = [other for of, other in published(item) if of == tier and result_files(item, of, other)]
        if variant != FRESH:  # its seeds are other ones: ask for both
            variants = [other for other in variants if other != FRESH]
        if slugs and not variants:
            raise ConfigError(f"{item.slug} has no committed results at {tier}, so there is nothing to verify")
        if slugs and variant is not None and variant not in variants:
            hint = nearest(variant, [known for known in variants if known])
            raise ConfigError(f"{item.slug} at {tier} has no committed results of a variant {variant!r}.{hint}")
        found += [_stored(item, tier, one, seeds) for one in variants if variant in (None, one)]
    if not found:
        raise ConfigError(f"there are no committed results of {label(tier, variant or '')}, so nothing to verify")
    return found


def _stored(item: Technique, tier: str, variant: str, seeds: Sequence[int]) -> Results:
    files = {path.stem: path for path in result_files(item, tier, variant)}
    stored = {}
    for seed in seeds:
        where = f"{item.slug} ({label(tier, variant)})"
        if f"seed-{seed}" not in files:
            raise RunError(f"{where} has no committed seed {seed}; there are {', '.join(files)}")
        document = read_json(files[f"seed-{seed}"])
        if not isinstance(document, dict) or not isinstance(document.get("arms"), dict):
            raise RunError(f"{where}: seed-{seed}.json holds no results document")
        stored[seed] = document
    return Results(item, tier, variant, stored)


def verify(wanted: Sequence[Results], out: Path, jobs: int | None = None) -> Iterator[Check]:
    """Compute the seeds of ``wanted`` again below ``out`` and compare; one check a seed, as soon as it is done.

    A run that was killed continues, a finished one is not repeated. What other code or another config has begun there
    is left alone: each has a directory of its own. Raises :class:`RunError`.
    """
    runs: dict[PlainRun, Results] = {}
    threads = 1
    for results in wanted:
        experiment = load_experiment(results.item.slug, results.tier, variant=results.variant)
        threads = max(threads, experiment.threads)
        for seed in results.stored:
            key = short_hash(json.dumps(identity(experiment, seed), sort_keys=True).encode())
            folder = out / results.item.slug / label(results.tier, results.variant) / f"seed-{seed}-{key}"
            runs[PlainRun(results.item.slug, results.tier, results.variant, seed, folder)] = results
    for run, error in complete(list(runs), parallel(jobs, threads), "verify"):
        yield _failure(runs[run], run, error) if error is not None else _check(runs[run], run)


def _failure(results: Results, run: PlainRun, error: BaseException) -> Check:
    if not isinstance(error, Exception):
        raise error
    why = str(error)
    if not isinstance(error, MinirlError):
        log = run.directory / "error.txt"
        write_atomically(log, "".join(traceback.format_exception(error)))
        why = f"{type(error).__name__}: {error}; whole trace: {shown(log)}"
    return Check(results, run.seed, failed=" ".join(why.split()))


def _check(results: Results, run: PlainRun) -> Check:
    stored = results.stored[run.seed]
    computed = {**read_json(run.results), "manifest": read_json(run.directory / "manifest.json")}
    theirs, ours = _what_counts(stored), _what_counts(computed)
    return Check(
        results,
        run.seed,
        numbers=_numbers(theirs["arms"]),
        differing=tuple(differences(theirs, ours)),
        elsewhere=tuple(_elsewhere(manifest_of(stored), manifest_of(computed))),
        computed=computed,
    )


def _what_counts(document: Mapping[str, Any]) -> dict[str, Any]:
    """A results document without what may differ from run to run."""
    arms = {
        arm: {key: value for key, value in scores.items() if key not in COSTS}
        for arm, scores in document["arms"].items()
    }
    return {key: value for key, value in document.items() if key not in (*COSTS, *OF_THE_RUN)} | {"arms": arms}


def _numbers(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    return sum(map(_numbers, value)) if isinstance(value, list) else _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _elsewhere(then: Mapping[str, Any], today: Mapping[str, Any]) -> Iterator[str]:
    """What differs between the machines of two manifests, and between their versions."""

    def described(manifest: Mapping[str, Any]) -> dict[str, Any]:
        machine = {key: value for key, value in (manifest.get("hardware") or {}).items() if key != "cores"}
        return {**machine, "python": manifest.get("python"), **(manifest.get("packages") or {})}

    theirs, ours = described(then), described(today)
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            yield f"{key} {theirs.get(key, 'unknown')} there, {ours.get(key, 'unknown')} here"


# --- As text --------------------------------------------------------------------------------------------------------


def announcement(wanted: Sequence[Results], out: Path) -> str:
    """What is going to be done, and about what it costs."""
    documents = [document for results in wanted for document in results.stored.values()]
    minutes = sum(document.get("core_s", 0) for document in documents) / 60
    seeds = f"{len(documents)} seed{'s' * (len(documents) != 1)}"
    lines = [f"{seeds} to compute again; training them took {minutes:.0f} core-minutes. Runs are kept in {shown(out)}"]
    for results in wanted:
        if parts := results.given_changed():
            lines.append(f"{results.name}: {', '.join(parts)} changed since: a difference may be due to that")
    return "\n".join(lines)


def render(check: Check) -> str:
    """One line if the seed came out identical; else how much differs, where first, and what may explain it."""
    head = f"{check.results.name} seed {check.seed}: "
    if check.failed:
        return f"{head}failed: {check.failed}"
    if check.identical:
        return f"{head}identical ({check.numbers:,} numbers)"
    items = [row for row in check.differing if ".items." in row[0]]
    others = [row for row in check.differing if ".items." not in row[0]]
    scores, values = (sum(_weight(*row[1:]) for row in rows) for rows in (items, check.differing))
    lines = [f"{head}DIFFERS in {values:,} of {check.numbers:,} numbers, {scores:,} of them scores of items"]
    gaps = {key: abs(now - then) for key, then, now in check.differing if _is_number(then) and _is_number(now)}
    if gaps:
        largest = max(gaps, key=lambda key: gaps[key])
        lines.append(f"    largest absolute difference {gaps[largest]:.6g}, in {largest}")
    for key, then, today in [*others, *items][:SHOWN]:
        lines.append(f"    {key}: committed {_brief(then)}, now {_brief(today)}")
    if len(check.differing) > SHOWN:
        lines.append(f"    … and {len(check.differing) - SHOWN} more")
    if check.elsewhere:
        lines += [
            f"    the committed run was made elsewhere: {'; '.join(check.elsewhere)}",
            "    there the last digits may differ, and one sampled token that tips over changes what follows:",
            "    judge by how many items differ, and how much",
        ]
    else:
        lines.append("    the kind of machine and the versions are those of the committed run: suspect the code")
    return "\n".join(lines)


def _weight(then: Any, today: Any) -> int:
    """How many numbers a difference stands for: an arm that is missing, and lists of unequal length, are one."""
    return max(1, _numbers(then), _numbers(today))


def _brief(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{_numbers(value)} numbers"
    return json.dumps(value, ensure_ascii=False)


# --- The stamp ------------------------------------------------------------------------------------------------------


def stamp(checks: Sequence[Check]) -> Path:
    """Write that all of ``checks``, which are of one directory of results, came out identical; the file.

    Raises :class:`RunError` if they did not, if config, base or claim have changed, or if git's HEAD does not hold the
    code that computed them.
    """
    results = checks[0].results
    if differing := sorted(check.seed for check in checks if not check.identical):
        raise RunError(f"seed {', '.join(map(str, differing))} did not come out identical")
    again = f"run it again: `minirl reproduce {results.item.slug} --tier {results.tier} --publish`"
    if results.variant:
        again = f"run it again: `minirl sweep {results.item.slug} --tier {results.tier} --variant {results.variant}`"
    if parts := results.given_changed():
        raise RunError(f"{', '.join(parts)} changed since, which no stamp covers; {again}")
    current = fingerprint(load_experiment(results.item.slug, results.tier, variant=results.variant))
    computed = [check.computed or {} for check in checks]
    if moved := sorted({part for document in computed for part in changes(fingerprint_of(document), current)}):
        raise RunError(f"{', '.join(moved)} changed while the seeds ran; the same command computes them anew")
    head = history.commit("HEAD") if history.reach() != "none" else None
    if head is None:
        raise RunError("a stamp names the commit that holds the code, and this is no git checkout")
    if loose := not_in_commit(head.sha, code_parts(current)):
        raise RunError(f"commit {', '.join(loose)} first; the same command then finds its finished runs and stamps")
    manifest = manifest_of(computed[0])
    files = result_files(results.item, results.tier, results.variant)
    path = results_directory(results.item, results.tier, results.variant) / STAMP
    written = Stamp(
        schema=1,
        seeds=sorted(check.seed for check in checks),
        code=code_parts(current),
        commit=head.sha,
        date=now(),
        python=str(manifest.get("python")),
        packages=manifest.get("packages") or {},
        results={file.name: vouched(read_json(file)) for file in files},
    )
    write_json(path, written.model_dump(mode="json", by_alias=True))
    return path


def default_directory() -> Path:
    """Where runs that only verify are kept unless told otherwise."""
    return project_root() / "runs" / "verify"
