"""The status of a web server of this pod: one GET over a plain socket.

``http.client`` costs three interpreter starts, and a status is all that is asked for. No proxy, no redirect.
"""

from __future__ import annotations

from sglang_roce_entry.server.probe.connection import MOST_BYTES, Connection

_END = b"\r\n\r\n"


def status_of(connection: Connection, path: str) -> int:
    """Return the status that ``GET path`` gives.

    Raises ``TimeoutError`` without the whole head of an answer in time, ``ValueError`` if it is not HTTP.
    """
    try:
        connection.send(
            f"GET {path} HTTP/1.1\r\nHost: {connection.host}\r\nUser-Agent: sglang-roce-entry\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n".encode("ascii", "replace")
        )
        return _status(connection)
    except TimeoutError:
        raise
    except OSError as failure:
        raise ValueError(f"{type(failure).__name__}: {failure}") from failure


def _status(connection: Connection) -> int:
    received = b""
    while True:
        while _END not in received:
            part = connection.receive()
            received += part
            if not part:
                raise ValueError("it closes before the end of a head")
            if not received.startswith(b"HTTP/1."[: len(received)]):
                raise ValueError(f"it begins with {received[:20]!r}")
            if len(received) > MOST_BYTES:
                raise ValueError(f"its head has no end within {MOST_BYTES} bytes")
        line = received.partition(b"\r\n")[0]
        digits = line[9:12]
        if line[8:9] != b" " or not digits.isdigit() or digits < b"100" or line[12:13] not in (b"", b" "):
            raise ValueError(f"it begins with {line[:40]!r}")
        status = int(digits)
        if status >= 200:
            return status
        received = received.partition(_END)[2]  # 100 Continue and the like come before the answer
