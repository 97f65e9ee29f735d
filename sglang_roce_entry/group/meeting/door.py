"""A member's side of the ring: the ephemeral port on which its neighbours reach it, and its calls to theirs.

Both sides show that they know the meeting's nonce; nothing else is said, and the port is closed with the meeting.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from time import monotonic

from sglang_roce_entry.group.connect import tcp_socket
from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import keyed_digest
from sglang_roce_entry.group.meeting.comparison.reach import Edge, Neighbour

_LINE_BYTES = 128
_MOST_GUESTS = 64
_FILTERS = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM)


class Door:
    """Listens on a port that the kernel chooses, in a thread, until it is closed. Raises ``OSError``."""

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
        self._stop, self._stopped = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="ring", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the port; nothing of it is left, no thread either."""
        if self._stopped < 0:
            return
        os.close(self._stopped)
        self._stopped = -1
        self._thread.join()
        os.close(self._stop)
        self._listener.close()

    def _run(self) -> None:
        guests: dict[socket.socket, bytearray] = {}
        with selectors.DefaultSelector() as select:
            select.register(self._stop, selectors.EVENT_READ)
            select.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, _ in select.select():
                    if key.fileobj == self._stop:
                        for one in guests:
                            one.close()
                        return
                    if key.fileobj is self._listener:
                        self._admit(select, guests)
                    elif isinstance(key.fileobj, socket.socket) and not self._serve(key.fileobj, guests):
                        select.unregister(key.fileobj)
                        del guests[key.fileobj]
                        key.fileobj.close()

    def _admit(self, select: selectors.BaseSelector, guests: dict[socket.socket, bytearray]) -> None:
        try:
            one, _ = self._listener.accept()
        except OSError:
            return
        if len(guests) >= _MOST_GUESTS:  # silent strangers: the oldest goes
            oldest = next(iter(guests))
            select.unregister(oldest)
            del guests[oldest]
            oldest.close()
        one.setblocking(False)
        guests[one] = bytearray()
        select.register(one, selectors.EVENT_READ)

    def _serve(self, one: socket.socket, guests: dict[socket.socket, bytearray]) -> bool:
        """Read what a guest says and answer it; return whether more is to come."""
        inbox = guests[one]
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
                return False
        except (OSError, ValueError):
            return False
        return bool(data) and len(inbox) < _LINE_BYTES


def open_door(address: IpAddress, nonce: str, index: int) -> Door | None:
    """Return a door on ``address``; ``None`` where none can be opened: the ring does without this member."""
    try:
        return Door(address, nonce, index)
    except OSError:
        return None


def dial(those: Sequence[Neighbour], nonce: str, own_index: int) -> list[Edge]:
    """Return what came of dialling each of ``those``, side by side; it takes ``wire.REACH_S`` at most."""
    found: dict[int, Edge] = {}

    def one_call(to: Neighbour) -> None:
        found[to.index] = _call(to, nonce, own_index)

    threads = [threading.Thread(target=one_call, args=(to,), name="ring", daemon=True) for to in those]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[to.index] for to in those if to.index in found]


def _call(to: Neighbour, nonce: str, own_index: int) -> Edge:
    def gap(detail: str) -> Edge:
        return Edge(own_index, to.index, False, detail)

    where = f"{to.address} port {to.port}"
    with tcp_socket(ip_address(to.address)) as one:
        one.settimeout(wire.REACH_CONNECT_S)
        try:
            one.connect((to.address, to.port))
        except TimeoutError:
            return gap(f"{where} does not answer: packets are dropped on the way")
        except OSError as failure:
            return gap(f"{where} {_refused(failure)}")
        until = monotonic() + wire.REACH_S - wire.REACH_CONNECT_S
        one.settimeout(wire.REACH_S - wire.REACH_CONNECT_S)
        expected = _proof(nonce, to.index, own_index)
        try:
            one.sendall(b"%s reach %d %s\n" % (wire.GREETING, own_index, _proof(nonce, own_index, to.index)))
            answer = _line(one, until)
        except TimeoutError:
            return gap(f"{where} accepts and stays silent: a proxy answers there, not the launcher")
        except OSError:
            answer = b""
        if not answer:
            return gap(f"{where} accepts and closes: a proxy answers there, not the launcher")
        proof, _, seen = answer.partition(b" ")
        if proof != expected:
            return gap(f"{where} is answered by something else than the launcher: a proxy, or another network")
        return Edge(own_index, to.index, True, "", seen.strip().decode("ascii", "replace"))


def _refused(failure: OSError) -> str:
    """Return why a connect failed, as the end of a sentence: the launcher listens there, so it is a filter."""
    if failure.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "is refused though the launcher listens there: a firewall rejects it"
    if failure.errno in _FILTERS:
        return f"gives {failure.strerror!r}: a firewall rejects it, or there is no route"
    return f"gives {failure.strerror!r}"


def _line(one: socket.socket, until: float) -> bytes:
    inbox = b""
    while b"\n" not in inbox and len(inbox) < _LINE_BYTES:
        one.settimeout(max(0.01, until - monotonic()))  # also where it comes byte by byte
        data = one.recv(_LINE_BYTES)
        if not data:
            break
        inbox += data
    return inbox


def _proof(nonce: str, origin: int, target: int) -> bytes:
    return keyed_digest(nonce, f"reach {origin} {target}").encode()
