"""The default sandbox: pydantic-monty, an interpreter of a Python subset with no way to files, network or processes.

A program runs in a worker process that no other program has used, and leaves it by printing JSON: no object of the
program's making is ever built in this process.
"""

import atexit
import builtins
import functools
import inspect
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

from minirl.sandbox import plain
from minirl.sandbox.base import Limits, Stopped

# How monty says that something is missing in it, rather than wrong with the program.
MISSING = re.compile(
    r"NotImplementedError: .*monty|ModuleNotFoundError|ImportError|not supported in this environment"
    r"|Internal error in monty|AttributeError: (module|type object) |cannot create '\w+' instances"
)


@functools.cache
def _pool(purpose: str, process: int) -> Any:  # noqa: ARG001
    """Workers for one purpose. Programs and tests have pools of their own: no program runs where tests run, and a
    thread that holds a worker of one never waits for another of the same."""
    import pydantic_monty  # optional, and only needed here

    pool = pydantic_monty.Monty(min_processes=1, max_checkouts_per_worker=1, request_timeout=120.0)
    pool.__enter__()
    atexit.register(pool.__exit__, None, None, None)
    return pool


class MontySession:
    """A program (or its tests) in monty. See :class:`minirl.sandbox.base.Session`."""

    def __init__(self, limits: Limits, deadline: float, purpose: str = "program"):
        import pydantic_monty

        self._monty = pydantic_monty
        self._limits, self._deadline = limits, deadline
        self._printed = ""
        self._session = _pool(purpose, os.getpid()).checkout(
            limits={
                "max_feed_duration_secs": float(limits.cpu_s),
                "max_memory": limits.memory_bytes,
                "max_suspensions": 100_000,
            },
            os_policy={"sleep": "zero"},
            assert_message_annotations=False,
        )

    def __enter__(self) -> "MontySession":
        self._session.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.__exit__(*exception)

    def load(self, code: str, stdin: str = "") -> None:
        """Run the program's top level; one that gets input is left to bubblewrap, as monty has no ``input``."""
        if stdin:
            raise Stopped("refused", "monty has no input()", final=False)
        self._printed += self._feed(code, self._limits.output_bytes)

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call the program's function. The value comes back as the last line that is printed."""
        code = f"{inspect.getsource(plain)}\nimport json\n_packed = json.dumps(pack_plain({name}(*_args)))\n"
        printed = self._feed(
            f"{code}print()\nprint(_packed)\nNone",
            self._limits.output_bytes + self._limits.answer_bytes,
            inputs={"_args": args},
        )
        *rest, answer = printed.rstrip("\n").split("\n")
        self._printed += "\n".join(rest)
        try:
            return unpack_answer(json.loads(answer), len(answer), self._limits)
        except (ValueError, RecursionError) as error:
            raise Stopped("failed", "an answer is no JSON") from error

    def check(self, code: str, candidate: Callable[..., Any]) -> None:
        """Run tests here; their calls of ``candidate`` come to this process."""
        self._feed(code, self._limits.output_bytes, external_lookup={"candidate": candidate})

    def output(self) -> str:
        """The beginning of what was printed."""
        return self._printed[: self._limits.output_bytes]

    def _feed(self, code: str, most: int, **inputs: Any) -> str:
        if time.monotonic() > self._deadline:
            raise Stopped("timeout", "the whole took too long")
        printed = self._monty.CollectString(most)
        try:
            self._session.feed_run(code, print_callback=printed, **inputs)
        except self._monty.MontyCrashedError as error:
            raise Stopped("timeout" if error.timed_out else "failed", f"the worker ended: {error}") from error
        except self._monty.MontyError as error:
            self._printed += printed.output
            raise _stopped(error, most) from error
        return printed.output


def _stopped(error: Any, most: int) -> Stopped:
    kind, text = type(error.exception()).__name__, str(error)
    if kind == "TimeoutError" and "time limit exceeded" in text:
        return Stopped("timeout", text)
    if kind == "MemoryError":
        too_much = f"> {most} bytes" in text
        return Stopped("failed", f"printed more than {most} bytes") if too_much else Stopped("memory", text)
    missing = MISSING.search(text) or any(f"name '{name}' is not defined" in text for name in dir(builtins))
    return Stopped("refused" if missing else "failed", text, final=kind == "AssertionError")


def unpack_answer(packed: Any, size: int, limits: Limits) -> Any:
    """The value that a sandbox wrote in a line of ``size`` bytes; whatever else it wrote ends the program."""
    if size > limits.answer_bytes:
        raise Stopped("failed", f"a returned value has more than {limits.answer_bytes} bytes")
    try:
        return plain.unpack_plain(packed)
    except (ValueError, TypeError) as error:
        raise Stopped("failed", f"a returned value can't be read: {type(error).__name__}") from error
