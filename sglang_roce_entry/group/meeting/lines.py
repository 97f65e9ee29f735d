"""A caller's connection as lines, and what goes on beside it while the next one is waited for."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Protocol

from sglang_roce_entry.group.attempts import NotYet
from sglang_roce_entry.group.meeting.terms import ACK_S

_READ_BYTES = 65536
#: How long what is busy beside may wait though nothing is readable: for a call's end, for what is read later.
_FLUSH_S = 0.2
#: After so long without anything to do what is ``idle`` has its turn.
_IDLE_S = 1.0


def nothing() -> None:
    """Do nothing while others are waited for."""


class Beside(Protocol):
    """What has lines for the leader while its own are waited for."""

    @property
    def busy(self) -> bool:
        """Whether it may have some though nothing is readable."""

    def fileno(self) -> int:
        """Return what becomes readable when it has some, -1 while nothing will."""

    def heard(self) -> list[bytes]:
        """Return those that are due."""


class Lines:
    """Lines of a connection to a leader, each of a bounded length; what is ``beside`` goes on meanwhile.

    ``idle`` is done again and again while nothing else is.
    """

    def __init__(
        self, one: socket.socket, clock: Callable[[], float], idle: Callable[[], None], *beside: Beside
    ) -> None:
        self._socket, self._clock, self._idle = one, clock, idle
        self.beside = beside
        self._inbox = bytearray()

    def say(self, line: bytes) -> None:
        """Send a line. Raises :class:`NotYet`."""
        try:
            self._socket.settimeout(ACK_S)
            self._socket.sendall(line + b"\n")
        except OSError as failure:
            raise _lost(failure) from failure

    def next(self, most: int, until: float) -> bytes:
        """Return the next line. Raises ``TimeoutError``, or :class:`NotYet` where none will come."""
        searched = 0
        while (end := self._inbox.find(b"\n", searched)) < 0:
            searched = len(self._inbox)
            if searched > most:
                raise NotYet("the leader's launcher sent a line that is too long", "give all pods the same image")
            remaining_s = until - self._clock()
            if remaining_s <= 0:
                raise TimeoutError
            if self._readable(remaining_s):
                self._read()
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        return line

    def _readable(self, within_s: float) -> bool:
        """Return whether there is something to read, in this time or sooner; meanwhile say what is due."""
        for said in [line for one in self.beside for line in one.heard()]:
            self.say(said)
        poller = select.poll()
        own = self._socket.fileno()
        for descriptor in (own, *(one.fileno() for one in self.beside)):
            if descriptor >= 0:
                poller.register(descriptor, select.POLLIN)
        busy = any(one.busy for one in self.beside)
        ready = poller.poll(1000 * min(within_s, _FLUSH_S if busy else _IDLE_S))
        if not ready and not busy:
            self._idle()
        return any(descriptor == own for descriptor, _ in ready)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as failure:
            raise _lost(failure) from failure
        if not data:
            raise _lost(None)
        self._inbox += data


def _lost(failure: OSError | None) -> NotYet:
    reason = f" ({failure.strerror or failure})" if failure is not None else ""
    return NotYet(
        f"the leader's launcher has gone away during the meeting{reason}", "see its log: it is called again"
    )
