"""Short TCP connects to see whether a port accepts, and binds to see whether one is free.

Nothing is sent: a connect and an orderly close are harmless to torch's TCPStore and to ZeroMQ
(a reset fills the leader's log).
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from sglang_roce_entry.group.endpoint import IpAddress, literal

ACCEPTED, REFUSED, TIMED_OUT, UNREACHABLE = "accepted", "refused", "timed out", "unreachable"


#: What to look at where a connect is answered by nothing.
NO_ANSWER_HINT = (
    "a NetworkPolicy or firewall drops the packets, or the address is stale: the pods of a group must "
    "reach each other on all TCP ports"
)


@dataclass(frozen=True, slots=True)
class ConnectOutcome:
    """The outcome of one round of connects: the address and port that accepted, or why none did."""

    address: IpAddress | None
    port: int | None
    cause: str  # ACCEPTED, REFUSED, TIMED_OUT, UNREACHABLE


def connect_any(addresses: Sequence[IpAddress], ports: Sequence[int], timeout_s: float) -> ConnectOutcome:
    """Return the first accepting port; all are tried side by side, an IPv4 address is preferred.

    ``timeout_s`` bounds the whole round. A name's IPv6 address is taken only when IPv4 has failed,
    so that every node of a group ends with the same one.
    """
    poll = select.poll()
    open_sockets: dict[int, tuple[socket.socket, IpAddress, int]] = {}
    accepted: list[tuple[IpAddress, int]] = []
    causes: dict[IpAddress, set[str]] = {address: set() for address in addresses}

    def settle(code: int, address: IpAddress, port: int) -> None:
        if code == 0:
            accepted.append((address, port))
        else:
            causes[address].add(_cause(code))

    def begin(address: IpAddress, port: int) -> None:
        one, code = _connecting(address, port)
        if one is not None:
            open_sockets[one.fileno()] = (one, address, port)
            poll.register(one, select.POLLOUT)
        else:
            settle(code, address, port)

    deadline = monotonic() + timeout_s
    try:
        for address in addresses:
            for port in ports:
                begin(address, port)
        while open_sockets and not _decided(accepted, [a for _, a, _ in open_sockets.values()]):
            remaining_s = deadline - monotonic()
            if remaining_s <= 0:
                break
            for descriptor, _ in poll.poll(remaining_s * 1000):
                one, address, port = open_sockets.pop(descriptor)
                poll.unregister(descriptor)
                code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                one.close()
                settle(code, address, port)
        for _, address, _ in open_sockets.values():
            causes[address].add(TIMED_OUT)
    finally:
        for one, _, _ in open_sockets.values():
            one.close()
    return _outcome(accepted, causes)


def tcp_socket(address: IpAddress, flags: int = 0) -> socket.socket:
    """Return a TCP socket of this address's family, which no child inherits. Raises ``OSError``."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | flags)


def _connecting(address: IpAddress, port: int) -> tuple[socket.socket | None, int]:
    """Return a connecting socket, or ``None`` and the errno of a connect that is over (0: accepted)."""
    try:
        one = tcp_socket(address, socket.SOCK_NONBLOCK)
    except OSError as error:
        return None, error.errno or errno.EAFNOSUPPORT  # a kernel without IPv6
    try:
        code = one.connect_ex((str(address), port))
    except OSError:
        code = errno.ENETUNREACH  # a scope (fe80::1%eth0) that is not here
    if code == errno.EINPROGRESS:
        return one, code
    one.close()
    return None, code


def _outcome(accepted: Sequence[tuple[IpAddress, int]], causes: Mapping[IpAddress, set[str]]) -> ConnectOutcome:
    if accepted:
        preferred = list(causes)
        address, port = min(accepted, key=lambda pair: (pair[0].version, preferred.index(pair[0])))
        return ConnectOutcome(address, port, ACCEPTED)
    # A refusal proves that the host is up. Else the preferred address decides, and there an ICMP error
    # counts more than silence: such errors are rate-limited.
    if any(REFUSED in found for found in causes.values()):
        return ConnectOutcome(None, None, REFUSED)
    first = next(iter(causes.values()), set())
    return ConnectOutcome(None, None, UNREACHABLE if UNREACHABLE in first or not first else TIMED_OUT)


def _decided(accepted: Sequence[tuple[IpAddress, int]], pending: Sequence[IpAddress]) -> bool:
    """Return whether no pending connect could be preferred to what has accepted."""
    if not accepted:
        return False
    return any(address.version == 4 for address, _ in accepted) or all(one.version == 6 for one in pending)


def _cause(code: int) -> str:
    if code in (errno.ECONNREFUSED, errno.ECONNRESET):
        return REFUSED
    if code == errno.ETIMEDOUT:
        return TIMED_OUT
    return UNREACHABLE


def port_is_free(host: str, port: int) -> bool:
    """Return whether SGLang could listen on ``host``:``port`` now; nothing is held afterwards.

    With SO_REUSEADDR as SGLang's servers bind: connections in TIME_WAIT do not count, a listener does.
    Without ``listen`` no worker can mistake the test for the leader.
    """
    if host == "localhost":
        host = "127.0.0.1"
    elif host not in ("", "*") and literal(host) is None:
        return True  # this takes a look-up, which may hang
    families = [socket.AF_INET6] if ":" in host else [socket.AF_INET]
    if host in ("", "*"):
        families, host = [socket.AF_INET, socket.AF_INET6], ""
    for family in families:
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            # No IPv6 here, or an address that is not ours: SGLang reports that better.
    return True
