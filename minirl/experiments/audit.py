"""``minirl audit``: every verdict once more from the files of the seeds, and what git knows about the order of things.

Nothing that is checked is taken from a summary. A **failure** means that a number, a verdict or the order of events is
not what it is said to be; a **warning**, that results are stale or not committed; a **note**, that something could not
be checked here, such as the order of commits in a shallow clone, or that older code made the results and seeds were
computed again since (:mod:`minirl.experiments.staleness`). The functions return all that they find, in words: one fault
does not hide the next.
"""

import functools
import hashlib
import itertools
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from minirl.config import Strict, load_model
from minirl.errors import ConfigError, MinirlError, RunError
from minirl.experiments import history
from minirl.experiments.claims import (
    Claim,
    SeedResult,
    evaluate_claim,
    load_claim,
    parse_seed_result,
    to_json,
    wrong_means,
)
from minirl.experiments.fingerprint import code_hash, code_parts, config_hash, short_hash
from minirl.experiments.registry import (
    Technique,
    claim_path,
    governing_claim,
    label,
    project_root,
    published,
    result_files,
    results_directory,
    settles,
    technique,
    techniques,
)
from minirl.experiments.report import (
    SEED_TABLE,
    STALE_BADGE,
    coverage_rows,
    generated,
    seed_table,
    settled_claim,
)
from minirl.experiments.rundir import read_json
from minirl.experiments.staleness import STAMP, Stamp, fingerprint_of, load_stamp, standing

