"""Checksums of what a run has completed, so that a file that the disk has damaged is found, told, and computed again.

``checksums.json`` in a run's directory holds, for each file that is complete, the SHA-256 of its newest two contents.
They are written down before the file is: wherever a process is killed, an undamaged file has one of them. A file
without an entry was written by an older version and is taken as it is.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minirl.errors import RunError
from minirl.experiments.rundir import as_json, as_json_compact, read_json, write_atomically, write_json

NAME = "checksums.json"
IDENTITY = "identity of the run"  # the entry of no file: it says of which run the directory is


def file_checksum(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_checksums(directory: Path) -> dict[str, str]:
    """:func:`file_checksum` of every file below ``directory``, by its path relative to it."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): file_checksum(path) for path in files}


def known(directory: Path) -> dict[str, list[str]]:
    """The entries of ``directory``: file, relative to it, → checksums of its newest two contents.

    None if there is no such file. Raises :class:`RunError` if it is damaged.
    """
    if not (directory / NAME).exists():
        return {}
    found = read_json(directory / NAME)
    if not isinstance(found, dict) or not all(isinstance(one, list) for one in found.values()):
        raise RunError(f"{directory / NAME} is damaged")
    return found


def discard_if_damaged(directory: Path) -> str:
    """Begin anew if ``checksums.json`` is damaged, and say so; "" if it is not."""
    try:
        known(directory)
    except RunError:
        (directory / NAME).unlink()
        return f"{NAME} is damaged: the other files are taken as they are, without a check"
    return ""


def announce(directory: Path, contents: Mapping[str, str]) -> None:
    """Write down what is about to be written: file, relative to ``directory``, → checksum."""
    entries = known(directory)
    for name, mine in contents.items():
        entries[name] = [mine, *(other for other in entries.get(name, []) if other != mine)][:2]
    write_json(directory / NAME, entries)


def write_checked(directory: Path, name: str, value: Any, compact: bool = False) -> None:
    """``value`` as JSON in the file ``name``, atomically, after its checksum."""
    data = (as_json_compact if compact else as_json)(value).encode()
    announce(directory, {name: hashlib.sha256(data).hexdigest()})
    write_atomically(directory / name, data)


def damage(directory: Path, *wanted: str) -> str:
    """What is wrong with the first of the complete files of ``directory`` that is not what was written, "" if none is.

    ``wanted``: files, or folders whose files are all meant. Nothing is known of files without an entry, and of any if
    ``checksums.json`` is damaged itself.
    """
    try:
        entries = known(directory)
    except RunError:
        return ""
    for name, admissible in entries.items():
        if name in wanted or any(name.startswith(f"{folder}/") for folder in wanted):
            try:
                if file_checksum(directory / name) not in admissible:
                    return f"{name} is damaged (its checksum differs)"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
    return ""
