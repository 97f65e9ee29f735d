"""Who this pod is, what it would run, and everything in the plan that no other line reports."""

from __future__ import annotations

from sglang_roce_entry.check.items import CheckItem, Examined, of_problem, ok, skip
from sglang_roce_entry.check.rdma import place_of_unusable
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.problems import Problem
from sglang_roce_entry.report.secrets import shown_argv, shown_command
from sglang_roce_entry.report.text import place

#: The item that reports a problem of the plan, by its code. A code that is not here gets a
#: line of its own, so that nothing of the plan is lost.
_PLACES = {
    "hca": ("SELECTOR_MATCHES_NOTHING", "TOO_MANY_PORTS", "SYSFS_FOREIGN", "NVLINK_ONLY", "BOND_WITHOUT_LAG"),
    "link": ("RAIL_DOWN",),
    "gid": (
        *("INDEX_MISMATCH", "AMBIGUOUS_SUBNET", "RAIL_WITHOUT_ADDRESS"),
        *("LINK_LOCAL_FABRIC", "FAMILY_MISMATCH", "ADDRESS_TWICE"),
    ),
    "rate": ("DEGRADED_LINK",),
    "memlock": ("MEMLOCK_TOO_LOW", "MEMLOCK_LIMITED"),
    "image": ("LIBIBVERBS_MISSING", "LIBIBVERBS_BROKEN"),
    "variables": (
        "SELECTOR_TAKES_SLOWER",
        "HCA_UNKNOWN",
        "HCA_UNUSABLE",
        "HCA_LIST_TOO_LONG",
        "ADDR_FAMILY_UNKNOWN",
        "ADDR_RANGE_MALFORMED",
        "NCCL_NET_SOCKET",
        "RDMA_DISABLED",
        "SOCKET_IFNAME_MATCHES_NOTHING",
        "GLOO_IFNAME_UNKNOWN",
        "ADDR_RANGE_OTHER_FAMILY",
        "SOCKET_IFNAME_ELSEWHERE",
        "DEVICE_UNKNOWN",
        "MORI_MAP",
        "PLUGIN_IDLE",
        "UCX_IONIC",
        "MC_AFFINITY",
        "MC_GID_INHERITED",
        "KV_NETWORKS",
        "MOONCAKE_GID",
        "NVSHMEM_ONE_HCA",
        "NVSHMEM_PE_MAPPING",
        "NVSHMEM_PREFIX",
        "NVSHMEM_VENDOR",
        "UCX_GID",
        "UCX_GID_CONFLICT",
        "UCX_NET_DEVICES_UNKNOWN",
        "UCX_NO_ROUTE",
        "UCX_SILENCES_MAP",
        "UCX_WITHOUT_TCP",
    ),
    "mtu": ("MTU_DIFFERS",),
    "nccl file": ("NCCL_CONF_FILE", "NCCL_FILE_CRLF", "NCCL_FILE_LINE"),
    "own address": ("HOST_IP_FOREIGN",),
    "open ports": ("PEERS_MALFORMED",),
    "interface": (
        *("INTERFACE_MISSING", "INTERFACE_WITHOUT_ADDRESS", "LEADER_IS_LOOPBACK"),
        *("CONTROL_ON_LOOPBACK", "CONTROL_ADDRESS_NOT_FIRST"),
    ),
    "gpus": ("GPUS_DISAGREE", "GPUS_IDLE", "TP_GPUS", "TP_UNKNOWN", "VISIBLE_DEVICES", "MIG_UNSUPPORTED"),
    "command": (
        *("EXEC", "EXEC_NOT_FOUND", "SGLANG_WRAPPED"),
        *("CONFIG_IGNORED", "CONFIG_KEY", "IB_DEVICE", "PORT_CLASH", "PORTS_OUT_OF_RANGE"),
        *("TP_NODES", "PP_NODES", "DP_NODES", "ATTENTION_DP", "ARGUMENT", "DIST_INIT_ADDR"),
        *("USE_RAY", "ATTENTION_DP_IPV6", "RENDEZVOUS_OVERRIDDEN"),
    ),
    "sglang": ("SGLANG_MISSING", "NONZERO_RANKS_RETURN", "SERVICE_LINK"),
    "identity": (
        "INDEX_OUT_OF_RANGE",
        "LEADER_ADDRESS",
        "IDENTITY_NUMBER",
        "IDENTITY_NOT_EXPANDED",
        "HALF_IDENTITY",
        "GROUP_SUSPECTED",
        "IDENTITY_CONTRADICTION",
        "POD_NAME_DISAGREES",
    ),
    "leader name": ("LEADER_UNRESOLVED", "OWN_NAME_FOREIGN", "DIST_INIT_ELSEWHERE", "LEADER_IS_WORKER"),
}
_BY_CODE = {code: name for name, codes in _PLACES.items() for code in codes}
#: Reported by :mod:`sglang_roce_entry.check.leader_path`, which knows more about it.
LEADER = "leader name"


def by_item(plan: Plan) -> dict[str, list[Problem]]:
    """Return the plan's problems by the item that reports them."""
    found: dict[str, list[Problem]] = {}
    for problem in plan.problems:
        name = _BY_CODE.get(problem.code)
        if problem.code == "NO_USABLE_HCA":
            name = place_of_unusable(plan)
        elif name is None and problem.code.startswith("GID_"):
            name = "variables"
        found.setdefault(name or problem.code.lower().replace("_", " "), []).append(problem)
    return found


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on identity, GPUs and command."""
    return (
        *examined.lines("identity", _identity(examined)),
        *examined.lines("gpus", _gpus(examined)),
        *examined.lines("command", _command(examined)),
    )


def rest(examined: Examined, written: set[str]) -> tuple[CheckItem, ...]:
    """Return the problems whose item no other module has written."""
    return tuple(
        of_problem(name, problem)
        for name, found in examined.problems.items()
        if name not in written
        for problem in found
    )


def _identity(examined: Examined) -> CheckItem:
    identity = examined.plan.identity
    if identity is None or not (identity.in_group or identity.leader):
        return ok("identity", "one node: no group is named (LWS_*, RBG_LWP_*, SGLANG_ROCE_*, --nnodes)")
    return ok("identity", place(identity))


def _gpus(examined: Examined) -> CheckItem:
    gpus = examined.plan.gpus
    if gpus.count is None:
        return skip("gpus", "no /dev/nvidia*, CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES or --gpus")
    return ok("gpus", f"{gpus.count} ({gpus.source})")


def _command(examined: Examined) -> CheckItem:
    argv = shown_argv(examined.plan)
    if not argv:
        return skip("command", "no SGLang arguments were given")
    if examined.plan.unproven is not None:
        return skip("command", f"whether the recorded node has {examined.plan.unproven!r} is not known")
    return ok("command", shown_command(examined.plan))
