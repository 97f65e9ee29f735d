"""Questions to the kernel over rtnetlink(7), and the attributes of its answers.

Message format: include/uapi/linux/netlink.h and rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

DUMP = 0x300  # NLM_F_DUMP: all of them
_NLM_F_REQUEST = 0x1
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_BUFFER_BYTES, _TIMEOUT_S = 1 << 16, 1.0


def ask(kind: int, body: bytes, flags: int = 0) -> Iterator[bytes]:
    """Yield the bodies of the messages that answer one of ``kind``, one without ``DUMP``.

    Raises ``OSError``, with the kernel's errno where it refuses, and ``struct.error`` for what is no answer.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body)
        while True:
            data = netlink.recv(_BUFFER_BYTES)
            while data:
                length, answer, *_ = _HEADER.unpack_from(data)
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR or length < _HEADER.size:
                    raise RefusedError("the kernel refuses")
                yield data[_HEADER.size : length]
                if not flags & DUMP:
                    return
                data = data[length + 3 & ~3 :]


class RefusedError(OSError):
    """The kernel has answered with an error."""


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute of a question."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def attributes(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each attribute behind the fixed part of a message."""
    while len(message) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(message)
        if length < _ATTRIBUTE.size:
            return
        yield kind, message[_ATTRIBUTE.size : length]
        message = message[length + 3 & ~3 :]
