"""A recorded node: its tree in memory, and the recorded answers of its system calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface
from typing import Any

from sglang_roce_entry.host.facts import Interface, IpAddress, Libibverbs, Route
from sglang_roce_entry.host.installed import nccl_files_in_order
from sglang_roce_entry.host.network import in_order, interface_of
from sglang_roce_entry.host.snapshot.format import Document
from sglang_roce_entry.host.tree import ATTRIBUTE_BYTES, Tree, numbered


class MemoryTree:
    """A recorded tree held in memory. Nothing is ever written to disk, so nothing can escape.

    ``files`` and ``links`` are keyed by absolute path; ``errors`` are reads that failed on the node,
    by the path as read or by its real path.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        links: Mapping[str, str],
        errors: Mapping[str, str],
        directories: frozenset[str] = frozenset(),
    ) -> None:
        self._files = dict(files)
        self._links = dict(links)
        self._errors = dict(errors)
        self._children: dict[str, set[str]] = {"/": set()}
        self._real_directories: dict[str, str] = {}
        for path in (*self._files, *self._links, *self._errors):
            self._add(path)
        for path in directories:
            self._add(path)
            self._children.setdefault(path, set())

    def _add(self, path: str) -> None:
        while path != "/":
            parent, _, name = path.rpartition("/")
            parent = parent or "/"
            children = self._children.setdefault(parent, set())
            if name in children:
                return
            children.add(name)
            path = parent

    def attribute(self, path: str) -> str:
        """Return one sysfs attribute, stripped, as much as the kernel would. Raises ``OSError``."""
        return self._read(path)[:ATTRIBUTE_BYTES].decode("utf-8", "surrogateescape").strip()

    def text(self, path: str) -> str:
        """Return a whole file. Raises ``OSError``."""
        return self._read(path).decode("utf-8", "surrogateescape")

    def _read(self, path: str) -> bytes:
        recorded = self._errors.get(path)
        real = self._resolve(path)
        recorded = recorded or self._errors.get(real)
        if recorded is not None:
            raise _error(recorded, path)
        content = self._files.get(real)
        if content is None:
            raise _error("EISDIR" if real in self._children else "ENOENT", path)
        return content

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory, sorted. Raises ``OSError``."""
        recorded = self._errors.get(path)
        if recorded is not None:
            raise _error(recorded, path)
        real = self._resolve(path)
        if real in self._children:
            return sorted(self._children[real])
        raise _error("ENOTDIR" if real in self._files else "ENOENT", path)

    def real(self, path: str) -> str | None:
        """Return the path with every symbolic link resolved, ``None`` if it does not exist."""
        try:
            real = self._resolve(path)
        except OSError:
            return None
        return real if real in self._files or real in self._children else None

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of the directory ``path`` with what reading it gave. Raises ``OSError``."""
        found: list[tuple[str, bytes | OSError]] = []
        for name in self.names(path):
            try:
                found.append((name, self._read(f"{path}/{name}")[:ATTRIBUTE_BYTES]))
            except OSError as error:
                found.append((name, error))
        return found

    def _resolve(self, path: str) -> str:
        directory, _, name = path.rpartition("/")
        real_directory = self._resolve_directory(directory or "/")
        real = os.path.join(real_directory, name)
        return self._resolve_directory(real) if real in self._links else real

    def _resolve_directory(self, path: str) -> str:
        known = self._real_directories.get(path)
        if known is not None:
            return known
        current, pending, followed = "/", [part for part in path.split("/") if part][::-1], 0
        while pending:
            part = pending.pop()
            if part == ".":
                continue
            if part == "..":
                current = os.path.dirname(current)
                continue
            step = os.path.join(current, part)
            target = self._links.get(step)
            if target is None:
                current = step
                continue
            followed += 1
            if followed > 40:  # MAXSYMLINKS of the kernel
                raise _error("ELOOP", path)
            pending.extend([part for part in target.split("/") if part][::-1])
        self._real_directories[path] = current
        return current


def _error(name: str, path: str) -> OSError:
    code = getattr(errno, name, errno.EIO)
    return OSError(code, os.strerror(code), path)


