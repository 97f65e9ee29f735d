"""What this process is granted: locked memory, a capability, libibverbs, device nodes."""

from __future__ import annotations

import ctypes
import os
import resource
import stat

from sglang_roce_entry.host.tree import Tree, errno_name, lines_or_empty

#: Index of CAP_IPC_LOCK in include/uapi/linux/capability.h.
_CAP_IPC_LOCK_BIT = 14
#: NCCL tries these two names in this order (ibvwrap, ``dlopen``).
_LIBIBVERBS = ("libibverbs.so", "libibverbs.so.1")


def memlock_bytes() -> int | None:
    """Return the hard limit of locked memory, ``None`` if unlimited. The launcher raises the soft one to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if hard == resource.RLIM_INFINITY else hard


def has_ipc_lock(tree: Tree) -> bool | None:
    """Return whether CAP_IPC_LOCK is effective (CapEff of ``/proc/self/status``), ``None`` if not known."""
    for line in lines_or_empty(tree, "/proc/self/status"):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK_BIT & 1)
    return None


def load_libibverbs() -> str:
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


def open_device(path: str, numbers: str | None = None) -> str:
    """Open a device node read-write, as rdma-core does, and return ``ok`` or the errno name.

    ``numbers`` is the ``major:minor`` that the node must have. Nothing is created: opening has no side
    effect. EPERM is the device cgroup or an RDMA namespace in exclusive mode, EACCES the file mode, ENXIO
    a node without its driver; ENOTTY a plain file of that name, ENODEV a stale node.
    """
    # O_NONBLOCK: opening an NVIDIA device otherwise initialises the GPU, for seconds.
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return errno_name(error)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISCHR(status.st_mode):
        return "ENOTTY"
    if numbers and f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" != numbers:
        return "ENODEV"  # rdma-core refuses it too (open_cdev)
    return "ok"
