"""The leader's sockets: one loop over the listener and all callers, which feeds the table."""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.comparison.reach import Neighbour
from sglang_roce_entry.group.meeting.lines import nothing
from sglang_roce_entry.group.meeting.missing import Names
from sglang_roce_entry.group.meeting.proof.errand import Errand, Start
from sglang_roce_entry.group.meeting.proof.holding import Proofs
from sglang_roce_entry.group.meeting.ring.door import Door
from sglang_roce_entry.group.meeting.table import Table
from sglang_roce_entry.group.meeting.terms import (
    DONE,
    ENDED,
    GATHER,
    Conclude,
    Concluded,
    Peer,
    Terms,
)
from sglang_roce_entry.problems import CONFIGURATION, EntryError

_ROUND_S = 0.2
_ACCEPTED_AT_ONCE = 256
_READ_BYTES = 262_144


@contextmanager
def enough_descriptors(size: int) -> Iterator[None]:
    """Raise the soft limit on open files for a group of ``size``, and set it back. Raises ``EntryError``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    if not unlimited and hard < size + 64:
        raise EntryError(
            "NOFILE",
            f"a leader of {size} nodes needs {size + 64} open files at once, the limit here is {hard}",
            "raise the container runtime's limit: LimitNOFILE= of its unit, docker run --ulimit nofile=65536",
            CONFIGURATION,
        )
    wanted = 2 * size + 1024
    raised = wanted if unlimited else min(hard, wanted)
    higher = soft != resource.RLIM_INFINITY and raised > soft
    if higher:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    try:
        yield
    finally:
        if higher:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Leader:
    """Holds a meeting on ``listener``, which it closes together with all connections.

    ``door`` is the leader's own port in the ring of neighbours; it is closed with the rest. ``start`` starts what
    proves its own rails. ``beside`` listens where SGLang's workers call with attention DP, which look for no store
    before: that is how they are seen that have started before this leader's launcher. ``idle`` is done again and
    again while others are waited for.
    """

    def __init__(
        self,
        listener: socket.socket,
        terms: Terms,
        own: Card,
        conclude: Conclude,
        say: Callable[[str], None],
        names: Names,
        door: Door | None = None,
        start: Start | None = None,
        beside: socket.socket | None = None,
        idle: Callable[[], None] = nothing,
    ) -> None:
        self._listener, self._beside, self._door, self._idle = listener, beside, door, idle
        self._select = selectors.DefaultSelector()
        self._select.register(listener, selectors.EVENT_READ, listener)
        if beside is not None:
            self._select.register(beside, selectors.EVENT_READ, beside)
        if door is not None:
            self._select.register(door, selectors.EVENT_READ, door)
        self._sockets: dict[Peer, socket.socket] = {}
        self._unsent: dict[Peer, list[memoryview]] = {}
        self._lost: list[Peer] = []
        self._errand, self._own_said = Errand(start, say), list[bytes]()
        self._proofs = Proofs(conclude, self._deliver, say, monotonic)
        self._table = Table(terms, own, self, self._proofs.conclude, say, monotonic, time.time, names)

    def hold(self) -> Concluded:
        """Return what the meeting came to, after all who are here have been told.

        Where the group may start nothing is open afterwards, else late callers can still be told: ``stay``.
        """
        try:
            while self._table.phase not in (ENDED, DONE):
                self._step()
        except BaseException:
            self.end()
            raise
        if self._table.phase == DONE:
            self.end()
        if self._table.concluded is None:
            raise RuntimeError("a meeting ended without a verdict")
        return self._table.concluded

    def stay(self, linger_s: float) -> None:
        """Tell late callers why the group does not start, for so long; then close everything."""
        until = monotonic() + linger_s
        try:
            while self._table.phase == ENDED and monotonic() < until:
                self._step()
        finally:
            self.end()

    def end(self) -> None:
        """Close the listener, the door and all connections."""
        for one in (*self._sockets.values(), self._beside, self._listener):
            if one is not None:
                one.close()
        self._sockets.clear()
        self._select.close()
        self._errand.close()
        if self._door is not None:
            self._door.close()

    def _step(self) -> None:
        ready = self._select.select(_ROUND_S)
        for key, events in ready:
            if isinstance(key.data, socket.socket):
                self._accept(key.data)
                continue
            if key.data is self._errand or key.data is self._door:
                continue  # heard below
            peer: Peer = key.data
            if events & selectors.EVENT_WRITE and peer in self._sockets:
                self._flush(peer)
            if events & selectors.EVENT_READ and peer in self._sockets:
                self._read(peer)
        while self._lost:
            self._table.left(self._lost.pop())
        self._hear_own()
        self._proofs.tick()
        self._table.tick()
        if not ready and self._table.phase == GATHER and not self._proofs.going_on:
            self._idle()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                one, address = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor left: without room the listener stays readable, a busy loop
                self._table.make_room()
                return
            self._admit(one, str(address[0]), greeted=listener is self._listener)

    def _admit(self, one: socket.socket, address: str, *, greeted: bool) -> None:
        one.setblocking(False)
        try:
            wire.prepare(one)
        except OSError:
            one.close()  # reset already
            return
        peer = Peer(address, time.time(), monotonic())
        self._sockets[peer] = one
        self._select.register(one, selectors.EVENT_READ, peer)
        if greeted:
            self._table.connected(peer)
        else:
            self._table.connected_beside(peer)

    def _read(self, peer: Peer) -> None:
        try:
            data = self._sockets[peer].recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._table.received(peer, data)
        else:
            self._table.left(peer)

    # ------------------------------------------------------------------------------------ the table's transport

    def send(self, peer: Peer, data: bytes) -> None:
        """Send ``data`` as far as it goes, the rest when there is room."""
        self._unsent.setdefault(peer, []).append(memoryview(data))
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        one, unsent = self._sockets[peer], self._unsent.get(peer, [])
        had = len(unsent)
        try:
            while unsent:
                sent = one.send(unsent[0])
                unsent[:1] = [unsent[0][sent:]] if sent < len(unsent[0]) else []
        except BlockingIOError:
            self._select.modify(one, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)
            return
        except OSError:
            unsent.clear()
            self._lost.append(peer)  # the table must not be called back from here
            return
        if had and self._select.get_key(one).events & selectors.EVENT_WRITE:
            self._select.modify(one, selectors.EVENT_READ, peer)

    def call_neighbours(self, number: int, those: Sequence[Neighbour]) -> None:
        """Begin to dial the leader's own neighbours."""
        if self._door is not None:
            self._door.dial(number, those)

    def proving(self) -> bool:
        """Return whether rails are being proven."""
        return self._proofs.going_on

    def prove(self, index: int, word: bytes, rest: bytes) -> None:
        """Take what a member says of the proof of the rails."""
        self._proofs.took(index, word, rest)

    def _deliver(self, index: int, line: bytes) -> None:
        if index == 0:
            self._unwatch()
            self._own_said += self._errand.told(*wire.split(line))
            self._watch()
        elif (peer := self._table.members.get(index)) is not None and peer in self._sockets:
            self.send(peer, line + b"\n")

    def _hear_own(self) -> None:
        """Hear this node's own door, and what proves its own rails, which ends when that is over."""
        for line in self._door.heard() if self._door is not None else ():
            self._table.reached(0, wire.split(line)[1])
        said, self._own_said = [*self._own_said, *self._heard_own()], []
        for line in said:
            word, rest = wire.split(line)
            self._proofs.took(0, word, rest)
        if not self._proofs.going_on:
            self._unwatch()
            self._errand.close()

    def _heard_own(self) -> list[bytes]:
        if self._errand.fileno() < 0:
            return []
        self._unwatch()
        lines = self._errand.heard()
        self._watch()
        return lines

    def _unwatch(self) -> None:
        if self._errand.fileno() >= 0:
            self._select.unregister(self._errand)

    def _watch(self) -> None:
        if self._errand.fileno() >= 0:
            self._select.register(self._errand, selectors.EVENT_READ, self._errand)

    def close(self, peer: Peer) -> None:
        """Close, with what was sent delivered: a close with unread bytes would be a reset that destroys it."""
        if peer.member is not None and self._table.members.get(peer.member.card.index) is peer:
            self._proofs.lost()
        one = self._sockets.pop(peer, None)
        self._unsent.pop(peer, None)
        if one is None:
            return
        self._select.unregister(one)
        try:
            one.shutdown(socket.SHUT_WR)
            one.recv(_READ_BYTES)
        except OSError:
            pass
        one.close()
