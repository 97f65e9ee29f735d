"""The one control interface: bootstrap and rendezvous traffic of NCCL, Gloo and SGLang.

Left alone, NCCL prefers names that begin with ``ib``, Gloo listens where the hostname points, and
SGLang asks for the route to 8.8.8.8. On a node with several interfaces these three disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_roce_entry.host.facts import Interface, IpAddress, Route
from sglang_roce_entry.problems import CONFIGURATION, Problem, error, warning


@dataclass(frozen=True, slots=True)
class Control:
    """The control interface and this pod's address on it, or why neither is set."""

    interface: str | None
    address: IpAddress | None
    reason: str
    #: The interface also has addresses of the other family, so NCCL must be told which one.
    name_family: bool = False
    problems: tuple[Problem, ...] = ()


def unset(reason: str) -> Control:
    """Return the decision to leave the interface alone."""
    return Control(None, None, reason)


def named_interface(name: str, origin: str, interfaces: Sequence[Interface], leader: IpAddress | None) -> Control:
    """Return the interface that a setting names, with its address of the leader's family."""
    found = next((one for one in interfaces if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in interfaces) or "none"
        problem = error(
            "INTERFACE_MISSING",
            f"{origin} names the interface {name!r}, which this pod does not have",
            f"name one of: {known}",
            CONFIGURATION,
        )
        return Control(None, None, f"{name} does not exist", problems=(problem,))
    usable = [a.ip for a in found.addresses if not a.ip.is_link_local]
    wanted = [ip for ip in usable if leader is None or ip.version == leader.version] or usable
    wanted.sort(key=lambda ip: ip.version)
    if not wanted:
        problem = warning(
            "INTERFACE_WITHOUT_ADDRESS",
            f"{origin} names the interface {name!r}, which has no address",
            "name the interface that the pod's address is on",
        )
        return Control(name, None, f"named by {origin}", problems=(problem,))
    return _control(found, wanted[0], f"named by {origin}")


def leader_interface(address: IpAddress, interfaces: Sequence[Interface]) -> Control:
    """Return the interface that owns the leader's address, on the leader itself."""
    if address.is_loopback:
        return _loopback(address)
    for interface in interfaces:
        if any(own.ip == address for own in interface.addresses):
            return _control(interface, address, f"it owns the leader's address {address}")
    return unset(f"no interface of this pod has the leader's address {address}")


def worker_interface(leader: IpAddress, route: Route | None, interfaces: Sequence[Interface]) -> Control:
    """Return the interface with the route to the leader's accepted address."""
    if leader.is_loopback:
        return _loopback(leader)
    if route is None:
        return unset(f"the kernel names no route to the leader's address {leader}")
    found = next((one for one in interfaces if one.name == route.interface), None)
    if found is None:
        return unset(f"{route.interface}, the route to {leader}, is no interface of this pod")
    return _control(found, route.source, f"it has the route to the leader's address {leader}")


def _loopback(address: IpAddress) -> Control:
    problem = warning(
        "LEADER_IS_LOOPBACK",
        f"the leader's address is {address}: only processes of this pod can reach it",
        "give the leader's pod address or name; look for the name in /etc/hosts",
    )
    reason = f"the leader's address {address} is a loopback address"
    return Control(None, None, reason, problems=(problem,))


def _control(interface: Interface, address: IpAddress, reason: str) -> Control:
    # NCCL takes the first address of the interface that getifaddrs lists: IPv4 before IPv6.
    other = {own.ip.version for own in interface.addresses if not own.ip.is_link_local}
    return Control(interface.name, address, reason, name_family=address.version == 6 and 4 in other)
