"""What others have decided for NCCL: variables of the pod, NCCL's configuration files, its log."""

from __future__ import annotations

from sglang_roce_entry.check.items import CheckItem, Examined, listed, of_problem, ok, warn
from sglang_roce_entry.fabric.consumers import gloo, nccl
from sglang_roce_entry.fabric.nccl.files import parse_nccl_file

#: The levels of ``NCCL_DEBUG`` (src/debug.cc, ``ncclDebugInit``, case-insensitive).
_LEVELS = ("VERSION", "WARN", "INFO", "ABORT", "TRACE", "NONE")
#: Variables that this program would otherwise read from the hardware.
_STEERING = (*nccl.STEERING, *gloo.READS, "MC_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX")


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
