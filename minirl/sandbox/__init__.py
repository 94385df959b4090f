"""Run and grade code that a model wrote. Closed by default: where no sandbox works, grading refuses.

Two sandboxes behind one function. **monty** (the package pydantic-monty) interprets a subset of Python and comes first;
**bubblewrap** runs full Python behind Linux namespaces. Which of them works here is found by trying forbidden things,
not by looking for a program. What a program fails at in monty is tried again in bubblewrap where that works, since
monty's subset may be to blame; otherwise such an outcome is ``refused``.

The verdict is never computed where the program runs. It sees only the arguments of a call; its answers come back as
JSON and are compared in this process, or by tests that run in a second sandbox, so a program that ends early, patches
builtins or returns objects that equal everything changes nothing but its own answers.

What was tried, and what is not covered, is in book/reference/sandbox.md.
"""

import functools
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minirl.sandbox import plain
from minirl.sandbox.base import Limits, Outcome, SandboxError, Session, Stopped
from minirl.sandbox.bubblewrap import ProcessSession
from minirl.sandbox.monty import MontySession

BACKENDS = ("monty", "bubblewrap")  # in the order in which they are tried
INSTALL = "install one: `pip install pydantic-monty` (a subset of Python) or, on Linux, the system's package bubblewrap"

# Must come back empty. Each line is something that works outside.
PROBES = {
    "monty": """
def probe(path, port):
    try:
        return open(path).read()
    except PermissionError:
        return ""
""",
    "bubblewrap": """
import ctypes, os, socket, threading
def probe(path, port):
    done = []
    def attempt(name, action):
        try:
            action()
            done.append(name)
        except (OSError, RuntimeError):
            return
    attempt("read a file", lambda: open(path).close())
    attempt("list processes", lambda: os.listdir("/proc"))
    attempt("write a file", lambda: open("/tmp/probe", "w").close())
    attempt("connect", lambda: socket.create_connection(("127.0.0.1", port), 1))
    attempt("start a thread", lambda: threading.Thread(target=int).start())
    attempt("start a process", lambda: os.fork() or os._exit(0))
    done.extend(os.environ.keys() - {"LC_CTYPE", "PWD", "LD_LIBRARY_PATH"})
    return ", ".join(done)
""",
}


@dataclass(frozen=True)
class Case:
    """One hidden test: the entry function called with ``args`` must return what equals ``expected`` (``==``)."""

    args: tuple[Any, ...]
    expected: Any


def run_program(
    code: str,
    stdin: str = "",
    limits: Limits | None = None,
    backend: str | None = None,
    unsafe_without_sandbox: bool = False,
) -> Outcome:
    """Run a program to its end. ``passed`` means no more than that it ended by itself and without an exception.

    ``backend`` asks for one sandbox instead of the first that copes. ``unsafe_without_sandbox`` runs what a model wrote
    with your rights, in no sandbox at all. Raises :class:`SandboxError` where no sandbox works.
    """

    def attempt(start: "_Start") -> Session:
        with start("program") as program:
            try:
                program.load(code, stdin)
            finally:
                printed.append(program.output())
            return program

    printed: list[str] = []
    return _first_that_copes(attempt, printed, limits or Limits(), backend, unsafe_without_sandbox)


def grade(
    code: str,
    entry: str,
    tests: Sequence[Case] | str,
    limits: Limits | None = None,
    backend: str | None = None,
    unsafe_without_sandbox: bool = False,
) -> Outcome:
    """Whether the function ``entry`` that ``code`` defines passes hidden ``tests``.

    Tests are either cases, compared in this process, or source that calls ``candidate`` and asserts; that source runs
    in a sandbox of its own, never beside the program. Arguments and values are plain data: None, bool, int, float, str,
    list, tuple, set, dict. The other arguments are those of :func:`run_program`. Raises :class:`SandboxError` where no
    sandbox works and when tests test nothing.
    """
    if not entry.isidentifier() or not tests:
        raise SandboxError(f"nothing to grade: entry {entry!r}, {len(tests)} tests; give a name and at least one test")
    try:
        plain.pack_plain(None if isinstance(tests, str) else [(case.args, case.expected) for case in tests])
    except TypeError as error:
        raise SandboxError(f"a test can't be given to a program or compared: {error}") from error

    def attempt(start: "_Start") -> None:
        with start("program") as program:
            try:
                if isinstance(tests, str):
                    _check(start, program, code, entry, tests)
                else:
                    program.load(code)
                    for number, case in enumerate(tests):
                        if not program.call(entry, case.args) == case.expected:
                            raise Stopped("failed", f"case {number} has another answer")
            finally:
                printed.append(program.output())

    printed: list[str] = []
    return _first_that_copes(attempt, printed, limits or Limits(), backend, unsafe_without_sandbox)


