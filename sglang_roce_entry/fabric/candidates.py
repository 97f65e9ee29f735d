"""Port by port: usable in this pod, or the reason why not.

A GID is own if its type is exactly ``RoCE v2``, its address can be routed, and that address is
configured in this network namespace on the very interface that the kernel names for it. The name
alone proves nothing: with the inbox driver a pod sees the GIDs of the host and of other pods, under
names that its own interfaces may have as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from sglang_roce_entry.fabric.constraints import OFF, Constraints, IpNetwork, Reason
from sglang_roce_entry.host.facts import (
    ACTIVE,
    ARMED,
    CHANNEL_ADAPTER,
    INIT,
    ROCE_V2,
    Gid,
    Hca,
    HostFacts,
    Interface,
    IpAddress,
    Port,
)
from sglang_roce_entry.problems import shortened

IPV4_LINK_LOCAL = IPv4Network("169.254.0.0/16")


@dataclass(frozen=True, slots=True)
class OwnGid:
    """A GID that this pod may use, with the network its address is in."""

    gid: Gid
    network: IpNetwork | None  # None for a foreign GID that was allowed on purpose


@dataclass(frozen=True, slots=True)
class GidView:
    """A port's GIDs, sorted into what they are to this pod."""

    own: tuple[OwnGid, ...]  # on interfaces that are up
    own_on_down: tuple[Gid, ...]
    foreign: tuple[Gid, ...]  # routable RoCE v2 that is not this pod's


def routable(ip: IpAddress, subnets: Iterable[IpNetwork] = ()) -> bool:
    """Return whether RoCE v2 traffic from ``ip`` can leave its link.

    169.254.0.0/16 only counts inside a configured subnet. Private addresses are ordinary here, so
    ``is_global`` is the wrong test.
    """
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast:
        return False
    if isinstance(ip, IPv4Address):
        inside = any(net.version == 4 and ip in net for net in subnets)
        return ip not in IPV4_LINK_LOCAL or inside
    return not ip.is_link_local


def view_gids(
    port: Port,
    interfaces: Mapping[str, Interface],
    subnets: tuple[IpNetwork, ...] = (),
    *,
    allow_foreign: bool = False,
) -> GidView:
    """Return the port's GIDs as own, own on a down interface, and foreign, each by index."""
    own: list[OwnGid] = []
    on_down: list[Gid] = []
    foreign: list[Gid] = []
    networks = _networks(port, interfaces)
    for gid in port.gids:
        if gid.type != ROCE_V2 or not routable(gid.ip, subnets):
            continue
        interface = interfaces.get(gid.netdev) if gid.netdev else None
        network = networks.get((gid.netdev, gid.ip))
        if interface is None or network is None:
            foreign.append(gid)
        elif interface.up:
            own.append(OwnGid(gid, network))
        else:
            on_down.append(gid)
    if allow_foreign and not own:
        own = [OwnGid(gid, None) for gid in foreign]
    return GidView(tuple(own), tuple(on_down), tuple(foreign))


