"""What a program's outcome is, which sandbox it goes to, and that nothing runs where none works."""

import dataclasses
import json
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minirl.sandbox as sandbox
from minirl.errors import MinirlError
from minirl.sandbox import BACKENDS, Case, Limits, SandboxError, grade, run_program, why_not
from minirl.sandbox.bubblewrap import ARCHITECTURES, REFUSED, ProcessSession, seccomp_filter
from minirl.sandbox.plain import pack_plain, unpack_plain

DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.fixture(params=BACKENDS)
def backend(request):
    if reason := why_not(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture
def none_works(monkeypatch):
    monkeypatch.setattr(sandbox, "why_not", lambda name: f"no {name} here")


# --- Grading --------------------------------------------------------------------------------------------------------


def test_a_right_program_passes_and_a_wrong_one_fails(backend):
    tests = [Case((3,), 6), Case(("ab",), "abab"), Case(([1],), [1, 1]), Case(((1,),), (1, 1))]
    assert grade(DOUBLE, "double", tests, backend=backend).passed
    outcome = grade("def double(x):\n    return x + x if x != 'ab' else 'ba'", "double", tests, backend=backend)
    assert (outcome.status, outcome.error, outcome.backend) == ("failed", "case 1 has another answer", backend)
    assert grade("def other(x):\n    return 2 * x", "double", tests, backend=backend).status == "failed"


def test_tests_as_source_call_the_candidate_from_elsewhere(backend):
    tests = "import random\nfor _ in range(3):\n    x = random.randint(0, 9)\n    assert candidate(x) == x + x, 'no'"
    assert grade(DOUBLE, "double", tests, backend=backend).passed
    outcome = grade("def double(x):\n    return -1", "double", tests, backend=backend)
    assert outcome.status == "failed"
    assert "AssertionError" in outcome.error


def test_what_the_program_raises_counts_even_if_the_tests_catch_it(backend):
    tests = "try:\n    candidate(1)\nexcept BaseException:\n    caught = True\n"
    outcome = grade("def double(x):\n    return 1 // 0", "double", tests, backend=backend)
    assert outcome.status == "failed"
    assert "ZeroDivisionError" in outcome.error


KINDS = [(1, 2), [1, 2], {1, 2}, {1: 2}, "12", None, {"a": (1, [2.5, True])}, 10**30, "é\0", float("inf"), {(1,): []}]


def test_values_keep_their_types(backend):
    assert grade("def f(x):\n    return x", "f", [Case((value,), value) for value in KINDS], backend=backend).passed
    for value, other in ([1, 2], (1, 2)), ((1, 2), [1, 2]), ("1", 1), ({1, 2}, [1, 2]), (None, 0), ({"1": 2}, {1: 2}):
        assert grade(f"def f():\n    return {value!r}", "f", [Case((), other)], backend=backend).status == "failed"


def test_state_stays_between_calls_as_in_python(backend):
    code = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    assert grade(code, "f", [Case((0,), 1), Case((0,), 2)], backend=backend).passed


def test_output_is_returned_and_bounded(backend):
    assert run_program("print('a')\nprint('ü')", backend=backend).output == "a\nü\n"
    outcome = grade("def f(x):\n    print('in', x)\n    return x", "f", [Case((1,), 1)], backend=backend)
    assert outcome.output.strip() == "in 1"
    outcome = run_program("print('x' * 1000)", limits=Limits(output_bytes=100), backend=backend)
    assert outcome.status == "failed"
    assert "printed more than 100 bytes" in outcome.error
    assert len(outcome.output) <= 100


def test_an_outcome_is_a_frozen_record(backend):
    outcome = run_program("1", backend=backend)
    assert (outcome.status, outcome.output, outcome.error, outcome.backend) == ("passed", "", "", backend)
    assert 0 < outcome.seconds < 60
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.status = "failed"


def test_large_arguments_and_values_cross(backend):
    numbers = list(range(5000))  # some 25 kB as JSON, more than a pipe takes at once with the source
    code = "def f(x):\n    return x[::-1]\n#" + "x" * 200_000
    assert grade(code, "f", [Case((numbers,), numbers[::-1])], backend=backend).passed


@pytest.mark.parametrize(("entry", "tests"), [("f", []), ("f", ""), ("f()", [Case((), 1)]), ("f", [Case((b"x",), 1)])])
def test_tests_that_test_nothing_are_an_error(entry, tests, backend):
    with pytest.raises(SandboxError):
        grade("def f(*a):\n    return 1", entry, tests, backend=backend)


def test_source_that_never_calls_the_candidate_is_an_error(backend):
    with pytest.raises(SandboxError, match="never call candidate"):
        grade("def f():\n    return 1", "f", "def check(candidate):\n    assert False", backend=backend)


# --- Which sandbox --------------------------------------------------------------------------------------------------


def test_what_monty_lacks_goes_to_bubblewrap_or_is_refused(monkeypatch):
    if reason := why_not("monty"):
        pytest.skip(f"monty: {reason}")
    code = "import heapq\ndef f(x):\n    return heapq.nlargest(1, x)"
    outcome = grade(code, "f", [Case(([1, 3, 2],), [3])], backend="monty")
    assert outcome.status == "refused"
    assert "heapq" in outcome.error
    for missing in ("def f(x):\n    yield x", "print(input())", "class A(dict):\n    pass"):
        assert run_program(missing, "text", backend="monty").status == "refused", missing
    assert run_program("undefined_name", backend="monty").status == "failed"
    if not why_not("bubblewrap"):
        outcome = grade(code, "f", [Case(([1, 3, 2],), [3])])
        assert (outcome.status, outcome.backend) == ("passed", "bubblewrap")
        assert run_program("print(input() + '!')", "ü").output == "ü!\n"
        assert run_program("1", backend=None).backend == "monty"


def test_where_none_works_nothing_runs(none_works, tmp_path):
    with pytest.raises(
        SandboxError, match=r"not run without a sandbox.*pip install.*no monty here.*no bubblewrap here"
    ) as error:
        run_program(f"open({str(tmp_path / 'x')!r}, 'w')")
    assert isinstance(error.value, MinirlError)
    with pytest.raises(SandboxError):
        grade(DOUBLE, "double", [Case((1,), 2)])
    with pytest.raises(SandboxError, match="no monty here"):
        run_program("1", backend="monty")
    assert not (tmp_path / "x").exists()


def test_the_way_out_is_named_for_what_it_is(none_works, tmp_path):
    path = tmp_path / "x"
    path.write_text("open")
    outcome = run_program(f"print(open({str(path)!r}).read())", unsafe_without_sandbox=True)
    assert (outcome.status, outcome.output, outcome.backend) == ("passed", "open\n", "unsafe")
    assert grade(DOUBLE, "double", [Case((1,), 2)], unsafe_without_sandbox=True).passed
    assert grade(DOUBLE, "double", "assert candidate(2) == 5", unsafe_without_sandbox=True).status == "failed"


def test_an_unknown_sandbox_is_an_error():
    with pytest.raises(SandboxError, match=r"unknown sandbox 'docker'; one of: monty, bubblewrap"):
        run_program("1", backend="docker")


def test_without_the_extra_monty_says_that_it_is_not_installed():
    code = (
        "import sys; sys.modules['pydantic_monty'] = None\n"
        "from minirl.sandbox import why_not\nassert why_not('monty') == 'not installed', why_not('monty')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sandbox_that_lets_something_through_is_not_used(monkeypatch):
    """The probe must notice each hole: the same program, run without walls."""

    def open_session(limits, deadline):
        return ProcessSession(limits, deadline, None)

    said = sandbox._probe("bubblewrap", open_session)
    for hole in ("read a file", "list processes", "connect"):
        assert hole in said
    assert "read a file" in sandbox._probe("monty", open_session)


def test_without_bwrap_the_reason_says_so(monkeypatch, tmp_path):
    code = (
        "import os; os.environ['PATH'] = ''\nfrom minirl.sandbox import why_not\n"
        "assert 'bwrap is not installed' in why_not('bubblewrap'), why_not('bubblewrap')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Walls ----------------------------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *descendants(int(path.parent.name))]
    return found


def test_the_end_of_a_session_is_the_end_of_its_processes():
    if reason := why_not("bubblewrap"):
        pytest.skip(f"bubblewrap: {reason}")
    with ProcessSession(Limits(), time.monotonic() + 30, sandbox._python()[0]) as session:
        session.load("x = 1")
        inside = descendants(session._process.pid)
        assert len(inside) == 2  # the first process of the namespace, and Python
    deadline = time.monotonic() + 20
    while [pid for pid in inside if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def allowed(program: bytes, audit: int, number: int) -> int:
    """What a BPF filter answers, by the few instructions that ours has."""
    instructions = list(struct.iter_unpack("HBBI", program))
    at = loaded = 0
    while True:
        code, then, otherwise, value = instructions[at]
        if code == 0x06:
            return value
        if code == 0x20:
            loaded = {0: number, 4: audit}[value]
        else:
            at += then if (loaded == value if code == 0x15 else loaded >= value) else otherwise
        at += 1


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_refuses_what_it_lists_and_no_more(machine):
    column, audit = ARCHITECTURES[machine]
    program = seccomp_filter(machine)
    listed = {numbers[column] for numbers in REFUSED.values()} - {None}
    for number in range(500):
        assert allowed(program, audit, number) == (0x00050001 if number in listed else 0x7FFF0000)
    assert allowed(program, audit, 0x40000000 + 41) == 0x00050001
    assert allowed(program, 0x40000003, 1) == 0x80000000  # 32-bit x86: the process is killed


def test_the_filter_knows_this_machine_or_says_so():
    with pytest.raises(SandboxError, match="no list of system calls for vax"):
        seccomp_filter("vax")
    if platform.machine() == "x86_64" and Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").exists():
        header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text()
        numbers = dict(line.split()[1:3] for line in header.splitlines() if line.startswith("#define __NR_"))
        for name, (number, _) in REFUSED.items():
            assert numbers.get(f"__NR_{name}", str(number)) == str(number), name


def test_the_driver_is_imported_nowhere():
    package = Path(sandbox.__file__).parent
    assert [path.name for path in package.glob("*.py") if "sandbox.inside" in path.read_text()] == []


def test_the_environment_of_the_parent_does_not_reach_bwrap(monkeypatch):
    if reason := why_not("bubblewrap"):
        pytest.skip(f"bubblewrap: {reason}")
    monkeypatch.setenv("MINIRL_SECRET", "x")
    with ProcessSession(Limits(), time.monotonic() + 30, sandbox._python()[0]) as session:
        session.load("x = 1")
        for pid in (session._process.pid, *descendants(session._process.pid)):
            assert b"MINIRL_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()


# --- Values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, True, 0, -(10**40), 1.5, "", "\ud800", [], (), set(), {}, [[()]], {(1, 2): {3}}]
)
def test_plain_values_cross_unchanged(value):
    back = unpack_plain(json.loads(json.dumps(pack_plain(value))))
    assert back == value
    assert type(back) is type(value)


class Text(str):
    pass


@pytest.mark.parametrize(
    "value", [b"", 1j, object(), Text("x"), [Text("x")], {1: len}, range(3), (x for x in ()), type]
)
def test_other_values_do_not(value):
    with pytest.raises(TypeError, match="no plain data"):
        pack_plain(value)


FORGED = {
    "no object": "[]",
    "no answer": "{}",
    "no JSON": "value",
    "not even text": "\\xff\\xfe",
    "no packed value": '{"value": ["dict", 1]}',
    "an object": '{"value": {"__reduce__": ["os.system"]}}',
    "a number that is too long": '{"value": ' + "9" * 5000 + "}",
    "infinity": '{"value": Infinity}',
    "a deep value": '{"value": ' + '["list", ' * 400 + "1" + "]" * 401 + "}",
    "a deeper value": '{"value": ' + "[" * 20_000,
    "a deep error": '{"error": ' + "[" * 400 + "]" * 400 + "}",
    "an error that is none": '{"error": {}, "text": 3}',
    "a call": '{"call": ["tuple", 42]}',
    "a verdict": '{"passed": true, "status": "passed"}',
}


@pytest.mark.parametrize("where", ["at once", "in the call"])
@pytest.mark.parametrize("line", FORGED.values(), ids=FORGED)
def test_a_forged_answer_fails_and_does_no_harm_to_the_parent(line, where):
    """Every line that a program might write in place of its driver; without walls, which this is not about."""
    write = "    import os\n    for fd in range(3, 32):\n"
    write += "        try: os.write(fd, b'%s\\n')\n        except OSError: pass\n"
    code = f"def f():\n{write % line}    return 1\n" + ("f()\n" if where == "at once" else "")
    outcome = grade(code, "f", [Case((), 42)], unsafe_without_sandbox=True)
    assert outcome.status == "failed", outcome
    if where == "in the call":
        assert grade(code, "f", "assert candidate() == 42", unsafe_without_sandbox=True).status == "failed"


@pytest.mark.parametrize("text", ["[]", '["object", 1]', '["dict", [1]]', '["set", ["list"]]', "{}", '["dict", 5]'])
def test_what_was_not_packed_is_not_unpacked(text):
    with pytest.raises((ValueError, TypeError)):
        unpack_plain(json.loads(text))
