"""Questions to the kernel over netlink(7), and the attributes of its answers.

Message format: include/uapi/linux/netlink.h. Needs no privilege; bounded in time and in bytes.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from time import monotonic

ROUTE, RDMA = 0, 20  # NETLINK_ROUTE, NETLINK_RDMA
DUMP = 0x300  # NLM_F_DUMP: all of them
_NLM_F_REQUEST = 0x1
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LAST = (_NLMSG_ERROR, _NLMSG_DONE)
_HEADER, _ATTRIBUTE, _ERRNO = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=i")
_NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_BUFFER_BYTES, _TIMEOUT_S = 1 << 16, 1.0
#: Of one answer: the queue pairs of a node, some 100 bytes each, are far below.
_MOST_BYTES, _MOST_S = 1 << 26, 5.0


def ask(kind: int, body: bytes, flags: int = 0, family: int = ROUTE) -> Iterator[bytes]:
    """Yield the bodies of the messages that answer one of ``kind``, one without ``DUMP``.

    Raises ``OSError``, with the kernel's errno where it refuses, and ``struct.error`` for what is no answer.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body)
        read, until = 0, monotonic() + _MOST_S
        while read < _MOST_BYTES and monotonic() < until:
            data = netlink.recv(_BUFFER_BYTES)
            read += len(data)
            for one in messages(data):
                if one is None:
                    return
                yield one
                if not flags & DUMP:
                    return
    raise OSError("the kernel's answer does not end")


def messages(data: bytes) -> Iterator[bytes | None]:
    """Yield the bodies of the messages in what was received at once; ``None`` for the end of an answer.

    Raises :class:`RefusedError` and ``struct.error`` as :func:`ask`.
    """
    while data:
        length, answer, *_ = _HEADER.unpack_from(data)
        body = data[_HEADER.size : length]
        # The end of a dump carries the errno of one that failed (netlink_dump_done, net/netlink/af_netlink.c).
        failed = _ERRNO.unpack_from(body)[0] if answer in _LAST and len(body) >= _ERRNO.size else 0
        if failed < 0 or answer == _NLMSG_ERROR or length < _HEADER.size:
            raise RefusedError(-failed, os.strerror(-failed & 0xFFFF))
        yield None if answer == _NLMSG_DONE else body
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
        yield kind & _NLA_TYPE_MASK, message[_ATTRIBUTE.size : length]
        message = message[length + 3 & ~3 :]
