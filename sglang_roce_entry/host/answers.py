"""One node as it can be asked: its files, and the answers of its system calls.

The running machine asks the kernel; a replay reads the recorded answers (``snapshot/recorded.py``).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_roce_entry.host import limits
from sglang_roce_entry.host.facts import Interface, IpAddress, Libibverbs, Route
from sglang_roce_entry.host.installed import (
    mooncake_version,
    nccl_files_in_order,
    nccl_versions,
    rccl_net_plugin,
    rocm_version,
    sglang_version,
)
from sglang_roce_entry.host.network import interface_of, route_source
from sglang_roce_entry.host.snapshot.recorded import RecordedAnswers
from sglang_roce_entry.host.tree import DiskTree, Tree, numbered

#: Where external NCCL net plugins live: Google's gIB, AWS's aws-ofi-nccl.
NET_PLUGIN_DIRECTORIES = ("/usr/local/gib", "/opt/amazon/ofi-nccl", "/opt/aws-ofi-nccl")


@dataclass(frozen=True, slots=True)
class Host:
    """One node as it can be asked: its files and the answers of its system calls."""

    tree: Tree
    answers: LiveAnswers | RecordedAnswers

    @property
    def live(self) -> bool:
        """Whether this is the running machine, not a recording."""
        return self.answers.live


def live_host(root: str = "/") -> Host:
    """Return the running machine; ``root`` replaces ``/`` for files and device nodes."""
    return Host(DiskTree(root), LiveAnswers(root))


class LiveAnswers:
    """Asks this machine. ``root`` is put before the device nodes, for a fake tree."""

    live = True

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else root

    def interfaces(self) -> tuple[Interface, ...]:
        """Return the interfaces of this network namespace."""
        # psutil is slow to import, and a replay does not need it.
        from sglang_roce_entry.host.live_interfaces import live_interfaces

        return live_interfaces()

    def open_verbs(self, uverbs: str, numbers: str | None) -> str:
        """Open ``/dev/infiniband/<uverbs>`` and return ``ok`` or the errno name."""
        return limits.open_device(f"{self._root}/dev/infiniband/{uverbs}", numbers)

    def open_node(self, path: str) -> str:
        """Open a device node and return ``ok`` or the errno name."""
        return limits.open_device(self._root + path)

    def device_nodes(self, prefix: str) -> list[str]:
        """Return the paths of the device nodes ``<prefix><number>``, by number."""
        directory = os.path.dirname(prefix)
        try:
            names = os.listdir(self._root + directory)
        except OSError:
            return []
        return numbered(prefix, [f"{directory}/{name}" for name in names])

    def memlock(self) -> tuple[bool, int | None]:
        """Return the hard limit of this process."""
        return True, limits.memlock_bytes()

    def ipc_lock(self, tree: Tree) -> bool | None:
        """Return whether CAP_IPC_LOCK is effective in this process."""
        return limits.has_ipc_lock(tree)

    def exec_errno(self, program: str, environ: Mapping[str, str]) -> int | None:
        """Return the errno with which an exec of ``program`` would fail, 0 if it would not."""
        return limits.exec_errno(program, environ)

    def uid(self) -> int | None:
        """Return the effective user id."""
        return os.geteuid()

    def libibverbs(self) -> Libibverbs | None:
        """Return ``None``: it has to be asked, in a process of its own."""
        return None

    def rocm(self) -> str | None:
        """Return the release of ROCm whose RCCL is used."""
        return rocm_version()

    def nccl_versions(self, environ: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the installed versions of NCCL."""
        return nccl_versions(environ)

    def sglang(self) -> tuple[bool | None, str | None]:
        """Return whether this interpreter can run SGLang, and its version."""
        return sglang_version()

    def mooncake(self) -> str | None:
        """Return the installed version of Mooncake's transfer engine."""
        return mooncake_version()

    def nccl_file_paths(self, environ: Mapping[str, str], version: tuple[int, ...] | None) -> list[str]:
        """Return NCCL's files; the home is the passwd entry up to 2.29 and ``$HOME`` from 2.30 on."""
        home = environ.get("HOME") if version is not None and version >= (2, 30) else None
        home = home or _passwd_home() or environ.get("HOME")
        return nccl_files_in_order(environ, version, [f"{home.rstrip('/')}/.nccl.conf"] if home else [])

    def net_plugins(self, environ: Mapping[str, str], vendor: str) -> tuple[str, ...]:
        """Return the folders of external NCCL net plugins that exist; on AMD also the file that RCCL loads."""
        folders = tuple(path for path in NET_PLUGIN_DIRECTORIES if os.path.isdir(self._root + path))
        return (*folders, *rccl_net_plugin(environ)) if vendor == "amd" else folders

    def gpu_count(self) -> int | None:
        """Return ``None``: the device nodes are counted."""
        return None

    def route(self, address: IpAddress, interfaces: tuple[Interface, ...]) -> Route | None:
        """Return the interface and source address that the kernel uses to reach ``address``."""
        source = route_source(address)
        owner = interface_of(source, interfaces) if source is not None else None
        return Route(owner, source) if owner and source is not None else None

    def resolve(self, name: str) -> list[IpAddress] | None:  # noqa: ARG002 - nothing is recorded
        """Return ``None``: a resolver has to be asked."""
        return None

    def recorded_check(self) -> Mapping[str, Any] | None:
        """Return ``None``: the system has to be asked."""
        return None


def _passwd_home() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None  # an arbitrary uid without an entry, ordinary on OpenShift
