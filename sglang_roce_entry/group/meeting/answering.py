"""Who answers on the leader's port: a launcher, SGLang, a proxy, nobody; nothing but a question is sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from sglang_roce_entry.group.attempts import NotYet
from sglang_roce_entry.group.connect import NO_ANSWER_HINT, tcp_socket
from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import shown

MEETING, SGLANG, CLOSED, SILENT, OTHER = "meeting", "SGLang", "closed", "silent", "other"


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answers on a port; ``detail`` is the end of a sentence, ``joined`` how many ranks torch's store has."""

    kind: str
    detail: str
    joined: int | None = None


def who_answers(one: socket.socket, within_s: float = wire.GREETING_S + wire.ANSWER_S) -> Answer:
    """Return who is at the other end, known ``within_s``; of a meeting nothing has been read.

    What is open and silent is asked, in the same connection: that may be torch's store, but also a server of
    another kind, a proxy with a dead end, a process that is stopped, or a connection that only this side's kernel
    takes for one (SYN cookies). Silence is never taken for SGLang.
    """
    until = monotonic() + within_s
    try:
        one.settimeout(_at_most(wire.GREETING_S, until))
        try:
            first = one.recv(64, socket.MSG_PEEK)
        except TimeoutError:
            question = wire.QUESTION + os.urandom(1)
            one.sendall(question)
            one.settimeout(_at_most(wire.ANSWER_S, until))
            first = one.recv(64, socket.MSG_PEEK)
            if first and question.endswith(first[:4]):
                one.recv(4, socket.MSG_WAITALL)
                return _store(one)
    except TimeoutError:
        return Answer(SILENT, "accepts and stays silent, also when asked: neither a launcher nor SGLang")
    except OSError:
        first = b""
    return _greeted(first)


def _at_most(seconds: float, until: float) -> float:
    """Return a socket's timeout of ``seconds`` that ends by ``until``; 0 would make it one that never blocks."""
    return max(0.01, min(seconds, until - monotonic()))


def _greeted(first: bytes) -> Answer:
    if not first:
        return Answer(CLOSED, "accepts and closes at once: a proxy, or a port that is nobody's")
    if first.startswith(wire.GREETING[: len(first)]):
        return Answer(MEETING, "a launcher holds a meeting there")
    if first[:1] == wire.ZEROMQ:
        return Answer(SGLANG, "SGLang runs there already (ZeroMQ answers)")
    return Answer(OTHER, f"something else answers there: {shown(repr(bytes(first[:32])))}")


def _store(one: socket.socket) -> Answer:
    try:
        joined = wire.joined_ranks(one)
    except (OSError, ValueError):
        joined = None
    ranks = "" if joined is None else f", {joined} rank{'s' if joined != 1 else ''} joined"
    return Answer(SGLANG, f"SGLang runs there already (torch's store answers{ranks})", joined)


def connect(addresses: Sequence[IpAddress], port: int, within_s: float) -> tuple[socket.socket, IpAddress]:
    """Return a connection to the first address that accepts, IPv4 first. Raises :class:`NotYet`."""
    causes: list[NotYet] = []
    limit_s = max(0.05, min(wire.CONNECT_S, within_s / max(1, len(addresses))))
    for address in addresses:
        one = tcp_socket(address)
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
        return NotYet(f"{address} does not answer on {port}", NO_ANSWER_HINT)
    if isinstance(failure, (ConnectionRefusedError, ConnectionResetError)):
        return NotYet(
            f"{address} refuses connections on {port}",
            "the leader's launcher is not there yet, or has gone: see its log",
        )
    return NotYet(f"{address} is unreachable ({failure.strerror})", "check the pod network")
