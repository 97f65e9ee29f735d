"""Host names for a probe: its server nearly always has an address, and look-ups need threads."""

from __future__ import annotations

from sglang_roce_entry.group.endpoint import IpAddress
from sglang_roce_entry.group.names import NotResolved, Resolver


def resolved(host: str, within_s: float) -> tuple[IpAddress, ...] | str:
    """Return the addresses of a name, or why there is none in time."""
    try:
        return Resolver().addresses(host, within_s)
    except NotResolved as failure:
        return str(failure)
