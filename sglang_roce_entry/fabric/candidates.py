"""Which GIDs of a port are this pod's own.

A GID is own if its type is exactly ``RoCE v2``, its address can be routed, and that address is
configured in this network namespace on the very interface that the kernel names for it. The name
alone proves nothing: with the inbox driver a pod sees the GIDs of the host and of other pods, under
names that its own interfaces may have as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from sglang_roce_entry.fabric.constraints import IpNetwork
from sglang_roce_entry.host.facts import ROCE_V2, Gid, Interface, IpAddress, Port

_IPV4_LINK_LOCAL = IPv4Network("169.254.0.0/16")


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
    foreign: tuple[Gid, ...]  # routable RoCE v2 of somebody else


def routable(ip: IpAddress, subnets: Iterable[IpNetwork] = ()) -> bool:
    """Return whether RoCE v2 traffic from ``ip`` can leave its link.

    169.254.0.0/16 only counts inside a configured subnet. Private addresses are ordinary here:
    ``is_global`` is not the question.
    """
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast:
        return False
    if isinstance(ip, IPv4Address):
        inside = any(net.version == 4 and ip in net for net in subnets)
        return ip not in _IPV4_LINK_LOCAL or inside
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
    for gid in port.gids:
        if gid.type != ROCE_V2 or not routable(gid.ip, subnets):
            continue
        interface = interfaces.get(gid.netdev) if gid.netdev else None
        network = _network_on(interface, gid.ip)
        if interface is None or network is None:
            foreign.append(gid)
        elif interface.up:
            own.append(OwnGid(gid, network))
        else:
            on_down.append(gid)
    if allow_foreign and not own:
        own = [OwnGid(gid, None) for gid in foreign]
    return GidView(tuple(own), tuple(on_down), tuple(foreign))


def _network_on(interface: Interface | None, ip: IpAddress) -> IpNetwork | None:
    if interface is None:
        return None
    for address in interface.addresses:
        if address.ip == ip:
            return address.network
    return None