def _networks(port: Port, interfaces: Mapping[str, Interface]) -> dict[tuple[str | None, IpAddress], IpNetwork]:
    """Return the network of each address on the interfaces that a port's GIDs name."""
    named = {gid.netdev for gid in port.gids}
    return {
        (one.name, address.ip): address.network
        for one in interfaces.values()
        if one.name in named
        for address in reversed(one.addresses)
    }


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a port is not used: a reason code and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A port that works here, with its GIDs."""

    hca: Hca
    port: Port
    view: GidView

    @property
    def label(self) -> str:
        """``mlx5_0:1``."""
        return self.port.label

    def of_family(self, family: int) -> tuple[OwnGid, ...]:
        """Return the own GIDs of IP version ``family``."""
        return tuple(own for own in self.view.own if own.gid.ip.version == family)


@dataclass(frozen=True, slots=True)
class PortDecision:
    """One port, used or not. ``choices`` are own GIDs of the chosen network, lowest index first."""

    hca: Hca
    port: Port
    reason: str | None  # None: used
    detail: str
    choices: tuple[OwnGid, ...] = ()

    @property
    def used(self) -> bool:
        """Whether NCCL is to use this port."""
        return self.reason is None

    @property
    def own_indices(self) -> frozenset[int]:
        """The indices of the own GIDs of the chosen network: any of them is right on this port."""
        return frozenset(choice.gid.index for choice in self.choices)

    @property
    def gid(self) -> Gid | None:
        """The GID that was chosen, ``None`` on a port that is not used."""
        return self.choices[0].gid if self.choices else None

    @property
    def label(self) -> str:
        """``mlx5_0:1``."""
        return self.port.label

    def rejected(self, reason: str, detail: str) -> PortDecision:
        """Return this port with the reason why it is not used."""
        return replace(self, reason=reason, detail=detail)


_VERBS_SENTENCE = {
    "ENOENT": "{node} does not exist in this container",
    "EACCES": "{node} may not be opened by this user (file mode: EACCES)",
    "EPERM": "{node} may not be opened here (EPERM: device cgroup{or_namespace})",
    "ENXIO": "{node} has no driver behind it (ENXIO)",
    "ENODEV": "{node} is not the device that sysfs shows (stale node)",
    "ENOTTY": "{node} is not a device node",
}


# libibverbs leaves out a device that no provider matches, and one whose provider is too old for the kernel's ABI
# (``try_drivers`` and ``match_driver`` in rdma-core's libibverbs/init.c). Its list does not tell which.
_NO_PROVIDER = (
    "libibverbs does not list it: the image has no verbs provider for it, one of another rdma-core release, or "
    "one too old for the node's driver"
)


def examine(facts: HostFacts, constraints: Constraints) -> tuple[list[Candidate], dict[str, Rejection]]:
    """Return the ports that can be used here, and why each of the others cannot, by label.

    Where nothing better is there, 169.254/16 counts as well: two machines on one cable, as NVIDIA's guide sets
    DGX Sparks up. NCCL's scan takes it like any other (``validGid`` of ``net_ib`` refuses zero and fe80 only).
    """
    candidates, rejected = _examine_all(facts, constraints)
    selector = constraints.selector
    if (
        constraints.rdma == OFF
        or any(selector is None or selector.matches(one.hca.name, one.port.number) for one in candidates)
        or infiniband_ports(facts, constraints)
    ):
        return candidates, rejected
    with_local = replace(constraints, subnets=(*constraints.subnets, IPV4_LINK_LOCAL), allow_foreign_gids=False)
    added = [one for one in _examine_all(facts, with_local)[0] if one.label in rejected]
    for one in added:
        del rejected[one.label]
    return [*candidates, *added], rejected


def _examine_all(facts: HostFacts, constraints: Constraints) -> tuple[list[Candidate], dict[str, Rejection]]:
    interfaces = {interface.name: interface for interface in facts.interfaces}
    candidates: list[Candidate] = []
    rejected: dict[str, Rejection] = {}
    for hca in facts.hcas:
        for port in hca.ports:
            outcome = _examine(hca, port, interfaces, constraints, facts)
            if isinstance(outcome, Candidate):
                candidates.append(outcome)
            else:
                rejected[port.label] = outcome
    return candidates, rejected


def _examine(
    hca: Hca,
    port: Port,
    interfaces: Mapping[str, Interface],
    constraints: Constraints,
    facts: HostFacts,
) -> Candidate | Rejection:
    if constraints.rdma == OFF:
        return Rejection(Reason.RDMA_OFF, "RDMA is switched off")
    # iWARP reports "Ethernet" too, and EFA "Unknown" or nothing: only both facts together mean RoCE.
    if hca.node_type != CHANNEL_ADAPTER:
        return Rejection(Reason.NOT_ROCE, f"node type {hca.node_type} is not a RoCE HCA (iWARP, EFA, usNIC)")
    if port.link_layer != "Ethernet":
        waiting = port.link_layer == "InfiniBand" and port.state in (INIT, ARMED)
        without = f"; it is {port.state_name}: no subnet manager has brought it up" if waiting else ""
        return Rejection(Reason.NOT_ROCE, f"link layer is {port.link_layer or 'unknown'}, not Ethernet{without}")
    if hca.verbs_answer != "ok":
        return _no_verbs(hca, foreign_sysfs=bool(facts.foreign_netdevs))
    if facts.libibverbs.lacks(hca.name):
        return Rejection(Reason.NO_PROVIDER, _NO_PROVIDER)
    if port.state != ACTIVE:
        return Rejection(Reason.PORT_NOT_ACTIVE, f"port state is {port.state_name}, not ACTIVE")
    view = view_gids(port, interfaces, constraints.subnets, allow_foreign=constraints.allow_foreign_gids)
    if view.own:
        return Candidate(hca, port, view)
    if view.own_on_down:
        netdev = view.own_on_down[0].netdev
        return Rejection(Reason.NETDEV_DOWN, f"its address is on {netdev}, which is not up")
    return Rejection(Reason.NO_OWN_GID, _no_own_gid(hca, port, view, interfaces))


def _no_verbs(hca: Hca, *, foreign_sysfs: bool) -> Rejection:
    denied = hca.verbs_answer in ("EACCES", "EPERM")
    reason = Reason.VERBS_DENIED if denied else Reason.NO_VERBS
    node = f"/dev/infiniband/{hca.verbs}" if hca.verbs else f"a verbs device for {hca.name}"
    sentence = _VERBS_SENTENCE.get(hca.verbs_answer)
    if sentence is None:
        return Rejection(reason, f"{node} cannot be opened ({hca.verbs_answer})")
    # In exclusive mode a pod's own sysfs lists only the devices that it may open (ib_class, namespace tags).
    or_namespace = ", or an exclusive RDMA namespace" if foreign_sysfs else ""
    return Rejection(reason, sentence.format(node=node, or_namespace=or_namespace))


def _no_own_gid(hca: Hca, port: Port, view: GidView, interfaces: Mapping[str, Interface]) -> str:
    if view.foreign:
        gid = view.foreign[0]
        here = gid.netdev in interfaces
        where = (
            f"is on another {gid.netdev}; the {gid.netdev} of this pod does not have that address"
            if here
            else f"belongs to {gid.netdev or 'an interface'} of another network namespace"
        )
        return f"no GID of this pod: {gid.ip} (index {gid.index}) {where}"
    networks = _networks(port, interfaces)
    for gid in port.gids:
        if gid.type == ROCE_V2 and gid.ip in IPV4_LINK_LOCAL and (gid.netdev, gid.ip) in networks:
            return f"only link-local RoCE v2 GIDs: {gid.ip} counts only with --subnets {IPV4_LINK_LOCAL}"
    if any(gid.type == ROCE_V2 for gid in port.gids):
        return f"only link-local RoCE v2 GIDs: {_instead(hca, port, interfaces)}"
    if port.gids:
        return "no RoCE v2 GID in its table"
    return "its GID table is empty"


def _interface_of(hca: Hca, port: Port, interfaces: Mapping[str, Interface]) -> tuple[list[str], Interface | None]:
    """Return the names of a port's interfaces, and the first of these that this namespace has."""
    names = [gid.netdev for gid in port.gids if gid.type == ROCE_V2 and gid.netdev] or [*hca.netdevs]
    return names, next((interfaces[name] for name in names if name in interfaces), None)