def _check(start: "_Start", program: Session, code: str, entry: str, tests: str) -> None:
    stopped: list[Stopped] = []
    calls = 0

    def candidate(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        try:
            return program.call(entry, args)
        except Stopped as error:
            stopped.append(error)  # the tests may catch what reaches them; this they can't
            raise

    with start("tests") as judge:
        program.load(code)
        try:
            judge.check(tests, candidate)
        except Stopped as error:
            stopped.append(error)
    if stopped:
        raise stopped[0]
    if not calls:
        raise SandboxError(f"the tests never call candidate, so they would pass any {entry}; mend the tests")


_Start = Callable[[str], Session]


def _first_that_copes(
    attempt: Callable[[_Start], Any], printed: list[str], limits: Limits, backend: str | None, unsafe: bool
) -> Outcome:
    begun = time.monotonic()
    outcome: Outcome | None = None
    for name in _usable(backend, unsafe):
        deadline = time.monotonic() + limits.wall_s
        try:
            attempt(functools.partial(_start, name, limits, deadline))
            return Outcome("passed", printed[-1], "", time.monotonic() - begun, name)
        except Stopped as stopped:
            output = printed[-1] if printed else ""
            outcome = Outcome(stopped.status, output, stopped.error, time.monotonic() - begun, name)
            if stopped.final:
                break
    assert outcome is not None
    return outcome


def _start(name: str, limits: Limits, deadline: float, purpose: str) -> Session:
    if name == "monty":
        return MontySession(limits, deadline, purpose)
    return ProcessSession(limits, deadline, _python()[0] if name == "bubblewrap" else None)


def _usable(backend: str | None, unsafe: bool) -> Iterator[str]:
    if unsafe:
        yield "unsafe"
        return
    asked = (backend,) if backend else BACKENDS
    reasons = {}
    for name in asked:
        reasons[name] = why_not(name)
        if not reasons[name]:
            yield name
    if all(reasons.values()):
        tried = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise SandboxError(
            f"code that a model wrote is not run without a sandbox, and none works here; {INSTALL}. {tried}"
        )


@functools.cache
def why_not(backend: str) -> str:
    """Why this sandbox can't be used here; "" if it can: it ran a program, and kept it from what is forbidden."""
    if backend not in BACKENDS:
        raise SandboxError(f"unknown sandbox {backend!r}; one of: {', '.join(BACKENDS)}")
    if backend == "monty":
        return _probe(backend, MontySession)
    return _python()[1]


@functools.cache
def _python() -> tuple[str, str]:
    """The interpreter that bubblewrap runs (this one where it can be reached, else the system's), and why none."""
    reasons = []
    for path in dict.fromkeys([getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"]):
        reason = _probe("bubblewrap", functools.partial(ProcessSession, python=path))
        if not reason:
            return path, ""
        reasons.append(f"{path}: {reason}")
    return "", "; ".join(reasons)


def _probe(backend: str, start: Callable[[Limits, float], Session]) -> str:
    limits = Limits()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "probe")
        with open(path, "w", encoding="utf-8") as file:
            file.write("read a file")
        try:
            with start(limits, time.monotonic() + limits.wall_s) as session:
                session.load(PROBES[backend])
                escaped = session.call("probe", (path, server.getsockname()[1]))
        except ImportError:
            return "not installed"
        except (Stopped, SandboxError, OSError) as error:
            return f"{error} {session.output().strip()[:200]}" if isinstance(error, Stopped) else str(error)
    return f"it lets a program {escaped}" if escaped else ""


__all__ = ["BACKENDS", "Case", "Limits", "Outcome", "SandboxError", "grade", "run_program", "why_not"]
