"""The caller's side: who answers on the leader's port, and what is said there.

Whoever has no GO dials again; whoever has one may start SGLang, whose own rendezvous waits for the rest.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglang_roce_entry.group.attempts import NotYet, Surroundings, WaitPolicy
from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import PROTOCOL, Card, shown
from sglang_roce_entry.group.meeting.terms import ACK_S
from sglang_roce_entry.group.meeting.verdict import BadVerdict, Verdict, read_verdict
from sglang_roce_entry.group.wait import LeaderName, wait_until
from sglang_roce_entry.problems import DEADLINE, OK, EntryError

#: Makes a card of the meeting's nonce, the leader's address, and whether its name has only IPv6 addresses.
MakeCard = Callable[[str, IpAddress, bool], Card]

MEETING, SGLANG, CLOSED, SILENT, OTHER = "meeting", "SGLang", "closed", "silent", "other"
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answers on a port; ``detail`` is the end of a sentence."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Met:
    """What the leader has told: the verdict, and the table that came with it."""

    verdict: Verdict
    document: bytes | None


def who_answers(one: socket.socket) -> Answer:
    """Return who is at the other end; of a meeting nothing has been read.

    What is open and silent is asked, in the same connection: that may be torch's store, but also a server of
    another kind, a proxy with a dead end, a process that is stopped, or a connection that only this side's kernel
    takes for one (SYN cookies). Silence is never taken for SGLang.
    """
    try:
        one.settimeout(wire.GREETING_S)
        try:
            first = one.recv(64, socket.MSG_PEEK)
        except TimeoutError:
            question = wire.QUESTION + os.urandom(1)
            one.sendall(question)
            one.settimeout(wire.ANSWER_S)
            first = one.recv(64, socket.MSG_PEEK)
            if first and question.endswith(first[:4]):
                one.recv(4, socket.MSG_WAITALL)
                return _store(one)
    except TimeoutError:
        return Answer(SILENT, "accepts and stays silent, also when asked: neither a launcher nor SGLang")
    except OSError:
        first = b""
    if not first:
        return Answer(CLOSED, "accepts and closes at once: a proxy, or a port that is nobody's")
    if first.startswith(wire.GREETING[: len(first)]):
        return Answer(MEETING, "a launcher holds a meeting there")
    if first[:1] == b"\xff":
        return Answer(SGLANG, "SGLang runs there already (ZeroMQ answers)")
    return Answer(OTHER, f"something else answers there: {shown(repr(bytes(first[:32])))}")


def _store(one: socket.socket) -> Answer:
    try:
        joined = wire.joined_ranks(one)
    except (OSError, ValueError):
        joined = None
    ranks = "" if joined is None else f", {joined} rank{'s' if joined != 1 else ''} joined"
    return Answer(SGLANG, f"SGLang runs there already (torch's store answers{ranks})")


def connect(addresses: Sequence[IpAddress], port: int, within_s: float) -> tuple[socket.socket, IpAddress]:
    """Return a connection to the first address that accepts, IPv4 first. Raises :class:`NotYet`."""
    causes: list[NotYet] = []
    limit_s = max(0.05, min(wire.CONNECT_S, within_s / max(1, len(addresses))))
    for address in addresses:
        one = socket.socket(
            socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
        )
        try:
            one.settimeout(limit_s)
            one.connect((str(address), port))
            wire.prepare(one)
        except OSError as failure:
            one.close()
            causes.append(_not_connected(address, port, failure))
        else:
            return one, address
    raise min(causes, key=lambda cause: "refuses" not in cause.cause)


def _not_connected(address: IpAddress, port: int, failure: OSError) -> NotYet:
    if isinstance(failure, TimeoutError):
        return NotYet(
            f"{address} does not answer on {port}",
            "a NetworkPolicy or firewall drops the packets, or the address is stale: the pods of a group must "
            "reach each other on all TCP ports",
        )
    if isinstance(failure, (ConnectionRefusedError, ConnectionResetError)):
        return NotYet(
            f"{address} refuses connections on {port}",
            "the leader's launcher is not there yet, or has gone: see its log",
        )
    return NotYet(f"{address} is unreachable ({failure.strerror})", "check the pod network")


class Caller:
    """One member that calls the leader's launcher on ``port``, and brings what ``make_card`` makes."""

    def __init__(self, port: int, group: str, make_card: MakeCard, around: Surroundings) -> None:
        self._port, self._group, self._make_card, self._around = port, group, make_card, around
        #: What the leader said last of who is missing.
        self._status = ""

    def attend(self, name: LeaderName, policy: WaitPolicy) -> Met:
        """Return what the leader has told. Raises ``EntryError`` (124) at the deadline."""

        def attempt(within_s: float) -> Met:
            until = self._around.clock() + within_s
            addresses = name.addresses(within_s)
            one, address = connect(addresses, self._port, until - self._around.clock())
            only_ipv6 = all(each.version == 6 for each in addresses)
            with one:
                return self._meet(one, until, lambda nonce: self._make_card(nonce, address, only_ipv6))

        try:
            return wait_until("the leader's launcher", attempt, policy, self._around, name.host)
        except NotYet as last:
            raise EntryError(
                "LEADER_TIMEOUT",
                f"the group of {name.host} did not meet within {policy.deadline_s:.0f} s: {last.cause}",
                f"{last.look_at}; to wait longer: --wait-deadline or SGLANG_ROCE_WAIT_DEADLINE",
                DEADLINE,
            ) from last

    def _meet(self, one: socket.socket, until: float, make_card: Callable[[str], Card]) -> Met:
        answer = who_answers(one)
        if answer.kind != MEETING:
            raise NotYet(answer.detail, "see what listens on the leader: ss -ltnp", 1.0)
        lines = _Lines(one, self._around.clock)
        card = make_card(self._greeted(lines.next(wire.MOST_OF_A_GREETING, self._around.clock() + wire.ANSWER_S)))
        _say(one, wire.CARD + b" " + card.line())
        document: bytes | None = None
        verdict: Verdict | None = None
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
                verdict = self._verdict(one, rest)
                if verdict.exit_code != OK:
                    return Met(verdict, document)
            elif word == wire.AGAIN:
                document = verdict = None
            elif word == wire.GO and verdict is not None:
                return Met(verdict, document)
            elif word == wire.WANT:
                _say(one, wire.COMMON + b" " + card.common_text())
            elif word == wire.PING:
                _say(one, wire.PONG)

    def _greeted(self, line: bytes) -> str:
        """Return the nonce of the meeting that ``line`` opens. Raises :class:`NotYet`."""
        try:
            greeting = wire.read_greeting(line)
        except ValueError as failure:
            raise NotYet(
                "something that greets like a launcher answers there, and is none", "ss -ltnp", 1.0
            ) from failure
        if not wire.same_group(greeting.group, self._group):
            raise NotYet(
                f"another meeting is held there ({greeting.group}; this is {self._group})",
                "a stale DNS record, or a launch and a rehearsal of one group at the same time",
                1.0,
            )
        if greeting.protocol != PROTOCOL:
            self._around.say(
                f"the leader's launcher is of another release (protocol {greeting.protocol}, here {PROTOCOL}): "
                "what both know is compared"
            )
        return greeting.nonce

    def _verdict(self, one: socket.socket, rest: bytes) -> Verdict:
        round_, text = wire.split(rest)
        try:
            verdict = read_verdict(text)
        except BadVerdict as failure:
            raise NotYet(
                f"the leader's verdict cannot be read ({failure})", "give all pods the same image"
            ) from failure
        _say(one, wire.ACK + b" " + round_)
        return verdict

    def _tell(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._around.say(f"the leader says: {status}")

    def _incomplete(self) -> NotYet:
        said = f": {self._status}" if self._status else ""
        return NotYet(f"the meeting is not complete{said}", "see the missing pods: kubectl get pods -o wide")


def _say(one: socket.socket, line: bytes) -> None:
    try:
        one.settimeout(ACK_S)
        one.sendall(line + b"\n")
    except OSError as failure:
        raise _lost(failure) from failure


def _lost(failure: OSError | None) -> NotYet:
    reason = f" ({failure.strerror or failure})" if failure is not None else ""
    return NotYet(
        f"the leader's launcher has gone away during the meeting{reason}", "see its log: it is called again"
    )


class _Lines:
    """Lines of a connection, each of a bounded length."""

    def __init__(self, one: socket.socket, clock: Callable[[], float]) -> None:
        self._socket, self._clock = one, clock
        self._inbox = bytearray()

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
            self._socket.settimeout(remaining_s)
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                raise
            except OSError as failure:
                raise _lost(failure) from failure
            if not data:
                raise _lost(None)
            self._inbox += data
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        return line
