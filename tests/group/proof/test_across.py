"""Rails of other positions: tried where a variable has NCCL connect them, and derived where no gateway leads to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting.comparison.conclusion import conclude
from sglang_roce_entry.group.meeting.comparison.saved import Saved, read_saved, write_saved
from sglang_roce_entry.group.meeting.proof.across import judge_across
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.pairs import PROVEN, Nodes, first_waves, nodes_of
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.report.rail_table import across_document, across_lines, rails_document
from tests.group.members import COMMON, RULES, group
from tests.group.proof.fabric import Fabric, rail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sglang_roce_entry.group.meeting.card import Rail
    from sglang_roce_entry.group.meeting.proof.relay import Proof

CROSS = "NCCL_CROSS_NIC=1"


def fabric_of(size: int, rails: int, *, routed: bool | None = True, one_network: bool = False) -> Nodes:
    def one(index: int, position: int) -> Rail:
        network = "10.0.0.0/8" if one_network else None
        return replace(rail(index, position, network=network), routed=routed)

    return Nodes(
        {index: tuple(one(index, position) for position in range(rails)) for index in range(size)},
        {index: f"machine{index}" for index in range(size)},
        CROSS,
    )


def told(proof: Proof) -> list[tuple[str, str]]:
    return [(one.severity, one.message) for one in judge_across(proof.results(), {})]


@pytest.mark.parametrize(
    ("variables", "across"),
    [
        ({}, ""),
        ({"NCCL_CROSS_NIC": "0"}, ""),
        ({"NCCL_CROSS_NIC": "2"}, ""),
        ({"NCCL_CROSS_NIC": "1"}, CROSS),
        ({"NCCL_PXN_DISABLE": "1"}, "NCCL_PXN_DISABLE=1"),
        ({"NCCL_PXN_DISABLE": "0"}, ""),
        ({"NCCL_P2P_PXN_LEVEL": "0"}, "NCCL_P2P_PXN_LEVEL=0"),
        ({"NCCL_P2P_PXN_LEVEL": "0", "NCCL_CROSS_NIC": "0"}, ""),
    ],
)
def test_where_nccl_connects_them(variables: Mapping[str, str], across: str) -> None:
    many = group(3, common={**COMMON, **variables}, of_rails=lambda index: (rail(index), rail(index, 1)))
    assert nodes_of(many.members(), many.commons()).across == across


@given(st.integers(2, 12), st.integers(1, 9))
@settings(deadline=None)
def test_a_port_holds_one_pair_at_a_time(size: int, rails: int) -> None:
    here = fabric_of(size, rails)
    waves = first_waves(here)
    for wave in waves:
        ports = [port for pair in wave for port in pair.ports]
        assert len(ports) == len(set(ports))
    times = Counter(port for wave in waves for pair in wave if pair.across for port in pair.ports)
    assert set(times.values()) == (set() if rails == 1 else {2} if size > 2 else {1})
    assert len(waves) <= 6


def test_whole_rails_are_proven_across_too() -> None:
    fabric = Fabric(fabric_of(4, 8))
    results = fabric.run().results()
    assert len(results.across) == 32
    assert {one.status for _, one in results.across} == {PROVEN}
    assert fabric.now_s <= 0.5
    assert judge_proof(results, {}) == judge_across(results, {}) == ()
    assert across_lines(across_document(results)["across"]) == [
        "rails across, each to the next one of its neighbours: 32 of 32 pass"
    ]


def test_nobody_tries_them_without_a_variable() -> None:
    here = replace(fabric_of(4, 8), across="")
    results = Fabric(here).run().results()
    assert results.across == []
    assert across_document(results) == {}


def test_rails_that_pass_and_do_not_across_are_one_warning() -> None:
    here = fabric_of(4, 2, one_network=True)

    def fault(position: int, _ends: frozenset[int], _patient: object) -> str:
        return "NO_NEIGHBOUR" if position < 0 else "proven"

    proof = Fabric(here, fault).run()
    ((severity, message),) = told(proof)
    assert severity == "warning"
    assert message == (
        "NCCL_CROSS_NIC=1 has NCCL connect rails across, and 8 of 8 pairs cannot, first 0 mlx5_0:1 10.0.0.1 and 1 "
        "mlx5_1:1 10.1.0.2: no neighbour answers for the peer's address"
    )
    assert judge_proof(proof.results(), {}) == ()
    assert {one["status"] for one in rails_document([], proof.results())} == {"proven"}


def test_no_gateway_is_known_without_a_packet() -> None:
    fabric = Fabric(fabric_of(3, 2, routed=False))
    ((_, message),) = told(fabric.run())
    assert message.endswith("6 of 6 pairs cannot, first 0 mlx5_0:1 10.0.0.1 and 1 mlx5_1:1 10.1.0.2: no gateway leads "
                            "from 10.0.0.0/16 to 10.1.0.0/16")  # fmt: skip
    assert len(fabric.begun) == 6
    assert told(Fabric(fabric_of(3, 2, routed=None)).run()) == [], "what is not known is not said"


def test_a_port_that_passes_with_nobody_is_named_once() -> None:
    def fault(_position: int, ends: frozenset[int], _patient: object) -> str:
        return "NO_WAY" if 2 in ends else "proven"

    proof = Fabric(fabric_of(4, 2), fault).run()
    assert told(proof) == []
    assert [one.code for one in judge_proof(proof.results(), {})] == ["RAIL_NO_WAY"]


def test_the_verdict_has_them_and_a_saved_meeting_too() -> None:
    common = {**COMMON, "NCCL_CROSS_NIC": "1", "rails": "2"}
    many = group(
        3, common=common, of_rails=lambda index: tuple(replace(rail(index, at), routed=True) for at in (0, 1))
    )
    members, commons = many.members(), many.commons()
    proof = Fabric(nodes_of(members, commons), lambda position, *_: "NO_WAY" if position < 0 else "proven").run()
    gathered = Gathered(members, commons, (), (), overdue=False, proven=proof.results())
    codes = [(one.severity, one.code) for one in conclude(gathered, RULES, 3, 60.0).problems]
    assert codes == [("warning", "RAIL_ACROSS")]
    strict = conclude(gathered, replace(RULES, strict=True), 3, 60.0)
    assert [(one.severity, one.code) for one in strict.problems] == [("error", "RAIL_ACROSS")]
    data = write_saved(Saved(None, gathered, None, 60.0, strict=False))
    read = read_saved("meeting.json", data).gathered
    assert read is not None
    assert read.proven == gathered.proven
