"""Whether two answers in LaTeX mean the same. Nothing that a model wrote is evaluated as code.

Text that is equal but for spacing, and plain numbers, are decided here. For the rest there is math-verify (the extra
``maths``), of which we read the source (0.9.0) before we gave it a model's text:

- with its default settings it calls sympy's ``parse_expr``, which is ``eval``, on what looks like arithmetic. The
  pattern before it lets digits, spaces, points, ``+-*/^()×÷`` and no letter through, so no name can be called; but
  ``9**9**9`` can be computed until the memory is full. Our rule is that no ``eval`` sees model text, so this path, the
  ``ExprExtractionConfig``, is **not used**;
- LaTeX is parsed by a grammar (latex2sympy2_extended, ANTLR), which builds sympy's objects. It makes the numbers with
  ``sympy.Number(text)``, and that is ``parse_expr`` again, though only for digits. Its two functions for numbers are
  **replaced** by ours, which call ``int`` and ``sympy.Float``;
- comparing may take as long as it likes, and sympy's polynomials write little functions for themselves and ``exec``
  them. No text of the answer is in these; they are replaced nevertheless, by sympy's own that are not written, so that
  the rule has no exception.

So it runs in another process, with LaTeX only. That process refuses to compile or execute any text (an audit hook, set
after the imports, with which the above was found), may not use more than ``MEMORY`` bytes, and is killed when it is
silent for ``PATIENCE`` seconds, which counts as not equal. It is no sandbox, and need not be: nothing of the text is run.
"""

import contextlib
import functools
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import threading

from minirl.errors import ConfigError
from minirl.tasks.base import MAX_ANSWER_CHARS
from minirl.tasks.words import last_number

MEMORY = 4 << 30
PATIENCE = 10.0  # for a comparison
PATIENCE_AT_FIRST = 60.0  # for the imports
_SPACING = ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", " ")
_SPELLINGS = {"dfrac": "frac", "tfrac": "frac"}


def require() -> None:
    """Raise :class:`ConfigError` if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError("comparing answers in LaTeX needs math-verify: pip install 'minirl[maths]'")


def equal(reference: str, answer: str) -> bool:
    """Whether ``answer`` means what ``reference`` does. Never raises."""
    one, other = plain(reference), plain(answer)
    if one == other:
        return True
    if not one or not other or max(len(one), len(other)) > MAX_ANSWER_CHARS:
        return False
    if is_number(one) and is_number(other):
        return last_number(one) == last_number(other)
    return by_math_verify(one, other)


def plain(text: str) -> str:
    """``text`` without spacing, and one spelling for all kinds of fractions."""
    for mark in _SPACING:
        text = text.replace(mark, "")
    for spelling, ours in _SPELLINGS.items():
        text = text.replace(spelling, ours)
    return text


def is_number(text: str) -> bool:
    """Whether ``text`` is one number and nothing else."""
    return re.fullmatch(r"-?([0-9]{1,3}(,[0-9]{3})+|[0-9]+)(\.[0-9]+)?", text) is not None


@functools.lru_cache(maxsize=4096)  # an answer is compared for its score and once more for the feedback
def by_math_verify(reference: str, answer: str) -> bool:
    """What math-verify says, in its own process."""
    return _WORKER.ask(reference, answer)


class Worker:
    """The process that compares; started when it is first needed, and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, reference: str, answer: str) -> bool:
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                assert self._process is not None and self._process.stdin is not None
                self._process.stdin.write(json.dumps([reference, answer]) + "\n")
                self._process.stdin.flush()
                return self._line(PATIENCE) == "true\n"
            except (OSError, TimeoutError):
                self.stop()
                return False

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", "from minirl.tasks.equal import serve; serve()"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._line(PATIENCE_AT_FIRST)

    def _line(self, patience: float) -> str:
        assert self._process is not None and self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], patience)[0]:
            raise TimeoutError
        return self._process.stdout.readline()

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_WORKER = Worker()


def serve() -> None:
    """The other process: one pair of answers a line, as JSON, and one line ``true`` or ``false`` for each."""
    import resource

    import sympy
    from latex2sympy2_extended import latex2sympy2
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy.polys import monomials

    def _mulpow(one: tuple[int, ...], other: tuple[int, ...], times: int) -> tuple[int, ...]:
        return tuple(a + b * times for a, b in zip(one, other, strict=True))

    def number(text: str) -> sympy.Number:
        digits = text.replace(",", "").replace(" ", "")
        return sympy.Integer(int(digits)) if digits.isdecimal() else sympy.Float(digits)

    latex2sympy2.convert_number = number
    latex2sympy2._Latex2Sympy.parse_number = lambda _, text: number(text)
    for name in ("mul", "pow", "ldiv", "div", "lcm", "gcd"):
        setattr(monomials.MonomialOps, name, lambda _, plain=getattr(monomials, f"monomial_{name}"): plain)
    monomials.MonomialOps.mulpow = lambda _: _mulpow
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    config = (LatexExtractionConfig(),)

    def same(reference: str, answer: str) -> bool:
        # Between dollar signs: without, a set or an interval is not taken for mathematics.
        gold, said = (parse(f"${text}$", extraction_config=config) for text in (reference, answer))
        return bool(gold and said and verify(gold, said))

    import sympy.physics.units

    for pair in (("(1,2]", "(1,2]"), ("x^2+2x+1", "(x+1)^2"), ("\\sin^2 x", "1-\\cos^2 x"), ("\\{1,2\\}", "\\{2,1\\}")):
        same(*pair)  # sympy imports much on first use
    sys.addaudithook(_no_code_from_text)
    print("ready", file=say)
    for line in sys.stdin:
        answer = False
        with contextlib.suppress(Exception):  # what cannot be compared is not equal
            answer = same(*json.loads(line))
        print(json.dumps(answer), file=say)


def _no_code_from_text(event: str, arguments: tuple[object, ...]) -> None:
    """Code may come from files of packages, which sympy imports late, and from nothing else."""
    name = ""
    if event == "compile":
        name = str(arguments[1])
    elif event == "exec":
        name = str(getattr(arguments[0], "co_filename", ""))
    elif event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.__new__"):
        raise RuntimeError(f"{event} is not allowed here")
    if event in ("compile", "exec") and not name.endswith(".py"):
        raise RuntimeError("text is not executed here")
