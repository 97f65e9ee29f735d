"""Values for NCCL that somebody else has decided: the pod's environment, NCCL's configuration files.

Source of the rules: NVIDIA/nccl ``src/misc/param.cc`` (``initEnv``, ``setEnvFile``): each line
``NAME=value`` of the user's file, then of ``/etc/nccl.conf``, is set unless the variable exists. The
environment wins, then the first file. Since this program sets environment variables, it would win
over an administrator's file; so the files count as decided values too.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from sglang_roce_entry.records import dataclass

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
    """Return the network of an ``NCCL_IB_ADDR_RANGE``, ``None`` if it is none.

    A comma list counts as its first entry only (``envIbAddrRange``).
    """
    try:
        return ip_network(text.split(",", maxsplit=1)[0].strip(), strict=False)
    except ValueError:
        return None
