"""The proof of a group's rails in the guest: whole rails pass, and each fault of the fabric has its name."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_roce_entry.problems import RDMA_UNUSABLE

pytestmark = pytest.mark.kernel

Result = dict[str, Any]
#: Severity and code of each fault at node 1, and what the message has to say.
FAULTS = {
    "foreign GID": ("warning", "RAIL_GID_MOVED", "rail 0 of node 1 mlx5_1:1 10.0.0.2, tried with 0, 2"),
    "another family": ("error", "RAIL_GID_REFUSED", "rail 0 of node 1 mlx5_1:1 10.0.0.2, tried with 0, 2"),
    "filtered one way": ("error", "RAIL_NO_WAY", "rail 0 of node 1 mlx5_1:1 10.0.0.2, tried with 0, 2"),
    "filtered both ways": ("error", "RAIL_NO_WAY", "10.0.0.1 and 1 mlx5_1:1 10.0.0.2, and between 1-2, 2-0"),
    "MTU on the path": ("error", "RAIL_LARGE_LOST", "rail 0 of node 1 mlx5_1:1 10.0.0.2, tried with 0, 2"),
    "no neighbour": ("error", "RAIL_NO_NEIGHBOUR", "rail 0 of node 1 mlx5_1:1 10.0.0.2, tried with 0, 2"),
    "no route": ("error", "RAIL_NO_ROUTE", "rail 0 of node 0 mlx5_0:1 10.0.0.1, tried with 1"),
    "link lost": ("warning", "RAIL_LINK_DOWN", "rail 0 of node 1 mlx5_1:1 10.0.0.2, tried with 0, 2"),
    "memlock": (
        "warning",
        "RAIL_MEMLOCK",
        "rail 0 of nodes 0, 1, 2: no memory can be locked for it; ibv_reg_mr: EPERM",
    ),
    "no providers": (
        "warning",
        "RAIL_NO_DEVICE",
        "rail 0 of nodes 0, 1, 2: libibverbs does not list its HCA; list: ENODEV (listed: none)",
    ),
}
#: What the kernel refuses or is known at once, and what is only known because nothing arrives.
AT_ONCE_S, VANISHED_S = 3.0, 14.0


class TestProof:
    @pytest.mark.parametrize("what", ["healthy", "two nodes", "cured"])
    def test_whole_rails_are_proven(self, rails: Result, what: str) -> None:
        outcome = rails[what]
        assert {tuple(one[:2]) for one in outcome["outcomes"].values()} == {("proven", "")}, outcome
        assert outcome["problems"] == []
        assert outcome["seconds"] < AT_ONCE_S

    @pytest.mark.parametrize("what", FAULTS)
    def test_each_fault_has_its_name(self, rails: Result, what: str) -> None:
        severity, code, text = FAULTS[what]
        found = {(one[0], one[1]): one[2] for one in rails[what]["problems"]}
        assert text in found.get((severity, code), ""), rails[what]["problems"]
        if what != "no route":  # that node 1 is on no segment is seen by node 2
            assert len(found) == 1

    def test_the_direction_is_told(self, rails: Result) -> None:
        for what in ("filtered one way", "MTU on the path"):
            assert ", from 1 to 0" in rails[what]["problems"][0][2]
        assert ", from " not in rails["filtered both ways"]["problems"][0][2]

    def test_a_fault_is_known_in_time(self, rails: Result) -> None:
        for what in FAULTS:
            silent = FAULTS[what][1] in ("RAIL_NO_WAY", "RAIL_LARGE_LOST", "RAIL_NO_NEIGHBOUR", "RAIL_NO_ROUTE")
            assert rails[what]["seconds"] < (VANISHED_S if silent else AT_ONCE_S), what

    def test_the_process_is_small_and_goes(self, rails: Result) -> None:
        # One rail, over rdma-core's own library with all of its providers.
        assert 8 << 10 < rails["healthy"]["memory_kib"]["VmHWM"] < 25 << 10
        assert 0 < rails["healthy"]["memory_kib"]["VmPin"] < 128
        assert rails["cured"]["said"] == []


class TestRehearsal:
    def test_launchers_prove_their_rails(self, rehearsals: Result) -> None:
        for shown in rehearsals["healthy"]:
            assert shown["status"] == 0, shown["log"]
            (rail,) = shown["rails"]
            assert (rail["from"], rail["to"], rail["status"], rail["cause"]) == (0, 1, "proven", None)

    def test_a_filter_is_the_end_of_all(self, rehearsals: Result) -> None:
        for shown in rehearsals["filtered one way"]:
            assert shown["status"] == RDMA_UNUSABLE, shown["log"]
            (rail,) = shown["rails"]
            assert (rail["status"], rail["cause"], rail["direction"]) == ("failed", "NO_WAY", "in")
            assert shown["problems"][0]["code"] == "RAIL_NO_WAY"

    def test_without_the_proof_nothing_is_sent(self, rehearsals: Result) -> None:
        for shown in rehearsals["proof off"]:
            assert shown["status"] == 0
            assert [rail["status"] for rail in shown["rails"]] == ["not_tried"]
