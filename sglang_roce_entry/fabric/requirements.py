"""What RDMA needs besides the choice: at least one port, every rail, locked memory, libibverbs, one MTU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from sglang_roce_entry.fabric.affinity import near_some_gpu
from sglang_roce_entry.fabric.candidates import where_an_address_belongs
from sglang_roce_entry.fabric.choice import Choice, PortRow
from sglang_roce_entry.fabric.constraints import OFF, REQUIRED, Reason
from sglang_roce_entry.fabric.nccl.plugins import idle_plugin
from sglang_roce_entry.host.facts import HostFacts
from sglang_roce_entry.problems import RDMA_UNUSABLE, Problem, error, rdma_value, shortened, warning

_ALIBABA = "0x1ded:"
#: At or below this no data buffer can be registered; set-up alone passed with 8 MiB.
_FATAL_MEMLOCK_BYTES = 64 << 20

_RESOURCE_HINT = (
    "request the RDMA resource in the manifest (resources.limits, e.g. rdma/hca_shared_devices_a: 1), "
    "or mount /dev/infiniband in a privileged pod"
)
HINTS = {
    Reason.NO_VERBS: _RESOURCE_HINT,
    Reason.VERBS_DENIED: (
        _RESOURCE_HINT + "; EACCES: run as a user who may open it; EPERM on a mounted device node: the device "
        "cgroup does not allow it"
    ),
    Reason.NO_PROVIDER: (
        "install the card's verbs provider in the image, of the same release as its libibverbs "
        "(ibverbs-providers, or all of the vendor's package); IBV_SHOW_WARNINGS=1 ibv_devices names what it lacks"
    ),
    Reason.PORT_NOT_ACTIVE: (
        "bring the link up on the node (rdma link; ip link set ... up), check cable and switch port"
    ),
    Reason.NO_OWN_GID: (
        "give the pod an address on the HCA: hostNetwork: true, or a secondary network (Multus with "
        "SR-IOV or macvlan on the HCA's netdev); to use the host's GIDs knowingly: --foreign-gids allow"
    ),
    Reason.NETDEV_DOWN: "bring the interface up: ip link set <netdev> up",
    Reason.NOT_ROCE: "use a node with a RoCE HCA, or set --rdma off",
    Reason.FAMILY_MISMATCH: (
        "remove the family setting (NCCL_IB_ADDR_FAMILY counts as one), or configure an address of that family"
    ),
    Reason.USER_EXCLUDED: "correct the selector; NCCL's grammar: =mlx5_0:1,mlx5_1:1 (exact) or ^mlx5_9",
}


def check(choice: Choice) -> list[Problem]:
    """Return what RDMA lacks here, if it is required."""
    constraints = choice.constraints
    if constraints.rdma == OFF or choice.plugin is not None:
        return []
    if constraints.rdma == REQUIRED:
        missing = [] if choice.satisfied else [unusable(choice)]
        missing += [*memlock(choice.facts), *libibverbs(choice.facts)]
    elif not choice.satisfied and _selector_missed(choice):
        missing = [replace(unusable(choice), severity="warning", value=True)]
    else:
        missing = []
    return [
        *missing,
        *_nvlink_only(choice),
        *_idle_plugin(choice),
        *_lost_rails(choice),
        *_of_other_family(choice),
        *_without_effect(choice),
        *_differing_mtus(choice),
    ]


def _without_effect(choice: Choice) -> Iterator[Problem]:
    """Return a warning on each setting of the fabric that nothing here answers to, where no error says it."""
    constraints = choice.constraints
    addresses = [port.gid.ip for port in choice.used if port.gid is not None]
    if constraints.subnets and addresses and not any(ip in net for ip in addresses for net in constraints.subnets):
        networks = ",".join(str(network) for network in constraints.subnets)
        listed = shortened([str(ip) for ip in addresses], 4)
        yield _unanswered(
            f"{constraints.subnets_origin} {networks} has no effect: no used port has an address in it",
            f"correct it, or remove it; the ports have {listed}",
        )
    if constraints.rdma == REQUIRED or choice.satisfied:
        return
    if constraints.selector is not None and not choice.facts.hcas:
        yield _unanswered(
            f"{constraints.selector_origin} {constraints.selector.text!r} selects nothing: no RDMA device is here",
            "remove it on nodes without RDMA, or request the RDMA resource in the manifest",
        )
    mismatched = [row.decision.label for row in choice.ports if row.decision.reason == Reason.FAMILY_MISMATCH]
    if constraints.family != "auto" and mismatched:
        origin, listed = f"{constraints.family_origin} {constraints.family}", ", ".join(mismatched)
        yield _unanswered(
            f"{origin} leaves no port: none of {listed} has such an address", HINTS[Reason.FAMILY_MISMATCH]
        )


def _unanswered(message: str, hint: str) -> Problem:
    return rdma_value("SETTING_MATCHES_NOTHING", message, hint)


def _selector_missed(choice: Choice) -> bool:
    excluded = any(row.decision.reason == Reason.USER_EXCLUDED for row in choice.ports)
    return choice.constraints.selector is not None and excluded


def unusable(choice: Choice) -> Problem:
    """Return the error that no RDMA port can be used, with the reasons and the remedy."""
    constraints, hcas = choice.constraints, choice.facts.hcas
    if not hcas:
        return error(
            "NO_USABLE_HCA",
            "RDMA is required, but no RDMA device is visible: /sys/class/infiniband is empty",
            "run on a node with RoCE HCAs (in exclusive RDMA mode, move one into the pod with the "
            "SR-IOV or RDMA CNI); without RDMA: --rdma off",
            RDMA_UNUSABLE,
        )
    reasons: dict[str, list[str]] = {}
    details: dict[str, dict[str, str]] = {}
    for port in (row.decision for row in choice.ports):
        if port.reason is not None:
            reasons.setdefault(port.reason, []).append(port.label)
            details.setdefault(port.reason, {}).setdefault(port.detail, port.label)
    if constraints.selector is not None and Reason.USER_EXCLUDED in reasons:
        names = ", ".join(reasons[Reason.USER_EXCLUDED])
        return error(
            "SELECTOR_MATCHES_NOTHING",
            f"{constraints.selector_origin} {constraints.selector.text!r} selects no usable port",
            f"usable here: {names}; {HINTS[Reason.USER_EXCLUDED]}",
            RDMA_UNUSABLE,
        )
    # The reason from the latest check is the most telling: the GIDs of a port without verbs are not looked at.
    order = (
        Reason.FAMILY_MISMATCH,
        Reason.NETDEV_DOWN,
        Reason.NO_OWN_GID,
        Reason.PORT_NOT_ACTIVE,
        Reason.NO_PROVIDER,
        Reason.VERBS_DENIED,
        Reason.NO_VERBS,
        Reason.NOT_ROCE,
    )
    leading = next((reason for reason in order if reason in reasons), None)
    if leading is None:
        return error(
            "NO_USABLE_HCA",
            "RDMA is required, but the RDMA devices of this node have no ports",
            "check the driver's messages on the node (dmesg)",
            RDMA_UNUSABLE,
        )
    listed = "; ".join(
        f"{reason} on {', '.join(labels)} ({_first(details[reason])})" for reason, labels in reasons.items()
    )
    return error(
        "NO_USABLE_HCA",
        f"RDMA is required, but no port of {len(hcas)} RDMA device"
        f"{'s' if len(hcas) != 1 else ''} can be used: {listed}",
        _hint(choice, leading),
        RDMA_UNUSABLE,
    )


def _hint(choice: Choice, leading: str) -> str:
    """Return what to do about ports that are all left out, ``leading`` for the most telling reason."""
    idle = idle_plugin(choice.constraints.given, choice.facts.net_plugin_paths)
    if idle is not None:
        return f"{idle[0]} is in this container ({idle[1]}): {idle[2]}"
    if leading == Reason.NO_OWN_GID:
        dropped = [row.decision for row in choice.ports if row.decision.reason == leading]
        return where_an_address_belongs(dropped, choice.facts) or HINTS[leading]
    if leading == Reason.NOT_ROCE and any((hca.model or "").startswith(_ALIBABA) for hca in choice.facts.hcas):
        return "load the driver of eRDMA in RoCE mode on the node: modprobe -r erdma; modprobe erdma compat_mode=1"
    return HINTS[leading]


def _first(labels: Mapping[str, str]) -> str:
    """Return the first detail; of which port it is told, where others have others."""
    detail, label = next(iter(labels.items()))
    return detail if len(labels) == 1 else f"{label}: {detail}"


def lost_rails(choice: Choice) -> Sequence[PortRow]:
    """Return the ports that look like rails and are left out, because they have no address for it.

    Such a port is active, of the card of a used port and at least as fast, as near to some GPU, and its link-local
    GIDs are this pod's: a rail that lost its address, or the other port of a card whose owner gave only one of
    them an address.
    No rail are the ports that a selector or a family setting leaves out, and the physical function of a used
    virtual one. What the pod's own NCCL_IB_HCA selects is used all the same, and said there.
    """
    constraints = choice.constraints
    rates: dict[str | None, float] = {}
    for port in choice.used:
        rate = port.port.rate_gbps or 0.0
        rates[port.hca.card] = min(rate, rates.get(port.hca.card, rate))
    used = [port.hca for port in choice.used]
    physical = {port.hca.physical_function for port in choice.used}
    # The name of an interface proves nothing: in a pod of a shared device another one can have it.
    here = {(one.name, address.ip) for one in choice.facts.interfaces for address in one.addresses}
    reasons = [Reason.NO_OWN_GID, *([Reason.FAMILY_MISMATCH] if constraints.family == "auto" else [])]

    def looks_like_a_rail(row: PortRow) -> bool:
        hca, port = row.decision.hca, row.decision.port
        if hca.card is None or hca.card not in rates or (port.rate_gbps or 0.0) < rates[hca.card]:
            return False
        if not near_some_gpu(hca, [*used, hca], choice.facts.gpus):
            return False
        if hca.pci_address in physical or not any((gid.netdev, gid.ip) in here for gid in port.gids):
            return False
        selector = constraints.selector
        return selector is None or (not constraints.selector_final and selector.matches(hca.name, port.number))

    return [row for row in choice.ports if row.decision.reason in reasons and looks_like_a_rail(row)]


def _lost_rails(choice: Choice) -> Iterator[Problem]:
    lost = lost_rails(choice)
    all_of_them = ",".join(row.decision.label for row in lost)
    for row in lost:
        label = row.decision.label
        yield warning(
            "RAIL_WITHOUT_ADDRESS",
            f"{label} is up and as fast as the used ports, but is not used: {row.decision.detail}",
            f"give {row.netdev} an address as the other rails have one (ip -br address), or leave it out on "
            f"purpose: --hca ^={all_of_them}",
        )


def _of_other_family(choice: Choice) -> Iterator[Problem]:
    """Return a warning on the ports left out for their family; an error if more is dropped than kept."""
    lost = {row.decision.label for row in lost_rails(choice)}
    of_family = [row.decision for row in choice.ports if row.decision.reason == Reason.FAMILY_MISMATCH]
    dropped = [port for port in of_family if port.label not in lost]
    if not dropped or not choice.used or choice.constraints.selector_final:
        return
    rates = [sum(port.port.rate_gbps or 0.0 for port in ports) for ports in (of_family, choice.used)]
    listed = ", ".join(port.label for port in dropped)
    said = rdma_value(
        "FAMILY_MISMATCH",
        f"{listed} {'is' if len(dropped) == 1 else 'are'} left out: {dropped[0].detail} "
        f"({rates[0]:g} Gb/s dropped, {rates[1]:g} Gb/s kept)",
        "give all rails addresses of one family; to leave a port out on purpose: "
        f"--hca ^={dropped[0].label}; to choose the family: --family",
    )
    fatal = choice.constraints.rdma == REQUIRED and rates[0] > rates[1]
    yield replace(said, severity="error") if fatal else said


def _idle_plugin(choice: Choice) -> Iterator[Problem]:
    idle = idle_plugin(choice.constraints.given, choice.facts.net_plugin_paths)
    if idle is not None and choice.satisfied:
        name, where, remedy = idle
        yield warning(
            "PLUGIN_IDLE",
            f"{name} is in this container ({where}), but NCCL is not told to use it: its own transport is used",
            f"{remedy}; without it on purpose: NCCL_NET_PLUGIN=none",
        )


def _nvlink_only(choice: Choice) -> Iterator[Problem]:
    if choice.constraints.nvlink_only:
        yield warning(
            "NVLINK_ONLY",
            "no verbs device opens here, but an IMEX channel does: inside one NVLink domain NCCL needs no RDMA; "
            "nodes of different domains would talk over TCP",
            "if all nodes of the group are in one NVLink domain (ComputeDomain), nothing but NCCL_CUMEM_ENABLE=1 "
            "with an SGLang before 0.5.23; else request the RDMA resource and set --rdma required",
        )


def memlock(facts: HostFacts) -> list[Problem]:
    """Return what is wrong with the limit on locked memory, for a process without CAP_IPC_LOCK.

    The kernel refuses to pin more (drivers/infiniband/core/umem.c); NCCL then fails at the first
    connect with "Call to ibv_reg_mr failed with error Cannot allocate memory".
    """
    if facts.ipc_lock or not facts.memlock_known or facts.memlock_bytes is None:
        return []
    limit = f"memlock is limited to {facts.memlock_bytes} bytes and CAP_IPC_LOCK is not effective"
    hint = "add securityContext.capabilities.add: [IPC_LOCK]"
    if facts.uid:
        hint += (
            f" and run as root, or raise the runtime's memlock limit: capabilities added to a "
            f"container do not become effective for uid {facts.uid}"
        )
    else:
        hint += ", or raise the container runtime's memlock limit on the node"
    if facts.ipc_lock is None or facts.memlock_bytes > _FATAL_MEMLOCK_BYTES:
        return [warning("MEMLOCK_LIMITED", f"{limit}; registering larger buffers fails", hint)]
    return [error("MEMLOCK_TOO_LOW", f"{limit}: RDMA memory cannot be registered", hint, RDMA_UNUSABLE)]


def libibverbs(facts: HostFacts) -> Iterator[Problem]:
    """Return the error that libibverbs cannot be loaded (NCCL would silently use TCP), or that it is broken."""
    loads, failure = facts.libibverbs.loads, facts.libibverbs.failure
    if loads is not None and loads != "ok":
        yield error(
            "LIBIBVERBS_MISSING",
            f"libibverbs cannot be loaded: {loads}",
            "install libibverbs1 and ibverbs-providers in the image",
            RDMA_UNUSABLE,
        )
    elif failure is not None:
        yield warning(
            "LIBIBVERBS_BROKEN",
            f"libibverbs does not say which RDMA devices it can use: {failure}",
            "run ibv_devices in the image; remove what is preloaded, and providers of another rdma-core release",
        )


def _differing_mtus(choice: Choice) -> Iterator[Problem]:
    """Return a warning if the interfaces of the used ports carry RoCE packets of different sizes.

    A RoCE MTU is the largest of 256 ... 4096 that fits into the interface's less 96 bytes of headers
    (``iboe_get_mtu``, include/rdma/ib_addr.h). NCCL 2.20 to 2.28 does not reduce it between nodes: the
    receiver takes the sender's as it is (``ncclIbAccept``, src/transport/net_ib.cc; NVIDIA/nccl#1524).
    """
    netdevs = {port.gid.netdev for port in choice.used if port.gid is not None}
    mtus = {one.name: one.mtu for one in choice.facts.interfaces if one.name in netdevs and one.mtu}
    carried = {name: roce_mtu(mtu) for name, mtu in mtus.items()}
    if len(set(carried.values())) < 2:
        return
    listed = ", ".join(f"{name} {mtus[name]} (RoCE {carried[name]})" for name in mtus)
    yield warning(
        "MTU_DIFFERS",
        f"the interfaces of the used ports have different MTUs: {listed}",
        "give all of them the same MTU, 4200 or more, here, on the other nodes and on the switches",
    )


def roce_mtu(mtu: int) -> int:
    """Return the MTU of RoCE packets on an interface (``iboe_get_mtu``, include/rdma/ib_addr.h)."""
    return next((size for size in (4096, 2048, 1024, 512) if size <= mtu - 96), 256)
