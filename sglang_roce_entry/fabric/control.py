"""The one control interface: bootstrap and rendezvous traffic of NCCL, Gloo and SGLang.

Left alone, NCCL prefers names that begin with ``ib``, Gloo listens where the hostname points, and
SGLang asks for the route to 8.8.8.8. On a node with several interfaces these three disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sglang_roce_entry.fabric.nccl.scan import AF_INET6, FAMILIES
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.wishes import DISCOVERED, Given, Wish, unset
from sglang_roce_entry.host.facts import Interface, IpAddress, Route
from sglang_roce_entry.problems import (
    Problem,
    config_error,
    config_value,
    warning,
)


@dataclass(frozen=True, slots=True)
class Control:
    """The control interface and this pod's address on it, or why neither is set."""

    interface: str | None
    address: IpAddress | None
    reason: str
    #: The interface also has addresses of the other family, so NCCL needs to know which one.
    name_family: bool = False
    by_flag: bool = False  # --interface, which beats the pod's own values
    problems: tuple[Problem, ...] = ()


def wish_interface(name: str, control: Control, prefix: str = "") -> Wish:
    """Return the wish for a socket interface; ``prefix`` makes a name exact in the library's grammar."""
    if control.interface is None:
        return unset(name, control.reason)
    return Wish(name, prefix + control.interface, DISCOVERED, told(control), control.by_flag)


def told(control: Control) -> str:
    """Return why it is this interface, as the reason of a variable."""
    return f"{control.interface}: {control.reason}" if control.interface is not None else control.reason


def no_interface(reason: str) -> Control:
    """Return the decision to leave the interface alone."""
    return Control(None, None, reason)


