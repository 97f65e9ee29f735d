"""Values for NCCL that somebody else has decided: the pod's environment, NCCL's configuration files.

Source of the rules: NVIDIA/nccl ``src/misc/param.cc`` (``initEnv``, ``setEnvFile``): each line
``NAME=value`` of the user's file, then of ``/etc/nccl.conf``, is set unless the variable exists. The
environment wins, then the first file. Since this program sets environment variables, it would win
over an administrator's file; so the files count as decided values too.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from sglang_roce_entry.fabric.selector import atoi

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sglang_roce_entry.fabric.policy import IpNetwork

_MAX_INT64 = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Given:
    """A value that was already decided, and where: ``user`` (the pod) or ``file``."""

    value: str
    source: str
    where: str


def parse_nccl_file(text: str) -> dict[str, str]:
    """Return the variables of one NCCL configuration file. Nothing is trimmed, as NCCL trims nothing."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        name, equals, value = line.removesuffix("\r").partition("=")
        if equals and name and not line.startswith("#"):
            found.setdefault(name, value)
    return found


def decided_values(environ: Mapping[str, str], files: Iterable[tuple[str, str]]) -> dict[str, Given]:
    """Return every decided variable: the pod's own (an empty one counts as unset), then the files'."""
    decided = {name: Given(value, "user", "the pod's environment") for name, value in environ.items() if value}
    for path, text in files:
        for name, value in parse_nccl_file(text).items():
            if value:
                decided.setdefault(name, Given(value, "file", path))
    return decided


def parse_c_integer(text: str) -> tuple[int | None, bool]:
    """Return what C's ``strtoll(text, 0, 0)`` makes of a value, and whether all of it is a number.

    NCCL takes a text that is no number as 0 in silence: ``auto`` becomes index 0. An empty one is unset.
    """
    stripped = text.strip()
    if not stripped:
        return None, True
    sign = -1 if stripped[0] == "-" else 1
    digits = stripped[1:] if stripped[0] in "+-" else stripped
    base, allowed = 10, "0123456789"
    if digits[:2].lower() == "0x":
        base, allowed, digits = 16, "0123456789abcdef", digits[2:]
    elif digits.startswith("0") and len(digits) > 1:
        base, allowed = 8, "01234567"
    end = 0
    while end < len(digits) and digits[end].lower() in allowed:
        end += 1
    value = min(int(digits[:end], base), _MAX_INT64) if end else 0
    return sign * value, bool(end) and end == len(digits)


def parse_address_range(text: str) -> IpNetwork | None:
    """Return the network that NCCL makes of an ``NCCL_IB_ADDR_RANGE``, ``None`` where it ignores the value.

    Source: ``envIbAddrRange``, an address for ``inet_pton`` up to the slash, a length for ``strtol`` after
    it. So nothing is trimmed before the address, what follows the length is not read (a comma list counts
    as its first entry), and a length that is no number is 0.
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
