"""A member's side of the ring: the ephemeral port on which its neighbours reach it, and its calls to theirs.

Both sides show that they know the meeting's nonce; nothing else is said, and the port is closed with the meeting.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import monotonic

from sglang_roce_entry.group.connect import tcp_socket
from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import keyed_digest
from sglang_roce_entry.group.meeting.comparison.reach import Edge, Neighbour
from sglang_roce_entry.group.meeting.ring.rounds import write_results

_LINE_BYTES = 128
_MOST_GUESTS = 64
_FILTERS = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM)


@dataclass(eq=False, slots=True)
class _Call:
    """A call to a neighbour in the leader's round ``number``; it ends by ``until``."""

    number: int
    to: Neighbour
    until: float
    connected: bool = False
    inbox: bytearray = field(default_factory=bytearray)


class Door:
    """Listens on a port that the kernel chooses, and calls neighbours. It never blocks. Raises ``OSError``."""

    def __init__(self, address: IpAddress, nonce: str, index: int) -> None:
        self._nonce, self._index = nonce, index
        self._listener = tcp_socket(address, socket.SOCK_NONBLOCK)
        try:
            self._listener.bind((str(address), 0))
            self._listener.listen(_MOST_GUESTS)
        except OSError:
            self._listener.close()
            raise
        self.address, self.port = str(address), int(self._listener.getsockname()[1])
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._open: dict[int, socket.socket] = {}
        self._guests: dict[int, bytearray] = {}
        self._calls: dict[int, _Call] = {}
        self._said: list[bytes] = []

    def fileno(self) -> int:
        """Return what becomes readable when :meth:`heard` has something to do, -1 once it is closed."""
        return self._epoll.fileno() if not self._epoll.closed else -1

    @property
    def busy(self) -> bool:
        """Whether :meth:`heard` has something to say, or calls whose time may end."""
        return bool(self._calls or self._said)

    def close(self) -> None:
        """Close the port and all connections."""
        for one in (*self._open.values(), self._listener):
            one.close()
        self._open.clear()
        self._calls.clear()
        self._epoll.close()

    def dial(self, number: int, those: Sequence[Neighbour]) -> None:
        """Begin to call ``those``; :meth:`heard` tells what came of each, after ``wire.REACH_S`` at most."""
        for to in those:
            call = _Call(number, to, monotonic() + wire.REACH_CONNECT_S)
            try:
                one = tcp_socket(ip_address(to.address), socket.SOCK_NONBLOCK)
            except OSError as failure:  # no IPv6 here, no descriptor left
                self._settle(call, _refused(failure.errno or 0))
                continue
            self._keep(one, select.EPOLLOUT)
            self._calls[one.fileno()] = call
            try:
                code = one.connect_ex((to.address, to.port))
            except OSError:
                code = errno.ENETUNREACH  # a scope (fe80::1%eth0) that is not here
            if code not in (0, errno.EINPROGRESS):
                self._hang_up(one.fileno(), _refused(code))

    def heard(self) -> list[bytes]:
        """Serve who calls and hear who was called; return the lines that are due to the leader."""
        if self._epoll.closed:
            return []
        for descriptor, _ in self._epoll.poll(0):
            if descriptor in self._calls:
                self._advance(descriptor, self._calls[descriptor])
            elif descriptor in self._guests:
                self._serve(descriptor)
            else:
                self._admit()
        now = monotonic()
        for descriptor, call in [one for one in self._calls.items() if now >= one[1].until]:
            silent = "accepts and stays silent: a proxy answers there, not the launcher"
            lost = "does not answer: packets are dropped on the way"
            self._hang_up(descriptor, silent if call.connected else lost)
        said, self._said = self._said, []
        return said

    def _keep(self, one: socket.socket, events: int) -> None:
        self._open[one.fileno()] = one
        self._epoll.register(one, events)

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._guests.pop(descriptor, None)
        self._open.pop(descriptor).close()

    # ------------------------------------------------------------------------------------ who calls here

    def _admit(self) -> None:
        try:
            one, _ = self._listener.accept()
        except OSError:
            return
        if len(self._guests) >= _MOST_GUESTS:
            self._drop(next(iter(self._guests)))  # silent strangers: the oldest goes
        one.setblocking(False)
        self._guests[one.fileno()] = bytearray()
        self._keep(one, select.EPOLLIN)

    def _serve(self, descriptor: int) -> None:
        """Read what a guest says, and answer it."""
        one, inbox = self._open[descriptor], self._guests[descriptor]
        try:
            data = one.recv(_LINE_BYTES)
            inbox += data
            line, end, _ = bytes(inbox).partition(b"\n")
            if end:
                word, _, rest = line.rpartition(b" ")
                origin = word.rpartition(b" ")[2]
                if origin.isdigit() and rest == _proof(self._nonce, int(origin), self._index):
                    seen = str(one.getpeername()[0])
                    one.sendall(_proof(self._nonce, self._index, int(origin)) + b" " + seen.encode() + b"\n")
            elif data and len(inbox) < _LINE_BYTES:
                return  # more is to come
        except BlockingIOError:
            return  # the descriptor was another's, which has gone in this round
        except (OSError, ValueError):
            pass
        self._drop(descriptor)

    # ------------------------------------------------------------------------------------ whom this member calls

    def _advance(self, descriptor: int, call: _Call) -> None:
        one = self._open[descriptor]
        try:
            if not call.connected:
                code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    return self._hang_up(descriptor, _refused(code))
                call.connected, call.until = True, call.until + wire.REACH_S - wire.REACH_CONNECT_S
                self._epoll.modify(one, select.EPOLLIN)
                proof = _proof(self._nonce, self._index, call.to.index)
                return one.sendall(b"%s reach %d %s\n" % (wire.GREETING, self._index, proof))
            data = one.recv(_LINE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        call.inbox += data
        if data and b"\n" not in call.inbox and len(call.inbox) < _LINE_BYTES:
            return None
        proof, _, seen = bytes(call.inbox).partition(b"\n")[0].partition(b" ")
        if not call.inbox:
            return self._hang_up(descriptor, "accepts and closes: a proxy answers there, not the launcher")
        if proof != _proof(self._nonce, call.to.index, self._index):
            other = "is answered by something else than the launcher: a proxy, or another network"
            return self._hang_up(descriptor, other)
        return self._hang_up(descriptor, "", seen.strip().decode("ascii", "replace"))

    def _hang_up(self, descriptor: int, detail: str, seen: str | None = None) -> None:
        self._drop(descriptor)
        self._settle(self._calls.pop(descriptor), detail, seen)

    def _settle(self, call: _Call, detail: str, seen: str | None = None) -> None:
        said = f"{call.to.address} port {call.to.port} {detail}" if detail else ""
        edge = Edge(self._index, call.to.index, not detail, said, seen)
        self._said.append(write_results([edge], call.number))


def open_door(address: IpAddress, nonce: str, index: int) -> Door | None:
    """Return a door on ``address``; ``None`` where none can be opened: the ring does without this member."""
    try:
        return Door(address, nonce, index)
    except OSError:
        return None


def _refused(code: int) -> str:
    """Return why a connect failed, as the end of a sentence: the launcher listens there, so it is a filter."""
    if code in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "is refused though the launcher listens there: a firewall rejects it"
    if code in _FILTERS:
        return f"gives {os.strerror(code)!r}: a firewall rejects it, or there is no route"
    return f"gives {os.strerror(code)!r}"


def _proof(nonce: str, origin: int, target: int) -> bytes:
    return keyed_digest(nonce, f"reach {origin} {target}").encode()
