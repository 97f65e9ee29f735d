"""A model of NCCL's own choice of a GID index, for ports that are left to it.

Source of the rule: NVIDIA/nccl ``ncclIbGetGidIndex`` and ``ncclUpdateGidIndex`` in ``net_ib``, the same
from 2.21 to 2.32 but for one point: reading the type of a slot that answers EINVAL is fatal up to
2.25 (NVIDIA/nccl#1573) and means "no type" from 2.26 on. Before 2.21 there is no scan: the index is
``NCCL_IB_GID_INDEX``, by default 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from sglang_roce_entry.host.facts import ROCE_V1, ROCE_V2, Gid

AF_INET = "AF_INET"
AF_INET6 = "AF_INET6"
#: Families that NCCL knows, by these exact words; any other text means the default.
FAMILIES = (AF_INET, AF_INET6)

FIRST_WITH_SCAN = (2, 21)
FIRST_WITHOUT_EINVAL_ABORT = (2, 26)

_LINK_LOCAL_PREFIX = 0xFE80 << 112 >> 64  # NCCL compares the first 64 bits with fe80:0:0:0
_ZERO = IPv6Address(0)
_VERSIONS = {ROCE_V1: 1, "RoCE v1": 1, ROCE_V2: 2}


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """The variables that steer the scan: NCCL_IB_ADDR_FAMILY, _ADDR_RANGE, _ROCE_VERSION_NUM."""

    family: str = AF_INET
    address_range: IPv4Network | IPv6Network | None = None
    roce_version: int = 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """The index that NCCL will take, or why its connect would fail."""

    index: int | None
    fatal: str | None = None


class _Slot:
    """A slot as the scan sees it. An empty one reads as a zero GID, which counts as IPv6."""

    __slots__ = ("family", "index", "readable", "valid", "value", "version")

    def __init__(self, index: int, gid: Gid | None) -> None:
        self.index = index
        ip: IPv4Address | IPv6Address = gid.ip if gid else _ZERO
        self.family = AF_INET if isinstance(ip, IPv4Address) else AF_INET6
        self.value = ip
        self.readable = gid is not None and gid.type is not None
        self.version = _VERSIONS.get(gid.type) if gid is not None and gid.type is not None else None
        # 169.254.0.0/16 is valid to NCCL: only zero and fe80::/64 are not.
        self.valid = gid is not None and (isinstance(ip, IPv4Address) or (int(ip) >> 64) != _LINK_LOCAL_PREFIX)


def predict_gid_index(
    gids: Sequence[Gid],
    table_length: int,
    *,
    nccl: tuple[int, ...],
    settings: ScanSettings | None = None,
) -> Prediction:
    """Return the GID index that NCCL of version ``nccl`` takes on a RoCE port when none is set.

    ``gids`` are the occupied slots; all others below ``table_length`` read as zero.
    """
    if nccl < FIRST_WITH_SCAN:
        return Prediction(0)
    settings = settings or ScanSettings()
    strict_types = nccl < FIRST_WITHOUT_EINVAL_ABORT
    by_index = {gid.index: gid for gid in gids}
    current = _Slot(0, by_index.get(0))
    # Empty slots take part: where IPv6 is wanted and slot 0 is IPv4, the first empty one is taken.
    for index in range(1, table_length):
        candidate = _Slot(index, by_index.get(index))
        in_range = _in_range(candidate, settings)
        wanted = candidate.family == settings.family
        if wanted and in_range and current.family != candidate.family:
            current = candidate  # neither type nor validity is checked here
            continue
        if not (wanted and in_range and candidate.valid):
            continue
        if strict_types:
            for slot in (current, candidate):
                if not slot.readable:
                    return Prediction(None, f"the type of GID index {slot.index} is unreadable")
        if candidate.version == settings.roce_version and (
            current.version != candidate.version or not current.valid
        ):
            current = candidate
    return Prediction(current.index)


def _in_range(slot: _Slot, settings: ScanSettings) -> bool:
    network = settings.address_range
    if network is None:
        return True
    # NCCL ignores a range that is not of the wanted family (envIbAddrRange).
    if (settings.family == AF_INET) != isinstance(network, IPv4Network):
        return True
    return slot.value in network
