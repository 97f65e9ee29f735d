"""The processes of this namespace, as /proc shows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

#: A command line is no longer (the kernel's MAX_ARG_STRLEN bounds one word, a shell's ARG_MAX all of them).
_MOST_BYTES = 1 << 21


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """One process as /proc shows it. ``cwd`` is ``None`` where it may not be read."""

    pid: int
    parent: int
    argv: tuple[str, ...]
    cwd: str | None = None
    mount_namespace: str | None = None


def processes_here(wanted: Callable[[Sequence[str]], bool]) -> Iterator[RunningProcess]:
    """Yield the processes with a ``wanted`` command line."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        pid = int(name)
        argv = _words(read_process(pid, "cmdline"))
        if wanted(argv):
            yield RunningProcess(pid, parent_of(pid), argv, _link(pid, "cwd"), mount_namespace(pid))


def mount_namespace(pid: int) -> str | None:
    """Return what differs between processes that see different files, ``None`` where it may not be read."""
    return _link(pid, "ns/mnt")


def parent_of(pid: int) -> int:
    """Return the parent's number, 0 if there is none or the process is gone."""
    # The name before it, in brackets, may hold anything.
    fields = read_process(pid, "stat").rpartition(b")")[2].split(maxsplit=2)
    return int(fields[1]) if len(fields) > 1 else 0


def process_of(thread: int) -> int:
    """Return the process of a thread, 0 if it is gone. /proc has threads too, unlisted (proc(5))."""
    lines = read_process(thread, "status").splitlines()
    text = next((line[5:].strip() for line in lines if line.startswith(b"Tgid:")), b"")
    return int(text) if text.isdigit() else 0


def read_process(pid: int, name: str) -> bytes:
    """Return what /proc has of a process, nothing of one that is gone or somebody else's."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            parts = []
            while part := file.read(_MOST_BYTES):
                parts.append(part)
                if sum(map(len, parts)) >= _MOST_BYTES:
                    break
            return b"".join(parts)
    except OSError:
        return b""


def _words(text: bytes) -> tuple[str, ...]:
    """Return a command line's words. A process that has renamed itself has one text, with NULs behind it."""
    words = text.removesuffix(b"\0").split(b"\0") if text else []
    if not any(words[1:]):
        words = words[0].split(b" ") if words else []
    return tuple(map(os.fsdecode, words))


def _link(pid: int, name: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return None  # another user's process, or gone