Level = Literal["failure", "warning", "note"]
TOLERANCE = 1e-12  # of a number in a summary: it is written with all its digits


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: where (``slug (tier)``, or a file), and what, in one line."""

    level: Level
    where: str
    text: str


@dataclass(frozen=True)
class Audit:
    """What was looked at, and what was found."""

    findings: tuple[Finding, ...]
    verdicts: dict[str, str]  # ``slug (tier)`` → verdict, recomputed
    files: int  # per-seed files that were read

    @property
    def failures(self) -> int:
        return self.count("failure")

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "ok": not self.failures,
            "files": self.files,
            "verdicts": self.verdicts,
            "findings": [asdict(finding) for finding in self.findings],
        }


def render(found: Audit) -> str:
    """The findings, worst first, one line each, and a last line that sums up."""
    said = {"failure": "FAILED ", "warning": "warning", "note": "note   "}
    lines = [
        f"{word} {finding.where}: {finding.text}"
        for level, word in said.items()
        for finding in found.findings
        if finding.level == level
    ]
    counts = ", ".join(
        f"{n} {word}{'s' * (n != 1)}" for word in ("failure", "warning", "note") if (n := found.count(word))
    )
    lines.append(f"{len(found.verdicts)} verdicts recomputed from {found.files} files: {counts or 'nothing amiss'}")
    return "\n".join(lines)


def audit(slugs: Sequence[str] = ()) -> Audit:
    """Check the committed results of ``slugs``, by default of every technique. Raises :class:`ConfigError` for an
    unknown slug."""
    items = [technique(slug) for slug in slugs] or techniques()
    findings: list[Finding] = []
    reach = history.reach()
    if reach != "full":
        state = "the history is shallow" if reach == "shallow" else "this is no git checkout"
        remedy = "`git fetch --unshallow` brings the rest" if reach == "shallow" else "clone the repository with git"
        findings.append(Finding("note", "git", f"{state}: whether claims came before results is not checked; {remedy}"))
    verdicts: dict[str, str] = {}
    files = 0
    for item in items:
        entries = []
        for tier, variant in published(item):
            where = f"{item.slug} ({label(tier, variant)})"
            files += len(result_files(item, tier, variant))
            try:
                entry = _audit_results(item, tier, variant, reach, findings, where)
            except MinirlError as error:
                findings.append(Finding("failure", where, _one_line(error)))
                continue
            if entry is not None:
                entries.append(entry)
                verdicts[where] = entry["verdict"]
        if len(entries) == sum(not variant for _, variant in published(item)):  # else the row cannot be known
            findings += _audit_coverage(item, entries)
    return Audit(tuple(findings), verdicts, files)


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def _audit_results(
    item: Technique, tier: str, variant: str, reach: str, findings: list[Finding], where: str
) -> dict[str, Any] | None:
    """Check one directory of results; adds to ``findings``. The claim's entry, or None for a variant.

    Raises :class:`MinirlError` where nothing further can be said.
    """

    def found(level: Level, texts: Iterable[str]) -> int:
        before = len(findings)
        findings.extend(Finding(level, where, text) for text in texts)
        return len(findings) - before

    claim_file = governing_claim(item, tier) if variant else claim_path(item, tier)
    if not claim_file.exists():
        raise RunError(f"there are results, but no {claim_file.name}; register a claim before running")
    claim = settled_claim(item, tier, variant)
    files = result_files(item, tier, variant)
    documents = {file: document for file in files if isinstance(document := read_json(file), dict)}
    broken = found("failure", (f"{file.name}: holds no results document" for file in files if file not in documents))
    if not documents:
        raise RunError(f"no results in {results_directory(item, tier, variant).name}/")
    broken += found("failure", _wrong_documents(claim, tier, variant, documents))
    for file, document in documents.items():
        broken += found("failure", (f"{file.name}: {text}" for text in _wrong_scores(document)))
    found("failure", _wrong_configs(documents))
    if reach != "none":
        for level, text in _out_of_order(item, tier, variant, claim_file, documents, reach):
            found(level, [text])
        found("warning", _other_code(documents))
        shown = [claim_file, *files, *results_directory(item, tier, variant).glob(STAMP)]
        loose = [file.name for file in shown if not history.is_committed(file)]
        if loose:
            found("warning", [f"not committed as it lies here: {', '.join(loose)}"])
    elif any(document.get("claim_sha256") != _sha256(claim_file.read_bytes()) for document in documents.values()):
        found("note", [f"{claim_file.name} is not the text that the results were made under; git would tell why"])
    stamp = load_stamp(item, tier, variant)
    if stamp is not None:
        for level, text in _wrong_stamp(stamp, documents):
            found(level, [text])
    now = standing(item, tier, documents.values(), variant)
    if now.stale:
        found("warning", [f"stale, these have changed since: {', '.join(now.stale)}"])
    if now.stamp is not None:
        found("note", [f"code changed since ({', '.join(now.changed)}); {now.stamp.words()}"])
    if not settles(variant) or broken:
        return None
    names = [str(file.relative_to(project_root())) for file in files]
    entry = to_json(evaluate_claim(claim, list(documents.values()), names), stale=bool(now.stale))
    found("failure", _wrong_summary(item, tier, variant, entry))
    if variant:
        return None
    for level, text in _wrong_notebook(item, tier, documents[files[0]], entry):
        found(level, [text])
    return entry


# --- The files of the seeds -----------------------------------------------------------------------------------------


def _wrong_documents(
    claim: Claim, tier: str, variant: str, documents: Mapping[Path, Mapping[str, Any]]
) -> Iterator[str]:
    """What is wrong with the seeds and with what the files say of themselves."""
    ours = claim.model_copy(update={"tier": tier})
    seeds = []
    for file, document in documents.items():
        try:
            result = parse_seed_result(document, file.name, ours)
        except RunError as error:
            yield _one_line(error)
            continue
        seeds.append(result.seed)
        if file.stem != f"seed-{result.seed}":
            yield f"{file.name}: holds seed {result.seed}"
        if document.get("variant", "") != variant:
            yield f"{file.name}: belongs to the variant {document.get('variant')!r}, not to {variant!r}"
        if result.evaluation.get("items", "exact") != claim.evaluation.items:
            yield (
                f"{file.name}: evaluated on {result.evaluation.get('items', 'exact')} items, the claim registers "
                f"{claim.evaluation.items}"
            )
    missing, extra = set(claim.seeds) - set(seeds), set(seeds) - set(claim.seeds)
    if missing:
        yield f"no results of the registered seed {', '.join(map(str, sorted(missing)))}"
    if extra:
        yield f"seed {', '.join(map(str, sorted(extra)))} is not registered in the claim"


def _wrong_scores(document: Any) -> Iterator[str]:
    """Metrics of any arm, registered or not, that are not the means of their items, and lists of another length."""
    try:
        result = SeedResult.model_validate(document)
    except ValueError:  # reported already
        return
    items = result.evaluation.get("items")
    for arm, scores in result.arms.items():
        for metric, stored, mean in wrong_means(scores):
            yield f"arm {arm!r}: {metric!r} is {stored}, but its items have mean {mean}"
        for metric, values in scores.items.items():
            if items is not None and len(values) != items:
                yield f"arm {arm!r}: {metric!r} has {len(values)} items, the evaluation had {items}"


def _wrong_configs(documents: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    """Files whose manifest shows another config or seed than the one that their fingerprint was made of."""
    for file, document in documents.items():
        manifest, parts = manifest_of(document), fingerprint_of(document)
        if config_hash(manifest.get("config", {})) != parts.get("config"):
            yield f"{file.name}: the config in its manifest is not the one its fingerprint was made of"
        if manifest.get("seed", document.get("seed")) != document.get("seed"):
            yield f"{file.name}: its manifest is that of seed {manifest['seed']}"


# --- What quotes them -----------------------------------------------------------------------------------------------


def _wrong_summary(item: Technique, tier: str, variant: str, entry: Mapping[str, Any]) -> list[str]:
    """Where ``summary.json`` says something else than ``entry``; whether it is stale is another matter."""
    path = results_directory(item, tier, variant) / "summary.json"
    if not path.exists():
        return [f"there is no {path.name}; `minirl report` writes it"]
    stored = read_json(path)
    if not isinstance(stored, dict):
        return [f"{path.name} is no summary; `minirl report` writes it"]
    return [
        f"{path.name}: {key} is {_json(theirs)}, the files of the seeds say {_json(ours)}"
        for key, theirs, ours in differences({**stored, "stale": None}, {**entry, "stale": None}, _nearly)
    ]


def differences(
    stored: Any, computed: Any, same: Callable[[Any, Any], bool] = operator.eq, path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """``(key, stored, computed)`` for every leaf at which two JSON documents are not the ``same``."""
    if isinstance(stored, dict) and isinstance(computed, dict):
        for key in [*computed, *(key for key in stored if key not in computed)]:
            inner = f"{path}.{key}".lstrip(".")
            yield from differences(stored.get(key, "missing"), computed.get(key, "nothing"), same, inner)
    elif isinstance(stored, list) and isinstance(computed, list) and len(stored) == len(computed):
        for index, (theirs, ours) in enumerate(zip(stored, computed, strict=True)):
            yield from differences(theirs, ours, same, f"{path}[{index}]")
    elif not same(stored, computed):
        yield path, stored, computed


def _nearly(stored: Any, computed: Any) -> bool:
    """Equal but for the last digit, which may differ between machines."""
    numbers = all(isinstance(value, float) for value in (stored, computed))
    return stored == computed or (numbers and math.isclose(stored, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _wrong_notebook(
    item: Technique, tier: str, document: Mapping[str, Any], entry: Mapping[str, Any]
) -> Iterator[tuple[Level, str]]:
    """Where the table at the end of the executed notebook, that of the first seed, says something else.

    What it says of this seed must be right. The verdict over all seeds beside it may be that of results before these:
    the notebook was executed before they were published.
    """
    path = results_directory(item, tier) / "notebook.ipynb"
    if not path.exists():
        return
    outputs = [output for cell in read_json(path)["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    wanted = _cells(seed_table(item.slug, document, entry))
    for shown in (_cells(text) for text in texts if text.startswith(SEED_TABLE)):
        nothing: list[str] = []
        for theirs, ours in itertools.zip_longest(shown, wanted, fillvalue=nothing):
            if theirs[:4] != ours[:4]:
                yield "failure", f"{path.name}: says {_row(theirs[:4])}; the results say {_row(ours[:4])}"
            elif theirs != ours:
                yield "warning", f"{path.name}: says {_row(theirs[4:])} of all seeds, the results say {_row(ours[4:])}"


def _cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]


def _row(cells: Sequence[str]) -> str:
    return " | ".join(cells) or "nothing"


def _audit_coverage(item: Technique, entries: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Where the README's table says something else of ``item``; a mere lack of a row without numbers is a warning."""
    where = "README.md"
    try:
        table = generated((project_root() / where).read_text(encoding="utf-8"), "coverage")
    except (OSError, ConfigError) as error:
        return [Finding("failure", where, f"has no table of verdicts: {_one_line(error)}")]
    stored = [line.replace(STALE_BADGE, "") for line in table.splitlines() if line.startswith(f"| [`{item.slug}`]")]
    wanted = [row.replace(STALE_BADGE, "") for row in coverage_rows(item, entries)]
    if stored == wanted:
        return []
    if not entries and not stored:
        return [Finding("warning", where, f"does not list {item.slug}; `minirl report` writes its row")]
    return [
        Finding("failure", where, f"says {theirs or 'nothing'}; the results say {ours or 'nothing'}")
        for theirs, ours in itertools.zip_longest(stored, wanted)
        if theirs != ours
    ]


