"""Values for NCCL's neighbours that the pod has set, each read in its own grammar and held against the node.

What is right for one library is wrong for the next: NCCL's ``=mlx5_0`` is a device of that very name to
NVSHMEM, its ``^lo`` ends Gloo, and UCX's list governs TCP as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sglang_roce_entry.fabric.consumers.nccl import check_index, check_steering
from sglang_roce_entry.fabric.consumers.nvshmem import LEFT_ALONE
from sglang_roce_entry.fabric.consumers.together import Need
from sglang_roce_entry.fabric.control import Control
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.nccl.settings import Given, parse_c_integer
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.host.facts import Hca, Interface
from sglang_roce_entry.problems import CONFIGURATION, RDMA_UNUSABLE, Problem, value_warning, warning

_MAPPING, _LIST, _PE_MAPPING = LEFT_ALONE


def check_consumers(
    decided: Mapping[str, Given],
    hcas: Sequence[Hca],
    interfaces: Sequence[Interface],
    used: Sequence[PortDecision],
    need: Need,
) -> list[Problem]:
    """Return what is wrong with decided values of Mooncake, NVSHMEM and UCX."""
    names = [hca.name for hca in hcas]
    problems = [
        *check_index(decided, used, None, "MC_GID_INDEX", "Mooncake"),
        *check_index(decided, used, None, "NVSHMEM_IB_GID_INDEX", "NVSHMEM"),
        *check_steering(decided, None, "NVSHMEM_IB_", "NVSHMEM"),
        *_inherited(decided, used, need),
        *_ucx_index(decided, used),
    ]
    for name in ("MC_TE_FILTERS", "MC_MS_FILTERS", "MOONCAKE_DEVICE"):
        given = decided.get(name)
        if given is not None and not given.value.strip().startswith("{") and not given.value.endswith(".json"):
            problems += _unknown(name, given, [part.strip() for part in given.value.split(",")], names, "Mooncake")
    problems += _mooncake_port(decided, used)
    problems += _nvshmem(decided, names, need)
    problems += _ucx_devices(decided, hcas, interfaces, need)
    return problems


def _unknown(name: str, given: Given, entries: Iterable[str], known: Sequence[str], reader: str) -> list[Problem]:
    missing = [entry for entry in dict.fromkeys(entries) if entry not in known]
    if not missing:
        return []
    return [
        _wrong(
            "DEVICE_UNKNOWN",
            f"{name}={given.value} ({given.where}): {reader} takes exact names, and this node has no "
            f"{', '.join(map(repr, missing))}",
            f"remove {name}, or name some of: {', '.join(known) or 'none'}",
        )
    ]


def _inherited(decided: Mapping[str, Given], used: Sequence[PortDecision], need: Need) -> list[Problem]:
    """Return a warning where Mooncake takes over an index of NCCL's that was set for NCCL alone."""
    given = decided.get("NCCL_IB_GID_INDEX")
    if given is None or "MC_GID_INDEX" in decided or not need.mooncake or not used:
        return []
    index = parse_c_integer(given.value)[0]
    shared = set.intersection(*({choice.gid.index for choice in port.choices} for port in used))
    if index is None or shared or not 0 <= index <= 255:
        return []  # where one index is right on all ports, Mooncake is given that one
    return [
        _wrong(
            "MC_GID_INHERITED",
            f"Mooncake takes over NCCL_IB_GID_INDEX={given.value} ({given.where}), which is wrong on some port",
            "remove NCCL_IB_GID_INDEX: both libraries then choose per port",
        )
    ]


def _ucx_index(decided: Mapping[str, Given], used: Sequence[PortDecision]) -> list[Problem]:
    given = decided.get("UCX_IB_GID_INDEX")
    if given is None or given.value == "auto":
        return []
    problems = check_index(decided, used, None, "UCX_IB_GID_INDEX", "UCX")
    if "UCX_IB_ROCE_SUBNETS" in decided:
        problems.append(
            _wrong(
                "UCX_GID_CONFLICT",
                f"UCX_IB_GID_INDEX={given.value} ({given.where}) is set beside UCX_IB_ROCE_SUBNETS: UCX refuses",
                "remove one of them",
            )
        )
    return problems


def _mooncake_port(decided: Mapping[str, Given], used: Sequence[PortDecision]) -> list[Problem]:
    given = decided.get("MC_IB_PORT")
    if given is None or not used:
        return []
    number, whole = parse_c_integer(given.value)
    missing = sorted({port.hca.name for port in used} - {p.hca.name for p in used if p.port.number == number})
    if whole and not missing:
        return []
    what = f"is no usable port of {', '.join(missing)}" if whole else "is no number"
    return [
        _wrong("MC_IB_PORT", f"MC_IB_PORT={given.value} ({given.where}) {what}", "remove it: Mooncake assumes 1")
    ]


