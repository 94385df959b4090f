"""What both sandboxes share: limits, outcomes, and how a program is stopped."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from minirl.errors import MinirlError

Status = Literal["passed", "failed", "timeout", "memory", "refused"]


class SandboxError(MinirlError):
    """No sandbox works here, or the tests themselves are wrong. Says what to install or mend."""


@dataclass(frozen=True)
class Limits:
    """What a program may use. Memory and answers in bytes, time in seconds.

    ``cpu_s`` is processor time under bubblewrap and, under monty, the time of one call. ``wall_s`` bounds the whole,
    tests included; it is generous because machines are busy. ``output_bytes`` bounds what is printed. ``answer_bytes``
    bounds one returned value, and so what the parent can be made to do: dictionaries of colliding keys take quadratic
    time to read.
    """

    cpu_s: int = 4
    wall_s: float = 30.0
    memory_bytes: int = 256 * 2**20
    output_bytes: int = 2**16
    answer_bytes: int = 2**16


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    ``passed``: it ended by itself without an exception or, graded, did what the tests ask. ``failed``: it did not.
    ``timeout``, ``memory``: stopped by a limit. ``refused``: not judged, because it lies outside the subset of Python
    that the only sandbox here understands. ``output`` is the beginning of what it printed, ``error`` says what went
    wrong, ``seconds`` is wall-clock time, ``backend`` is where it ran.
    """

    status: Status
    output: str
    error: str
    seconds: float
    backend: str

    @property
    def passed(self) -> bool:
        """Whether the status is ``passed``; everything else earns nothing."""
        return self.status == "passed"


class Stopped(Exception):
    """A program came to an end before it answered. ``final`` is False if full Python might see it differently."""

    def __init__(self, status: Status, error: str, final: bool = True):
        super().__init__(error)
        self.status: Status = status
        self.error = error[:600]
        self.final = final


class Session(Protocol):
    """One program in one sandbox. Methods raise :class:`Stopped`."""

    def __enter__(self) -> "Session": ...
    def __exit__(self, *exception: object) -> None: ...
    def load(self, code: str, stdin: str = "") -> None:
        """Run the program's top level."""

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """What the program's function returns: plain data."""

    def check(self, code: str, candidate: Any) -> None:
        """Run tests that may call ``candidate``, a function of this process."""

    def output(self) -> str:
        """The beginning of what was printed so far."""
