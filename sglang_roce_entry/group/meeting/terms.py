"""The values of a meeting: its terms, its timeouts and limits, one connection, what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.reach import Edge, Neighbour
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.proof.relay import Proof, Proven

#: Seconds for a card or a common text; a caller from which bytes keep coming gets a few times that.
STEP_S, SLOWEST_S = 5.0, 30.0
ACK_S, PONG_S, CLOSE_S, SWEEP_S = 5.0, 2.0, 1.0, 0.25
#: So long a verdict on a group that cannot start waits for texts that are owed.
TEXTS_S = 0.5
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
    """What the table sends with. None of it may call the table back."""

    def send(self, peer: Peer, data: bytes) -> None:
        """Send ``data``, sooner or later."""

    def close(self, peer: Peer) -> None:
        """Close after what was sent."""

    def call_neighbours(self, number: int, those: Sequence[Neighbour]) -> None:
        """Begin to dial the leader's own neighbours, beside everything else; :meth:`Table.reached` is told."""

    def prove(self, index: int, word: bytes, rest: bytes) -> None:
        """Take what a member says of the proof of the rails."""

    def proving(self) -> bool:
        """Return whether rails are being proven: nothing is concluded before."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a meeting comes to: the verdict, and what travels with it beside the problems.

    ``proof``: which rails are to be proven before this counts.
    """

    verdict: Verdict
    document: bytes | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one meeting.

    ``patience_s``: how long others are waited for once it is clear that the group cannot start.
    """

    size: int
    group: str
    nonce: str
    deadline_s: float
    patience_s: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a leader concludes from: members, their common texts by digest, who is absent, the ring's connections.

    ``overdue``: the deadline is over, and somebody is missing.
    """

    members: Sequence[Member]
    commons: Mapping[str, Mapping[str, str]]
    absent: Sequence[Absent]
    edges: Sequence[Edge]
    overdue: bool
    proven: Proven | None = None


#: ``None``: not yet, since rails are proven first.
Conclude = Callable[[Gathered], Concluded | None]
