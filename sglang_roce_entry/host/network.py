"""Interfaces, default routes and DNS search domains of this network namespace."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

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


def default_route_interfaces(tree: Tree) -> tuple[str, ...]:
    """Return the interfaces with a default route, IPv4 first (``/proc/net/route``, ``ipv6_route``).

    These files belong to the reading process's namespace, whatever /sys is mounted.
    """
    found: list[str] = []
    for line in lines_or_empty(tree, "/proc/net/route")[1:]:
        fields = line.split()
        # Iface Destination Gateway Flags RefCnt Use Metric Mask ...; RTF_UP is 1, RTF_REJECT 0x200
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and _usable(fields[3]):
            found.append(fields[0])
    for line in lines_or_empty(tree, "/proc/net/ipv6_route"):
        fields = line.split()
        # destination prefix-length source source-length next-hop metric refcnt use flags device
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and _usable(fields[8]):
            found.append(fields[9])
    return tuple(dict.fromkeys(name for name in found if name != "lo"))


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
