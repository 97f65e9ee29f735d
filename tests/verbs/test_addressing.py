"""How a peer is addressed, by link, subnets and release of NCCL: the table of ``ncclIbRtrQp`` and ``ncclIbQpRtr``."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.verbs.addressing import (
    NO_GRH,
    PORT_GRH,
    SUBNET_GRH,
    UndecidedError,
    address_of_peer,
    one_partition,
)
from sglang_roce_entry.verbs.messages import Offer, Rail
from tests.verbs.subnets import DEFAULT_PREFIX, gid

RAIL = Rail("mlx5_0", 2, 1, traffic_class=106, service_level=3)
HERE, THERE, ROUTED = DEFAULT_PREFIX, DEFAULT_PREFIX | 5, DEFAULT_PREFIX | 0x4001 << 16 | 5
OWN = Offer(1, 2, gid(HERE, 7), 5, 4, 5, 8256, f"{6:032x}", lid=11)
GRH_REQUIRED = 1


def vector(
    addressing: str, prefix: int, flags: int = 0, lid: int | None = 12, own: Offer = OWN
) -> tuple[int, int, tuple[str, int, int, int]]:
    """Return whether there is a GRH, the LID, and the GRH."""
    peer = replace(OWN, gid=gid(prefix, 8), lid=lid)
    handle = address_of_peer(replace(RAIL, addressing=addressing), own, peer, flags)
    assert (handle.sl, handle.port_num, handle.src_path_bits) == (3, 2, 0)
    grh = handle.grh
    return (
        handle.is_global,
        handle.dlid,
        (bytes(grh.dgid.raw).hex(), grh.sgid_index, grh.hop_limit, grh.traffic_class),
    )


NOTHING = ("0" * 32, 0, 0, 0)


@pytest.mark.parametrize(
    ("addressing", "prefix", "flags", "expected"),
    [
        *((kind, HERE, 0, (0, 12, NOTHING)) for kind in ("", NO_GRH, SUBNET_GRH, PORT_GRH)),
        (NO_GRH, THERE, GRH_REQUIRED, (0, 12, NOTHING)),
        (SUBNET_GRH, HERE, GRH_REQUIRED, (0, 12, NOTHING)),
        (SUBNET_GRH, THERE, 0, (1, 12, (gid(THERE, 8), 1, 255, 0))),
        (SUBNET_GRH, ROUTED, 0, (1, 0x4001, (gid(ROUTED, 8), 1, 255, 0))),
        (PORT_GRH, HERE, GRH_REQUIRED, (1, 12, (gid(HERE, 8), 1, 255, 0))),
        (PORT_GRH, ROUTED, GRH_REQUIRED, (1, 0x4001, (gid(ROUTED, 8), 1, 255, 0))),
        # The FLID and what else stands before the lower 16 bits make no other subnet.
        (PORT_GRH, HERE | 0x4001 << 16, 0, (0, 12, NOTHING)),
        (PORT_GRH, 0xFEC0 << 48, 0, (0, 12, NOTHING)),
        (PORT_GRH, HERE | 0x4001 << 16, GRH_REQUIRED, (1, 12, (gid(HERE | 0x4001 << 16, 8), 1, 255, 0))),
    ],
)
def test_infiniband(
    addressing: str, prefix: int, flags: int, expected: tuple[int, int, tuple[str, int, int, int]]
) -> None:
    assert vector(addressing, prefix, flags) == expected


@pytest.mark.parametrize(("prefix", "flags"), [(THERE, 0), (HERE, GRH_REQUIRED)])
def test_an_unknown_release_of_nccl_where_they_differ(prefix: int, flags: int) -> None:
    with pytest.raises(UndecidedError):
        vector("", prefix, flags)


@given(st.sampled_from(["", NO_GRH, SUBNET_GRH, PORT_GRH]), st.integers(0, (1 << 64) - 1), st.integers(0, 255))
def test_over_ethernet_it_is_the_gid_whatever_is_in_it(addressing: str, prefix: int, flags: int) -> None:
    own = replace(OWN, lid=None)
    assert vector(addressing, prefix, flags, None, own) == (1, 0, (gid(prefix, 8), 1, 255, 106))


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_partitions(one: int, other: int) -> None:
    both = one_partition(one, other)
    assert both == one_partition(other, one)
    assert not both or one % 0x8000 == other % 0x8000
    assert one_partition(one | 0x8000, one) == (one % 0x8000 != 0)
    assert not one_partition(one & 0x7FFF, one & 0x7FFF)
