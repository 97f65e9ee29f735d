"""A DNS server small enough to be told, while a pod waits, what the cluster's DNS would say next.

It answers A and AAAA over UDP: the addresses it holds, an empty answer for a name that has only
the other family (NODATA), NXDOMAIN for everything else. Names can be published, moved and withdrawn
at run time, the server can go silent, and every query is kept with its time. The sockets are made
by the caller, so that a server can sit inside a network namespace while its thread runs here.

Wire format: RFC 1035 section 4; AAAA: RFC 3596. No EDNS (the resolvers under test send none by
default), no TCP.
"""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

TYPE_A = 1
TYPE_AAAA = 28
CLASS_IN = 1
RCODE_NOERROR = 0
RCODE_SERVFAIL = 2
RCODE_NXDOMAIN = 3
HEADER_BYTES = 12
TTL_S = 5  # what CoreDNS's kubernetes plugin serves by default


class Mood(enum.Enum):
    """How the server treats the next query."""

    ANSWER = "answer"
    SILENT = "silent"
    SERVFAIL = "servfail"


@dataclass(frozen=True)
class Query:
    """One question received, at `time.monotonic()`; `name` in lower case without the final dot."""

    at_s: float
    name: str
    record_type: int
    peer: str


def read_question(packet: bytes) -> tuple[str, int, int]:
    """Return the name (lower case, no final dot), the type and the offset after the first question.

    Raises ValueError for a packet that is no plain query with one question.
    """
    if len(packet) < HEADER_BYTES:
        raise ValueError("shorter than a DNS header")
    flags, questions = struct.unpack_from("!HH", packet, 2)
    if flags & 0x8000 or questions != 1:
        raise ValueError("not a query with one question")
    labels: list[str] = []
    at = HEADER_BYTES
    while True:
        if at >= len(packet):
            raise ValueError("name runs past the packet")
        length = packet[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(packet):
            raise ValueError("bad label")
        labels.append(packet[at : at + length].decode("ascii").lower())
        at += length
    if at + 4 > len(packet):
        raise ValueError("question without type and class")
    record_type, record_class = struct.unpack_from("!HH", packet, at)
    if record_class != CLASS_IN:
        raise ValueError("class is not IN")
    return ".".join(labels), record_type, at + 4


def write_reply(packet: bytes, question_end: int, rcode: int, addresses: Iterable[str]) -> bytes:
    """Return the reply to `packet` with one record for each address, in the order given."""
    records = b""
    count = 0
    for text in addresses:
        address = ipaddress.ip_address(text)
        record_type = TYPE_A if address.version == 4 else TYPE_AAAA
        data = address.packed
        # 0xC00C points back at the name of the question.
        records += struct.pack("!HHHIH", 0xC00C, record_type, CLASS_IN, TTL_S, len(data)) + data
        count += 1
    recursion_desired = struct.unpack_from("!H", packet, 2)[0] & 0x0100
    flags = 0x8000 | 0x0400 | recursion_desired | 0x0080 | rcode
    header = packet[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0)
    return header + packet[HEADER_BYTES:question_end] + records


class NameServer:
    """The server: starts with its construction, ends with `close()` or its `with` block."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._sockets = list(sockets)
        self._lock = threading.Lock()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._mood = Mood.ANSWER
        self._queries: list[Query] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def publish(self, name: str, *addresses: str) -> None:
        """From now on `name` has exactly these addresses (IPv4 and IPv6 mixed as wanted)."""
        with self._lock:
            self._addresses[name.lower().rstrip(".")] = addresses

    def withdraw(self, name: str) -> None:
        """From now on `name` is NXDOMAIN. Raises KeyError if it was not published."""
        with self._lock:
            del self._addresses[name.lower().rstrip(".")]

    def set_mood(self, mood: Mood) -> None:
        """Answer, stay silent or fail from the next query on."""
        with self._lock:
            self._mood = mood

    def queries(self, name: str | None = None, record_type: int | None = None) -> list[Query]:
        """Return the questions so far, oldest first, those of one name or type if told so."""
        with self._lock:
            return [
                query
                for query in self._queries
                if (name is None or query.name == name.lower())
                and (record_type is None or query.record_type == record_type)
            ]

    def close(self) -> None:
        """Stop serving and close the sockets. Harmless a second time."""
        self._wake_write.close()
        self._thread.join(timeout=5)
        for each in (*self._sockets, self._wake_read):
            each.close()

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select([*self._sockets, self._wake_read], [], [])
            if self._wake_read in readable:
                return
            for ready in readable:
                packet, peer = ready.recvfrom(4096)
                reply = self._reply(packet, peer[0])
                if reply is not None:
                    # The asker's namespace may be gone.
                    with contextlib.suppress(OSError):
                        ready.sendto(reply, peer)

    def _reply(self, packet: bytes, peer: str) -> bytes | None:
        try:
            name, record_type, end = read_question(packet)
        except (ValueError, struct.error):
            return None
        with self._lock:
            self._queries.append(Query(time.monotonic(), name, record_type, peer))
            mood = self._mood
            addresses = self._addresses.get(name)
        if mood is Mood.SILENT:
            return None
        if mood is Mood.SERVFAIL:
            return write_reply(packet, end, RCODE_SERVFAIL, ())
        if addresses is None:
            return write_reply(packet, end, RCODE_NXDOMAIN, ())
        wanted = {TYPE_A: 4, TYPE_AAAA: 6}.get(record_type)
        matching = [text for text in addresses if ipaddress.ip_address(text).version == wanted]
        return write_reply(packet, end, RCODE_NOERROR, matching)
