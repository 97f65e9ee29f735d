"""What an operator reads of each fault at node 1, rail 1: the ends, the direction, and a next step that can be copied."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.codes import BY_CODE
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.pairs import Nodes
from sglang_roce_entry.group.meeting.proof.relay import START_S
from tests.group.proof.exchanges import NOTHING, SMALL_ONLY, WHOLE, Ends
from tests.group.proof.fabric import nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang_roce_entry.problems import Problem
    from sglang_roce_entry.verbs.messages import Seen

    Sees = Callable[[int, int, int, int], Seen]

PODS = {index: f"pod-{index}" for index in range(4)}
#: All of its own packets arrived; the acknowledgements of those that it sent did not.
UNACKNOWLEDGED = replace(WHOLE, sent=(12, 5, 5))
OF_1 = "rail 1 of node 1 (pod-1) mlx5_1:1 10.1.0.2, tried with 0 (pod-0), 2 (pod-2): "
BETWEEN = "rail 1 between 0 (pod-0) mlx5_1:1 10.1.0.1 and 1 (pod-1) mlx5_1:1 10.1.0.2: "
CARRIED = "bytes of 64,8256,8256"


def stops(cause: str, detail: str, number: int = 0) -> Sees:
    """Return a fabric in which an end of node 1 stops by itself."""
    seen = replace(
        WHOLE, cause=cause, detail=detail, number=number, sent=(-1, -1, -1), got=(0, 0, 0), want=(0, 0, 0)
    )
    return lambda index, position, _peer, _patient: seen if (index, position) == (1, 1) else WHOLE


def ends(own: Seen, others: Seen) -> Sees:
    """Return a fabric in which node 1 and its peers see this of each other."""

    def sees(index: int, position: int, peer: int, _patient: int) -> Seen:
        here = position == 1 and peer >= 0 and 1 in (index, peer)
        return WHOLE if not here else own if index == 1 else others

    return sees


def problem(sees: Sees, size: int = 4, *, mute: frozenset[int] = frozenset(), mtu: int = 4096) -> Problem:
    """Return the one problem of a group with that fabric."""

    def seen(index: int, position: int, peer: int, patient: int) -> Seen:
        gid = f"{0xFFFF << 32 | 10 << 24 | position << 16 | index + 1:032x}"
        return replace(sees(index, position, peer, patient), gid=gid)

    known = nodes(size, 2)
    rails = {index: tuple(replace(rail, roce_mtu=mtu) for rail in those) for index, those in known.rails.items()}
    (one,) = judge_proof(Ends(seen, mute).prove(Nodes(rails, known.machines)), PODS)
    return one


FAULTS = {
    "foreign GID": (
        stops("GID_MOVED", "index 3 holds 10.0.0.2, not 10.1.0.2"), "warning RAIL_GID_MOVED",
        f"{OF_1}its GID index does not hold the GID that was decided; index 3 holds 10.0.0.2, not 10.1.0.2", "ip monitor address",
    ),
    "GID taken away": (
        ends(replace(NOTHING, gid_after="f" * 32, sent=(2, 5, 5)), NOTHING), "warning RAIL_GID_MOVED",
        (f"{OF_1}its GID index does not hold the GID that was decided; while it was tried "
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff took the place of 10.1.0.2"), "ip monitor address",
    ),
    "GIDs that do not fit": (
        stops("GID_REFUSED", "rtr: EINVAL", 22), "error RAIL_GID_REFUSED",
        f"{OF_1}the kernel refuses to connect the two GIDs; 10.1.0.2: rtr: EINVAL", "show_gids",
    ),
    "no route": (
        stops("NO_ROUTE", "rtr: ENETUNREACH", 101), "error RAIL_NO_ROUTE",
        f"{OF_1}there is no route to the peer's address; rtr: ENETUNREACH", "ip route get 10.1.0.1 from 10.1.0.2",
    ),
    "no neighbour, another segment, an address of nobody": (
        stops("NO_NEIGHBOUR", "rtr: ETIMEDOUT", 110), "error RAIL_NO_NEIGHBOUR",
        f"{OF_1}no neighbour answers for the peer's address; 10.1.0.2: rtr: ETIMEDOUT", "ping -I 10.1.0.2 10.1.0.1",
    ),
    "filtered outwards": (
        ends(UNACKNOWLEDGED, NOTHING), "error RAIL_NO_WAY",
        (f"{OF_1}nothing arrives, from 1 to 0,2; 10.1.0.1 has completions 12,5,5 and 0,0,0 bytes, "
        f"10.1.0.2 has completions 12,5,5 and 64,8256,8256 {CARRIED}"), "UDP port 4791",
    ),
    "filtered inwards": (
        ends(NOTHING, UNACKNOWLEDGED), "error RAIL_NO_WAY",
        (f"{OF_1}nothing arrives, from 0,2 to 1; 10.1.0.1 has completions 12,5,5 and 64,8256,8256 bytes, "
        f"10.1.0.2 has completions 12,5,5 and 0,0,0 {CARRIED}"), "ping -I 10.1.0.2 10.1.0.1",
    ),
    "filtered both ways": (
        ends(NOTHING, NOTHING), "error RAIL_NO_WAY",
        (f"{OF_1}nothing arrives, in either direction; 10.1.0.1 has completions 12,5,5 and 0,0,0 bytes, "
        f"10.1.0.2 has completions 12,5,5 and 0,0,0 {CARRIED}"), "VLAN, cabling",
    ),
    "a smaller MTU on the path": (
        ends(replace(WHOLE, sent=(0, 12, 5)), replace(SMALL_ONLY, sent=(0, 0, 0))), "error RAIL_LARGE_LOST",
        (f"{OF_1}64 bytes arrive, full packets do not, from 1 to 0,2; 10.1.0.1 has completions 0,0,0 and 64,0,0 "
        f"bytes, 10.1.0.2 has completions 0,12,5 and 64,8256,8256 {CARRIED}"),
        "ping -M do -s 4128 -I 10.1.0.2 10.1.0.1",
    ),
    "link lost on the way": (
        ends(replace(NOTHING, state_after=1, sent=(2, 5, 5)), NOTHING), "warning RAIL_LINK_DOWN",
        f"{OF_1}its port is down; it went down while it was tried (state 1)", "rdma link",
    ),
    "port down": (
        stops("PORT_DOWN", "state 1, MTU 3"), "warning RAIL_LINK_DOWN",
        f"{OF_1}its port is down; state 1, MTU 3", "switch port",
    ),
    "key refused": (
        ends(replace(WHOLE, got=(64, 8256, 0)), replace(WHOLE, sent=(0, 0, 10))), "warning RAIL_UNSOUND",
        (f"{OF_1}its HCA has refused a write that was allowed; 10.1.0.1 has completions 0,0,10 and 64,8256,8256 "
        f"bytes, 10.1.0.2 has completions 0,0,0 and 64,8256,0 {CARRIED}"), "ibv_rc_pingpong -g 3",
    ),
    "wrong data": (
        ends(WHOLE, replace(WHOLE, got=(64, 5000, 8256))), "warning RAIL_UNSOUND",
        (f"{OF_1}what arrived is not what was sent, from 1 to 0,2; 10.1.0.1 has completions 0,0,0 and 64,5000,8256 "
        f"bytes, 10.1.0.2 has completions 0,0,0 and 64,8256,8256 {CARRIED}"), "firmware",
    ),
    "memlock": (
        stops("MEMLOCK", "ibv_reg_mr: ENOMEM", 12), "warning RAIL_MEMLOCK",
        f"{OF_1}no memory can be locked for it; ibv_reg_mr: ENOMEM", "IPC_LOCK",
    ),
    "verbs device denied": (
        stops("DEVICE_DENIED", "open: EACCES (/dev/infiniband/uverbs1)", 13), "warning RAIL_NO_DEVICE",
        f"{OF_1}the pod may not open its verbs device; open: EACCES (/dev/infiniband/uverbs1)", "device plugin",
    ),
    "verbs device gone": (
        stops("NO_DEVICE_NODE", "open: ENOENT (/dev/infiniband/uverbs1)", 2), "warning RAIL_NO_DEVICE",
        f"{OF_1}its verbs device is not in the pod; open: ENOENT (/dev/infiniband/uverbs1)", "device plugin",
    ),
    "no provider": (
        stops("NO_PROVIDER", "list: ENODEV (listed: none)", 19), "warning RAIL_NO_DEVICE",
        f"{OF_1}libibverbs does not list its HCA; list: ENODEV (listed: none)", "ibverbs-providers",
    ),
    "no RC": (
        stops("QP_REFUSED", "ibv_create_qp: EOPNOTSUPP", 95), "warning RAIL_NOT_PROVEN",
        f"{OF_1}its HCA makes no RC queue pair; ibv_create_qp: EOPNOTSUPP", "EFA",
    ),
    "lossy": (
        ends(replace(WHOLE, got=(64, 8256, 4096)), replace(WHOLE, sent=(0, 0, 12))), "warning RAIL_LOSSY",
        (f"{OF_1}packets are lost on the way, from 0,2 to 1; 10.1.0.1 has completions 0,0,12 and 64,8256,8256 bytes, "
        f"10.1.0.2 has completions 0,0,0 and 64,8256,4096 {CARRIED}"), "ethtool -S",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_each_fault(what: str) -> None:
    sees, kind, message, look_at = FAULTS[what]
    one = problem(sees)
    assert (f"{one.severity} {one.code}", one.message) == (kind, message)
    assert look_at in one.hint
    assert not re.search(r"\b(OWN|PEER|OWN_LID|PEER_LID|INDEX|SIZE)\b", one.hint)
    assert one.code in BY_CODE


@pytest.mark.parametrize("what", ["filtered outwards", "no neighbour, another segment, an address of nobody"])
def test_of_two_nodes_both_ends_are_named(what: str) -> None:
    sees, _, message, _ = FAULTS[what]
    said = message.removeprefix(OF_1).replace("from 1 to 0,2", "from 1 to 0")
    assert problem(sees, 2).message == BETWEEN + said


def test_a_peer_that_died_or_never_came_up_is_its_own_fault() -> None:
    one = problem(lambda *_: WHOLE, mute=frozenset({1}))
    assert one.message == (
        "rails 0-1 of node 1 (pod-1), first mlx5_0:1 10.0.0.2, tried with 0 (pod-0), 2 (pod-2): it could not be tried; "
        f"the process that proves them did not come up within {START_S:.0f} s"
    )
    assert "--check there" in one.hint


def test_the_ping_is_as_large_as_a_full_packet_of_the_rail() -> None:
    sees, *_ = FAULTS["a smaller MTU on the path"]
    assert "ping -M do -s 1056 -I 10.1.0.2 10.1.0.1" in problem(sees, mtu=1024).hint


def test_what_passed_late_claims_nothing_of_others() -> None:
    def late(index: int, position: int, peer: int, patient: int) -> Seen:
        return NOTHING if not patient and position == 1 and peer >= 0 else WHOLE

    assert problem(late, 2).message == f"{BETWEEN}it carried everything only at the second, patient try"


def test_faults_of_one_code_and_different_sentences_stay_apart() -> None:
    def denied_and_gone(index: int, position: int, _peer: int, _patient: int) -> Seen:
        cause = {0: "DEVICE_DENIED", 1: "NO_DEVICE_NODE"}[position]
        return replace(WHOLE, cause=cause, got=(0, 0, 0)) if index == 1 else WHOLE

    found = judge_proof(Ends(denied_and_gone).prove(nodes(4, 2)), PODS)
    assert [(one.code, one.message.partition(" of ")[0]) for one in found] == [
        ("RAIL_NO_DEVICE", "rail 0"),
        ("RAIL_NO_DEVICE", "rail 1"),
    ]
