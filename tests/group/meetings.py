"""A meeting in memory: the leader's table under a virtual clock, and members that do what a launcher does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import Card, make
from sglang_roce_entry.group.meeting.comparison.compare import judge
from sglang_roce_entry.group.meeting.comparison.reach import Edge, judge_reach
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict, read_verdict
from sglang_roce_entry.group.meeting.missing import Names
from sglang_roce_entry.group.meeting.proof.holding import Proofs
from sglang_roce_entry.group.meeting.ring.rounds import read_neighbours, write_results
from sglang_roce_entry.group.meeting.table import Table
from sglang_roce_entry.group.meeting.terms import DONE, ENDED, Concluded, Gathered, Peer, Terms
from sglang_roce_entry.problems import DEADLINE, OK, error
from tests.group.members import NOW, RULES, Group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sglang_roce_entry.group.meeting.comparison.reach import Neighbour
    from sglang_roce_entry.group.meeting.proof.relay import Proof

GROUP, NONCE = "launch:sglang-0", "6e6f6e6365"
TICK_S = 0.1


def of_this_meeting(group: Group) -> list[Card]:
    """Return the cards with the name of this group."""
    return [
        make(GROUP, one.size, one.index, one.pod, one.own, one.common or {}, one.refusal) for one in group.cards
    ]


class Room:
    """The table, its transport, and time that passes when it is told to."""

    def __init__(self, own: Card, size: int, deadline_s: float = 1800.0) -> None:
        self.now_s = NOW
        self.sent: dict[Peer, bytearray] = {}
        self.closed: set[Peer] = set()
        self.log: list[str] = []
        self.gathered: Gathered | None = None
        #: What DNS gives for names; ``None``: the group's names are not known.
        self.addresses: Mapping[str, tuple[str, ...]] | None = {}
        #: What DNS answers only when it is asked.
        self.unasked: Mapping[str, tuple[str, ...]] = {}
        self.own_calls: list[bytes] = []
        #: What the leader's own prover is told, and the rails that are to be proven.
        self.own_orders: list[bytes] = []
        self.proof: Callable[[], Proof] | None = None
        #: So long a verdict takes.
        self.concludes_in_s = 0.0
        names = Names(
            lambda index: f"sglang-0-{index}.sglang" if self.addresses is not None else "",
            lambda _name: "does not resolve",
            self._look_up,
            self._addresses_of,
        )
        terms = Terms(size, GROUP, NONCE, deadline_s, 1.0)
        self.proofs = Proofs(self._conclude, self._deliver, self.log.append, self.clock)
        conclude = self.proofs.conclude
        self.table = Table(terms, own, self, conclude, self.log.append, self.clock, self.clock, names)

    def _deliver(self, index: int, line: bytes) -> None:
        if index == 0:
            self.own_orders.append(line)
        elif index in self.table.members:
            self.send(self.table.members[index], line + b"\n")

    def _look_up(self, names: Sequence[str]) -> None:
        if self.addresses is not None:
            self.addresses = {**{name: self.unasked.get(name, ()) for name in names}, **self.addresses}

    def _addresses_of(self, name: str) -> tuple[str, ...] | None:
        return (self.addresses or {}).get(name)

    def _conclude(self, gathered: Gathered) -> Concluded:
        self.gathered = gathered
        self.now_s += self.concludes_in_s
        verdict = judge(gathered.members, gathered.commons, RULES)
        problems = (*verdict.problems, *judge_reach(gathered.edges, gathered.members))
        missing = error("LATE", " ".join(str(one.index) for one in gathered.absent), "", DEADLINE)
        due = self.proof is not None and gathered.proven is None and not gathered.absent
        proof = self.proof() if due and self.proof is not None else None
        return Concluded(Verdict((*problems, missing) if gathered.overdue else problems), proof=proof)

    def call_neighbours(self, number: int, those: Sequence[Neighbour]) -> None:
        self.own_calls += [write_results([Edge(0, one.index, True)], number) for one in those]

    def report_own_calls(self) -> None:
        """Tell the table what came of the leader's own calls in the ring: they all succeed."""
        while self.own_calls:
            self.table.reached(0, wire.split(self.own_calls.pop(0))[1])

    def proving(self) -> bool:
        self.proofs.tick()
        return self.proofs.going_on

    def prove(self, index: int, word: bytes, rest: bytes) -> None:
        self.proofs.took(index, word, rest)

    @property
    def over(self) -> bool:
        """Whether nothing is open any more."""
        return self.table.phase in (DONE, ENDED)

    def clock(self) -> float:
        return self.now_s

    def send(self, peer: Peer, data: bytes) -> None:
        assert peer not in self.closed
        self.sent[peer] += data

    def close(self, peer: Peer) -> None:
        assert peer not in self.closed
        self.closed.add(peer)
        if peer in self.table.members.values():
            self.proofs.lost()

    def dial(self, address: str) -> Peer:
        peer = Peer(address, self.now_s, self.now_s)
        self.sent[peer] = bytearray()
        self.table.connected(peer)
        return peer

    def held_bytes(self) -> int:
        return sum(len(peer.inbox) for peer in self.table.peers)