# --- What git remembers ---------------------------------------------------------------------------------------------


def registered_part(text: bytes) -> dict[str, Any]:
    """A claim without its notes, the part that may not change. Raises :class:`ConfigError` if it cannot be read."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"a version of the claim is not valid YAML: {_one_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError("a version of the claim holds no 'key: value' lines")
    return {key: value for key, value in data.items() if key != "notes"}


def registration(claim_file: Path, results: Path) -> tuple[history.Commit | None, history.Commit | None]:
    """``(registered, first)``: the last change of the claim before its first results, and the commit of these.

    None where git has no such commit.
    """
    first = history.first_with(results)
    texts = versions_of(claim_file)
    if first is not None:
        texts = {version: text for version, text in texts.items() if history.is_before(version.sha, first.sha)}
    if not texts:
        return None, first
    last = list(texts.values())[-1]
    # The first that brought this text: merges list it once more.
    return next(version for version, text in texts.items() if text == last), first


def versions_of(file: Path) -> dict[history.Commit, bytes]:
    """What a file held in each commit that changed it, oldest first; without those that removed it."""
    texts = {version: history.content(version.sha, file) for version in history.commits_of(file)}
    return {version: text for version, text in texts.items() if text is not None}


class Recovered(Strict):
    """``reproductions/recovered.yaml``: techniques whose history is lost, so that git cannot show their claim to have
    come before the results. It says so in the open instead of keeping the audit quiet about it."""

    why: str
    slugs: list[str]


def lost_history(item: Technique) -> str | None:
    """Why the order of claim and results of a technique cannot be seen; None if it can."""
    path = project_root() / "reproductions" / "recovered.yaml"
    known = load_model(path, Recovered) if path.exists() else None
    return _one_line(known.why) if known is not None and item.slug in known.slugs else None


def _out_of_order(
    item: Technique,
    tier: str,
    variant: str,
    claim_file: Path,
    documents: Mapping[Path, Mapping[str, Any]],
    reach: str,
) -> Iterator[tuple[Level, str]]:
    """What git says against the claim having come first and stayed as it was."""
    name, claim = claim_file.name, load_claim(claim_file)
    registered, first = registration(claim_file, results_directory(item, tier, variant))
    held = versions_of(claim_file)
    versions, texts = list(held), {version.sha: text for version, text in held.items()}
    here = registered_part(claim_file.read_bytes())
    if "extends" in here:
        yield "failure", f"{name} extends another file, which the hash in the results does not cover"
    if not versions:
        yield "failure", f"{name} is not committed, so nothing shows that it came before the results"
        return
    hashes = {_sha256(text): sha for sha, text in texts.items()}
    made_under = {str(document.get("claim_sha256")) for document in documents.values()}
    for unknown in sorted(made_under - hashes.keys()):
        files = [file.name for file, document in documents.items() if str(document.get("claim_sha256")) == unknown]
        level: Level = "note" if reach == "shallow" else "failure"
        yield level, f"{', '.join(files)}: made under a claim (sha256 {unknown[:12]}) that git holds no version of"
    if reach == "shallow":  # its oldest commit seems to have added everything at once
        registered = None
    elif first is None:
        registered = versions[-1]  # results that are not committed; said elsewhere
    elif first in held and (reason := lost_history(item)):
        yield "warning", f"{name} came with its first results, in commit {first}: {reason}"
        registered = first
    elif registered is None:
        yield "failure", f"{name} came with or after its first results, which are in commit {first}"
    elif str(claim.registered) > first.date[:10]:
        yield "failure", f"{name} says it was registered {claim.registered}, its first results are in commit {first}"
    if registered is None:
        return
    promised = registered_part(texts[registered.sha] or b"")
    until, blamed = versions.index(registered) + 1, False
    known = {texts[version.sha] for version in versions[:until]}
    for version in versions[until:]:
        if texts[version.sha] in known:  # on a branch that had not heard of the newest text yet
            continue
        if keys := _keys_changed(promised, registered_part(texts[version.sha] or b"")):
            blamed = True
            yield "failure", f"{name}: {keys} changed after the first results, in commit {version}; {_NOTES}"
    committed = texts[versions[-1].sha] == claim_file.read_bytes()
    if not (blamed and committed) and (keys := _keys_changed(promised, here)):
        how = "back to what it had been" if committed else "and not committed"
        yield "failure", f"{name}: {keys} changed after the first results, {how}; {_NOTES}"
    for digest in sorted(made_under & hashes.keys()):
        keys = _keys_changed(promised, registered_part(texts[hashes[digest]] or b""))
        if keys:
            yield "failure", f"made under a version of {name} (sha256 {digest[:12]}) whose {keys} is not the registered"
    for file, document in documents.items():
        yield from _run_before_claim(file.name, document, claim_file, promised)


_NOTES = "a change of mind belongs into a dated note"


def _run_before_claim(
    name: str, document: Mapping[str, Any], claim_file: Path, promised: Mapping[str, Any]
) -> Iterator[tuple[Level, str]]:
    """Whether the commit at which the run began held the claim already."""
    sha = code_commit(document)
    if sha is None or history.commit(sha) is None:
        yield "note", f"{name}: made at commit {sha}, which this checkout does not have"
        return
    text = history.content(sha, claim_file)
    if text is None or _keys_changed(promised, registered_part(text)):
        yield "failure", f"{name}: made at commit {sha[:10]}, which did not hold the registered {claim_file.name} yet"


def _keys_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return ", ".join(map(repr, keys))


def code_commit(document: Mapping[str, Any]) -> str | None:
    """The commit at which a seed was run; there may have been changes on top of it (:func:`code_differs`)."""
    name = manifest_of(document).get("commit")
    return str(name).removesuffix("-dirty") if name else None


def code_differs(document: Mapping[str, Any]) -> list[str] | None:
    """Files of the fingerprint that the commit of the run holds differently; None if that commit is not here."""
    sha = code_commit(document)
    if sha is None or history.commit(sha) is None:
        return None
    base = str(manifest_of(document).get("config", {}).get("base", ""))
    parts = {part: then for part, then in fingerprint_of(document).items() if part != "config"}
    return not_in_commit(sha, parts, base)


def not_in_commit(sha: str, parts: Mapping[str, str], base: str = "") -> list[str]:
    """Those ``parts`` of a fingerprint that a commit, which must be here, does not hold with the given hash."""
    return [part for part, then in parts.items() if _hash_at(sha, part, base) != then]


@functools.cache  # seeds of one commit share all their files
def _hash_at(sha: str, part: str, base: str) -> str | None:
    """A part of a fingerprint as it was in a commit; None if the commit does not hold it."""
    base_file = f"minirl/policy/shipped/{base}/model.safetensors"
    path = project_root() / (base_file if part == "base" else part)
    data = history.content(sha, path)
    if data is None:
        return None
    return short_hash(data) if part == "base" else code_hash(data.decode(errors="replace"))


def manifest_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """With what a seed was run: commit, config, versions, machine; empty if the file does not say."""
    manifest = document.get("manifest")
    return manifest if isinstance(manifest, dict) else {}


def _wrong_stamp(stamp: Stamp, documents: Mapping[Path, Mapping[str, Any]]) -> Iterator[tuple[Level, str]]:
    """What is wrong with the record that seeds were computed again, as far as it can be known without doing so."""
    there = {file.name: document for file, document in documents.items()}
    gone = sorted({*stamp.results, *(f"seed-{seed}.json" for seed in stamp.seeds)} - there.keys())
    if gone:
        yield "failure", f"{STAMP}: speaks of {', '.join(gone)}, which is not there"
    other = [name for name, document in there.items() if not stamp.is_of(document) and name not in gone]
    if other:
        yield "warning", f"{STAMP}: void, not the file that it was written for: {', '.join(other)}; {_AGAIN}"
    if history.commit(stamp.commit) is None:
        yield "note", f"{STAMP}: written at commit {stamp.commit[:10]}, which this checkout does not have"
    elif differs := not_in_commit(stamp.commit, code_parts(stamp.code)):
        yield (
            "failure",
            f"{STAMP}: its commit {stamp.commit[:10]} does not hold the code it names: {', '.join(differs)}",
        )


_AGAIN = "delete it, or `minirl verify --stamp`"


def _other_code(documents: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    for file, document in documents.items():
        differs = code_differs(document)
        if differs:
            yield (
                f"{file.name}: made by code that its commit {(code_commit(document) or '')[:10]} does not hold: "
                f"{', '.join(differs)}"
            )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
