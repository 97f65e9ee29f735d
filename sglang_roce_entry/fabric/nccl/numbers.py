"""Numbers and networks in text as NCCL's C reads them: it never rejects a text."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

#: From this release on a text that is not a number leaves the default.
TEXT_IS_DEFAULT = (2, 32)

_DECIMAL = r"[ \t\n\v\f\r]*([+-]?)0*([0-9]*)"
_ANY_BASE = r"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))"

_BITS = 63  # of C's long, on every platform that NCCL runs on


def atoi(text: str) -> int:
    """Return what ``atoi`` makes of a text: white space, a sign, digits; 0 without digits.

    As in glibc: the nearest ``long``, of which the lower 32 bits are taken.
    """
    found = re.match(_DECIMAL, text)
    if found is None:
        return 0
    value = int(found[2][:20] or "0")
    return as_int(max(-1 << _BITS, -value) if found[1] == "-" else min(value, (1 << _BITS) - 1))


def strtoll(text: str) -> tuple[int | None, int]:
    """Return what ``strtoll(text, 0, 0)`` makes of a text, ``None`` beyond 64 bits, and how much it read.

    ``0x`` and ``0`` in front mean hexadecimal and octal. 0 and nothing read where there is no number.
    """
    found = re.match(_ANY_BASE, text)
    if found is None:
        return 0, 0
    base, digits = next((base, found[group]) for base, group in ((16, 2), (8, 3), (10, 4)) if found[group])
    value = int(digits if base != 10 else digits[:20], base) * (-1 if found[1] == "-" else 1)
    return (value if -1 << _BITS <= value < 1 << _BITS else None), found.end()


def as_int(value: int) -> int:
    """Return what is left of a ``long`` in an ``int``: its lower 32 bits, signed."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def parse_c_integer(text: str, nccl: tuple[int, ...] | None = None) -> tuple[int | None, bool]:
    """Return what NCCL makes of a number, and whether all of the text is one. ``None``: its default.

    Source: ``ncclLoadParam``. A text that does not begin with a number is silently 0 up to 2.31 (``auto``
    is index 0) and the default from 2.32 on; so is one beyond 64 bits in every release. ``nccl`` is
    the version that reads it; unknown, it counts as an old one.
    """
    if not text:
        return None, True
    value, length = strtoll(text)
    whole = length > 0 and not text[length:].strip()
    if value is None or (length == 0 and nccl is not None and nccl >= TEXT_IS_DEFAULT):
        return None, False
    return as_int(value), whole


def parse_address_range(text: str) -> IPv4Network | IPv6Network | None:
    """Return the network that NCCL makes of an ``NCCL_IB_ADDR_RANGE``, ``None`` where it ignores the value.

    Source: ``envIbAddrRange``, an address for ``inet_pton`` up to the slash, a length for ``strtol`` after
    it. So nothing is trimmed before the address, what follows the length is not read (a comma list counts
    as its first entry), and a length that is not a number is 0.
    """
    address, slash, length_text = text.partition("/")
    if not slash or "%" in address:  # ip_address would take a zone
        return None
    try:
        base = ip_address(address)
    except ValueError:
        return None
    length = atoi(length_text)
    if not 0 <= length <= base.max_prefixlen:
        return None
    return ip_network((base, length), strict=False)
