"""The interfaces of this network namespace, listed by psutil: the one module that imports it for facts."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_interface

import psutil

from sglang_roce_entry.host.facts import Interface, IpInterface
from sglang_roce_entry.host.network import in_order
from sglang_roce_entry.problems import ConfigurationError


def live_interfaces() -> tuple[Interface, ...]:
    """Return the interfaces of this network namespace, whatever /sys is mounted.

    Raises :class:`~sglang_roce_entry.problems.ConfigurationError` without /proc.
    """
    try:
        stats = psutil.net_if_stats()
    except OSError as failure:
        raise ConfigurationError(
            "NO_PROC",
            f"the interfaces of this pod cannot be listed: {failure.filename}: {failure.strerror}",
            "mount /proc in this container; SGLang needs it too",
        ) from failure
    addresses = psutil.net_if_addrs()
    found = []
    for name, stat in stats.items():
        own = [
            _interface_address(entry.address, entry.netmask)
            for entry in addresses.get(name, ())
            if entry.family in (socket.AF_INET, socket.AF_INET6)
        ]
        # psutil reports IFF_RUNNING; an administratively-up dummy or loopback counts as up too.
        found.append(Interface(name, bool(stat.isup), stat.mtu, stat.speed, tuple(own)))
    return in_order(found)


def _interface_address(address: str, netmask: str | None) -> IpInterface:
    plain = address.partition("%")[0]  # psutil appends the scope to link-local addresses
    if netmask and ":" in netmask:
        return ip_interface(f"{plain}/{int(IPv6Address(netmask)).bit_count()}")
    return ip_interface(f"{plain}/{netmask}" if netmask else plain)
