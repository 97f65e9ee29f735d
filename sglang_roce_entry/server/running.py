"""The SGLang server that runs here, found by its own command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_roce_entry import MODES
from sglang_roce_entry.server.entry import program_of, sglang_arguments
from sglang_roce_entry.server.processes import RunningProcess, mount_namespace, processes_here

_LAUNCHER = "sglang-roce-entry"
_LAUNCHER_MODULE = "sglang_roce_entry"


@dataclass(frozen=True, slots=True)
class Found:
    """What runs here: servers with their SGLang arguments, and launchers that have not handed over yet."""

    servers: tuple[tuple[RunningProcess, tuple[str, ...]], ...] = ()
    launchers: tuple[int, ...] = ()


def is_launcher(argv: Sequence[str]) -> bool:
    """Return whether a process is this program before it execs SGLang (not one of its modes)."""
    program, arguments = program_of(argv)
    if program != _LAUNCHER_MODULE and os.path.basename(program) != _LAUNCHER:
        return False
    return not arguments or arguments[0].partition("=")[0] not in MODES


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
    concerned = processes_here(lambda argv: sglang_arguments(argv) is not None or is_launcher(argv))
    return pick(concerned, os.getpid(), mount_namespace(os.getpid()))