def _bare_interface(port: PortDecision, interfaces: Iterable[Interface]) -> str | None:
    """Return the interface of a port that is here and has no address; ``None``: it is another namespace's."""
    if any(gid.type == ROCE_V2 and routable(gid.ip) for gid in port.port.gids):
        return None
    interface = _interface_of(port.hca, port.port, {one.name: one for one in interfaces})[1]
    bare = interface is not None and not any(routable(one.ip) for one in interface.addresses)
    return interface.name if interface is not None and bare else None


def where_an_address_belongs(ports: Iterable[PortDecision], facts: HostFacts) -> str | None:
    """Return the hint for ports without own GID whose interfaces are here without address, else ``None``."""
    bare = [_bare_interface(port, facts.interfaces) for port in ports]
    if not bare or None in bare:
        return None
    known = {*bare, *facts.default_route_interfaces, *(name for hca in facts.hcas for name in hca.netdevs)}
    others = [
        one.name
        for one in facts.interfaces
        if one.name not in known and any(routable(address.ip) for address in one.addresses)
    ]
    listed = f" (here {shortened(others, 4)})" if others else ""
    return (
        f"give {bare[0]} an address on the node: the kernel makes GIDs for the HCA's own interface and for bonds, "
        f"VLANs and macvlans on it, not for lo, an Open vSwitch bridge or another interface{listed}"
    )


def _instead(hca: Hca, port: Port, interfaces: Mapping[str, Interface]) -> str:
    """Return what the interface of a port has, none of whose routable addresses is in the GID table."""
    names, interface = _interface_of(hca, port, interfaces)
    if interface is None:
        return (
            f"{names[0]} is in another network namespace" if names else "no address is configured on its interface"
        )
    routed = [str(one) for one in interface.addresses if not one.ip.is_link_local and not one.ip.is_loopback]
    if routed:
        return f"{interface.name} has {', '.join(routed)}, which the GID table lacks"
    ipv4 = [str(one) for one in interface.addresses if one.ip in IPV4_LINK_LOCAL]
    only = f", only {', '.join(ipv4)}, which is link-local too" if ipv4 else ""
    lo = interfaces.get("lo")
    on_lo = [str(one) for one in (lo.addresses if lo is not None else ()) if routable(one.ip)]
    elsewhere = f"; {', '.join(on_lo)} is on lo, for which the kernel makes no GID" if on_lo else ""
    return f"no address is configured on {interface.name}{only}{elsewhere}"


def infiniband_ports(facts: HostFacts, constraints: Constraints) -> list[tuple[Hca, Port]]:
    """Return the InfiniBand ports that can be used here."""
    if constraints.rdma == OFF:
        return []
    return [
        (hca, port)
        for hca in facts.hcas
        for port in hca.ports
        if hca.node_type == CHANNEL_ADAPTER
        and port.link_layer == "InfiniBand"
        and port.state == ACTIVE
        and hca.verbs_answer == "ok"
        and not facts.libibverbs.lacks(hca.name)
        and (constraints.selector is None or constraints.selector.matches(hca.name, port.number))
    ]
