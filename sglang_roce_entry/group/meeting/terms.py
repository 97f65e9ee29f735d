"""The values of a meeting: its terms, its timeouts and limits, one connection, what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sglang_roce_entry.group.meeting.compare import Member
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.verdict import Verdict

#: Seconds for a card or a common text; a caller from which bytes keep coming gets a few times that.
STEP_S, SLOWEST_S = 5.0, 30.0
ACK_S, PONG_S, CLOSE_S, SWEEP_S = 5.0, 2.0, 1.0, 0.25
#: Connections without a card beyond the size of the group; texts of members that differ.
STRANGERS, COMMONS = 256, 64

GATHER, ACKNOWLEDGE, CLOSING, ENDED, DONE = "gather", "acknowledge", "closing", "ended", "done"
NEW, PARKED, HERE, ASKED, TOLD, ACKED, GONE = "new", "parked", "here", "asked", "told", "acked", "gone"


@dataclass(eq=False, slots=True)
class Peer:
    """One connection, as the table sees it."""

    address: str
    connected_at_s: float
    since: float
    state: str = NEW
    inbox: bytearray = field(default_factory=bytearray)
    member: Member | None = None
    heard_in: int = -1


class Transport(Protocol):
    """What the table sends with. Neither may call the table back."""

    def send(self, peer: Peer, data: bytes) -> None:
        """Send ``data``, sooner or later."""

    def close(self, peer: Peer) -> None:
        """Close after what was sent."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a meeting comes to: the verdict, and what travels with it beside the problems."""

    verdict: Verdict
    document: bytes | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one meeting.

    ``patience_s``: how long others are waited for once it is clear that the group cannot start; ``linger_s``: how
    long late callers are still told so.
    """

    size: int
    group: str
    nonce: str
    deadline_s: float
    patience_s: float
    linger_s: float


Conclude = Callable[[Sequence[Member], Mapping[str, Mapping[str, str]], Sequence[Absent], bool], Concluded]
