"""The health of a gRPC server, by the protocol that all have in common: ``grpc.health.v1.Health/Check``.

One call over a plain HTTP/2 exchange (RFC 9113), its headers as literals that need no table (RFC 7541, 6.2.2).
Of the answer only the message is read, never a header: so a status of gRPC's own (no such service, not allowed) is
seen as a call that ends without a message, which says that the server is there and no more.
"""

from __future__ import annotations

from sglang_roce_entry.server.probe.connection import MOST_BYTES, Connection

SERVING, NOT_SERVING, NO_WORD = "SERVING", "NOT_SERVING", "no word on its health"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED = 0x4, 0x8
_STREAM = 1
#: SETTINGS_MAX_FRAME_SIZE, which nothing here raises.
_MOST_FRAME = 1 << 14
#: Uncompressed and empty: the health of the whole server.
_REQUEST = bytes(5)


def health_of(connection: Connection, scheme: str) -> str:
    """Return ``SERVING``, ``NOT_SERVING``, or ``NO_WORD`` where the call ends without either.

    Raises ``TimeoutError`` without an answer in time, ``OSError``, and ``ValueError`` if it is not HTTP/2.
    """
    headers = {
        ":method": "POST",
        ":scheme": scheme,
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": connection.host,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "sglang-roce-entry",
    }
    block = b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in headers.items())
    connection.send(
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        + _frame(_DATA, _END_STREAM, _STREAM, _REQUEST)
    )
    return _answer(_Frames(connection))


class _Frames:
    """The frames that come, each with its kind, flags, stream and payload."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._received, self._taken = b"", 0

    def take(self) -> tuple[int, int, int, bytes]:
        """Return the next frame. Raises ``ValueError`` at the end, and where it cannot be one."""
        head = self._bytes(9)
        length = int.from_bytes(head[:3], "big")
        if length > _MOST_FRAME:
            raise ValueError(f"it is not HTTP/2: it begins with {head!r}")
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, self._bytes(length)

    def acknowledge(self, kind: int, payload: bytes = b"") -> None:
        """Acknowledge SETTINGS or a PING."""
        self._connection.send(_frame(kind, _ACK, 0, payload))

    def _bytes(self, number: int) -> bytes:
        while len(self._received) < number:
            part = self._connection.receive()
            self._taken += len(part)
            if not part or self._taken > MOST_BYTES:
                raise ValueError("it closes the connection" if not part else "its answer has no end")
            self._received += part
        taken, self._received = self._received[:number], self._received[number:]
        return taken


def _answer(frames: _Frames) -> str:
    message = b""
    kind, flags, stream, payload = frames.take()
    if kind != _SETTINGS or stream != 0 or flags & _ACK:
        raise ValueError("it is not HTTP/2: its first frame is not SETTINGS")
    frames.acknowledge(_SETTINGS)
    while True:
        kind, flags, stream, payload = frames.take()
        if kind == _PING and not flags & _ACK:
            frames.acknowledge(_PING, payload[:8])
        if kind == _GOAWAY or (kind == _RST_STREAM and stream == _STREAM):
            return NO_WORD
        if stream != _STREAM or kind not in (_DATA, _HEADERS):
            continue
        if kind == _DATA:
            padding = payload[:1] if flags & _PADDED else b""
            message += payload[len(padding) : len(payload) - sum(padding)]
        if flags & _END_STREAM or len(message) >= 7:
            return _status(message)


def _status(message: bytes) -> str:
    """Return what a ``HealthCheckResponse`` says: one field, an enumeration."""
    if message[:1] != b"\x00" or int.from_bytes(message[1:5], "big") != 2 or message[5:6] != b"\x08":
        return NO_WORD  # also UNKNOWN, which is the default and is left out
    return {b"\x01": SERVING, b"\x02": NOT_SERVING}.get(message[6:7], NO_WORD)


def _literal(text: str) -> bytes:
    data = text.encode("ascii", "replace")[:126]  # beyond, the length has more than one byte
    return bytes([len(data)]) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