def named_interface(name: str, origin: str, interfaces: Sequence[Interface], leader: IpAddress | None) -> Control:
    """Return the interface that a setting names, with its address of the leader's family."""
    found = next((one for one in interfaces if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in interfaces) or "none"
        problem = config_error(
            "INTERFACE_MISSING",
            f"{origin} names the interface {name!r}, which this pod does not have",
            f"name one of: {known}",
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


def unanswered(name: str | None, origin: str, interfaces: Sequence[Interface]) -> tuple[Problem, ...]:
    """Return a warning on a setting that names an interface which is not there, where none is needed."""
    known = [one.name for one in interfaces]
    if name is None or not known or name in known:
        return ()
    message = f"{origin} names the interface {name!r}, which this pod does not have; one node needs none"
    return (config_value("SETTING_MATCHES_NOTHING", message, f"remove it, or name one of: {', '.join(known)}"),)


def leader_interface(address: IpAddress, interfaces: Sequence[Interface]) -> Control:
    """Return the interface that owns the leader's address, on the leader itself."""
    if address.is_loopback:
        return _loopback(address)
    for interface in interfaces:
        if any(own.ip == address for own in interface.addresses):
            return _control(interface, address, f"it owns the leader's address {address}")
    return no_interface(f"no interface of this pod has the leader's address {address}")


def worker_interface(leader: IpAddress, route: Route | None, interfaces: Sequence[Interface]) -> Control:
    """Return the interface with the route to the leader's accepted address."""
    if leader.is_loopback:
        return _loopback(leader)
    if route is None:
        return no_interface(f"the kernel has no route to the leader's address {leader}")
    found = next((one for one in interfaces if one.name == route.interface), None)
    if found is None:
        return no_interface(f"the route to {leader} uses {route.interface}, which this pod does not have")
    return _control(found, route.source, f"it has the route to the leader's address {leader}")


def _loopback(address: IpAddress) -> Control:
    problem = warning(
        "LEADER_IS_LOOPBACK",
        f"the leader's address is {address}: only processes of this pod can reach it",
        "use the leader pod's address or name; check /etc/hosts for the name",
    )
    reason = f"the leader's address {address} is a loopback address"
    return Control(None, None, reason, problems=(problem,))


def _control(interface: Interface, address: IpAddress, reason: str) -> Control:
    # NCCL takes the first address of the interface that getifaddrs lists: IPv4 before IPv6 (findInterfaces of
    # misc/socket.cc); Gloo does so too (gloo/transport/tcp/device.cc).
    if any(own.ip.is_loopback for own in interface.addresses):
        return _on_loopback(interface.name, address)
    alike = [own.ip for own in interface.addresses if own.version == address.version]
    first = next((ip for ip in alike if ip.version == 4 or not ip.is_link_local), address)
    problems = () if first == address else (_not_first(interface.name, address, first),)
    other = {own.ip.version for own in interface.addresses if not own.ip.is_link_local}
    name_family = address.version == 6 and 4 in other
    return Control(interface.name, address, reason, name_family=name_family, problems=problems)


def _on_loopback(name: str, address: IpAddress) -> Control:
    """Return that no interface is set: of a loopback interface NCCL and Gloo take 127.0.0.1 (NVIDIA/nccl#1053)."""
    problem = config_value(
        "CONTROL_ON_LOOPBACK",
        f"{address}, the address towards the other nodes, is on {name}, where NCCL and Gloo take 127.0.0.1: no "
        "interface is set for them, and NCCL chooses one by itself",
        f"put it on a dummy interface of the node (ip link add dummy0 type dummy; ip address add {address} dev "
        "dummy0), or name another interface: --interface",
    )
    return Control(
        None, address, f"{address} is on {name}, where NCCL and Gloo take 127.0.0.1", problems=(problem,)
    )


def _not_first(name: str, address: IpAddress, first: IpAddress) -> Problem:
    return warning(
        "CONTROL_ADDRESS_NOT_FIRST",
        f"{address} is not the first address of {name}: NCCL and Gloo use {first} of it",
        f"nothing, if the other nodes reach {first}; else put {address} on an interface of its own",
    )


def check_selection(given: Given | None, interfaces: Sequence[Interface]) -> Iterator[Problem]:
    """Return a warning if a socket interface in NCCL's grammar matches none of this pod's."""
    names = [interface.name for interface in interfaces]
    selector = parse_selector(given.value) if given is not None else None
    if given is None or selector is None or not names or any(selector.matches(name, -1) for name in names):
        return
    yield config_value(
        "SOCKET_IFNAME_MATCHES_NOTHING",
        f"{given} matches no interface of this pod",
        f"remove it, or name one of: {', '.join(names)}",
    )


def check_route(
    given: Given | None, control: Control, interfaces: Sequence[Interface], *, exact: bool = False
) -> Iterator[Problem]:
    """Return a warning if a given socket interface is not on the route between leader and worker.

    Both read the same value; one that is not on the route is wrong on both. ``exact``: a list of names.
    """
    names = [interface.name for interface in interfaces]
    if given is None or control.interface not in names:
        return
    chosen = given.value.split(",") if exact else _matched(given.value, names)
    if not chosen or control.interface in chosen or not set(chosen) & set(names):
        return
    yield warning(
        "SOCKET_IFNAME_ELSEWHERE",
        f"{given} selects {', '.join(chosen)}, but leader and worker are connected over {control.interface}",
        f"remove {given.name}, unless the other nodes can be reached over it",
    )


def _matched(text: str, names: Sequence[str]) -> list[str]:
    selector = parse_selector(text)
    return [name for name in names if selector.matches(name, -1) and name != "lo"]


def check_family(given: Given | None, interfaces: Sequence[Interface]) -> Iterator[Problem]:
    """Return a warning on a socket family that no interface has an address of: NCCL fails."""
    ips = [address.ip for interface in interfaces for address in interface.addresses]
    here = {ip.version for ip in ips if not ip.is_loopback and not ip.is_link_local}
    if given is None or given.value not in FAMILIES or not here:
        return
    version = 6 if given.value == AF_INET6 else 4
    if version in here:
        return
    yield config_value(
        "SOCKET_FAMILY",
        f"{given}, but this pod has no IPv{version} address",
        f"remove {given.name}: it is set where needed",
    )
