"""No attack passes, in either sandbox; and those that can be tried without one show that they are attacks."""

import os
import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from attacks import ATTACKS, SECRET, render

from minirl.experiments.registry import project_root
from minirl.sandbox import BACKENDS, Case, grade, why_not

PAGE = project_root() / "book" / "reference" / "sandbox.md"
OUTSIDE = ["HumanEval/38", "HumanEval/50"]  # test_humaneval.py checks that it is these


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Things of this machine that a program must not reach, all of them within reach of an ordinary process."""
    monkeypatch.setenv("MINIRL_SECRET", SECRET)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.name.startswith(("pytest-", tmp_path.name)):
            folder.chmod(0o755)  # so that nobody could read it
    (tmp_path / "secret").write_text(SECRET)
    abstract, short = f"minirl-{secrets.token_hex(8)}", Path("/tmp") / f"minirl-{secrets.token_hex(8)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as by_name,
    ):
        by_path.bind(str(short))  # a short path: these have at most 107 characters
        by_name.bind(f"\0{abstract}")
        short.chmod(0o777)
        for listener in (server, by_path, by_name):
            listener.listen()
            listener.settimeout(0)
        yield {
            "file": str(tmp_path / "secret"),
            "folder": str(tmp_path),
            "written": str(tmp_path / "written"),
            "port": server.getsockname()[1],
            "unix": str(short),
            "abstract": abstract,
            "pid": os.getpid(),
            "listeners": (server, by_path, by_name),
        }
        short.unlink()


def untouched(place) -> bool:
    """Nobody connected, and nothing was written."""
    for listener in place["listeners"]:
        with pytest.raises(BlockingIOError):
            listener.accept()
    return not Path(place["written"]).exists() and not list(Path("/tmp").glob("minirl-attack"))


def parametrized():
    for attack in ATTACKS:
        for backend in BACKENDS:
            yield pytest.param(attack, backend, "case", id=f"{backend}-{attack.name}")
            if attack.group == "cheat":  # these are about the verdict, which has two ways
                yield pytest.param(attack, backend, "source", id=f"{backend}-{attack.name}-by source")


@pytest.mark.parametrize(("attack", "backend", "way"), list(parametrized()))
def test_no_attack_passes(attack, backend, way, place):
    if reason := why_not(backend):
        pytest.skip(f"{backend}: {reason}")
    argument = {key: value for key, value in place.items() if key != "listeners"}
    tests = [Case((argument,), attack.expected)]
    source = f"assert candidate({argument!r}) == {attack.expected!r}"
    outcome = grade(attack.code, "attack", tests if way == "case" else source, attack.limits, backend)
    assert outcome.status in getattr(attack, backend).split("/"), outcome
    assert outcome.status != "passed"
    assert len(outcome.output) <= attack.limits.output_bytes
    assert len(outcome.error) <= 600
    assert SECRET not in outcome.output + outcome.error
    assert untouched(place)


@pytest.mark.parametrize("attack", [one for one in ATTACKS if one.naive], ids=lambda attack: attack.name)
def test_attacks_succeed_with_a_naive_grader(attack, place):
    """Program and test in one process, exit status 0 for success: how not to do it."""
    argument = {key: value for key, value in place.items() if key != "listeners"}
    test = f"ANSWER = {attack.expected!r}\ndef check(candidate):\n    assert candidate({argument!r}) == ANSWER"
    program = f"{attack.code}\n\n{test}\n\ncheck(attack)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_names_are_unique_and_no_row_expects_a_pass():
    assert len({attack.name + attack.group for attack in ATTACKS}) == len(ATTACKS)
    known = {"failed", "timeout", "memory", "refused"}
    assert all({*attack.monty.split("/"), *attack.bubblewrap.split("/")} <= known for attack in ATTACKS)


def test_the_page_is_current(request):
    if request.config.getoption("--write-sandbox"):
        PAGE.write_text(render(OUTSIDE), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == render(OUTSIDE), "rewrite it: pytest tests/sandbox --write-sandbox"


def test_the_example_of_the_page_runs():
    if all(why_not(backend) for backend in BACKENDS):
        pytest.skip("; ".join(f"{backend}: {why_not(backend)}" for backend in BACKENDS))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", example], check=True)
