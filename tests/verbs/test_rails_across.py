"""Rails of other positions, with real processes on ports that deliver within their partition only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.meeting.card import Rail as CardRail
from sglang_roce_entry.group.meeting.proof.across import judge_across
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.pairs import Nodes
from sglang_roce_entry.verbs.addressing import NO_GRH
from sglang_roce_entry.verbs.messages import Rail
from tests.verbs.provers import Provers
from tests.verbs.subnets import Subnet

if TYPE_CHECKING:
    from pathlib import Path

ONE, OTHER = 0x8001, 0x8002


@pytest.mark.parametrize(("second", "across"), [(ONE, {"proven"}), (OTHER, {"failed"})])
def test_they_are_tried_with_the_ports_that_are_meant(tmp_path: Path, second: int, across: set[str]) -> None:
    subnet = Subnet.in_folder(tmp_path)
    for number, pkey in enumerate((ONE, second, ONE, second)):
        subnet.port(f"ib{number}", 0x20 + number, pkeys=(pkey,))
    rails = {node: tuple(Rail(f"ib{2 * node + at}", 1, 0, addressing=NO_GRH) for at in (0, 1)) for node in (0, 1)}
    cards = {
        node: tuple(
            CardRail(one.device, 1, "fe80::/64", "fe80::1", 0, 400.0, None, proof=True, lid=0x20 + 2 * node + at)
            for at, one in enumerate(those)
        )
        for node, those in rails.items()
    }
    nodes = Nodes(cards, dict.fromkeys(cards), "NCCL_CROSS_NIC=1")
    results = Provers(nodes, rails, subnet.environ).run().results()
    assert {one.status for _, one in results} == {"proven"}
    assert {one.status for _, one in results.across} == across
    assert judge_proof(results, {}) == ()
    said = [one.message for one in judge_across(results, {})]
    expected = "2 of 2 pairs cannot, first 0 ib0:1 LID 32 and 1 ib3:1 LID 35: the ports share no partition"
    assert [expected in message for message in said] == ([] if across == {"proven"} else [True])
