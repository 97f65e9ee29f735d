"""Rails of InfiniBand in a proof: who is tried with whom, and each fault in the words of its field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sglang_roce_entry.codes import BY_CODE
from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.pairs import FAILED, LOSSY, NOT_TRIED, Nodes, Outcome, Pair
from sglang_roce_entry.group.meeting.proof.relay import Proven
from tests.group.proof.fabric import rail

IB = Rail("mlx5_0", 1, "fe80::/64", "fe80::1", 0, 400.0, None, None, True, 7)


@pytest.mark.parametrize(
    ("near", "far", "fits"),
    [
        (IB, replace(IB, lid=8), True),
        (IB, replace(IB, network="fe80:0:0:5::/64"), False),
        (replace(IB, routed=True), replace(IB, network="fe80:0:0:5::/64", routed=True), True),
        (IB, replace(IB, proof=None), False),
        # RoCE's own fe80::/64 is another network.
        (IB, replace(rail(1, network="fe80::/64"), gid="fe80::2"), False),
        (replace(rail(0), routed=True), replace(IB, routed=True), False),
    ],
)
def test_who_is_tried_with_whom(near: Rail, far: Rail, *, fits: bool) -> None:
    nodes = Nodes({0: (near,), 1: (far,)}, {0: None, 1: None})
    assert nodes.fit(Pair(0, 0, 1)) is fits


def told(outcome: Outcome) -> tuple[str, str, str, str]:
    """Return severity, code, message and hint of the one problem that an outcome between two nodes is."""
    nodes = Nodes({0: (IB,), 1: (replace(IB, lid=9),)}, {0: None, 1: None})
    (one,) = judge_proof(Proven({Pair(0, 0, 1): outcome}, {}, nodes), {0: "a", 1: "b"})
    assert one.code in BY_CODE
    return one.severity, one.code, one.message, one.hint


BETWEEN = "rail 0 between 0 (a) mlx5_0:1 LID 7 and 1 (b) mlx5_0:1 LID 9: "
OF_THE_OTHER = "rail 0 of node 1 (b) mlx5_0:1 LID 9, tried with 0 (a): "


@pytest.mark.parametrize(
    ("outcome", "code", "message", "look_at"),
    [
        (
            Outcome(FAILED, "NO_WAY", direction="both", fatal=True, again=True),
            "RAIL_NO_WAY",
            f"{BETWEEN}nothing arrives, in either direction",
            "ibtracert",
        ),
        (
            Outcome(FAILED, "PKEY_DIFFERS", direction="both", fatal=True, again=True),
            "RAIL_NO_PARTITION",
            f"{BETWEEN}the ports share no partition with a full member in it, and nothing arrives, in either direction",
            "pkeys",
        ),
        (
            Outcome(FAILED, "PKEY_REFUSED", "far", detail="P_Key index 3, the port has 1", fatal=True),
            "RAIL_NO_PARTITION",
            f"{OF_THE_OTHER}its port has no P_Key at NCCL_IB_PKEY; P_Key index 3, the port has 1",
            "pkeys",
        ),
        (
            Outcome(FAILED, "NO_LID", "far", fatal=True, again=True),
            "RAIL_NO_SM",
            f"{OF_THE_OTHER}its port has no LID from a subnet manager, and nothing arrives",
            "sminfo",
        ),
        (
            Outcome(FAILED, "LID_REFUSED", "near", detail="rtr by LID: EINVAL (LID 9)", fatal=True),
            "RAIL_LID_REFUSED",
            f"{BETWEEN}the kernel refuses the peer's LID; rtr by LID: EINVAL (LID 9)",
            "ibstat",
        ),
    ],
    ids=lambda value: value.cause if isinstance(value, Outcome) else "",
)
def test_what_nccl_fails_on(outcome: Outcome, code: str, message: str, look_at: str) -> None:
    severity, found, said, hint = told(outcome)
    assert (severity, found, said) == ("error", code, message)
    assert look_at in hint


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(FAILED, "NO_SM", "far", detail="state 2, LID 0"), "RAIL_NO_SM"),
        (Outcome(FAILED, "PORT_DOWN", "far"), "RAIL_LINK_DOWN"),
        (Outcome(FAILED, "GID_MOVED", "far"), "RAIL_GID_MOVED"),
        (Outcome(FAILED, "LARGE_LOST", direction="out", fatal=False), "RAIL_LARGE_LOST"),
        (Outcome(LOSSY, "LOSSY", direction="out"), "RAIL_LOSSY"),
        (Outcome("proven", again=True), "RAIL_LOSSY"),
        (Outcome(FAILED, "WRONG_DATA", direction="out"), "RAIL_UNSOUND"),
        (Outcome(NOT_TRIED, "PEER_OTHER_LINK", "both"), "RAIL_NOT_PROVEN"),
        (Outcome(NOT_TRIED, "UNDECIDED", "both"), "RAIL_NOT_PROVEN"),
        (Outcome(FAILED, "MEMLOCK", "far"), "RAIL_MEMLOCK"),
    ],
    ids=lambda value: value.cause if isinstance(value, Outcome) else "",
)
def test_what_is_a_warning_speaks_of_no_ip(outcome: Outcome, code: str) -> None:
    severity, found, _, hint = told(outcome)
    assert (severity, found) == ("warning", code)
    assert not any(
        word in hint for word in ("4791", "ping -", "ethtool", "VLAN", "ip address", "-g INDEX", "RoCE")
    )
