"""The kernel's IPv4 routing rules that name a source address (``ip rule``), asked over netlink.

Message format: include/uapi/linux/fib_rules.h and rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

from sglang_roce_entry.host.facts import Interface

_RTM_NEWRULE, _RTM_GETRULE = 32, 34
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_FRA_SRC, _TO_TABLE = 2, 1
_HEADER, _RULE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=8BI"), struct.Struct("=HH")
_BUFFER_BYTES, _TIMEOUT_S = 1 << 16, 1.0


def with_source_rule(interfaces: Sequence[Interface]) -> tuple[str, ...] | None:
    """Return the interfaces with an IPv4 address that a rule leads to a table; ``None``: not known."""
    try:
        sources = list(_sources())
    except (OSError, ValueError, struct.error):
        return None
    return tuple(
        interface.name
        for interface in interfaces
        if any(own.version == 4 and own.ip in source for own in interface.addresses for source in sources)
    )


def _sources() -> Iterator[IPv4Network]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        rule = _RULE.pack(socket.AF_INET, *[0] * 8)
        netlink.send(_HEADER.pack(_HEADER.size + len(rule), _RTM_GETRULE, _NLM_F_REQUEST_DUMP, 1, 0) + rule)
        while True:
            data = netlink.recv(_BUFFER_BYTES)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("the kernel refuses to list its rules")
                if kind == _RTM_NEWRULE:
                    yield from _source(data[_HEADER.size : length])
                data = data[length + 3 & ~3 :]


def _source(message: bytes) -> Iterator[IPv4Network]:
    _, _, bits, _, _, _, _, action, _ = _RULE.unpack_from(message)
    rest = message[_RULE.size :]
    while action == _TO_TABLE and bits and len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if kind == _FRA_SRC:
            yield IPv4Network((rest[_ATTRIBUTE.size : length], bits), strict=False)
        rest = rest[max(length, _ATTRIBUTE.size) + 3 & ~3 :]
