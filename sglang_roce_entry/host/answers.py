"""Answers of the operating system that are no file: opens, limits, addresses, versions.

A live host asks the kernel; a replayed one reads the recorded ``facts.json``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import stat
from collections.abc import Mapping
from typing import Any

from sglang_roce_entry.host.asked import Tree
from sglang_roce_entry.host.facts import Interface, IpAddress, Route
from sglang_roce_entry.host.installed import mooncake_version, nccl_versions, sglang_version
from sglang_roce_entry.host.network import live_interfaces, route_source

#: Index of CAP_IPC_LOCK in include/uapi/linux/capability.h.
_CAP_IPC_LOCK_BIT = 14
#: NCCL tries these two names in this order (ibvwrap, ``dlopen``).
_LIBIBVERBS = ("libibverbs.so", "libibverbs.so.1")
#: Where external NCCL net plugins live: Google's gIB, AWS's aws-ofi-nccl.
NET_PLUGIN_DIRECTORIES = ("/usr/local/gib", "/opt/amazon/ofi-nccl", "/opt/aws-ofi-nccl")


class LiveAnswers:
    """Asks this machine. ``root`` stands before the device nodes, for a fake tree."""

    live = True

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else root

    def interfaces(self) -> tuple[Interface, ...]:
        """Return the interfaces of this network namespace."""
        return live_interfaces()

    def open_verbs(self, uverbs: str, numbers: str | None) -> str:
        """Open ``/dev/infiniband/<uverbs>`` as rdma-core does and return ``ok`` or the errno name.

        No context is created: opening has no side effect. EPERM is the device cgroup or an RDMA
        namespace in exclusive mode, EACCES the file mode, ENXIO a node without its driver.
        """
        return self._open(f"{self._root}/dev/infiniband/{uverbs}", numbers)

    def open_node(self, path: str) -> str:
        """Return ``ok`` or the errno name of opening a device node read-write, without blocking."""
        return self._open(self._root + path, None)

    @staticmethod
    def _open(path: str, numbers: str | None) -> str:
        # O_NONBLOCK: opening an NVIDIA device otherwise initialises the GPU, for seconds.
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "EIO")
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISCHR(status.st_mode):
            return "ENOTTY"  # a plain file by that name
        if numbers and f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" != numbers:
            return "ENODEV"  # a stale node: rdma-core refuses it too (open_cdev)
        return "ok"

    def device_nodes(self, prefix: str) -> list[str]:
        """Return the paths of the device nodes ``<prefix><number>``, by number."""
        directory, _, stem = prefix.rpartition("/")
        try:
            names = os.listdir(self._root + directory)
        except OSError:
            return []
        numbers = [name[len(stem) :] for name in names if name.startswith(stem)]
        return [f"{prefix}{number}" for number in sorted(int(n) for n in numbers if n.isdecimal())]

    def memlock(self) -> tuple[bool, int | None]:
        """Return the hard limit: the launcher raises the soft one to it."""
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return True, None if hard == resource.RLIM_INFINITY else hard

    def ipc_lock(self, tree: Tree) -> bool | None:
        """Return whether CAP_IPC_LOCK is in the effective set (CapEff of ``/proc/self/status``)."""
        try:
            lines = tree.text("/proc/self/status").splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK_BIT & 1)
        return None

    def uid(self) -> int | None:
        """Return the effective user id."""
        return os.geteuid()

    def libibverbs(self) -> str | None:
        """Load libibverbs as NCCL does and return ``ok`` or the loader's message."""
        problem = ""
        for name in _LIBIBVERBS:
            try:
                ctypes.CDLL(name)
            except OSError as error:
                problem = str(error)
            else:
                return "ok"
        return problem

    def nccl_versions(self, environ: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the installed versions of NCCL."""
        return nccl_versions(environ)

    def sglang(self) -> tuple[bool | None, str | None]:
        """Return whether SGLang is installed in this interpreter, and its version."""
        return sglang_version()

    def mooncake(self) -> str | None:
        """Return the installed version of Mooncake's transfer engine."""
        return mooncake_version()

    def nccl_file_paths(self, environ: Mapping[str, str], version: tuple[int, ...] | None) -> list[str]:
        """Return the files of NCCL's ``initEnv``: NCCL_CONF_FILE (2.23+) or the home file, then /etc.

        The home is the passwd entry up to 2.29 and ``$HOME`` from 2.30 on.
        """
        paths = []
        configured = environ.get("NCCL_CONF_FILE", "")
        if configured and (version is None or version >= (2, 23)):
            paths.append(configured)
        else:
            home = environ.get("HOME") if version is not None and version >= (2, 30) else None
            home = home or _passwd_home() or environ.get("HOME")
            if home:
                paths.append(f"{home.rstrip('/')}/.nccl.conf")
        return [*paths, "/etc/nccl.conf"]

    def net_plugins(self) -> tuple[str, ...]:
        """Return the folders of external NCCL net plugins that exist."""
        return tuple(path for path in NET_PLUGIN_DIRECTORIES if os.path.isdir(self._root + path))

    def gpu_count(self) -> int | None:
        """Return ``None``: on a live host the device nodes tell."""
        return None

    def route(self, address: IpAddress, interfaces: tuple[Interface, ...]) -> Route | None:
        """Return the interface and source address that the kernel uses towards ``address``."""
        source = route_source(address)
        if source is None:
            return None
        owner = interface_of(source, interfaces)
        return Route(owner, source) if owner else None

    def resolve(self, name: str) -> list[IpAddress] | None:  # noqa: ARG002 - nothing is recorded
        """Return ``None``: on a live host a resolver has to be asked."""
        return None

    def recorded_check(self) -> Mapping[str, Any] | None:
        """Return ``None``: on a live host the system has to be asked."""
        return None


def _passwd_home() -> str | None:

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None  # an arbitrary uid without an entry, ordinary on OpenShift


def interface_of(address: IpAddress, interfaces: tuple[Interface, ...]) -> str | None:
    """Return the name of the interface that owns ``address``, an up one first; ``None`` if none does."""
    owners = [interface for interface in interfaces if any(own.ip == address for own in interface.addresses)]
    owners.sort(key=lambda interface: not interface.up)
    return owners[0].name if owners else None
