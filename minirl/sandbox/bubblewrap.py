"""Full Python (its standard library) behind bubblewrap: namespaces of its own, an empty root, no privileges, limits.

The program sees a read-only Python and the C libraries, nothing else: no /proc, /dev, /tmp, no environment, no network,
no other process. The kernel refuses it sockets, child processes and threads (a small seccomp filter). As root, all of
it runs as the user nobody. The same code without the walls is what ``unsafe_without_sandbox`` runs.
"""

import functools
import inspect
import json
import os
import platform
import select
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minirl.sandbox import plain
from minirl.sandbox.base import Limits, SandboxError, Stopped
from minirl.sandbox.monty import unpack_answer

NOBODY = 65534

# Numbers of the system calls that are refused, for (x86_64, aarch64); None where the machine has no such call. New
# processes and threads; sockets; memory that no limit counts; other processes; kernel interfaces with a history.
REFUSED = {
    **{"fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435)},
    **{"socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425)},
    **{"shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)},
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447), "add_key": (248, 217), "request_key": (249, 218)},
    **{"keyctl": (250, 219), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"pidfd_getfd": (438, 438), "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241)},
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "open_by_handle_at": (304, 265)},
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF instructions
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # REFUSE: the call fails with EPERM


def seccomp_filter(machine: str) -> bytes:
    """The filter as a BPF program. Raises :class:`SandboxError` for a machine whose call numbers aren't listed."""
    if machine not in ARCHITECTURES:
        raise SandboxError(f"no list of system calls for {machine}; known: {', '.join(ARCHITECTURES)}")
    column, audit = ARCHITECTURES[machine]
    numbers = [both[column] for both in REFUSED.values() if both[column] is not None]
    program: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, 4),  # which machine the call is for: 32-bit calls have other numbers
        (EQUAL, 1, 0, audit),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # its number
        (AT_LEAST, len(numbers) + 1, 0, 0x40000000),  # x86_64 has a second set of numbers from here on
    ]
    program += [(EQUAL, len(numbers) - i, 0, int(number or 0)) for i, number in enumerate(numbers)]
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _driver() -> str:
    """Source of what runs inside: it stands alone, as there is no minirl in there."""
    source = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
    own = [line for line in source.splitlines() if not line.startswith("from minirl")]
    return inspect.getsource(plain) + "\n".join(own)


# Prints where the standard library lies and which files are mapped once all of its extensions are loaded.
ASK = """
import importlib, json, os, sysconfig
paths = sysconfig.get_paths()
for name in os.listdir(os.path.join(paths["platstdlib"], "lib-dynload")):
    if not name.startswith(("_tkinter", "_test", "_xx", "xx", "_ctypes_test")):
        try:
            importlib.import_module(name.split(".")[0])
        except ImportError:
            continue
mapped = {line.split(None, 5)[-1].strip() for line in open("/proc/self/maps")}
print(json.dumps([[paths["stdlib"], paths["platstdlib"]], sorted(one for one in mapped if ".so" in one)]))
"""


@functools.cache
def _needs(python: str) -> tuple[str, list[str], list[str], list[str]]:
    """What an interpreter needs to see: its real path, its library's folders, the C libraries by all their names, and
    the folders in between that must look empty: installed packages may hold the data that programs are graded on."""
    said = subprocess.run([python, "-I", "-S", "-c", ASK], capture_output=True, text=True, timeout=60)
    if said.returncode:
        raise SandboxError(f"{python} does not run: {said.stderr[-200:]}")
    libraries, mapped = json.loads(said.stdout)
    folders = list(dict.fromkeys(os.path.realpath(path) for path in libraries))
    files = {path for path in mapped if not path.startswith(tuple(f"{folder}/" for folder in folders))}
    for place in {*(os.path.dirname(path) for path in files), "/lib", "/lib64", "/usr/lib", "/usr/lib64"}:
        if os.path.isdir(place):  # the loader asks for libc.so.6 or the like, a link to one of these files
            files |= {one.path for one in os.scandir(place) if one.is_symlink() and os.path.realpath(one) in mapped}
    hidden = [str(path) for folder in folders for path in Path(folder).glob("*-packages")]
    return os.path.realpath(python), folders, sorted(files), hidden


