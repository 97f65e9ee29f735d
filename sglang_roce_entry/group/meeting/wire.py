"""The meeting on the wire: lines, limits, socket options, and the question to torch's store.

leader> sglang-roce-entry meeting 1 GROUP NONCE     caller> CARD {json}
leader> WANT (one member of each digest)            caller> COMMON {json}
leader> PING (another claims this index)            caller> PONG
leader> STATUS text (who is missing)
leader> REACH ROUND [[index, address, port]]        caller> REACHED ROUND [[index, ok, detail, seen]]
leader> PROVE NUMBER (make ready to prove rails)    caller> PROVER NUMBER up | no WHY
leader> PAIRS NUMBER [[pair, rail, patient]]        caller> RAIL, and at last SEEN NUMBER PAIR {json}
leader> RAIL NUMBER PAIR {json}, as the other end of the pair has sent it
leader> TABLE {json} (rehearsals), VERDICT ROUND {json}   caller> ACK ROUND
leader> GO | AGAIN                                  the caller closes, then the leader
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from urllib.parse import quote, unquote

from sglang_roce_entry.group.connect import tcp_socket
from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.meeting.card import LINE_BYTES, PROTOCOL, shown

GREETING = b"sglang-roce-entry"
CARD, COMMON, PONG, ACK = b"CARD", b"COMMON", b"PONG", b"ACK"
REACH, REACHED = b"REACH", b"REACHED"
PROVE, PAIRS, RAIL, PROVER, SEEN = b"PROVE", b"PAIRS", b"RAIL", b"PROVER", b"SEEN"
#: What a caller and a leader say of the rails' proof.
OF_A_PROOF, TO_A_PROVER = frozenset({RAIL, PROVER, SEEN}), frozenset({PROVE, PAIRS, RAIL})
WANT, PING, STATUS, TABLE, VERDICT, GO, AGAIN = b"WANT", b"PING", b"STATUS", b"TABLE", b"VERDICT", b"GO", b"AGAIN"

#: What a caller may send in one line: a card or a common text, with its word.
MOST_FROM_CALLER = LINE_BYTES + 16
#: What a leader may send in one line: the table of 256 nodes.
MOST_FROM_LEADER = 4 << 20
MOST_OF_A_TABLE = MOST_FROM_LEADER - 16
#: The longest greeting: a group's name is a label of DNS.
MOST_OF_A_GREETING = 512

CONNECT_S = 2.0
#: Without a greeting for this long the peer is asked who it is, in the same connection.
GREETING_S = 1.0
ANSWER_S = 2.0
#: Three seconds bear the loss of one SYN, which is sent again after one.
REACH_CONNECT_S, REACH_S = 3.0, 4.0

#: torch's TCPStore: VALIDATE with its magic number, little endian (TCPStoreBackend.hpp, 2.13). Its client sends a
#: PING with its process id behind it.
MAGIC = struct.pack("<BI", 0, 0x3C85F7CE)
#: Ours pings with a number beyond any process id (PID_MAX_LIMIT is 4,194,304), so that our leader can tell it
#: from torch's client; one random byte follows.
QUESTION = MAGIC + b"\x0dsre"
QUESTION_BYTES = len(QUESTION) + 1
#: How ZeroMQ begins, whichever side it is: the first byte of its signature (ZMTP 3.1).
ZEROMQ = b"\xff"
_CHECK, _GET = 5, 3
_KEY = b"init/"


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first line of a leader: the version of its protocol, its group, and the nonce of this meeting."""

    protocol: int
    group: str
    nonce: str

    def line(self) -> bytes:
        """Return it as it is sent."""
        return b"%s meeting %d %s %s\n" % (
            GREETING,
            self.protocol,
            quote(self.group, safe=":").encode(),
            self.nonce.encode(),
        )


def greeting(group: str, nonce: str) -> Greeting:
    """Return the greeting of this release."""
    return Greeting(PROTOCOL, group, nonce)


def read_greeting(line: bytes) -> Greeting:
    """Return the greeting in ``line``; what a newer one adds at its end is ignored. Raises ``ValueError``."""
    word, kind, protocol, group, nonce, *_ = line.split()
    if word != GREETING or kind != b"meeting" or not protocol.isdigit() or len(protocol) > 4 or len(nonce) > 64:
        raise ValueError("not a greeting")
    return Greeting(int(protocol), shown(unquote(group.decode("ascii"))), nonce.decode("ascii"))


def same_group(one: str, other: str) -> bool:
    """Return whether two spellings name one group: a leader given as an address says no name (``-``).

    A leader may go by more names than one, with commas between them. Two that nobody says of one leader are two
    leaders, whatever DNS says: a stale record gives the address of another group's.
    """
    kinds, names = zip(*(text.rpartition(":")[::2] for text in (one, other)), strict=True)
    by = [set(each.split(",")) for each in names]
    return kinds[0] == kinds[1] and ("-" in by[0] | by[1] or not by[0].isdisjoint(by[1]))


def lines_from(inbox: bytearray) -> bool | None:
    """Return whether lines follow: not where torch's client or ZeroMQ calls; ``None``: too little has come.

    Our own question is taken out: a launcher asked because we were late to greet it.
    """
    if inbox[:1] == ZEROMQ:
        return False
    if inbox[:1] != MAGIC[:1]:
        return True
    if inbox[: len(QUESTION)] != QUESTION[: len(inbox)]:
        return False
    if len(inbox) < QUESTION_BYTES:
        return None
    del inbox[:QUESTION_BYTES]
    return True


def split(line: bytes) -> tuple[bytes, bytes]:
    """Return the word of a line and what follows it."""
    word, _, rest = line.partition(b" ")
    return word, rest


def prepare(one: socket.socket) -> None:
    """Notice a peer that vanished after 15 s, idle or with data under way; send short lines at once.

    Keepalive alone does not notice it while data is under way, TCP_USER_TIMEOUT alone not while nothing is.
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, 5),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 15_000),
    ):
        one.setsockopt(socket.IPPROTO_TCP, option, value)


def listen_on(address: IpAddress, port: int) -> socket.socket:
    """Return a listener that no child inherits, and after which the port can be bound again at once.

    What it accepts inherits SO_REUSEADDR, else a connection in TIME_WAIT would hold the port for 60 s. Raises
    ``OSError``.
    """
    listener = tcp_socket(address, socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(65535)  # the kernel cuts it to net.core.somaxconn; Python's default is 128
    except OSError:
        listener.close()
        raise
    return listener


def joined_ranks(one: socket.socket) -> int | None:
    """Return how many ranks have joined the store that has answered the question; ``None`` if it does not say.

    Reads only: CHECK and GET of the key in which torch counts them (``rendezvous.py``). Raises
    ``OSError``.
    """
    name = struct.pack("<Q", len(_KEY)) + _KEY
    one.sendall(struct.pack("<BQ", _CHECK, 1) + name)
    if one.recv(1) != b"\0":
        return 0
    one.sendall(struct.pack("<B", _GET) + name)
    length = one.recv(8, socket.MSG_WAITALL)
    if len(length) < 8 or struct.unpack("<Q", length)[0] > 16:
        return None
    text = one.recv(struct.unpack("<Q", length)[0], socket.MSG_WAITALL)
    return int(text) if text.isdigit() else None
