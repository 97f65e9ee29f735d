"""What `python -m sglang.launch_server` runs in the process tests: a witness of its own start.

STANDIN_RECORD     file that gets the record (JSON), complete or not at all
STANDIN_BEHAVIOUR  what to do afterwards, words separated by spaces:
                   exit:N      exit with code N
                   listen:P    listen on TCP port P, all addresses, without SO_REUSEADDR, then go on
                   sigterm:N   wait for SIGTERM, then exit with code N; 99 if none comes in 60 s

Nothing but the standard library, and no import that changes signals or opens descriptors before the
record is taken. The interpreter itself has by then ignored SIGPIPE and SIGXFSZ and caught SIGINT;
those three cannot be judged here.
"""

import os
import sys

PATIENCE_S = 60


def target(number: str) -> "str | None":
    """Return what a descriptor of this process refers to, None if it is closed."""
    try:
        return os.readlink("/proc/self/fd/" + number)
    except OSError:
        return None


def descriptors() -> "dict[str, str]":
    """Return descriptor number -> what it refers to, without the one used for listing."""
    found = {number: target(number) for number in os.listdir("/proc/self/fd")}
    return {number: link for number, link in found.items() if link is not None}


def status() -> "dict[str, str]":
    """Return /proc/self/status as key -> value."""
    with open("/proc/self/status", encoding="utf-8", errors="surrogateescape") as source:
        pairs = (line.rstrip("\n").partition(":") for line in source)
        return {key: value.strip() for key, _, value in pairs}


def take_record() -> "dict[str, object]":
    """Return everything that was handed over; text that is not UTF-8 in `surrogateescape`."""
    open_descriptors = descriptors()
    lines = status()
    with open("/proc/self/cmdline", "rb") as source:
        command_line = [os.fsdecode(part) for part in source.read().split(b"\0")[:-1]]
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "executable": sys.executable,
        "command_line": command_line,
        "argv": sys.argv[1:],
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "descriptors": open_descriptors,
        "signals": {key: int(lines[key], 16) for key in ("SigBlk", "SigIgn", "SigCgt", "SigPnd")},
        "threads": int(lines["Threads"]),
    }


def main() -> int:
    """Write the record, then behave as told; returns the exit code."""
    record = take_record()

    import json
    import signal
    import socket

    code = 0
    waits = False
    listeners = []
    behaviour = os.environ.get("STANDIN_BEHAVIOUR", "exit:0").split()
    for word in behaviour:
        verb, _, number = word.partition(":")
        if verb == "exit":
            code = int(number)
        elif verb == "listen":
            listener = socket.socket(socket.AF_INET6)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", int(number)))
            listener.listen(16)
            listeners.append(listener)
        elif verb == "sigterm":
            signal.signal(signal.SIGTERM, lambda *_, told=int(number): sys.exit(told))
            waits = True
        else:
            print("standin: unknown behaviour " + word, file=sys.stderr)
            return 98

    final = os.environ["STANDIN_RECORD"]
    draft = f"{final}.{os.getpid()}"
    with open(draft, "w", encoding="ascii") as out:
        json.dump(record, out)
    os.rename(draft, final)

    if waits:
        signal.sigtimedwait([], PATIENCE_S)
        return 99
    return code


if __name__ == "__main__":
    sys.exit(main())
