"""The caller's side: who answers on the leader's port, and what is said there.

Whoever has no GO dials again; whoever has one may start SGLang, whose own rendezvous waits for the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from sglang_roce_entry.group.attempts import NotYet, Surroundings, WaitPolicy, within
from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.answering import MEETING, SGLANG, Answer, connect, who_answers
from sglang_roce_entry.group.meeting.card import PROTOCOL, Card, shown
from sglang_roce_entry.group.meeting.comparison.verdict import BadVerdict, Verdict, read_verdict
from sglang_roce_entry.group.meeting.lines import Lines, nothing
from sglang_roce_entry.group.meeting.proof.errand import Errand, Start
from sglang_roce_entry.group.meeting.proof.holding import MOST_PROOFS
from sglang_roce_entry.group.meeting.proof.relay import PROOF_S
from sglang_roce_entry.group.meeting.ring.door import Door, open_door
from sglang_roce_entry.group.meeting.ring.rounds import read_neighbours
from sglang_roce_entry.group.meeting.terms import ACK_S
from sglang_roce_entry.group.wait import LeaderName, wait_until
from sglang_roce_entry.problems import DEADLINE, OK, EntryError

#: Beside D with attention DP, before its workers have come: SGLang's ZeroMQ sockets (D+1, D+13).
_ZEROMQ_S = 1.0


@dataclass(frozen=True, slots=True)
class Called:
    """The leader's meeting as a caller finds it: its nonce, the leader's address, and this member's door.

    ``only_ipv6``: the leader's name has no IPv4 address.
    """

    nonce: str
    address: IpAddress
    only_ipv6: bool
    door: Door | None


#: Makes this node's card for a meeting.
MakeCard = Callable[[Called], Card]


@dataclass(frozen=True, slots=True)
class Met:
    """What the leader has told: the verdict, and the table that came with it.

    ``ahead``: there was no meeting, since SGLang waits there for this member's ranks already; why, as a sentence.
    """

    verdict: Verdict
    document: bytes | None = None
    ahead: str | None = None
    address: IpAddress | None = None
    only_ipv6: bool = False


@dataclass(frozen=True, slots=True)
class There:
    """What is to be known where SGLang runs on the leader already.

    ``ranks``: those of the whole group (``None``: not known), ``beside``: the ports on which its sockets greet
    before its workers have come.
    """

    ranks: int | None
    beside: tuple[int, ...] = ()


class Caller:
    """One member that calls the leader's launcher on ``port``, and brings what ``make_card`` makes.

    ``there`` is ``None`` where SGLang's presence is no reason to start: in a rehearsal. ``start`` starts what
    proves this node's rails. ``idle`` is done again and again while others are waited for.
    """

    def __init__(
        self,
        port: int,
        group: str,
        index: int,
        make_card: MakeCard,
        around: Surroundings,
        there: There | None = None,
        own_addresses: Callable[[], Collection[IpAddress]] = tuple,
        start: Start | None = None,
        idle: Callable[[], None] = nothing,
    ) -> None:
        self._port, self._group, self._index = port, group, index
        self._make_card, self._around, self._there = make_card, around, there
        self._own_addresses, self._start, self._idle = own_addresses, start, idle
        #: What the leader said last of who is missing.
        self._status = ""

    def attend(self, name: LeaderName, policy: WaitPolicy) -> Met:
        """Return what the leader has told. Raises ``EntryError`` (124) at the deadline."""

        def attempt(within_s: float) -> Met:
            until = self._around.clock() + within_s
            addresses = name.addresses(within_s)
            only_ipv6 = all(each.version == 6 for each in addresses)
            try:
                one, address = connect(addresses, self._port, until - self._around.clock())
            except NotYet as failure:
                met = self._beside(addresses, until)
                if met is None:
                    raise self._own_name(addresses) or failure from None
                return replace(met, only_ipv6=only_ipv6)
            with one:
                return replace(self._meet(one, until, address, only_ipv6), address=address, only_ipv6=only_ipv6)

        try:
            return wait_until("the leader's launcher", attempt, policy, self._around, name.host)
        except NotYet as last:
            raise EntryError(
                "LEADER_TIMEOUT",
                f"the group of {name.host} did not meet{within(policy.deadline_s)}: {last.cause}",
                f"{last.look_at}; to wait longer: --wait-deadline or SGLANG_ROCE_WAIT_DEADLINE",
                DEADLINE,
            ) from last

    def _own_name(self, addresses: Sequence[IpAddress]) -> NotYet | None:
        """Return what is wrong where the leader's name leads to this pod itself; a record can be stale."""
        mine = next((one for one in addresses if one in self._own_addresses() and not one.is_loopback), None)
        if mine is None:
            return None
        return NotYet(
            f"the leader's name gives {mine}, which is this pod's own address, but this is worker {self._index}",
            "a stale DNS record, or each node was given its own name: give all the leader's, or correct the index",
        )

    def _beside(self, addresses: Sequence[IpAddress], until: float) -> Met | None:
        """Return what ZeroMQ's greeting beside D says: with attention DP D opens once the workers are there."""
        for port in self._there.beside if self._there is not None else ():
            try:
                one, address = connect(addresses, port, min(_ZEROMQ_S, until - self._around.clock()))
            except NotYet:
                continue
            with one:
                if who_answers(one, until - self._around.clock()).kind == SGLANG:
                    said = f"SGLang waits for its workers on {address} port {port}"
                    return Met(Verdict(), ahead=said, address=address)
        return None

    def _sglang(self, answer: Answer) -> Met:
        """Return what SGLang's own rendezvous allows: it takes ranks that are missing, and none back."""
        there = self._there
        if there is None:
            raise NotYet(answer.detail, "see what listens on the leader: ss -ltnp", 1.0)
        if answer.joined is None or there.ranks is None or answer.joined < there.ranks:
            wanted = f" of {there.ranks}" if there.ranks is not None and answer.joined is not None else ""
            joined = f", {answer.joined}{wanted} ranks have joined" if answer.joined is not None else ""
            return Met(Verdict(), ahead=f"SGLang of the leader waits already{joined}")
        raise NotYet(
            f"SGLang runs there without this pod: all {there.ranks} ranks have joined, it cannot take one back",
            "the whole group must be recreated: LeaderWorkerSet does that by itself, with most other controllers "
            "delete the leader's pod",
            5.0,
        )

    def _meet(self, one: socket.socket, until: float, address: IpAddress, only_ipv6: bool) -> Met:
        answer = who_answers(one, until - self._around.clock())
        if answer.kind == SGLANG:
            return self._sglang(answer)
        if answer.kind != MEETING:
            raise NotYet(answer.detail, "see what listens on the leader: ss -ltnp", 1.0)
        errand = Errand(self._start, self._around.say)
        lines = Lines(one, self._around.clock, self._idle, errand)
        nonce = self._greeted(lines, until)
        door = open_door(ip_address(str(one.getsockname()[0]).partition("%")[0]), nonce, self._index)
        if door is not None:
            lines.beside = (errand, door)
        try:
            card = self._make_card(Called(nonce, address, only_ipv6, door))
            lines.say(wire.CARD + b" " + card.line())
            return self._heard(lines, card, door, until, errand)
        finally:
            errand.close()
            if door is not None:
                door.close()

    def _heard(self, lines: Lines, card: Card, door: Door | None, until: float, errand: Errand) -> Met:
        document: bytes | None = None
        verdict: Verdict | None = None
        proofs = 0
        while True:
            limit = until if verdict is None else min(until, self._around.clock() + 2 * ACK_S)
            try:
                line = lines.next(wire.MOST_FROM_LEADER, limit)
            except TimeoutError as failure:
                raise self._incomplete() from failure
            word, rest = wire.split(line)
            if word == wire.STATUS:
                self._tell(shown(rest.decode("utf-8", "replace"), 2000))
            elif word == wire.TABLE:
                document = rest
            elif word == wire.VERDICT:
                verdict = self._verdict(lines, rest)
                if verdict.exit_code != OK:
                    return Met(verdict, document)
            elif word == wire.AGAIN:
                document = verdict = None
            elif word == wire.GO and verdict is not None:
                return Met(verdict, document)
            elif word in wire.TO_A_PROVER:
                if word == wire.PROVE and proofs < MOST_PROOFS:  # all are here: the deadline has been kept
                    proofs += 1
                    until = max(until, self._around.clock() + PROOF_S)
                for said in self._told(errand, word, rest):
                    lines.say(said)
            else:
                self._answer(lines, word, rest, card, door)

    def _answer(self, lines: Lines, word: bytes, rest: bytes, card: Card, door: Door | None) -> None:
        """Answer what the leader asks; a word of a newer one is none of ours."""
        if word == wire.WANT:
            lines.say(wire.COMMON + b" " + card.common_text())
        elif word == wire.REACH and door is not None:
            self._dial(door, rest)
        elif word == wire.PING:
            lines.say(wire.PONG)

    @staticmethod
    def _dial(door: Door, rest: bytes) -> None:
        """Begin to dial the neighbours that the leader names. Raises :class:`NotYet`."""
        number, text = wire.split(rest)
        try:
            door.dial(int(number[:9]), read_neighbours(text))
        except (ValueError, TypeError, RecursionError) as failure:
            raise NotYet("the leader's launcher sent no neighbours", "give all pods the same image") from failure

    @staticmethod
    def _told(errand: Errand, word: bytes, rest: bytes) -> list[bytes]:
        """Return what is answered to a line of the proof. Raises :class:`NotYet`."""
        try:
            return errand.told(word, rest)
        except (ValueError, RecursionError) as failure:
            raise NotYet(
                "the leader's launcher sent no pairs of rails", "give all pods the same image"
            ) from failure

    def _greeted(self, lines: Lines, until: float) -> str:
        """Return the nonce of the meeting that the first of ``lines`` opens. Raises :class:`NotYet`."""
        try:
            line = lines.next(wire.MOST_OF_A_GREETING, min(until, self._around.clock() + wire.ANSWER_S))
            greeting = wire.read_greeting(line)
        except TimeoutError as failure:
            raise NotYet(
                "begins to greet like a launcher and stays silent",
                "see whether the leader's launcher hangs: its log, ss -ltnp",
                1.0,
            ) from failure
        except ValueError as failure:
            raise NotYet(
                "something that greets like a launcher answers there, and is none", "ss -ltnp", 1.0
            ) from failure
        if not wire.same_group(greeting.group, self._group):
            raise NotYet(
                f"another meeting is held there ({greeting.group}; this is {self._group})",
                "a stale DNS record, or a launch and a rehearsal of one group at the same time; if these are two "
                "names of one leader, give all pods the same one, or its pod's",
                1.0,
            )
        if greeting.protocol != PROTOCOL:
            self._around.say(
                f"the leader's launcher is of another release (protocol {greeting.protocol}, here {PROTOCOL}): "
                "what both know is compared"
            )
        return greeting.nonce

    def _verdict(self, lines: Lines, rest: bytes) -> Verdict:
        round_, text = wire.split(rest)
        try:
            verdict = read_verdict(text)
        except BadVerdict as failure:
            raise NotYet(
                f"the leader's verdict cannot be read ({failure})", "give all pods the same image"
            ) from failure
        lines.say(wire.ACK + b" " + round_)
        return verdict

    def _tell(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._around.say(f"the leader says: {status}")

    def _incomplete(self) -> NotYet:
        said = f": {self._status}" if self._status else ""
        return NotYet(f"the meeting is not complete{said}", "see the missing pods: kubectl get pods -o wide")
