"""The kernel's IPv4 routing rules that name a source address (``ip rule``), asked over netlink.

Message format: include/uapi/linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

from sglang_roce_entry.host.facts import Interface
from sglang_roce_entry.host.further import netlink

_RTM_GETRULE, _FRA_SRC, _TO_TABLE = 34, 2, 1
_RULE = struct.Struct("=8BI")


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
    for message in netlink.ask(_RTM_GETRULE, _RULE.pack(socket.AF_INET, *[0] * 8), netlink.DUMP):
        _, _, bits, _, _, _, _, action, _ = _RULE.unpack_from(message)
        if action == _TO_TABLE and bits:
            for kind, value in netlink.attributes(message[_RULE.size :]):
                if kind == _FRA_SRC:
                    yield IPv4Network((value, bits), strict=False)
