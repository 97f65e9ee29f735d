"""What a host can be asked, whoever answers. Only type checkers load this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sglang_roce_entry.host.facts import Interface, IpAddress, Route


class Tree(Protocol):
    """A file tree as a node shows it."""

    def attribute(self, path: str) -> str:
        """Return one sysfs attribute, stripped, from a single read. Raises ``OSError``."""

    def text(self, path: str) -> str:
        """Return a whole file. Raises ``OSError``."""

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory, in no order. Raises ``OSError``."""

    def real(self, path: str) -> str | None:
        """Return the path with every symbolic link resolved, ``None`` if it does not exist."""

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of the directory ``path`` with what reading it gave. Raises ``OSError``."""


class Answers(Protocol):
    """What the system calls of a node answer."""

    live: bool

    def interfaces(self) -> tuple[Interface, ...]:
        """Return the interfaces of the network namespace."""

    def open_verbs(self, uverbs: str, numbers: str | None) -> str:
        """Return ``ok`` or the errno name of opening a verbs device read-write."""

    def open_node(self, path: str) -> str:
        """Return ``ok`` or the errno name of opening a device node read-write."""

    def device_nodes(self, prefix: str) -> list[str]:
        """Return the paths of the device nodes ``<prefix><number>``."""

    def memlock(self) -> tuple[bool, int | None]:
        """Return whether the hard limit is known, and its bytes (``None``: unlimited)."""

    def ipc_lock(self, tree: Tree) -> bool | None:
        """Return whether CAP_IPC_LOCK is effective."""

    def uid(self) -> int | None:
        """Return the effective user id."""

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
        """Return a recorded number of GPUs, ``None`` where device nodes have to tell."""

    def route(self, address: IpAddress, interfaces: tuple[Interface, ...]) -> Route | None:
        """Return the kernel's choice towards ``address``."""

    def resolve(self, name: str) -> list[IpAddress] | None:
        """Return recorded addresses of ``name``, ``None`` where a resolver has to be asked."""

    def recorded_check(self) -> Mapping[str, Any] | None:
        """Return the recorded answers for ``--check``, ``None`` where the system has to be asked."""
