"""Locked memory and shared memory."""

from __future__ import annotations

from sglang_roce_entry.check.items import CheckItem, Examined, ok, skip, warn
from sglang_roce_entry.fabric import requirements

_GIB = 1 << 30
#: docker's and containerd's own 64 MiB are too small for NCCL and SGLang's processes.
_SMALL_SHM_BYTES = 1 * _GIB
_LITTLE_FREE_BYTES = 256 << 20
_SHM = "shm"
_SHM_MANIFEST = "mount one: volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 32Gi}}] at /dev/shm"


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on memory."""
    return (
        *_memlock(examined),
        _shared(examined),
    )


def _memlock(examined: Examined) -> tuple[CheckItem, ...]:
    facts, problems = examined.plan.facts, examined.of("memlock")
    if not examined.plan.choice.satisfied and not problems:
        return ()
    if not facts.memlock_known and not facts.ipc_lock:
        return (skip("memlock", "not in this recording"),)
    limit = "unlimited" if facts.memlock_bytes is None else f"{facts.memlock_bytes} bytes"
    capability = "CAP_IPC_LOCK is effective" if facts.ipc_lock else "CAP_IPC_LOCK is not effective"
    fine = ok("memlock", f"{capability}; the limit is {limit if facts.memlock_known else 'not known'}")
    if not problems:
        # Not required, so a launch reports nothing; RDMA fails without it nevertheless.
        return tuple(warn("memlock", one.message, one.hint) for one in requirements.memlock(facts)) or (fine,)
    return examined.lines("memlock", fine)


def _shared(examined: Examined) -> CheckItem:
    total, free = examined.inspection.shm_bytes, examined.inspection.shm_free_bytes
    if total is None:
        if examined.live:
            return warn(_SHM, "no shared memory is mounted", _SHM_MANIFEST)
        return skip(_SHM, "not in this recording")
    size = _size(total)
    if total < _SMALL_SHM_BYTES:
        return warn(_SHM, f"{size}: NCCL and SGLang's processes fail with 'No space left'", _SHM_MANIFEST)
    if free is not None and free < _LITTLE_FREE_BYTES:
        remedy = "another pod or process fills it (hostIPC shares the node's): remove hostIPC, or free it"
        return warn(_SHM, f"{size}, but only {_size(free)} is free", remedy)
    return ok(_SHM, size)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count >> 20} MiB"
