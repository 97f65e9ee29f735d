"""All connections to a leader, whoever they are: lines out of bytes, at a bounded cost of memory and time.

What is odd (garbage, silence, too many) is said once a kind and disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from sglang_roce_entry.group.meeting import terms, wire
from sglang_roce_entry.group.meeting.card import shown
from sglang_roce_entry.group.meeting.terms import GONE, NEW, PARKED, Peer


class Crowd:
    """Connections, the oldest first. What a line means, and what a loss means, is for the class that is one."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.peers: dict[Peer, None] = {}
        self._say, self._clock = say, clock
        self._said: set[str] = set()
        self._rounds = 0

    def connected_beside(self, peer: Peer) -> None:
        """Take a connection to the port of SGLang's workers, which is not greeted.

        libzmq takes what does not begin as it does itself for a peer of its first version, and would at once tell
        it what is meant for SGLang.
        """
        self.peers[peer] = None

    def received(self, peer: Peer, data: bytes) -> None:
        """Take bytes from a peer."""
        if peer.state == GONE:
            return
        peer.heard_in = self._rounds
        peer.inbox += data
        if peer.state == NEW and not self._is_caller(peer):
            return
        while (end := peer.inbox.find(b"\n")) >= 0:
            line = bytes(peer.inbox[:end])
            del peer.inbox[: end + 1]
            try:
                self._line(peer, line)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as failure:
                self._odd(
                    "garbage", f"{peer.address} sent what is no line of a meeting ({shown(str(failure), 80)})"
                )
                self._drop(peer)
            if peer.state == GONE:
                return
        if len(peer.inbox) > wire.MOST_FROM_CALLER:
            self._odd("garbage", f"{peer.address} sent a line that is too long")
            self._drop(peer)

    def make_room(self) -> None:
        """Drop the oldest connection that has brought no card: there is no descriptor left."""
        strangers = sum(peer.member is None for peer in self.peers)
        self._odd("descriptors", "no file descriptor was left for another connection (ulimit -n)")
        self._drop_strangers(strangers - 1)

    def _is_caller(self, peer: Peer) -> bool:
        """Return whether what has come so far is to be read as lines."""
        lines = wire.lines_from(peer.inbox)
        if lines is False:
            self._odd("torch", f"SGLang of {peer.address} is here before its launcher: it retries by itself")
            self._retries(peer)
            self._drop(peer)
        return bool(lines)

    def _sweep(self, now: float, slow: tuple[str, ...], keep: int) -> None:
        """Drop who is slow in one of these states, and the oldest strangers beyond ``keep``."""
        for peer in [one for one in self.peers if one.state in slow and now > one.since + terms.STEP_S]:
            # What is readable may have waited for us, not we for it.
            if peer.heard_in < self._rounds - 1 or now > peer.since + terms.SLOWEST_S:
                self._odd("slow", f"{peer.address} connected and was silent or slow")
                self.left(peer)
        self._drop_strangers(keep)

    def _drop_strangers(self, keep: int) -> None:
        strangers = [peer for peer in self.peers if peer.member is None]
        for peer in strangers[: max(0, len(strangers) - max(keep, 0))]:
            self._odd("strangers", f"too many connections that bring no card, among them from {peer.address}")
            self._drop(peer)

    def _parked(self, index: int | None = None) -> list[Peer]:
        """Return who claims an index (``None``: any) that another one holds, until that is known to be alive."""
        return [
            peer
            for peer in self.peers
            if peer.state == PARKED and peer.member and index in (None, peer.member.card.index)
        ]

    def _odd(self, kind: str, said: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(f"{said}; the meeting goes on without it")

    # ------------------------------------------------------------------------------------ of a meeting

    def left(self, peer: Peer) -> None:
        """Take note that a connection is over."""
        raise NotImplementedError

    def _line(self, peer: Peer, line: bytes) -> None:
        raise NotImplementedError

    def _retries(self, peer: Peer) -> None:
        raise NotImplementedError

    def _drop(self, peer: Peer) -> None:
        raise NotImplementedError
