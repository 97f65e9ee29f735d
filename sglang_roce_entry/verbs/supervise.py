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
from dataclasses import dataclass
from time import monotonic, sleep

#: -I -S: nothing of the user's, no site-packages; the package is found by its own place.
_COMMAND = (
    "import sys; sys.path.append(sys.argv[1]); __import__(sys.argv[2], None, None, ['main']).main(sys.argv[3:])"
)
_PLACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: Larger than any answer; of stderr the last is kept.
_ANSWER_BYTES, _ERROR_BYTES = 1 << 20, 4096
#: A process that was killed is gone at once, unless it hangs in a system call.
_GONE_S, _LOOK_EVERY_S = 1.0, 0.002


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process wrote, and how it failed: ``None`` if it ended as it should."""

    answer: bytes
    errors: str
    failure: str | None


def run_apart(module: str, arguments: Sequence[str], environ: Mapping[str, str], deadline_s: float) -> Ended:
    """Return what ``main(arguments)`` of a module of this room answers in a process of its own.

    ``environ`` is all that it knows of the caller's. Never raises for anything that the process does.
    """
    command = [sys.executable or "python3", "-I", "-S", "-B", "-c", _COMMAND, _PLACE, f"{__package__}.{module}"]
    answer, answer_end = os.pipe()
    errors, errors_end = os.pipe()
    try:
        wiring = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, answer_end, 1),
            (os.POSIX_SPAWN_DUP2, errors_end, 2),
        ]
        try:
            pid = os.posix_spawnp(
                command[0], [*command, *arguments], dict(environ), file_actions=wiring, setsigmask=[]
            )
        finally:
            os.close(answer_end)
            os.close(errors_end)
        return _supervised(pid, answer, errors, deadline_s)
    except OSError as error:
        return Ended(b"", "", f"could not be started: {error.strerror}")
    finally:
        os.close(answer)
        os.close(errors)


def _supervised(pid: int, answer: int, errors: int, deadline_s: float) -> Ended:
    limit = monotonic() + deadline_s
    data = {answer: b"", errors: b""}
    status = gone = None
    try:
        _read(data, answer, limit)
        status = _status(pid, limit)
    finally:
        if status is None:  # also when a signal ends the launcher
            os.kill(pid, signal.SIGKILL)
            gone = _status(pid, monotonic() + _GONE_S)
    said = data[errors].decode("utf-8", "replace")
    if status is None:
        stuck = "" if gone is not None else " and cannot be ended: it hangs in the kernel"
        return Ended(data[answer], said, f"did not end within {deadline_s:g} s{stuck}")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Ended(data[answer], said, f"was ended by signal {-code} ({signal.strsignal(-code)})")
    return Ended(data[answer], said, f"ended with exit code {code}" if code else None)


def _read(data: dict[int, bytes], answer: int, limit: float) -> None:
    """Read until all ends are closed, the deadline, or more than any answer."""
    poller = select.poll()
    for descriptor in data:
        poller.register(descriptor, select.POLLIN)
    left = set(data)
    while left and (wait_s := limit - monotonic()) > 0 and len(data[answer]) <= _ANSWER_BYTES:
        for descriptor, _ in poller.poll(wait_s * 1000):
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                poller.unregister(descriptor)
                left.discard(descriptor)
            kept = data[descriptor] + chunk
            data[descriptor] = kept if descriptor == answer else kept[-_ERROR_BYTES:]


def _status(pid: int, limit: float) -> int | None:
    """Return the status of a process that has ended, ``None`` while it has not at the deadline."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if monotonic() > limit:
            return None
        sleep(_LOOK_EVERY_S)
