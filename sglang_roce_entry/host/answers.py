"""One node as it can be asked: its files, and the answers of its system calls.

The running machine asks the kernel; a replay reads the recorded answers (``snapshot/recorded.py``).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sglang_roce_entry.host import limits
from sglang_roce_entry.host.facts import Interface, IpAddress, Route
from sglang_roce_entry.host.installed import mooncake_version, nccl_versions, sglang_version
from sglang_roce_entry.host.network import route_source
from sglang_roce_entry.host.tree import DiskTree, Tree

#: Where external NCCL net plugins live: Google's gIB, AWS's aws-ofi-nccl.
NET_PLUGIN_DIRECTORIES = ("/usr/local/gib", "/opt/amazon/ofi-nccl", "/opt/aws-ofi-nccl")


class Answers(Protocol):
    """What a node answers that is not in a file of it."""

    live: bool

    def interfaces(self) -> tuple[Interface, ...]:
        """Return the interfaces of the network namespace."""

    def open_verbs(self, uverbs: str, numbers: str | None) -> str:
        """Return ``ok`` or the errno name of opening ``/dev/infiniband/<uverbs>`` (``major:minor``)."""

    def open_node(self, path: str) -> str:
        """Return ``ok`` or the errno name of opening a device node read-write."""

    def device_nodes(self, prefix: str) -> list[str]:
        """Return the paths of the device nodes ``<prefix><number>``, by number."""

    def memlock(self) -> tuple[bool, int | None]:
        """Return whether the hard limit is known, and its bytes (``None``: unlimited)."""

    def ipc_lock(self, tree: Tree) -> bool | None:
        """Return whether CAP_IPC_LOCK is effective, ``None`` if not known."""

    def uid(self) -> int | None:
        """Return the effective user id, ``None`` if not known."""

    def libibverbs(self) -> str | None:
        """Return ``ok`` or why libibverbs cannot be loaded; ``None`` if not known."""

    def nccl_versions(self, environ: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the installed versions of NCCL, ``None`` if not known."""

    def sglang(self) -> tuple[bool | None, str | None]:
        """Return whether SGLang is installed (``None``: not known) and its version."""

    def mooncake(self) -> str | None:
        """Return the version of Mooncake's transfer engine, ``None`` if not known."""

    def nccl_file_paths(self, environ: Mapping[str, str], version: tuple[int, ...] | None) -> list[str]:
        """Return the configuration files that NCCL of ``version`` reads, in its order."""

    def net_plugins(self) -> tuple[str, ...]:
        """Return the folders of external NCCL net plugins that exist."""

    def gpu_count(self) -> int | None:
        """Return a recorded number of GPUs, ``None`` where the device nodes are counted."""

    def route(self, address: IpAddress, interfaces: tuple[Interface, ...]) -> Route | None:
        """Return the kernel's route to ``address``, ``None`` without one."""

    def resolve(self, name: str) -> list[IpAddress] | None:
        """Return recorded addresses of ``name``, ``None`` where a resolver has to be asked."""

    def recorded_check(self) -> Mapping[str, Any] | None:
        """Return the recorded answers for ``--check``, ``None`` where the system has to be asked."""


@dataclass(frozen=True, slots=True)
class Host:
    """One node as it can be asked: its files and the answers of its system calls."""

    tree: Tree
    answers: Answers

    @property
    def live(self) -> bool:
        """Whether this is the running machine, not a recording."""
        return self.answers.live


def live_host(root: str = "/") -> Host:
    """Return the running machine; ``root`` replaces ``/`` for files and device nodes."""
    return Host(DiskTree(root), LiveAnswers(root))


class LiveAnswers:
    """Asks this machine. ``root`` stands before the device nodes, for a fake tree."""

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

    def uid(self) -> int | None:
        """Return the effective user id."""
        return os.geteuid()

    def libibverbs(self) -> str | None:
        """Load libibverbs and return ``ok`` or the loader's message."""
        return limits.load_libibverbs()

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

    def net_plugins(self) -> tuple[str, ...]:
        """Return the folders of external NCCL net plugins that exist."""
        return tuple(path for path in NET_PLUGIN_DIRECTORIES if os.path.isdir(self._root + path))

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


def nccl_files_in_order(
    environ: Mapping[str, str], version: tuple[int, ...] | None, of_home: Iterable[str]
) -> list[str]:
    """Return the files of NCCL's ``initEnv``: NCCL_CONF_FILE (2.23+) or those of the home, then /etc."""
    configured = environ.get("NCCL_CONF_FILE", "")
    if configured and (version is None or version >= (2, 23)):
        of_home = (configured,)
    return [*of_home, "/etc/nccl.conf"]


def numbered(prefix: str, paths: Iterable[str]) -> list[str]:
    """Return those of ``paths`` that are ``prefix`` and a decimal number, by number."""
    numbers = [path[len(prefix) :] for path in paths if path.startswith(prefix)]
    return [f"{prefix}{number}" for number in sorted(int(text) for text in numbers if text.isdecimal())]


def interface_of(address: IpAddress, interfaces: tuple[Interface, ...]) -> str | None:
    """Return the name of the interface that owns ``address``, an up one first; ``None`` if none does."""
    owners = [interface for interface in interfaces if any(own.ip == address for own in interface.addresses)]
    owners.sort(key=lambda interface: not interface.up)
    return owners[0].name if owners else None