@functools.cache
def command(python: str) -> list[str]:
    """The command line that runs the driver behind walls. Raises :class:`SandboxError` if there is no such."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError("bwrap is not installed")
    if shutil.which(python) is None:
        raise SandboxError("there is no such interpreter")
    real, folders, files, hidden = _needs(python)
    line = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for path in (real, *folders, *files):
        line += ["--ro-bind", path, path]
    for path in hidden:
        line += ["--tmpfs", path, "--remount-ro", path]
    line += ["--setenv", "LD_LIBRARY_PATH", ":".join(dict.fromkeys(os.path.dirname(path) for path in files))]
    line += ["--remount-ro", "/", "--chdir", "/", "--"]
    return [*line, real, "-I", "-S", "-B", "-X", "utf8", "-c", _driver()]


class ProcessSession:
    """A program (or its tests) in a process of its own. See :class:`minirl.sandbox.base.Session`.

    ``python`` None means no sandbox: this interpreter, with the limits but without the walls.
    """

    def __init__(self, limits: Limits, deadline: float, python: str | None):
        self._limits, self._deadline = limits, deadline
        self._reply, self._printed, self._printed_bytes = bytearray(), bytearray(), 0
        bare = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _driver()]
        line = bare if python is None else [*command(python)]
        files: tuple[int, ...] = ()
        if python is not None:
            read, write = os.pipe()
            os.write(write, seccomp_filter(platform.machine()))
            os.close(write)
            line[1:1] = ["--seccomp", str(read)]
            files = (read,)
        walls: dict[str, Any] = {"env": {}}  # not even bwrap itself has an environment to look into
        if python is not None and os.geteuid() == 0:
            walls |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                line, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, cwd="/", pass_fds=files, **walls
            )
        finally:
            for file in files:
                os.close(file)
        self._files = {name: getattr(self._process, name) for name in ("stdin", "stdout", "stderr")}
        for file in self._files.values():
            os.set_blocking(file.fileno(), False)
        self._limited = False
        self._size = 0  # bytes of the last reply

    def __enter__(self) -> "ProcessSession":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # bwrap's end is the end of everything in its namespace
        self._process.wait()
        for file in self._files.values():
            file.close()

    def load(self, code: str, stdin: str = "") -> None:
        """Run the program's top level."""
        self._raise(self._ask({"code": code, "stdin": stdin}))

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call the program's function."""
        reply = self._ask({"call": name, "args": plain.pack_plain(args)})
        self._raise(reply)
        return unpack_answer(reply["value"], self._size, self._limits)

    def check(self, code: str, candidate: Callable[..., Any]) -> None:
        """Run tests here; their calls of ``candidate`` come to this process."""
        reply = self._ask({"code": code, "check": True})
        while "call" in reply:
            value = candidate(*unpack_answer(reply["call"], self._size, self._limits))
            reply = self._ask({"value": plain.pack_plain(value)})
        self._raise(reply)

    def output(self) -> str:
        """The beginning of what was printed."""
        return self._printed.decode("utf-8", "replace")

    def _raise(self, reply: dict[str, Any]) -> None:
        if "value" not in reply:
            # Only text is shown: the program may have written anything, lists nested beyond printing included.
            kind, text = (str(one) if isinstance(one, str) else "?" for one in (reply.get("error"), reply.get("text")))
            raise Stopped("memory" if kind == "MemoryError" else "failed", f"{kind}: {text}" if text else kind)

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a command, return the reply. Meanwhile drain what is printed; stop at the deadline and at any limit."""
        if not self._limited:
            message = {"limits": [self._limits.memory_bytes, self._limits.cpu_s], **message}
            self._limited = True
        unsent = memoryview(json.dumps(message).encode() + b"\n")
        with selectors.DefaultSelector() as selector:
            selector.register(self._files["stdin"], selectors.EVENT_WRITE, "stdin")
            selector.register(self._files["stdout"], selectors.EVENT_READ, "stdout")
            selector.register(self._files["stderr"], selectors.EVENT_READ, "stderr")
            while b"\n" not in self._reply:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise Stopped("timeout", f"no answer within {self._limits.wall_s:g} s")
                for key, _ in selector.select(left):
                    if key.data == "stdin":
                        unsent = unsent[self._write(key.fd, unsent) :]
                        if not unsent:
                            selector.unregister(key.fileobj)
                        continue
                    chunk = os.read(key.fd, 65536)
                    if not chunk and key.data == "stdout":
                        raise self._ended()
                    if not chunk:
                        selector.unregister(key.fileobj)
                    self._take(key.data, chunk)
        line, _, rest = self._reply.partition(b"\n")
        self._reply, self._size = rest, len(line)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Stopped("failed", "an answer is no JSON") from error
        if not isinstance(reply, dict):
            raise Stopped("failed", "an answer is no JSON object")
        return reply

    def _write(self, file: int, data: memoryview) -> int:
        try:
            return os.write(file, data)
        except BrokenPipeError as error:
            raise self._ended() from error

    def _take(self, stream: str, chunk: bytes) -> None:
        if stream == "stdout":
            self._reply += chunk
            if len(self._reply) > 2 * self._limits.answer_bytes:  # an answer, and what surrounds it
                raise Stopped("failed", f"a returned value has more than {self._limits.answer_bytes} bytes")
            return
        self._printed_bytes += len(chunk)
        self._printed += chunk[: self._limits.output_bytes - len(self._printed)]
        if self._printed_bytes > self._limits.output_bytes:
            raise Stopped("failed", f"printed more than {self._limits.output_bytes} bytes")

    def _ended(self) -> Stopped:
        """Why a process that says nothing more has ended. bwrap gives 128 + signal for what ran in it."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return Stopped("failed", "it closed the channel for its answers")
        last = (
            os.read(self._files["stderr"].fileno(), 4096)
            if select.select([self._files["stderr"]], [], [], 0)[0]
            else b""
        )
        self._printed += last[: self._limits.output_bytes - len(self._printed)]
        number = -status if status < 0 else status - 128
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return Stopped("timeout", f"stopped after {self._limits.cpu_s} s of processor time")
        return Stopped("failed", f"ended without an answer, exit status {status}")
