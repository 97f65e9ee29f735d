"""The SGLang server that runs here, found by its own command line (psutil)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sglang_roce_entry.records import dataclass
from sglang_roce_entry.server.command import MODULE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LAUNCHER = "sglang-roce-entry"
_LAUNCHER_MODULE = "sglang_roce_entry"
#: How an interpreter runs a program: these many words at most stand before its arguments.
_HEAD_WORDS = 4


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """One process as /proc shows it. ``cwd`` is ``None`` where it may not be read."""

    pid: int
    parent: int
    argv: tuple[str, ...]
    cwd: str | None = None
    mount_namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What runs here: servers with their SGLang arguments, and launchers that are still at work."""

    servers: tuple[tuple[RunningProcess, tuple[str, ...]], ...] = ()
    launchers: tuple[int, ...] = ()


def sglang_arguments(argv: Sequence[str]) -> tuple[str, ...] | None:
    """Return the arguments of a process that is SGLang's server, ``None`` for any other.

    Its children have other command lines: they are spawned, and name themselves ``sglang::scheduler``.
    """
    for position, token in enumerate(argv[:_HEAD_WORDS]):
        behind = tuple(argv[position + 1 :])
        if token == "-m" and behind[:1] == (MODULE,):
            return behind[1:]
        if token.endswith("sglang/launch_server.py"):
            return behind
        if os.path.basename(token) == "sglang" and behind[:1] == ("serve",):
            return behind[1:]
    return None


def is_launcher(argv: Sequence[str]) -> bool:
    """Return whether a process is this program on its way to a server (not one of its modes)."""
    head = argv[:_HEAD_WORDS]
    for position, token in enumerate(head):
        named = os.path.basename(token) == _LAUNCHER
        as_module = token == "-m" and tuple(argv[position + 1 : position + 2]) == (_LAUNCHER_MODULE,)
        if named or as_module:
            first = argv[position + (2 if as_module else 1) :][:1]
            modes = ("--probe", "--check", "--dry-run", "--print-env", "--save-snapshot", "--help", "--version")
            return not first or first[0].partition("=")[0] not in modes
    return False


def pick(processes: Iterable[RunningProcess], own_pid: int, own_namespace: str | None) -> Found:
    """Return the servers and launchers among ``processes`` that see the same files as we do.

    With a shared process namespace, or the host's, other containers' servers are visible too. A process
    whose mount namespace may not be read is taken for one of ours.
    """
    namespaces = (None, own_namespace)
    listed = [
        process
        for process in processes
        if process.pid != own_pid and (own_namespace is None or process.mount_namespace in namespaces)
    ]
    candidates = {
        process.pid: (process, arguments)
        for process in listed
        if (arguments := sglang_arguments(process.argv)) is not None
    }
    servers = [found for found in candidates.values() if found[0].parent not in candidates]
    launchers = [process.pid for process in listed if is_launcher(process.argv)]
    return Found(tuple(servers), tuple(launchers))


def running_here() -> Found:
    """Return what of SGLang runs in this process namespace."""
    import psutil

    processes = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        argv = tuple(process.info["cmdline"] or ())
        if sglang_arguments(argv) is None and not is_launcher(argv):
            continue
        try:
            cwd = process.cwd()
        except psutil.Error:
            cwd = None
        pid = process.info["pid"]
        processes.append(RunningProcess(pid, process.info["ppid"], argv, cwd, _mount_namespace(pid)))
    return pick(processes, os.getpid(), _mount_namespace(os.getpid()))


def _mount_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None  # another user's process, or gone
