"""The decision for the libraries beside NCCL: Mooncake, UCX under NIXL, NVSHMEM under DeepEP.

They take the same ports and GIDs in other grammars. Each has its own module for its rules; here is
what is said to them, and what is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.fabric.consumers import mooncake, nvshmem, ucx
from sglang_roce_entry.fabric.consumers.variables import DISCOVERED, VariablePlan
from sglang_roce_entry.fabric.gids import IndexDecision
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.problems import RDMA_UNUSABLE, Problem, value_warning

#: What a network decides and no pod can see: traffic class and service level of each library.
_QUALITY = {
    "nccl": ("NCCL_IB_TC", "NCCL_IB_SL"),
    "nvshmem": ("NVSHMEM_IB_TRAFFIC_CLASS", "NVSHMEM_IB_SL"),
    "mooncake": ("MC_IB_TC", "MC_IB_SL"),
    "nixl": ("UCX_IB_TRAFFIC_CLASS", "UCX_IB_SL"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """What of the neighbours a launch uses.

    ``option``: SGLang is told the HCAs of the KV transfer by its own option. ``net_devices``: UCX must be
    told by its variable instead; ``silences``: that variable would make SGLang ignore its option.
    ``interface`` carries UCX's TCP.
    """

    mooncake: bool = False
    nixl: bool = False
    nvshmem: bool = False
    option: bool = False
    net_devices: bool = False
    silences: bool = False
    interface: str = "lo"


def spoilt_ports(
    ports: Sequence[PortDecision],
    index: IndexDecision,
    values: Mapping[str, str],
    version: tuple[int, ...] | None,
) -> dict[str, str]:
    """Return the used ports on which Mooncake ``version`` would take a wrong GID, with how, by label.

    Where an index is forced on it, that is right or has been complained about already.
    """
    if index.index is not None:
        return {}

    if mooncake.forced_index(values) is not None:
        return {}
    found = {port.label: mooncake.wrong_by_itself(port, version) for port in ports}
    return {label: how for label, how in found.items() if how is not None}


def port_for_mooncake(ports: Sequence[PortDecision]) -> int:
    """Return the port number that Mooncake and NIXL use on every HCA: 1, or the one that all used ones have."""
    numbers = {port.port.number for port in ports}
    return numbers.pop() if len(numbers) == 1 else 1


def put_consumers(
    plan: VariablePlan,
    ports: Sequence[PortDecision],
    carrying: Sequence[PortDecision],
    all_names: Sequence[str],
    index: IndexDecision,
    need: Need,
) -> list[Problem]:
    """Decide the variables of the neighbours for the used ``ports``, and return what is wrong.

    ``carrying`` are those of them that Mooncake can use, ``all_names`` the HCAs of the node, used or not.
    """
    _leave_alone(plan, need)
    if not ports:
        return []
    problems = nvshmem.check_names(plan, ports) if need.nvshmem else []
    _put_mooncake(plan, carrying, all_names, need)
    problems += _put_ucx(plan, ports, index, need)
    return problems


def _leave_alone(plan: VariablePlan, need: Need) -> None:
    used = {"nccl": True, "nvshmem": need.nvshmem, "mooncake": need.mooncake, "nixl": need.nixl}
    for library, names in _QUALITY.items():
        for name in names:
            if used[library]:
                plan.withhold(
                    name, "the traffic class of a fabric cannot be seen from a pod: ask who runs the network"
                )
            else:
                plan.keep(name)
    if need.nvshmem:
        nvshmem.leave_alone(plan)


def _put_mooncake(plan: VariablePlan, ports: Sequence[PortDecision], all_names: Sequence[str], need: Need) -> None:
    number = port_for_mooncake(ports)
    if number != 1:
        plan.put(
            "MC_IB_PORT", str(number), DISCOVERED, f"every used HCA is on its port {number}; Mooncake assumes 1"
        )
    names = [port.hca.name for port in ports if port.port.number == number]
    if not need.mooncake or set(names) == set(all_names):
        plan.keep("MC_TE_FILTERS")
    elif need.option:
        plan.withhold("MC_TE_FILTERS", "SGLang tells Mooncake the HCAs by its own option")
    else:
        reason = "without an option of SGLang's Mooncake takes every HCA that is active"
        plan.put("MC_TE_FILTERS", ",".join(names), DISCOVERED, reason)


def _put_ucx(plan: VariablePlan, ports: Sequence[PortDecision], index: IndexDecision, need: Need) -> list[Problem]:
    if need.net_devices:
        plan.put(
            "UCX_NET_DEVICES",
            ucx.net_devices(ports, need.interface),
            DISCOVERED,
            f"the used ports, and {need.interface} for UCX's own TCP",
        )
    elif need.silences:
        plan.withhold("UCX_NET_DEVICES", "it would make SGLang ignore --disaggregation-ib-device")
    else:
        plan.keep("UCX_NET_DEVICES")
    if index.index is not None or plan.given("UCX_IB_GID_INDEX") or plan.given("UCX_IB_ROCE_SUBNETS"):
        plan.keep("UCX_IB_ROCE_SUBNETS")
        return []

    if ucx.right_by_itself(ports):
        return []
    subnet = ucx.steering_subnet(ports)
    if subnet is not None:
        reason = "makes the choice of UCX itself right on every port"
        plan.put("UCX_IB_ROCE_SUBNETS", str(subnet), DISCOVERED, reason)
        return []
    if not need.nixl:
        return []
    wrong = [port.label for port in ports if not ucx.right_by_itself((port,))]
    return [
        value_warning(
            "UCX_GID",
            f"UCX would take a wrong GID on {', '.join(wrong)}: one index does not fit all ports, and no subnet "
            "tells its own GIDs from the others",
            "give all ports the same addresses history (driver reload on the node), or transfer with Mooncake",
            RDMA_UNUSABLE,
        )
    ]
