"""Values for NCCL that somebody else has decided: the pod's environment, NCCL's configuration files.

Source of the rules: NVIDIA/nccl ``src/misc/param.cc`` (``initEnv``, ``setEnvFile``): each line
``NAME=value`` of the user's file, then of ``/etc/nccl.conf``, is set unless the variable exists. The
environment wins, then the first file. Since this program sets environment variables, it would win
over an administrator's file; so the files count as decided values too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from sglang_roce_entry.fabric.constraints import IpNetwork
from sglang_roce_entry.fabric.nccl.c_numbers import as_int, atoi, strtoll

#: From this release on a text that is no number leaves the default.
TEXT_IS_DEFAULT = (2, 32)


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


def parse_c_integer(text: str, nccl: tuple[int, ...] | None = None) -> tuple[int | None, bool]:
    """Return what NCCL makes of a number, and whether all of the text is one. ``None``: its default.

    Source: ``ncclLoadParam``. A text that does not begin with a number is 0 in silence up to 2.31 (``auto``
    becomes index 0) and the default from 2.32 on; so is one beyond 64 bits in every release. ``nccl`` is
    the version that reads it; unknown, it counts as an old one.
    """
    if not text:
        return None, True
    value, length = strtoll(text)
    whole = length > 0 and not text[length:].strip()
    if value is None or (length == 0 and nccl is not None and nccl >= TEXT_IS_DEFAULT):
        return None, False
    return as_int(value), whole


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
