"""Interfaces, default routes and DNS search domains of this network namespace."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

from sglang_roce_entry.host.facts import Interface, IpAddress, IpInterface
from sglang_roce_entry.host.tree import Tree, lines_or_empty, names_or_empty
from sglang_roce_entry.natural import natural_key

#: Names in /sys/class/net that are not interfaces: plain files.
_NOT_INTERFACES = frozenset({"bonding_masters"})


def in_order(interfaces: Iterable[Interface]) -> tuple[Interface, ...]:
    """Return the interfaces in natural order, so that a replay lists them as the node did."""
    return tuple(sorted(interfaces, key=lambda interface: natural_key(interface.name)))


def sysfs_netdevs(tree: Tree) -> frozenset[str]:
    """Return the interfaces that the mounted sysfs lists: those of the namespace that mounted it."""
    return frozenset(names_or_empty(tree, "/sys/class/net")) - _NOT_INTERFACES


@dataclass(frozen=True, slots=True)
class Routes:
    """The interfaces with a default route, and those with any route beyond their own link, IPv4 first."""

    default: tuple[str, ...] = ()
    beyond_link: tuple[str, ...] = ()


def main_routes(tree: Tree, interfaces: Iterable[Interface]) -> Routes:
    """Return what the main table routes by each interface (``/proc/net/route``, ``ipv6_route``).

    These files belong to the reading process's namespace, whatever /sys is mounted. They do not show the tables
    of policy routing.
    """
    default: list[str] = []
    beyond: list[str] = []
    # A next hop that is an IPv6 address (BGP unnumbered) is not shown: such a route has no gateway here either.
    links = {(one.name, address.network) for one in interfaces for address in one.addresses}
    for line in lines_or_empty(tree, "/proc/net/route")[1:]:
        fields = line.split()
        # Iface Destination Gateway Flags RefCnt Use Metric Mask ...; RTF_UP is 1, RTF_REJECT 0x200
        if len(fields) > 7 and _usable(fields[3]):
            if fields[1] == fields[7] == "00000000":
                default.append(fields[0])
            if fields[2] != "00000000" or (fields[0], _network(fields[1], fields[7])) not in links:
                beyond.append(fields[0])
    for line in lines_or_empty(tree, "/proc/net/ipv6_route"):
        fields = line.split()
        # destination prefix-length source source-length next-hop metric refcnt use flags device
        if len(fields) > 9 and _usable(fields[8]):
            if fields[0] == "0" * 32 and fields[1] == "00":
                default.append(fields[9])
            if fields[4] != "0" * 32:
                beyond.append(fields[9])
    without_lo = [tuple(dict.fromkeys(name for name in names if name != "lo")) for names in (default, beyond)]
    return Routes(without_lo[0], tuple(dict.fromkeys((*without_lo[0], *without_lo[1]))))


def _network(address_hex: str, mask_hex: str) -> IPv4Network | None:
    """Return the network of two numbers as the kernels of little-endian machines print them."""
    try:
        address, mask = (int.from_bytes(bytes.fromhex(one), "little") for one in (address_hex, mask_hex))
        return IPv4Network((address, str(IPv4Address(mask))))
    except ValueError:
        return None  # a damaged recording


def _usable(flags_hex: str) -> bool:
    try:
        flags = int(flags_hex, 16)
    except ValueError:
        return False  # a damaged recording
    return bool(flags & 0x1) and not flags & 0x200


def gateway_interfaces(tree: Tree) -> frozenset[tuple[str, int]]:
    """Return the interfaces over which the main table has a route through a gateway, with its IP version."""
    found = set()
    for line in lines_or_empty(tree, "/proc/net/route")[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[2] != "00000000" and _usable(fields[3]):
            found.add((fields[0], 4))
    for line in lines_or_empty(tree, "/proc/net/ipv6_route"):
        fields = line.split()
        if len(fields) > 9 and fields[4] != "0" * 32 and _usable(fields[8]):
            found.add((fields[9], 6))
    return frozenset(found)


#: Nobody's addresses (RFC 5737, RFC 3849): only a default route leads there.
_FAR = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
_RTM_NEWROUTE, _RTM_GETROUTE, _RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY = 24, 26, 1, 2, 4, 5


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
    parts = b"".join(
        struct.pack("HH", 4 + len(one.packed), kind) + one.packed
        for kind, one in ((_RTA_DST, address), (_RTA_SRC, source))
    )
    body = struct.pack("BBBBBBBBI", family, bits, bits, 0, 0, 0, 0, 0, 0) + parts
    message = struct.pack("IHHII", 16 + len(body), _RTM_GETROUTE, 1, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asked:
            asked.settimeout(1.0)
            asked.send(message)
            answer = asked.recv(65536)
    except OSError:
        return None
    length, kind = struct.unpack_from("IH", answer)
    if kind != _RTM_NEWROUTE:
        return 0, False  # NLMSG_ERROR: unreachable
    output, gateway, offset = 0, False, 28
    while offset + 4 <= min(length, len(answer)):
        size, attribute = struct.unpack_from("HH", answer, offset)
        if size < 4:
            break
        if attribute == _RTA_OIF:
            output = struct.unpack_from("i", answer, offset + 4)[0]
        gateway = gateway or attribute == _RTA_GATEWAY
        offset += (size + 3) & ~3
    return output, gateway


def search_domains(tree: Tree) -> tuple[str, ...] | None:
    """Return the search list of ``/etc/resolv.conf`` (the last one counts), ``None`` if unreadable."""
    try:
        text = tree.text("/etc/resolv.conf")
    except OSError:
        return None
    domains: tuple[str, ...] = ()
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0] in ("search", "domain"):
            domains = tuple(fields[1:])
    return domains


def route_source(address: IpAddress) -> IpAddress | None:
    """Return the source address that the kernel would use to reach ``address``; no packet is sent."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((str(address), 9))
            text = probe.getsockname()[0].partition("%")[0]
    except OSError:
        return None
    return IPv4Address(text) if family == socket.AF_INET else IPv6Address(text)


def interface_of(address: IpAddress, interfaces: tuple[Interface, ...]) -> str | None:
    """Return the name of the interface that owns ``address``, an up one first; ``None`` if none does."""
    owners = [interface for interface in interfaces if any(own.ip == address for own in interface.addresses)]
    owners.sort(key=lambda interface: not interface.up)
    return owners[0].name if owners else None
