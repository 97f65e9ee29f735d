"""What this process is granted: locked memory, a capability, device nodes."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Mapping

from sglang_roce_entry.host.tree import Tree, errno_name, lines_or_empty

#: Index of CAP_IPC_LOCK in include/uapi/linux/capability.h.
_CAP_IPC_LOCK_BIT = 14


def memlock_bytes() -> int | None:
    """Return the hard limit of locked memory, ``None`` if unlimited. The launcher raises the soft one to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if hard == resource.RLIM_INFINITY else hard


def has_ipc_lock(tree: Tree) -> bool | None:
    """Return whether CAP_IPC_LOCK is effective (CapEff of ``/proc/self/status``), ``None`` if not known."""
    for line in lines_or_empty(tree, "/proc/self/status"):
        if line.startswith("CapEff:"):
            try:
                return bool(int(line.split()[1][:32], 16) >> _CAP_IPC_LOCK_BIT & 1)
            except (ValueError, IndexError):
                return None
    return None


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


#: A script's interpreter may be a script again, so often (``exec_binprm``, fs/exec.c).
_INTERPRETERS = 5


def exec_errno(program: str, environ: Mapping[str, str]) -> int:
    """Return the errno with which ``execvpe`` of ``program`` fails, 0 where nothing shows that it does.

    Nothing is run. As ``os._execvpe`` searches: a file that may not be executed does not end the search.
    """
    if os.path.dirname(program):
        return _file_errno(program, _INTERPRETERS)
    failed = errno.ENOENT
    for folder in os.get_exec_path(environ):
        path = os.path.join(folder, program)
        found = _file_errno(path, _INTERPRETERS) if os.path.exists(path) else errno.ENOENT
        if found == 0:
            return 0
        if failed == errno.ENOENT:
            failed = found
    return failed


def _file_errno(path: str, interpreters: int) -> int:
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError) as failure:
        return getattr(failure, "errno", errno.EINVAL)
    if not regular or not os.access(path, os.X_OK):
        return errno.EACCES
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError:
        return 0  # may be executed, not read
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        return _file_errno(os.fsdecode(words[0]), interpreters - 1) if words and interpreters else errno.ENOEXEC
    return 0 if head.startswith(b"\x7fELF") else errno.ENOEXEC
