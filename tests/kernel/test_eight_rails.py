"""The proof of eight rails between two nodes: beside NCCL over the same verbs, under loss and delay, and its cost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.situations import FAULTS, HEALTHY, Situation

pytestmark = pytest.mark.kernel

Result = dict[str, Any]
WHOLE = [one for batch in HEALTHY for one in batch]
BROKEN = [one for batch in FAULTS for one in batch]
ARRIVED = {"rc": 0, "step": "", "arrived": True}
VANISHED_S = 12.0


def named(situation: Situation) -> str:
    return situation.name


class TestBesideNccl:
    """What the proof passes, NCCL connects; what it refuses, NCCL fails on."""

    @pytest.mark.parametrize("situation", WHOLE, ids=named)
    def test_what_is_whole_is_proven_and_carries_nccl(self, beside_nccl: Result, situation: Situation) -> None:
        outcome = beside_nccl[situation.name]
        status, _, _, problems = outcome["proof"]
        assert status in ("proven", "lossy"), outcome["proof"]
        assert not [problem for problem in problems if problem[0] == "error"]
        assert outcome["nccl"] == [ARRIVED, ARRIVED]

    @pytest.mark.parametrize("situation", BROKEN, ids=named)
    def test_what_is_broken_is_refused_and_fails_nccl(self, beside_nccl: Result, situation: Situation) -> None:
        outcome = beside_nccl[situation.name]
        status, cause, _, problems = outcome["proof"]
        assert (status, cause) == ("failed", situation.cause), outcome["proof"]
        assert [problem[:2] for problem in problems] == [["error", f"RAIL_{cause}"]]
        for end in outcome["nccl"]:
            assert end["rc"] != 0, outcome["nccl"]
            # The fault, not something that comes before the first packet.
            assert end["step"] in ("connect", "exchange")

    def test_the_situations_are_what_they_are_called(self, beside_nccl: Result) -> None:
        near, far = beside_nccl["the indices differ"]["indices"]
        assert near != far
        assert beside_nccl["VLAN"]["indices"] != beside_nccl["IPv4"]["indices"]
        assert beside_nccl["delay 50 ms"]["proof"][2]["seconds"] > 0.1

    def test_eight_rails_with_a_fault_each_are_known_in_time(self, beside_nccl: Result) -> None:
        assert all(beside_nccl[one.name]["seconds"] < VANISHED_S for one in BROKEN)


def test_loss_and_delay_are_no_error(lossy: Result) -> None:
    for one in lossy["rounds"]:
        assert {status for status, _ in one["outcomes"]} <= {"proven", "lossy"}, one
        assert not [problem for problem in one["problems"] if problem[0] == "error"], one
    assert sum(len(one["outcomes"]) for one in lossy["rounds"]) >= 40
    assert sum(one["sent again"] for one in lossy["rounds"]) > 0


class TestCost:
    def test_less_than_two_runs_by_hand_over_one_rail(self, eight_rails: Result) -> None:
        assert all(one["problems"] == [] and len(one["outcomes"]) == 8 for one in eight_rails["proofs"])
        # All of it beside what people type; and without the start of interpreters beside what is over at once.
        assert eight_rails["proof_s"] < 2 * eight_rails["pingpong_s"]
        assert eight_rails["exchange_s"] < 2 * eight_rails["short_pingpong_s"]

    def test_little_memory_is_enough(self, eight_rails: Result) -> None:
        outcome = eight_rails["with little memory"]
        assert outcome["problems"] == []
        assert len(outcome["outcomes"]) == 8
        assert 0 < outcome["memory_kib"]["VmPin"] < 1 << 10
        assert outcome["memory_kib"]["VmHWM"] < 25 << 10
