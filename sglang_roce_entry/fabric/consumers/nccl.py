"""NCCL: the ports, the index or what makes NCCL's own choice right, the interface of its bootstrap.

Source of the rules: NVIDIA/nccl ``src/transport/net_ib`` and ``src/misc`` (``fabric/nccl`` has each with
its release), 2.18 to 2.32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_roce_entry.fabric.choice import Choice, opened_by_nccl
from sglang_roce_entry.fabric.constraints import OFF, REQUIRED, Reason
from sglang_roce_entry.fabric.control import check_family, check_route, check_selection, told, wish_interface
from sglang_roce_entry.fabric.gids import forced_index, user_scan
from sglang_roce_entry.fabric.given_checks import check_index, check_steering
from sglang_roce_entry.fabric.nccl.scan import AF_INET6
from sglang_roce_entry.fabric.nccl.selector import parse_selector, render_selector
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.fabric.wishes import DEFAULT, DISCOVERED, USER, Given, Wish, found, shown, traffic, unset
from sglang_roce_entry.problems import Problem, rdma_value, warning

#: What NVIDIA's spark_cluster_setup.py sets to 1 and 0 for three DGX Sparks in a ring, where no rail reaches all.
_RING = ("NCCL_IB_SUBNET_AWARE_ROUTING", "NCCL_IB_MERGE_NICS")
_TRAFFIC = ("NCCL_IB_TC", "NCCL_IB_SL")

#: Those that are read from the hardware unless they are set already.
STEERING = (
    "NCCL_IB_DISABLE",
    "NCCL_IB_HCA",  # grammar: fabric/nccl/selector.py
    "NCCL_IB_GID_INDEX",
    "NCCL_IB_ADDR_FAMILY",  # these three from 2.21 on: fabric/nccl/scan.py
    "NCCL_IB_ADDR_RANGE",
    "NCCL_IB_ROCE_VERSION_NUM",
    "NCCL_NET",
    "NCCL_NET_PLUGIN",
    "NCCL_SOCKET_IFNAME",
    "NCCL_SOCKET_FAMILY",
)

READS = (*STEERING, *_RING, *_TRAFFIC)


def wishes(choice: Choice, _use: Use) -> Sequence[Wish]:
    """Return what is set for NCCL."""
    return (_switch(choice), _ports(choice), *_index(choice), _net(choice), *_sockets(choice))


def _switch(choice: Choice) -> Wish:
    name, constraints = "NCCL_IB_DISABLE", choice.constraints
    if constraints.rdma == OFF:
        return Wish(name, "1", USER, "RDMA is switched off by the rdma setting", constraints.rdma_by_flag)
    if name in constraints.given and constraints.rdma_by_flag:
        return Wish(name, "0", USER, f"--rdma {constraints.rdma}", by_flag=True)
    return shown(name)


def _ports(choice: Choice) -> Wish:
    name, constraints = "NCCL_IB_HCA", choice.constraints
    by_flag = constraints.selector is not None and constraints.selector_origin == "--hca"
    if choice.used:
        value = render_selector((port.hca.name, port.port.number) for port in choice.used)
        reason = f"{len(choice.used)} usable RoCE port{'s' if len(choice.used) != 1 else ''} of this pod"
        return Wish(name, value, DISCOVERED, reason + (", limited by --hca" if by_flag else ""), by_flag)
    infiniband = choice.infiniband if choice.plugin is None else ()
    if infiniband and constraints.selector is not None and not constraints.selector_final:
        labels = [label.rpartition(":") for label in infiniband]
        value = render_selector((device, int(number)) for device, _, number in labels)
        return Wish(name, value, USER, f"the InfiniBand ports that {constraints.selector_origin} selects", by_flag)
    ethernet = [row.decision for row in choice.ports if opened_by_nccl(row.decision)] if infiniband else []
    if ethernet and constraints.selector is None:
        value = "^" + render_selector((port.hca.name, port.port.number) for port in ethernet)
        return found(name, value, "InfiniBand is the fabric: NCCL would use this Ethernet port beside it")
    return unset(name, choice.unused_because)


def _index(choice: Choice) -> Sequence[Wish]:
    index = choice.index_wish("NCCL_IB_GID_INDEX")
    if not choice.used:
        return (index,)
    steering = {"NCCL_IB_ADDR_FAMILY": choice.index.family, "NCCL_IB_ADDR_RANGE": choice.index.address_range}
    why = "makes NCCL's own choice right on every port"
    return (
        index,
        *(shown(one) if value is None else found(one, str(value), why) for one, value in steering.items()),
        shown("NCCL_IB_ROCE_VERSION_NUM"),
        *_ring(choice),
        *traffic(_TRAFFIC, used=True),
    )


def _ring(choice: Choice) -> Sequence[Wish]:
    networks = {port.choices[0].network for port in choice.used}
    sparks = any("GB10" in (gpu.model or "") for gpu in choice.facts.gpus.devices)
    if not sparks or len(networks) < len(choice.used) or len(networks) < 4:
        return [shown(name) for name in _RING]
    why = "for a ring of three NVIDIA's setup sets NCCL_IB_SUBNET_AWARE_ROUTING=1 and NCCL_IB_MERGE_NICS=0"
    return [unset(name, why) for name in _RING]


def _net(choice: Choice) -> Wish:
    """Return the wish for ``NCCL_NET``: with required RDMA, NCCL must fail instead of falling back to TCP."""
    name, plugin = "NCCL_NET", choice.constraints.given.get("NCCL_NET_PLUGIN")
    if choice.plugin is not None:
        return unset(name, choice.unused_because)
    if choice.constraints.rdma != REQUIRED:
        return shown(name)
    if plugin is not None and plugin.value != "none":
        return unset(name, f"the net plugin {plugin.value!r} ({plugin.where}) decides")
    return Wish(name, "IB", DEFAULT, "RDMA is required: NCCL fails instead of falling back to TCP")


def _sockets(choice: Choice) -> Sequence[Wish]:
    control = choice.control
    interface = wish_interface("NCCL_SOCKET_IFNAME", control, "=")
    if control.interface is None or not control.name_family:
        return (interface,)
    return (interface, found("NCCL_SOCKET_FAMILY", AF_INET6, told(control)))


def check(given: Mapping[str, Given], choice: Choice, _use: Use) -> Sequence[Problem]:
    """Return what is wrong with given values of NCCL's."""
    interfaces, ifname = choice.facts.interfaces, given.get("NCCL_SOCKET_IFNAME")
    return (
        *_check_rdma(given, choice),
        *(check_selection(ifname, interfaces) if ifname is not None and len(ifname.value) > 1 else ()),
        *check_family(given.get("NCCL_SOCKET_FAMILY"), interfaces),
        *(check_route(ifname, choice.control, interfaces) if choice.used else ()),
    )


