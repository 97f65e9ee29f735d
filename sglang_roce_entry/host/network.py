"""Interfaces, default routes and DNS search domains of this network namespace."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from sglang_roce_entry.host.facts import Interface, IpAddress
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


@dataclass(frozen=True, slots=True)
class TableRoute:
    """One route of the main table. ``network``: its IPv4 destination and mask, as the kernel prints them."""

    interface: str
    version: int
    default: bool
    gateway: bool  # with a next hop of the same IP version
    network: tuple[str, str] | None = None


def main_table(tree: Tree) -> Iterator[TableRoute]:
    """Yield the usable routes of the main table, IPv4 first (``/proc/net/route``, ``ipv6_route``).

    These files belong to the reading process's namespace, whatever /sys is mounted. They do not show the tables
    of policy routing.
    """
    for line in lines_or_empty(tree, "/proc/net/route")[1:]:
        fields = line.split()
        # Iface Destination Gateway Flags RefCnt Use Metric Mask ...; RTF_UP is 1, RTF_REJECT 0x200
        if len(fields) > 7 and _usable(fields[3]):
            network = (fields[1], fields[7])
            yield TableRoute(fields[0], 4, network == ("0" * 8, "0" * 8), fields[2] != "0" * 8, network)
    for line in lines_or_empty(tree, "/proc/net/ipv6_route"):
        fields = line.split()
        # destination prefix-length source source-length next-hop metric refcnt use flags device
        if len(fields) > 9 and _usable(fields[8]):
            yield TableRoute(fields[9], 6, fields[0] == "0" * 32 and fields[1] == "00", fields[4] != "0" * 32)


def main_routes(tree: Tree, interfaces: Iterable[Interface]) -> Routes:
    """Return what the main table routes by each interface."""
    # A next hop that is an IPv6 address (BGP unnumbered) is not shown: such a route has no gateway here either.
    links = {(one.name, address.network) for one in interfaces for address in one.addresses}
    routes = [route for route in main_table(tree) if route.interface != "lo"]
    default = dict.fromkeys(route.interface for route in routes if route.default)
    beyond = dict.fromkeys(
        route.interface
        for route in routes
        if route.gateway
        or (route.network is not None and (route.interface, _network(*route.network)) not in links)
    )
    return Routes(tuple(default), tuple(default | beyond))


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
