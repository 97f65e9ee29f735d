"""Whether a rail's packets may leave it through a gateway, by the main table or by one of the rail's own."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from sglang_roce_entry.host.facts import IpAddress, IpInterface
from sglang_roce_entry.host.further import netlink

#: Nobody's addresses (RFC 5737, RFC 3849): only a default route leads there.
_FAR = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
_RTM_GETROUTE, _RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY = 26, 1, 2, 4, 5
_ROUTE = struct.Struct("=8BI")


def has_gateway(interface: str, own: IpInterface) -> bool | None:
    """Return whether packets from this own address may leave ``interface`` through a gateway, by any table.

    Rails have tables of their own (``ip rule add from ADDRESS lookup N``), which /proc does not show: so the
    kernel is asked for the route to a far address, and to the network next to the rail's (rtnetlink(7),
    RTM_GETROUTE with RTA_SRC). ``None``: it does not answer.
    """
    index = _index(interface)
    following = int(own.network.broadcast_address) + 2
    highest = int(ip_network("0.0.0.0/0" if own.version == 4 else "::/0").broadcast_address)
    beside = [ip_address(following) if own.version == 4 else IPv6Address(following)] if following < highest else []
    answers = [_route(address, own.ip) for address in (_FAR[own.version == 6], *beside)]
    if index is None or all(answer is None for answer in answers):
        return None
    return (index, True) in answers


def _index(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None


def _route(address: IpAddress, source: IpAddress) -> tuple[int, bool] | None:
    """Return the number of the interface of a route and whether it has a gateway; 0 is that there is none."""
    family, bits = (socket.AF_INET, 32) if address.version == 4 else (socket.AF_INET6, 128)
    asked = b"".join(
        netlink.attribute(kind, one.packed) for kind, one in ((_RTA_DST, address), (_RTA_SRC, source))
    )
    try:
        (answer,) = netlink.ask(_RTM_GETROUTE, _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0) + asked)
    except netlink.RefusedError:
        return 0, False  # unreachable
    except OSError:
        return None
    found = dict(netlink.attributes(answer[_ROUTE.size :]))
    output = struct.unpack("=i", found[_RTA_OIF])[0] if _RTA_OIF in found else 0
    return output, _RTA_GATEWAY in found