class RecordedAnswers:
    """The answers in a snapshot's ``facts.json``. A missing key means "not known"."""

    live = False

    def __init__(self, document: Document) -> None:
        self._document = document
        self._verbs = document.strings("verbs")
        self._open = document.strings("open")
        self._interfaces = in_order(self._read_interfaces())

    def _read_interfaces(self) -> Iterator[Interface]:
        for interface, value in self._document.mapping("interfaces").items():
            try:
                yield Interface(
                    interface,
                    bool(value["up"]),
                    int(value.get("mtu") or 0),
                    int(value.get("speed_mbps") or 0),
                    tuple(ip_interface(text) for text in value.get("addresses", ())),
                )
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise self._document.malformed(f"interface {interface!r} is malformed: {error}") from error

    def interfaces(self) -> tuple[Interface, ...]:
        """Return the recorded interfaces."""
        return self._interfaces

    def open_verbs(self, uverbs: str, numbers: str | None) -> str:  # noqa: ARG002 - as recorded
        """Return the recorded answer; a device that is not listed has no node."""
        return self._verbs.get(uverbs, "ENOENT")

    def open_node(self, path: str) -> str:
        """Return the recorded answer; a node that is not listed does not exist."""
        return self._open.get(path, "ENOENT")

    def device_nodes(self, prefix: str) -> list[str]:
        """Return the recorded device nodes ``<prefix><number>``, by number."""
        return numbered(prefix, self._open)

    def memlock(self) -> tuple[bool, int | None]:
        """Return the recorded limit."""
        limit = self._document.typed("memlock", int)
        return limit is not None or self._document.facts.get("memlock") == "unlimited", limit

    def ipc_lock(self, tree: Tree) -> bool | None:  # noqa: ARG002 - recorded, not read
        """Return whether CAP_IPC_LOCK is among the recorded capabilities."""
        capabilities = self._document.typed("capabilities", list)
        return None if capabilities is None else "CAP_IPC_LOCK" in capabilities

    def exec_errno(self, program: str, environ: Mapping[str, str]) -> int | None:  # noqa: ARG002
        """Return ``None``: programs are not recorded."""
        return None

    def uid(self) -> int | None:
        """Return the recorded user id."""
        return self._document.typed("uid", int)

    def libibverbs(self) -> Libibverbs | None:
        """Return the recorded answers of libibverbs."""
        listed = self._document.typed("verbs_listed", list)
        return Libibverbs(
            self._document.typed("libibverbs", str),
            None if listed is None else tuple(map(str, listed)),
            self._document.typed("verbs_failure", str),
        )

    def rocm(self) -> str | None:
        """Return the recorded release of ROCm."""
        value = self._document.mapping("versions").get("rocm")
        return str(value) if value else None

    def nccl_versions(self, environ: Mapping[str, str]) -> tuple[str, ...] | None:  # noqa: ARG002
        """Return the recorded versions of NCCL: ``null`` means none is installed."""
        versions = self._document.mapping("versions")
        if "nccl" not in versions:
            return None
        value = versions["nccl"]
        # Several wheels side by side are recorded as one text.
        return tuple(str(value).split(",")) if value else ()

    def sglang(self) -> tuple[bool | None, str | None]:
        """Return whether SGLang was installed (``null`` means not) and its version."""
        versions = self._document.mapping("versions")
        if "sglang" not in versions:
            return None, None
        value = versions["sglang"]
        return value is not None, str(value) if value and value != "unknown" else None

    def mooncake(self) -> str | None:
        """Return the recorded version of Mooncake's transfer engine."""
        value = self._document.mapping("versions").get("mooncake")
        return str(value) if value else None

    def nccl_file_paths(self, environ: Mapping[str, str], version: tuple[int, ...] | None) -> list[str]:
        """Return NCCL's configuration files among the recorded ones, in NCCL's order."""
        of_home = [path for path in self._document.strings("files") if path.endswith("/.nccl.conf")]
        return nccl_files_in_order(environ, version, of_home)

    def net_plugins(self, environ: Mapping[str, str], vendor: str) -> tuple[str, ...]:  # noqa: ARG002 - recorded
        """Return the recorded folders and files of external NCCL net plugins."""
        return tuple(str(path) for path in self._document.typed("net_plugins", list) or ())

    def gpu_count(self) -> int | None:
        """Return the recorded number of GPUs."""
        return self._document.typed("gpus", int)

    def route(self, address: IpAddress, interfaces: tuple[Interface, ...]) -> Route | None:
        """Return the recorded route, else the interface whose network holds ``address``."""
        value = self._document.mapping("routes").get(str(address))
        if isinstance(value, dict):
            try:
                source = ip_address(str(value["source"]))
            except (KeyError, ValueError):
                return None
            owner = str(value.get("interface") or interface_of(source, interfaces) or "")
            return Route(owner, source) if owner else None
        for interface in interfaces:
            for own in interface.addresses:
                if own.version == address.version and address in own.network and own.ip != address:
                    return Route(interface.name, own.ip)
        return None

    def resolve(self, name: str) -> list[IpAddress] | None:
        """Return the recorded addresses of ``name``, ``None`` if it was not looked up."""
        value = self._document.mapping("resolve").get(name)
        if not isinstance(value, list):
            return None
        try:
            return [ip_address(text) for text in value]
        except ValueError as error:
            raise self._document.malformed(f"resolve {name!r}: {error}") from error

    def recorded_check(self) -> Mapping[str, Any] | None:
        """Return the recorded answers for ``--check``; empty in a recording without that part."""
        return self._document.mapping("check")
