"""Whether committed results still hold: nothing they depend on has changed, or they were computed again since.

Results are **stale** when code, config, base or claim have changed since they were made. A change of shared code that
is meant to change no number makes all of them stale at once. Then a **stamp** may vouch for them: ``verified.json``,
which ``minirl verify --stamp`` writes beside the files of the seeds. It says: these results were made by older code;
the seeds listed were computed again with the code of this stamp, and every number came out identical.

A stamp vouches for files that are as they were when it was written and that the same code made as a seed that was
computed again, and only as long as the code is the one it names. It never covers a changed config, base or claim.

It is a statement, not a proof. ``minirl audit`` checks that it is well formed, that the files it speaks of are there,
and that its commit holds the code it names. It cannot tell a stamp whose hashes were written by hand from one that was
earned; ``minirl verify`` can, because it computes the numbers again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from minirl.config import Strict, validate
from minirl.errors import ConfigError, RunError
from minirl.experiments.claims import sha256_of
from minirl.experiments.fingerprint import GIVEN, changes, code_parts, fingerprint, short_hash
from minirl.experiments.registry import Technique, claim_path, results_directory
from minirl.experiments.run import load_experiment
from minirl.experiments.rundir import read_json

STAMP = "verified.json"


class Vouched(Strict):
    """One seed's file as it was: hashes of all of it, and of the fingerprint that it carries."""

    document: str
    fingerprint: str


class Stamp(Strict):
    """``seeds`` were computed again with ``code`` (file → hash), which ``commit`` holds; ``results`` are all files of
    the directory by name."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    seeds: list[int] = Field(min_length=1)
    code: dict[str, str] = Field(min_length=1)
    commit: str = Field(pattern="^[0-9a-f]{40,64}$")
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT")
    python: str
    packages: dict[str, str]
    results: dict[str, Vouched] = Field(min_length=1)

    def is_of(self, document: Mapping[str, Any]) -> bool:
        """Whether ``document`` is what its file held when the stamp was written."""
        return self.results.get(f"seed-{document.get('seed')}.json") == vouched(document)

    def words(self) -> str:
        """What it says, in words."""
        plural = "s" if len(self.seeds) > 1 else ""
        return f"seed{plural} {', '.join(map(str, self.seeds))} verified identical at {self.commit[:10]}"


@dataclass(frozen=True)
class Standing:
    """What has become of results since they were made; ``stamp`` is the one that vouches for what older code made."""

    changed: tuple[str, ...]  # parts of the fingerprint that are not what they were
    stale: tuple[str, ...]  # those of results that no stamp vouches for
    stamp: Stamp | None


def fingerprint_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint that a seed's file carries; empty if it has none."""
    parts = document.get("fingerprint")
    return parts if isinstance(parts, dict) else {}


def vouched(document: Mapping[str, Any]) -> Vouched:
    """The hashes of a seed's file for a stamp, whatever its layout."""
    return Vouched(document=_hash(document), fingerprint=_hash(fingerprint_of(document)))


def _hash(value: Any) -> str:
    return short_hash(json.dumps(value, sort_keys=True).encode())


def load_stamp(item: Technique, tier: str, variant: str = "") -> Stamp | None:
    """The stamp of a directory of results; None if it has none. Raises :class:`RunError` if it is damaged."""
    path = results_directory(item, tier, variant) / STAMP
    if not path.exists():
        return None
    try:
        return validate(Stamp, read_json(path), path.name)
    except ConfigError as error:
        raise RunError(f"{error}; delete it, or write it again with `minirl verify {item.slug} --stamp`") from error


def covers(stamp: Stamp, document: Mapping[str, Any], now: Mapping[str, str]) -> bool:
    """Whether ``stamp`` vouches for ``document`` where the fingerprint is ``now``."""
    parts, files = fingerprint_of(document), stamp.results
    computed_again = [files[name].fingerprint for seed in stamp.seeds if (name := f"seed-{seed}.json") in files]
    return (
        stamp.code == code_parts(now)
        and all(parts.get(part) == now.get(part) for part in GIVEN)
        and stamp.is_of(document)
        and _hash(parts) in computed_again  # what other code made, no seed that was computed again speaks for
    )


def standing(item: Technique, tier: str, documents: Iterable[Mapping[str, Any]], variant: str = "") -> Standing:
    """What of code, config and base has changed since the documents were made, and how much of that matters.

    The one place that decides. The claim is no part of a run: see :func:`stale_parts`.
    """
    now = fingerprint(load_experiment(item.slug, tier, variant=variant))
    stamp = load_stamp(item, tier, variant)
    changed: set[str] = set()
    stale: set[str] = set()
    vouching = None
    for document in documents:
        parts = changes(fingerprint_of(document), now)
        changed.update(parts)
        if parts and stamp is not None and covers(stamp, document, now):
            vouching = stamp
        else:
            stale.update(parts)
    return Standing(tuple(sorted(changed)), tuple(sorted(stale)), vouching)


def stale_parts(item: Technique, tier: str, documents: Iterable[Mapping[str, Any]], variant: str = "") -> list[str]:
    """What makes the documents stale: code files, config, base, claim; empty if they are current."""
    documents = list(documents)
    found = set(standing(item, tier, documents, variant).stale)
    registered = sha256_of(claim_path(item, tier))
    if any(document.get("claim_sha256") != registered for document in documents):
        found.add("claim")
    return sorted(found)
