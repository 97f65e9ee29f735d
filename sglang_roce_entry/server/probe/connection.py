"""A connection to a server of this pod, whose every step ends with one deadline: no server can stretch it."""

from __future__ import annotations

import socket
from time import monotonic

from sglang_roce_entry.group.endpoint import bracketed

#: No answer to a probe is longer.
MOST_BYTES = 1 << 16


class Connection:
    """A connected socket and the moment (``time.monotonic``) at which patience ends. Closed by ``with``."""

    def __init__(self, connected: socket.socket, address: str, port: int, deadline: float) -> None:
        self.socket = connected
        self.address, self.port, self.deadline = address, port, deadline

    def __enter__(self) -> Connection:  # noqa: PYI034 - Self comes with typing, which a probe does not load
        """Return itself."""
        return self

    def __exit__(self, *_raised: object) -> None:
        """Close the connection."""
        self.socket.close()

    @property
    def host(self) -> str:
        """``address:port``, as it is written in a header."""
        return f"{bracketed(self.address)}:{self.port}"

    def again(self) -> Connection:
        """Return another connection to the same place. Raises ``OSError``, of it ``TimeoutError``."""
        return connected(self.address, self.port, self.deadline)

    def send(self, data: bytes) -> None:
        """Send it all. Raises ``OSError``, of it ``TimeoutError``."""
        self.socket.settimeout(patience_s(self.deadline))
        self.socket.sendall(data)

    def receive(self, most: int = 4096) -> bytes:
        """Return what has come, nothing at the end of the stream. Raises ``OSError``, of it ``TimeoutError``."""
        self.socket.settimeout(patience_s(self.deadline))
        return self.socket.recv(most)


def connected(address: str, port: int, deadline: float) -> Connection:
    """Return a connection to a literal address. Raises ``OSError``, of it ``TimeoutError``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.settimeout(patience_s(deadline))
        made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return Connection(made, address, port, deadline)


def patience_s(deadline: float) -> float:
    """Return the seconds until ``deadline``. Raises ``TimeoutError`` if it has passed."""
    left_s = deadline - monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
