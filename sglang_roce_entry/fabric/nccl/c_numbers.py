"""Numbers in text as C reads them: NCCL never says that a text is none."""

from __future__ import annotations

import re

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
