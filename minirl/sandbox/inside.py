"""What runs inside bubblewrap: reads commands, runs the program, writes its values. Never imported by minirl.

It is handed to ``python -I -S -c`` together with :mod:`minirl.sandbox.plain`. Nothing it says is trusted: the program
shares its process and may change all of it. The worst that achieves is a wrong value, and values are judged elsewhere.
"""

import io
import json
import os
import resource
import sys

from minirl.sandbox.plain import pack_plain, unpack_plain  # dropped when it is handed over: plain.py stands before it


def limit(memory: int, cpu: int) -> None:
    """Limits of this process, which nothing in it can raise again. One process, no files, no core dump."""
    for what, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, cpu, cpu + 1),  # a signal that says why, and a second later one that can't be caught
        (resource.RLIMIT_FSIZE, 0, 0),  # also keeps memory out of memfd files
        (resource.RLIMIT_NOFILE, 32, 32),
        (resource.RLIMIT_NPROC, 1, 1),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def main() -> None:
    """Serve commands, one JSON object a line, until there are no more."""
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing, end = os.pipe()
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what the program prints, from Python or from below, is output and not an answer
    os.close(nothing)
    os.close(end)

    def say(**reply: object) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    def candidate(*args: object) -> object:
        say(call=pack_plain(args))
        return unpack_plain(json.loads(commands.readline())["value"])

    names: dict[str, object] = {"__name__": "__main__"}
    for line in commands:
        command = json.loads(line)
        try:
            if "limits" in command:
                limit(*command["limits"])
            if "stdin" in command:
                sys.stdin = io.TextIOWrapper(io.BytesIO(command["stdin"].encode()), encoding="utf-8")
            if "check" in command:
                names["candidate"] = candidate
            value = None
            if "code" in command:
                exec(compile(command["code"], "<program>", "exec", dont_inherit=True), names)
            if "call" in command:
                value = names[command["call"]](*unpack_plain(command["args"]))  # type: ignore[operator]
            sys.stdout.flush()
            say(value=pack_plain(value))
        except BaseException as error:
            say(error=type(error).__name__, text=str(error)[:500])


if __name__ == "__main__":
    main()
