"""What surrounds NCCL: variables of the pod, NCCL's configuration files, its log; locked and shared memory."""

from __future__ import annotations

from sglang_roce_entry.check.items import CheckItem, Examined, listed, of_problem, ok, skip, warn
from sglang_roce_entry.fabric import requirements
from sglang_roce_entry.fabric.consumers import gloo, nccl
from sglang_roce_entry.fabric.nccl.files import parse_nccl_file

#: The levels of ``NCCL_DEBUG`` (src/debug.cc, ``ncclDebugInit``, case-insensitive).
_LEVELS = ("VERSION", "WARN", "INFO", "ABORT", "TRACE", "NONE")
#: Variables that this program would otherwise read from the hardware.
_STEERING = (*nccl.STEERING, *gloo.READS, "MC_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX")
_GIB = 1 << 30
#: docker's and containerd's own 64 MiB are too small for NCCL and SGLang's processes.
_SMALL_SHM_BYTES = 1 * _GIB
_LITTLE_FREE_BYTES = 256 << 20
_SHM = "shm"
_SHM_MANIFEST = "mount one: volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 32Gi}}] at /dev/shm"


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on variables and files."""
    return (
        *_variables(examined),
        *_files(examined),
        _debug(examined),
    )


def _variables(examined: Examined) -> tuple[CheckItem, ...]:
    pinned = [f"{name}={value}" for name in _STEERING if (value := examined.environ.get(name))]
    if not pinned:
        fine = ok("variables", "the pod sets none of the variables that are read from the hardware")
    else:
        fine = ok("variables", f"the pod pins {listed(pinned)}: right on this node, and kept as they are")
    return examined.lines("variables", fine)


def _files(examined: Examined) -> tuple[CheckItem, ...]:
    files = examined.plan.facts.nccl_files
    lines: list[CheckItem] = [of_problem("nccl file", problem) for problem in examined.of("nccl file")]
    for path, text in files:
        names = parse_nccl_file(text)
        steering = [f"{name}={names[name]}" for name in _STEERING if names.get(name)]
        if steering:
            lines.append(
                warn(
                    "nccl file",
                    f"{path} sets {listed(steering)}, which takes precedence over the hardware",
                    f"remove these lines from {path}, unless they are meant for every node with this image",
                )
            )
    read = ", ".join(path for path, _ in files)
    return tuple(lines) or (ok("nccl file", read or "none (NCCL_CONF_FILE, ~/.nccl.conf, /etc/nccl.conf)"),)


def _debug(examined: Examined) -> CheckItem:
    level = examined.environ.get("NCCL_DEBUG", "")
    file = examined.environ.get("NCCL_DEBUG_FILE", "")
    where = f"to {file} inside the container" if file else "to the container's log"
    more = "NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,NET shows the HCAs, GIDs and network that it uses"
    if level and level.upper() not in _LEVELS:
        evidence = f"NCCL_DEBUG={level} is not a log level of NCCL: it logs nothing"
        return warn("nccl log", evidence, "write WARN or INFO")
    if not level:
        if examined.environ.get("NCCL_DEBUG_SUBSYS"):
            return warn("nccl log", "NCCL_DEBUG_SUBSYS without NCCL_DEBUG has no effect", more)
        return ok("nccl log", f"NCCL_DEBUG is not set: NCCL logs nothing; {more}")
    if level.upper() == "TRACE":
        evidence = f"NCCL_DEBUG={level}: released builds have no trace, it is INFO ({where})"
        return ok("nccl log", evidence)
    return ok("nccl log", f"NCCL_DEBUG={level}, {where}" + ("" if level.upper() == "INFO" else f"; {more}"))


def memory(examined: Examined) -> tuple[CheckItem, ...]:
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
