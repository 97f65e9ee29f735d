"""The SGLang server that runs here, found by its own command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_roce_entry.invocation import MODES
from sglang_roce_entry.server.spellings import MODULE

_LAUNCHER = "sglang-roce-entry"
_LAUNCHER_MODULE = "sglang_roce_entry"
#: Options of the interpreter that take a value.
_VALUE_OPTIONS = ("-X", "-W", "--check-hash-based-pycs")


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
    """What runs here: servers with their SGLang arguments, and launchers that have not handed over yet."""

    servers: tuple[tuple[RunningProcess, tuple[str, ...]], ...] = ()
    launchers: tuple[int, ...] = ()


def sglang_arguments(argv: Sequence[str]) -> tuple[str, ...] | None:
    """Return the arguments of a process that is SGLang's server, ``None`` for any other.

    Its children have other command lines: they are spawned, and name themselves ``sglang::scheduler``.
    """
    program, arguments = _program(argv)
    if program == MODULE or program.endswith("/sglang/launch_server.py"):
        return arguments
    if os.path.basename(program) == "sglang" and arguments[:1] == ("serve",):
        return arguments[1:]
    return None


def is_launcher(argv: Sequence[str]) -> bool:
    """Return whether a process is this program before it execs SGLang (not one of its modes)."""
    program, arguments = _program(argv)
    if program != _LAUNCHER_MODULE and os.path.basename(program) != _LAUNCHER:
        return False
    return not arguments or arguments[0].partition("=")[0] not in MODES


def _program(argv: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the module or script that an interpreter runs, or the program itself, and its arguments."""
    if not argv:
        return "", ()
    if not os.path.basename(argv[0]).startswith("python"):
        return argv[0], tuple(argv[1:])
    position = 1
    while position < len(argv):
        token = argv[position]
        if token == "-m":
            return argv[position + 1] if position + 1 < len(argv) else "", tuple(argv[position + 2 :])
        if token == "-c":
            break
        if not token.startswith("-"):
            return token, tuple(argv[position + 1 :])
        position += 2 if token in _VALUE_OPTIONS else 1
    return "", ()


def pick(processes: Iterable[RunningProcess], own_pid: int, own_namespace: str | None) -> Found:
    """Return the servers and launchers among ``processes`` that see the same files as we do.

    With a shared process namespace, or the host's, other containers' servers are visible too. A process
    whose mount namespace may not be read counts as one of ours.
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
    """Return the SGLang servers and launchers of this process namespace."""
    from sglang_roce_entry.server.processes import mount_namespace, processes_here

    concerned = processes_here(lambda argv: sglang_arguments(argv) is not None or is_launcher(argv))
    return pick(concerned, os.getpid(), mount_namespace(os.getpid()))