def _nvshmem(decided: Mapping[str, Given], names: Sequence[str], need: Need) -> list[Problem]:
    problems: list[Problem] = []
    listed, mapped, switch = (decided.get(name) for name in (_LIST, _PE_MAPPING, _MAPPING))
    if listed is not None:
        entries = [part.partition(":")[0] for part in listed.value.removeprefix("^").split(",")]
        problems += _unknown(_LIST, listed, entries, names, "NVSHMEM")
    if mapped is not None:
        parts = [part.split(":") for part in mapped.value.split(",")]
        problems += _unknown(_PE_MAPPING, mapped, [part[0] for part in parts], names, "NVSHMEM")
        if any(len(part) != 3 or not all(one.isdecimal() for one in part[1:]) for part in parts):
            problems.append(
                _wrong(
                    "NVSHMEM_PE_MAPPING",
                    f"{_PE_MAPPING}={mapped.value} ({mapped.where}) is not name:port:count for each entry",
                    f"remove {_PE_MAPPING}: NVSHMEM takes the nearest HCA of each GPU",
                )
            )
    if need.nvshmem and switch is not None and switch.value.strip().lower() not in ("0", "n", "no", "false"):
        problems.append(
            warning(
                "NVSHMEM_ONE_HCA",
                f"{_MAPPING}={switch.value} ({switch.where}) puts all GPUs on one HCA in DeepEP's normal mode",
                f"remove {_MAPPING}, {_LIST} and {_PE_MAPPING} (deepseek-ai/DeepEP#336)",
            )
        )
    return problems


def _ucx_devices(
    decided: Mapping[str, Given], hcas: Sequence[Hca], interfaces: Sequence[Interface], need: Need
) -> list[Problem]:
    given = decided.get("UCX_NET_DEVICES")
    if given is None or given.value == "all":
        return []
    rdma = {hca.name for hca in hcas} | {f"{hca.name}:{port.number}" for hca in hcas for port in hca.ports}
    sockets = {interface.name for interface in interfaces}
    entries = [part.strip() for part in given.value.removeprefix("^").split(",")]
    plain = [entry for entry in entries if "[" not in entry and "*" not in entry]  # ranges and globs are UCX's own
    problems = []
    missing = [entry for entry in plain if entry not in rdma | sockets]
    if missing:
        problems.append(
            _wrong(
                "UCX_NET_DEVICES_UNKNOWN",
                f"UCX_NET_DEVICES={given.value} ({given.where}): UCX takes exact names with ports; this "
                f"pod has no {', '.join(map(repr, missing))}",
                f"remove it, or name some of: {', '.join(sorted(rdma | sockets))}",
            )
        )
    if need.nixl and not given.value.startswith("^") and plain == entries and not sockets & set(entries):
        problems.append(
            _wrong(
                "UCX_WITHOUT_TCP",
                f"UCX_NET_DEVICES={given.value} ({given.where}) has no network interface in it: UCX has no TCP, "
                "which NIXL needs to reach itself",
                f"add {need.interface}, or remove UCX_NET_DEVICES",
            )
        )
    if need.silences:
        problems.append(
            _wrong(
                "UCX_SILENCES_MAP",
                f"UCX_NET_DEVICES={given.value} ({given.where}) makes SGLang ignore --disaggregation-ib-device",
                "remove UCX_NET_DEVICES",
            )
        )
    return problems


def check_interfaces(
    decided: Mapping[str, Given], interfaces: Sequence[Interface], control: Control
) -> list[Problem]:
    """Return what is wrong with decided socket interfaces: unknown ones, and those that miss the leader.

    Leader and worker read the same value; one that is not on the way between them is wrong on either.
    """
    problems = []
    names = [interface.name for interface in interfaces]
    boot = decided.get("NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME")
    if boot is not None and names and not any(parse_selector(boot.value).matches(name, -1) for name in names):
        problems.append(
            value_warning(
                "SOCKET_IFNAME_MATCHES_NOTHING",
                f"NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME={boot.value} ({boot.where}) matches no interface of this pod",
                f"remove it, or name one of: {', '.join(names)}",
                CONFIGURATION,
            )
        )
    if control.interface is None or control.interface not in names:
        return problems
    for variable in ("NCCL_SOCKET_IFNAME", "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME", "GLOO_SOCKET_IFNAME"):
        given = decided.get(variable)
        if given is None:
            continue
        exact = variable.startswith("GLOO")
        chosen = given.value.split(",") if exact else _matched(given.value, names)
        if chosen and control.interface not in chosen and set(chosen) & set(names):
            problems.append(
                warning(
                    "SOCKET_IFNAME_ELSEWHERE",
                    f"{variable}={given.value} ({given.where}) is {', '.join(chosen)}, but the way between leader "
                    f"and worker is {control.interface}",
                    f"remove {variable}, unless the other nodes can be reached over it",
                )
            )
    return problems


def _matched(text: str, names: Sequence[str]) -> list[str]:
    selector = parse_selector(text)
    return [name for name in names if selector.matches(name, -1) and name != "lo"]


def _wrong(code: str, message: str, hint: str) -> Problem:
    return value_warning(code, message, hint, RDMA_UNUSABLE)
