"""The MTU of the path to another node, by UDP datagrams that must not be fragmented.

A datagram to a port where nothing listens is answered by the far kernel with "port unreachable", which
a connected socket shows as ECONNREFUSED: so it came through. EMSGSIZE is a router's "fragmentation
needed" (RFC 1191, RFC 8201). Silence for large datagrams, where small ones are answered, is a black
hole: TCP then connects and hangs with the first full segment.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from sglang_roce_entry.group.endpoint import IpAddress

FULL, SMALLER, BLACK_HOLE, SILENT = "full", "smaller", "black hole", "silent"

#: traceroute's first port: seldom taken, and no service's own.
_PORT = 33434
#: include/uapi/linux/in.h and in6.h; Python names only some of them.
_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU, _PMTUDISC_DO = 10, 14, 23, 24, 2
_HEADERS = {4: 20 + 8, 6: 40 + 8}
_SMALL_BYTES = 64
#: What is tried below an MTU that does not get through: Ethernet, overlays, the least of IPv6.
_STEPS = (4200, 1500, 1450, 1400, 1280)
_ANSWER_S = 0.3
_TRIES = 2


@dataclass(frozen=True, slots=True)
class PathMtu:
    """What the datagrams showed: ``mtu`` is what got through, or what a router named; ``None`` if unknown."""

    state: str
    mtu: int | None


def path_mtu(address: IpAddress, interface_mtu: int, timeout_s: float) -> PathMtu:
    """Return the MTU towards ``address`` of packets that fill ``interface_mtu``, within ``timeout_s``."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as udp:
            if address.version == 4:
                udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
            else:
                udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
            udp.connect((str(address), _PORT))
            deadline = monotonic() + timeout_s
            return _judge(lambda size: _answer(udp, address.version, size, deadline), interface_mtu)
    except OSError:
        return PathMtu(SILENT, None)  # no route: the connect before has shown it


def _judge(answer: Callable[[int], int | None], interface_mtu: int) -> PathMtu:
    """Return the verdict; ``answer(size)`` is the size that got through or was named, ``None`` for silence."""
    if answer(_SMALL_BYTES) is None:
        return PathMtu(SILENT, None)
    full = answer(interface_mtu)
    if full is not None:
        return PathMtu(FULL if full >= interface_mtu else SMALLER, full)
    passing = next((size for size in _STEPS if size < interface_mtu and answer(size) is not None), None)
    return PathMtu(BLACK_HOLE, passing)


def _answer(udp: socket.socket, version: int, size: int, deadline: float) -> int | None:
    for _ in range(_TRIES):
        remaining_s = deadline - monotonic()
        if remaining_s <= 0:
            return None
        try:
            udp.send(bytes(size - _HEADERS[version]))
            if select.select([udp], [], [], min(_ANSWER_S, remaining_s))[0]:
                udp.recv(1)
        except OSError as failure:
            if failure.errno == errno.ECONNREFUSED:
                return size
            if failure.errno == errno.EMSGSIZE:
                return _known_mtu(udp, version)
            raise
    return None


def _known_mtu(udp: socket.socket, version: int) -> int:
    if version == 4:
        return udp.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return udp.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
