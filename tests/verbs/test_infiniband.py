"""Ports of an InfiniBand subnet, proven through a library that delivers by LID, GID and P_Key, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from sglang_roce_entry.group.meeting.card import Rail as CardRail
from sglang_roce_entry.group.meeting.proof.pairs import Nodes
from sglang_roce_entry.verbs.addressing import NO_GRH, PORT_GRH, SUBNET_GRH
from sglang_roce_entry.verbs.device import Device
from sglang_roce_entry.verbs.end import FIRST, End, StoppedError
from sglang_roce_entry.verbs.judgement import Verdict, judge
from sglang_roce_entry.verbs.messages import Offer, Rail
from sglang_roce_entry.verbs.proof.looped import Loop, prove_loops
from tests.verbs.provers import Provers
from tests.verbs.subnets import DEFAULT_PREFIX, FULL, Subnet, gid

RAIL = Rail("ib0", 1, 0, service_level=2, addressing=PORT_GRH)
GRH_REQUIRED = 1
ELSEWHERE = DEFAULT_PREFIX | 0x4001 << 16 | 9


@pytest.fixture
def subnet(tmp_path: Path) -> Subnet:
    return Subnet.in_folder(tmp_path)


def looped(subnet: Subnet, rail: Rail = RAIL) -> Loop:
    (loop,) = prove_loops([rail], subnet.environ, 60.0)
    return loop


def between(subnet: Subnet, one: Rail, other: Rail) -> tuple[str, str, str, str, bool]:
    """Return status, cause, end, direction and whether NCCL fails too, of two nodes with one rail each."""
    card = CardRail("ib", 1, "fe80::/64", "fe80::1", 0, 400.0, None, proof=True)
    rails = {0: (one,), 1: (other,)}
    provers = Provers(Nodes({0: (card,), 1: (card,)}, dict.fromkeys(rails)), rails, subnet.environ)
    (outcome,) = provers.run().outcomes.values()
    return outcome.status, outcome.cause, outcome.end, outcome.direction, outcome.fatal


def test_a_port_against_itself(subnet: Subnet) -> None:
    subnet.port("ib0", 0x21)
    loop = looped(subnet)
    assert loop.verdict == Verdict("proven"), loop
    assert (loop.seen.lid, loop.seen.pkey, loop.seen.mtu_bytes) == (0x21, FULL, 4096)
    for handle in subnet.handles():
        assert (handle.is_global, handle.dlid, handle.sl, handle.port_num) == (0, 0x21, 2, 1)


def test_a_port_that_demands_a_grh(subnet: Subnet) -> None:
    subnet.port("ib0", 0x21, flags=GRH_REQUIRED)
    assert looped(subnet).verdict == Verdict("proven")
    handles = subnet.handles()
    assert [(one.is_global, one.dlid, bytes(one.grh.dgid.raw).hex()) for one in handles] == [
        (1, 0x21, gid(DEFAULT_PREFIX, ord("0")))
    ] * 2
    unknown = looped(subnet, replace(RAIL, addressing=""))
    assert unknown.verdict.status == "not_tried"
    assert "depends on its release" in unknown.seen.detail


@pytest.mark.parametrize(("state", "cause"), [(1, "PORT_DOWN"), (2, "NO_SM"), (3, "NO_SM")])
def test_a_port_that_no_subnet_manager_has_brought_up(subnet: Subnet, state: int, cause: str) -> None:
    subnet.port("ib0", 0, state=state)
    assert looped(subnet).verdict == Verdict("failed", cause, "both")


def test_a_port_without_a_lid_is_refused_by_the_kernel(subnet: Subnet) -> None:
    subnet.port("ib0", 0)
    loop = looped(subnet)
    assert loop.verdict == Verdict("failed", "LID_REFUSED", "both")
    assert loop.seen.detail == "rtr by LID: EINVAL (LID 0)"


def test_a_slot_that_the_p_key_table_does_not_have(subnet: Subnet) -> None:
    subnet.port("ib0", 4)
    loop = looped(subnet, replace(RAIL, pkey_index=3))
    assert loop.verdict == Verdict("failed", "PKEY_REFUSED", "both")
    assert loop.seen.detail == "P_Key index 3, the port has 1"


@pytest.mark.parametrize(("own", "peer"), [(7, None), (None, 7)])
def test_a_peer_that_says_nothing_of_a_lid_is_not_tried(own: int | None, peer: int | None) -> None:
    offer = Offer(1, 2, gid(DEFAULT_PREFIX, 3), 5, 4, 5, 8256, f"{6:032x}")
    end = End(cast("Device", None), RAIL, FIRST)
    with pytest.raises(StoppedError) as stopped:
        end.connect(replace(offer, lid=own), replace(offer, lid=peer))
    assert judge(end.seen(stopped.value), None) == Verdict("not_tried", "PEER_OTHER_LINK", "theirs")


def test_two_nodes(subnet: Subnet) -> None:
    subnet.port("ib0", 1)
    subnet.port("ib1", 0xBFFF)
    assert between(subnet, RAIL, replace(RAIL, device="ib1")) == ("proven", "", "", "", False)
    assert sorted(handle.dlid for handle in subnet.handles()) == [1, 0xBFFF]


@pytest.mark.parametrize(
    ("addressing", "expected"),
    [
        (SUBNET_GRH, ("proven", "", "", "", False)),
        (NO_GRH, ("failed", "NO_WAY", "", "both", True)),
        ("", ("not_tried", "UNDECIDED", "both", "", False)),
    ],
)
def test_two_subnets_with_a_router(
    subnet: Subnet, addressing: str, expected: tuple[str, str, str, str, bool]
) -> None:
    subnet.port("ib0", 1, prefix=DEFAULT_PREFIX | 0x4002 << 16)
    subnet.port("ib1", 1, prefix=ELSEWHERE)
    rail = replace(RAIL, gid_index=1, addressing=addressing)
    assert between(subnet, rail, replace(rail, device="ib1")) == expected
    for handle in subnet.handles() if addressing == SUBNET_GRH else ():
        assert handle.is_global == 1
        assert handle.dlid in (0x4001, 0x4002)
        assert handle.grh.sgid_index == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (0x8005, 0x8005, ("proven", "", "", "", False)),
        (0x8005, 0x0005, ("proven", "", "", "", False)),
        (0x0005, 0x0005, ("failed", "PKEY_DIFFERS", "", "both", True)),
        (0x8005, 0x8006, ("failed", "PKEY_DIFFERS", "", "both", True)),
    ],
)
def test_partitions(subnet: Subnet, one: int, other: int, expected: tuple[str, str, str, str, bool]) -> None:
    subnet.port("ib0", 1, pkeys=(FULL, one))
    subnet.port("ib1", 2, pkeys=(FULL, other))
    rail = replace(RAIL, pkey_index=1)
    assert between(subnet, rail, replace(rail, device="ib1")) == expected
