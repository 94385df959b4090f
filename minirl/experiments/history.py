"""What git remembers of a file: its versions, and which commit came before which.

Everything here answers None, or nothing, where git cannot: without git, outside a checkout, or past the end of a
shallow one. Whoever asks says so; nothing is taken for checked that was not.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from minirl.experiments.registry import project_root

TIMEOUT_S = 60


@dataclass(frozen=True)
class Commit:
    """A commit: full hash, date of its author (ISO 8601) and first line of its message."""

    sha: str
    date: str
    subject: str

    def __str__(self) -> str:
        return f"{self.sha[:10]} ({self.date}) {self.subject}"


def git(*arguments: str) -> bytes | None:
    """What ``git`` prints in the repository, or None if it fails or is not there."""
    command = ["git", "-C", str(project_root()), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def reach() -> str:
    """How far back git remembers: ``full``, ``shallow``, or ``none`` (no git, no checkout, no commit yet)."""
    # The repository's own history, not that of another one that this directory happens to lie in.
    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top.decode().strip()).resolve() != project_root().resolve() or commit("HEAD") is None:
        return "none"
    return "shallow" if (git("rev-parse", "--is-shallow-repository") or b"").strip() == b"true" else "full"


def commit(name: str) -> Commit | None:
    """The commit called ``name``; None if this checkout does not have it."""
    found = _log("-1", f"{name}^{{commit}}", "--")
    return found[0] if found else None


def commits_of(path: Path) -> list[Commit]:
    """Commits up to HEAD that changed ``path`` (a file, or anything in a directory), oldest first; [] without git."""
    return _log("--full-history", "--reverse", "--topo-order", "HEAD", "--", _name(path))


def last_change(path: Path) -> Commit | None:
    """The commit that ``path`` has its present content from, as far as it is committed."""
    found = _log("-1", "HEAD", "--", _name(path))
    return found[0] if found else None


def first_with(directory: Path) -> Commit | None:
    """The commit that first put a file into ``directory``."""
    added = _log("--full-history", "--reverse", "--topo-order", "--diff-filter=A", "HEAD", "--", _name(directory))
    return added[0] if added else None


def content(sha: str, path: Path) -> bytes | None:
    """The bytes of ``path`` in a commit; None if it is not in there."""
    return git("show", f"{sha}:{_name(path)}")


def is_before(earlier: str, later: str) -> bool:
    """Whether ``earlier`` is a true ancestor of ``later``."""
    return earlier != later and git("merge-base", "--is-ancestor", earlier, later) is not None


def is_committed(path: Path) -> bool:
    """Whether HEAD holds ``path`` exactly as it lies here."""
    return content("HEAD", path) == path.read_bytes()


def _name(path: Path) -> str:
    return path.resolve().relative_to(project_root().resolve()).as_posix()


def _log(*arguments: str) -> list[Commit]:
    said = git("log", "--format=%H%x1f%aI%x1f%s", *arguments)
    lines = (said or b"").decode(errors="replace").splitlines()
    return [Commit(*line.split("\x1f", 2)) for line in lines if line]