def _check_rdma(given: Mapping[str, Given], choice: Choice) -> Sequence[Problem]:
    constraints, index = choice.constraints, choice.index
    if constraints.rdma == OFF:
        return _check_without_rdma(given, required=constraints.rdma_asked == REQUIRED)
    if choice.plugin is not None:
        return ()
    nccl, user = constraints.nccl, user_scan(given, constraints.nccl)
    scans = index.index is None and forced_index(given, nccl) is None
    net = given.get("NCCL_NET")
    socket = constraints.rdma == REQUIRED and net is not None and net.value.lower() == "socket"
    return (
        *(_check_selector(given.get("NCCL_IB_HCA"), choice) if constraints.selector_origin != "--hca" else ()),
        *check_index(given, choice.used, nccl),
        *check_steering(given, (index.family or user.settings().family) if scans else None),
        *(_check_net(net) if net is not None and socket and _net(choice).value is not None else ()),
    )


def _check_net(net: Given) -> Sequence[Problem]:
    message = f"{net} makes NCCL use TCP, but RDMA is required"
    return (rdma_value("NCCL_NET_SOCKET", message, "remove NCCL_NET, or set --rdma off"),)


def _check_without_rdma(given: Mapping[str, Given], *, required: bool) -> list[Problem]:
    """Return warnings where RDMA is off: on what switched it off if it is ``required``, on ``NCCL_NET=IB``."""
    said = []
    disable = given.get("NCCL_IB_DISABLE")
    if required and disable is not None:
        said.append(
            rdma_value(
                "RDMA_DISABLED",
                f"{disable} makes NCCL use TCP, but RDMA is required",
                "remove NCCL_IB_DISABLE, or set --rdma off",
            )
        )
    net = given.get("NCCL_NET")
    if net is None or net.value.lower() != "ib":
        return said
    return [
        *said,
        rdma_value(
            "NCCL_NET_IB",
            f"{net} allows only RDMA, which is off: NCCL fails",
            "remove NCCL_NET, or do not switch RDMA off (--rdma off, NCCL_IB_DISABLE)",
        ),
    ]


def _check_selector(given: Given | None, choice: Choice) -> list[Problem]:
    """Return warnings on ``NCCL_IB_HCA``: names that do not exist, ports that cannot be used."""
    if given is None:
        return []
    selector = parse_selector(given.value, nccl=choice.constraints.nccl)
    devices = [hca.name for hca in choice.facts.hcas]
    said = []
    if not selector.exclude:
        missing = [
            entry.name
            for entry in selector.entries
            if not any(name == entry.name if selector.exact else name.startswith(entry.name) for name in devices)
        ]
        if missing:
            said.append(
                rdma_value(
                    "HCA_UNKNOWN",
                    f"{given} names {', '.join(map(repr, missing))}, which this node does not have",
                    f"remove NCCL_IB_HCA: devices are found at every start (here: {', '.join(devices) or 'none'})",
                )
            )
    broken = [
        port
        for port in (row.decision for row in choice.ports)
        if port.reason in (Reason.NO_OWN_GID, Reason.NETDEV_DOWN, Reason.FAMILY_MISMATCH)
        and selector.matches(port.hca.name, port.port.number)
    ]
    said.extend(
        rdma_value(
            "HCA_UNUSABLE",
            f"{given} also selects {port.label}, which NCCL will use as it is: {port.detail}",
            "give its interface an address as the others have, or exclude that port (between two machines on one "
            "cable its link-local GID works)",
        )
        for port in broken
    )
    if selector.dropped:
        said.append(
            warning(
                "HCA_LIST_TOO_LONG",
                f"NCCL_IB_HCA ({given.where}) has {selector.dropped} more entries than the 32 NCCL reads",
                "shorten the list, or use a prefix",
            )
        )
    return said
