"""A short process of its own for what libibverbs does: it has a deadline, and cannot take the launcher with it.

A list of devices loads every provider of the image: what one of them opens, starts or breaks stays out of the
process that becomes SGLang. It is a fresh interpreter and not a fork, since a thread of the launcher's (a resolver
that hangs) may hold the loader's lock at any moment.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from time import monotonic, sleep
from typing import Any

#: -I -S: nothing of the user's, no site-packages; the package is found by its own place.
_COMMAND = (
    "import sys; sys.path.append(sys.argv[1]); __import__(sys.argv[2], None, None, ['main']).main(sys.argv[3:])"
)
_PLACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: Larger than any answer.
_ANSWER_BYTES = 1 << 20
#: A process that was killed is gone at once, unless it hangs in a system call.
_GONE_S, _LOOK_EVERY_S = 1.0, 0.002


#: What a process wrote, and how it failed: ``None`` if it ended as it should.
Ended = tuple[bytes, str | None]


def run_apart(module: str, arguments: Sequence[str], environ: Mapping[str, str], deadline_s: float) -> Ended:
    """Return what ``main(arguments)`` of a module of this room answers in a process of its own.

    ``environ`` is all that it knows of the caller's. Never raises for anything that the process does.
    """
    answer, end = os.pipe()
    wiring = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, end, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    try:
        try:
            pid = spawn(module, arguments, environ, wiring)
        finally:
            os.close(end)
        return _supervised(pid, answer, deadline_s)
    except OSError as error:
        return b"", f"could not be started: {error.strerror}"
    finally:
        os.close(answer)


def spawn(module: str, arguments: Sequence[str], environ: Mapping[str, str], wiring: Sequence[Any]) -> int:
    """Start ``main(arguments)`` of a module of this room and return its process id. Raises ``OSError``."""
    command = [sys.executable or "python3", "-I", "-S", "-B", "-c", _COMMAND, _PLACE, f"{__package__}.{module}"]
    return os.posix_spawnp(command[0], [*command, *arguments], dict(environ), file_actions=wiring, setsigmask=[])


def end_now(pid: int) -> int | None:
    """End a process and return its status; ``None`` where it hangs in a system call and does not end."""
    os.kill(pid, signal.SIGKILL)
    return status_by(pid, monotonic() + _GONE_S)


def how_it_ended(status: int) -> str | None:
    """Return how a process has failed, as the end of a sentence; ``None`` if it ended as it should."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}" if code else None


def _supervised(pid: int, answer: int, deadline_s: float) -> Ended:
    limit = monotonic() + deadline_s
    data, status, gone = b"", None, None
    try:
        data = _read(answer, limit)
        status = status_by(pid, limit)
    finally:
        if status is None:  # also when a signal ends the launcher
            gone = end_now(pid)
    if status is None:
        stuck = "" if gone is not None else " and cannot be ended: it hangs in the kernel"
        return data, f"did not end within {deadline_s:g} s{stuck}"
    return data, how_it_ended(status)


def _read(answer: int, limit: float) -> bytes:
    """Return what is written until the end is closed, the deadline, or more than any answer."""
    poller = select.poll()
    poller.register(answer, select.POLLIN)
    data = b""
    while (wait_s := limit - monotonic()) > 0 and len(data) <= _ANSWER_BYTES:
        if poller.poll(wait_s * 1000):
            chunk = os.read(answer, 1 << 16)
            if not chunk:
                break
            data += chunk
    return data


def status_by(pid: int, limit: float) -> int | None:
    """Return the status of a process that has ended, ``None`` while it has not at the deadline."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if monotonic() > limit:
            return None
        sleep(_LOOK_EVERY_S)
