"""One RC exchange of two ports: this end and a peer behind messages, or both ends on one port.

Receives are posted before RTR, and nothing is sent before both ends are in RTR: a packet that comes earlier is
dropped, and costs a whole timeout.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep

from sglang_roce_entry.verbs.device import Device
from sglang_roce_entry.verbs.end import FIRST, End, StoppedError, Times
from sglang_roce_entry.verbs.loading import VerbsError
from sglang_roce_entry.verbs.messages import (
    READY,
    SENT,
    MalformedError,
    Message,
    Offer,
    Rail,
    Seen,
    read,
    written,
)

_SILENT, _MALFORMED = "PEER_SILENT", "PEER_MALFORMED"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.05


class _Peer:
    """The other end, behind two functions. What it says is read as hostile input."""

    def __init__(
        self, say: Callable[[bytes], None], hear: Callable[[float], bytes | None], limit_s: float
    ) -> None:
        self._say, self._hear, self._limit = say, hear, monotonic() + limit_s
        self.seen: Seen | None = None

    def tell(self, message: Message) -> None:
        self._say(written(message))

    def next(self) -> Message:
        line = self._hear(max(0.0, self._limit - monotonic()))
        if line is None:
            raise StoppedError(_SILENT)
        try:
            message = read(line)
        except MalformedError as error:
            raise StoppedError(_MALFORMED, detail=str(error)) from error
        if isinstance(message, Seen):
            self.seen = message
        return message

    def offer(self) -> Offer:
        message = self.next()
        if isinstance(message, Offer):
            return message
        raise self._out_of_turn()

    def word(self, word: str) -> None:
        if self.next() != word:
            raise self._out_of_turn()

    def _out_of_turn(self) -> StoppedError:
        return StoppedError(
            "PEER_STOPPED" if self.seen is not None else _MALFORMED, detail="a message out of turn"
        )


def exchange(
    end: End, say: Callable[[bytes], None], hear: Callable[[float], bytes | None], limit_s: float
) -> tuple[Seen, Seen | None]:
    """Return what this end and its peer saw.

    The peer is behind ``say`` and ``hear``, which returns its next line, or ``None`` if there is none within so
    many seconds. It may do what it likes: a line that is none of ours, or none in time, is a cause. Both ends hold
    both views after this, unless the deadline of ``limit_s`` fell between them.
    """
    peer = _Peer(say, hear, limit_s)
    try:
        ours = _steps(end, peer)
    except (VerbsError, StoppedError) as failure:
        ours = end.seen(failure)
    peer.tell(ours)
    with suppress(StoppedError):
        while peer.seen is None and ours.cause not in (_SILENT, _MALFORMED):
            peer.next()
    return ours, peer.seen


def _steps(end: End, peer: _Peer) -> Seen:
    own = end.offer()
    peer.tell(own)
    theirs = peer.offer()
    end.connect(own, theirs)
    peer.tell(READY)
    peer.word(READY)
    end.send(own, theirs)
    try:
        await_completions(end)
        peer.tell(SENT)
        peer.word(SENT)  # gone earlier, this end would not acknowledge what the peer still sends
    finally:
        end.look(own, theirs)
    return end.seen()


def await_completions(*ends: End) -> None:
    """Return as soon as none of ``ends`` awaits a completion."""
    pause_s = _FIRST_PAUSE_S
    while [end for end in ends if not end.collect()]:
        sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def loop_back(device: Device, rail: Rail, times: Times = FIRST) -> tuple[Seen, Seen]:
    """Return what two ends on the same port saw of each other: the HCA itself, and nothing of the wire."""
    near, far = End(device, rail, times), End(device, rail, times)
    try:
        one, other = near.offer(), far.offer()
        near.connect(one, other)
        far.connect(other, one)
        near.send(one, other)
        far.send(other, one)
        await_completions(near, far)
        near.look(one, other)
        far.look(other, one)
        return near.seen(), far.seen()
    except (VerbsError, StoppedError) as failure:
        return near.seen(failure), far.seen(failure)
    finally:
        near.close()
        far.close()
