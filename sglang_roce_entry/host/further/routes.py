"""Which way packets from an address of this node leave it, by whatever table a routing rule names for them.

Rails have tables of their own (``ip rule add from ADDRESS lookup N``), which /proc does not show: so the kernel is
asked for the route (rtnetlink(7), RTM_GETROUTE with RTA_SRC). Message format: include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from sglang_roce_entry.host.facts import Interface, IpAddress, IpInterface
from sglang_roce_entry.host.further import netlink

#: Nobody's addresses (RFC 5737, RFC 3849): only a default route leads there.
_FAR = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
_RTM_GETROUTE, _RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 26, 1, 2, 4, 5, 15
_RTM_F_LOOKUP_TABLE = 0x1000  # name the table of the route, not that of the cache
_ROUTE = struct.Struct("=8BI")
_NAMED_TABLES = {253: "default", 254: "main", 255: "local"}


@dataclass(frozen=True, slots=True)
class Way:
    """A route: the interface (empty: there is none), the table (``main``, ``101``), whether it has a gateway."""

    interface: str = ""
    table: str = ""
    gateway: bool = False


def has_gateway(interface: str, own: IpInterface) -> bool | None:
    """Return whether packets from this own address may leave ``interface`` through a gateway, by any table.

    Asked for a far address, and for the network next to the rail's. ``None``: the kernel does not answer.
    """
    following = int(own.network.broadcast_address) + 2
    highest = int(ip_network("0.0.0.0/0" if own.version == 4 else "::/0").broadcast_address)
    beside = [ip_address(following) if own.version == 4 else IPv6Address(following)] if following < highest else []
    ways = [way_to(address, own.ip) for address in (_FAR[own.version == 6], *beside)]
    if all(way is None for way in ways):
        return None
    return any(way is not None and way.gateway and way.interface == interface for way in ways)


def ways_to_neighbours(interfaces: Iterable[Interface]) -> dict[str, Way] | None:
    """Return by which way packets from an IPv4 address leave for another node in its network.

    Only where several interfaces are in one network, since only there it can be another's. By address; ``None``:
    the kernel does not answer.
    """
    members: dict[object, dict[IpAddress, str]] = {}
    for interface in interfaces:
        for own in interface.addresses:
            if own.version == 4:
                members.setdefault(own.network, {})[own.ip] = interface.name
    found = {}
    for owners in members.values():
        if len(set(owners.values())) < 2:
            continue
        for address in owners:
            way = way_to(_neighbour(address, owners), address)
            if way is None:
                return None
            found[str(address)] = way
    return found


def _neighbour(address: IpAddress, own: Iterable[IpAddress]) -> IpAddress:
    """Return an address near this one that is none of ``own``, which the kernel would route to itself."""
    taken = set(own)
    return next(one for step in range(1, len(taken) + 2) if (one := address + step) not in taken)


def way_to(address: IpAddress, source: IpAddress) -> Way | None:
    """Return the kernel's route to ``address`` for packets from ``source``; ``None``: it does not answer."""
    family, bits = (socket.AF_INET, 32) if address.version == 4 else (socket.AF_INET6, 128)
    asked = b"".join(
        netlink.attribute(kind, one.packed) for kind, one in ((_RTA_DST, address), (_RTA_SRC, source))
    )
    question = _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, _RTM_F_LOOKUP_TABLE) + asked
    try:
        (answer,) = netlink.ask(_RTM_GETROUTE, question)
        found = dict(netlink.attributes(answer[_ROUTE.size :]))
        interface = socket.if_indextoname(*struct.unpack("=i", found[_RTA_OIF])) if _RTA_OIF in found else ""
        (table,) = struct.unpack("=I", found[_RTA_TABLE]) if _RTA_TABLE in found else (answer[4],)
    except netlink.RefusedError:
        return Way()  # unreachable
    except (OSError, struct.error):
        return None
    return Way(interface, _NAMED_TABLES.get(table, str(table)), _RTA_GATEWAY in found)