@dataclass
class Attendant:
    """A member that dials, answers as a launcher does, and dials again when it is cut off.

    ``dies_after``: the word after which it is gone for good.
    """

    room: Room
    card: Card
    dies_after: bytes = b"-"
    peer: Peer | None = None
    verdict: Verdict | None = None
    went: bool = False
    dead: bool = False
    heard: list[bytes] = field(default_factory=list)
    #: Members whose ring port this one does not reach.
    cut_off: frozenset[int] = frozenset()

    @property
    def done(self) -> bool:
        refused = self.verdict is not None and self.verdict.exit_code != OK
        return self.went or self.dead or refused

    def act(self) -> None:
        """Dial, or answer what has come."""
        room = self.room
        if not self.done and (self.peer is None or (self.peer in room.closed and not room.over)):
            self.peer = room.dial(f"10.0.0.{self.card.index + 1}")
        if self.peer is None:
            return
        inbox = room.sent[self.peer]
        while not self.done and (end := inbox.find(b"\n")) >= 0:
            line = bytes(inbox[:end])
            del inbox[: end + 1]
            self._answer(self.peer, line)

    def _answer(self, peer: Peer, line: bytes) -> None:
        word, rest = wire.split(line)
        self.heard.append(word)
        answers = {
            wire.GREETING: wire.CARD + b" " + self.card.line(),
            wire.WANT: wire.COMMON + b" " + self.card.common_text(),
            wire.PING: wire.PONG,
            wire.VERDICT: wire.ACK + b" " + wire.split(rest)[0],
        }
        if word == wire.REACH:
            number, text = wire.split(rest)
            edges = [
                Edge(self.card.index, one.index, one.index not in self.cut_off, "cut off")
                for one in read_neighbours(text)
            ]
            answers[word] = write_results(edges, int(number))
        if word == wire.VERDICT:
            self.verdict = read_verdict(wire.split(rest)[1])
        elif word == wire.AGAIN:
            self.verdict = None
        if word == self.dies_after:
            self.dead = True
            self.room.table.left(peer)
            return
        if word in answers:
            self.room.table.received(peer, answers[word] + b"\n")
        if word == wire.GO:
            assert self.verdict is not None
            self.went = True
        if self.done:
            self.room.table.left(peer)


def run(room: Room, members: Sequence[Attendant], for_s: float = 60.0) -> float:
    """Let time pass until the meeting is over, or for this long; return the seconds that passed."""
    started = room.now_s
    while not room.over and room.now_s < started + for_s:
        for member in members:
            member.act()
        room.report_own_calls()
        room.table.tick()
        room.now_s += TICK_S
    for member in members:
        member.act()  # what was sent is delivered
    return room.now_s - started
