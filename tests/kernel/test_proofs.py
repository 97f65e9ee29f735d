"""What the launcher's own RDMA says in the guest, against what is known of the guest."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_roce_entry.problems import RDMA_UNUSABLE

pytestmark = pytest.mark.kernel

Result = dict[str, Any]
PROVEN = {"status": "proven", "cause": "", "end": "", "direction": ""}


def lines(check: Result, name: str = "loopback") -> list[str]:
    """Return status and evidence of the lines ``name``."""
    return [f"{one['status']} {one['evidence']}" for one in check["items"] if one["name"] == name]


class TestLoopback:
    def test_every_used_hca_carries_a_message_to_itself(self, loopback: Result) -> None:
        assert loopback["whole"]["exit_code"] == 0
        (line,) = lines(loopback["whole"])
        assert line.startswith("ok mlx5_[0-1]:1 carried 64 bytes and full packets of 1024"), line

    def test_locked_memory_that_is_too_little_is_named(self, loopback: Result) -> None:
        found = lines(loopback["16 KiB"])
        assert len(found) == 2
        assert all(line.startswith("warn mlx5_") and "MEMLOCK (ibv_reg_mr: ENOMEM)" in line for line in found)
        # 16 KiB are refused by the plan as well.
        assert loopback["16 KiB"]["exit_code"] == RDMA_UNUSABLE

    def test_without_providers_no_port_is_usable(self, loopback: Result) -> None:
        check = loopback["no providers"]
        assert check["exit_code"] == RDMA_UNUSABLE
        (line,) = lines(check, "verbs")
        assert "NO_PROVIDER on mlx5_0:1, mlx5_1:1" in line
        assert lines(check) == []


class TestExchange:
    @pytest.mark.parametrize("what", ["right", "again", "IPv6", "cured"])
    def test_what_ibv_rc_pingpong_passes_is_proven(self, exchanges: Result, what: str) -> None:
        outcome = exchanges[what]
        assert outcome["verdicts"] == [PROVEN, PROVEN], outcome["seen"]
        assert outcome["alike"]
        for seen in outcome["seen"]:
            assert seen["mtu_bytes"] == 1024
            assert seen["sent"] == [0, 0, 0]
            assert seen["got"] == seen["want"] == [64, 2112, 2112]

    @pytest.mark.parametrize("what", ["families differ", "RoCE v1"])
    def test_a_gid_that_the_kernel_refuses(self, exchanges: Result, what: str) -> None:
        for verdict in exchanges[what]["verdicts"]:
            assert (verdict["status"], verdict["cause"]) == ("failed", "GID_REFUSED")

    def test_an_empty_slot_is_the_fault_of_the_end_that_has_it(self, exchanges: Result) -> None:
        near, far = exchanges["empty"]["verdicts"]
        assert (near["cause"], near["end"]) == ("NO_GID", "theirs")
        assert (far["cause"], far["end"]) == ("NO_GID", "ours")

    def test_memory_tells_the_direction(self, exchanges: Result) -> None:
        near, far = exchanges["one way"]["verdicts"]
        assert (near["cause"], near["direction"]) == ("NO_WAY", "out")
        assert (far["cause"], far["direction"]) == ("NO_WAY", "in")
        # Completions do not: the acknowledgements of the way that works are lost on the other.
        assert [seen["sent"][0] for seen in exchanges["one way"]["seen"]] == [12, 12]
        for verdict in exchanges["no way"]["verdicts"]:
            assert (verdict["cause"], verdict["direction"]) == ("NO_WAY", "both")

    def test_a_silent_fault_is_known_in_time(self, exchanges: Result) -> None:
        for what in ("one way", "no way"):
            assert all(seen["seconds"] < 4 for seen in exchanges[what]["seen"])

    def test_nothing_is_left_behind(self, exchanges: Result) -> None:
        # One of each is the kernel's own, for management datagrams.
        found = [line for line in exchanges["left behind"].splitlines() if line.strip()]
        assert len(found) == 2
        assert all("pd 1 cq 1 qp 1 cm_id 0 mr 0 ctx 0" in line for line in found), found
