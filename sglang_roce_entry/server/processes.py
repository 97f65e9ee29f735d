"""The processes of this namespace by psutil, loaded where a server is looked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import psutil

from sglang_roce_entry.server.running import RunningProcess


def processes_here(wanted: Callable[[Sequence[str]], bool]) -> Iterator[RunningProcess]:
    """Yield the processes with a ``wanted`` command line."""
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        argv = tuple(process.info["cmdline"] or ())
        if not wanted(argv):
            continue
        try:
            cwd = process.cwd()
        except psutil.Error:
            cwd = None
        pid = process.info["pid"]
        yield RunningProcess(pid, process.info["ppid"], argv, cwd, mount_namespace(pid))


def mount_namespace(pid: int) -> str | None:
    """Return what differs between processes that see different files, ``None`` where it may not be read."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None  # another user's process, or gone
