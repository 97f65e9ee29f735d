"""The installed command on a real kernel with soft-RoCE: the index it predicts is the one that carries traffic.

Each fixture is what one scenario (`scenarios.py`) left in the guest.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

RDMA_UNUSABLE = 69
# The subsystems that a program which waits for RDMA devices can be woken by.
WATCHED = {"infiniband", "infiniband_verbs", "infiniband_mad", "net"}

Result = dict[str, Any]
Table = Mapping[str, Mapping[str, str]]


def ports_of(plan: Result) -> dict[str, dict[str, Any]]:
    """Return the rows of the plan's ports by device; every HCA here has one port."""
    assert [port["port"] for port in plan["ports"]] == [1] * len(plan["ports"])
    return {port["device"]: port for port in plan["ports"]}


def used_indices(plan: Result) -> dict[str, int]:
    """Return the GID index of each used device."""
    return {device: row["gid_index"] for device, row in ports_of(plan).items() if row["used"]}


def problem_codes(plan: Result) -> list[str]:
    return [problem["code"] for problem in plan["problems"]]


def value_of(plan: Result, name: str) -> str | None:
    value: str | None = plan["environment"][name]["value"]
    return value


def is_ipv4(address: str) -> bool:
    return ipaddress.ip_address(address).version == 4


def gid_indices_in(log: str) -> list[int]:
    """Return the indices of NCCL's lines on connecting, ``... mtu 3 GID 5 (0/1020AFFFF0000) ...``."""
    return [int(index) for index in re.findall(r"NET/IB: .* GID (\d+) \(", log)]


def rows(table: Table) -> dict[int, tuple[str, str, str]]:
    return {int(index): (row["address"], row["type"], row["netdev"]) for index, row in table.items()}


class TestTwoHcasWhoseIndicesDiffer:
    def test_both_are_used_and_the_index_is_withheld(self, routed_fabric: Result) -> None:
        plan = routed_fabric["plan"]
        assert used_indices(plan) == {"mlx5_0": 3, "mlx5_1": 5}
        assert {row["gid"] for row in plan["ports"]} == {"10.0.1.1", "10.0.2.1"}
        assert value_of(plan, "NCCL_IB_HCA") == "=mlx5_0:1,mlx5_1:1"
        assert plan["environment"]["NCCL_IB_GID_INDEX"]["source"] == "withheld"
        assert value_of(plan, "NCCL_IB_GID_INDEX") is None
        assert plan["exit_code"] == plan["status"] == 0

    def test_the_predicted_pair_is_the_only_ipv4_pair_that_carries_traffic(self, routed_fabric: Result) -> None:
        tables = [routed_fabric["tables"][device] for device in ("mlx5_0", "mlx5_1")]
        assert [sorted(map(int, table)) for table in tables] == [list(range(6))] * 2
        predicted = used_indices(routed_fabric["plan"])
        by_ipv4 = [
            (near, far)
            for near, far in routed_fabric["passing pairs"]
            if is_ipv4(tables[0][str(near)]["address"]) and is_ipv4(tables[1][str(far)]["address"])
        ]
        assert by_ipv4 == [(predicted["mlx5_0"], predicted["mlx5_1"])]
        # 36 pairs of which one carries ten messages each way: less than that did not pass the router.
        assert routed_fabric["packets forwarded"] >= 20

    def test_the_pair_predicted_for_ipv6_is_the_only_other_one(self, routed_fabric: Result) -> None:
        predicted = used_indices(routed_fabric["plan by IPv6"])
        assert predicted == {"mlx5_0": 5, "mlx5_1": 3}
        assert value_of(routed_fabric["plan by IPv6"], "NCCL_IB_ADDR_FAMILY") == "AF_INET6"
        assert sorted(routed_fabric["passing pairs"]) == [[3, 5], [5, 3]]

    def test_the_judge_refuses_index_3_on_both(self, routed_fabric: Result) -> None:
        assert [3, 3] not in routed_fabric["passing pairs"]
        plan = routed_fabric["plan with the index fixed to 3"]
        assert value_of(plan, "NCCL_IB_GID_INDEX") == "3"
        assert plan["environment"]["NCCL_IB_GID_INDEX"]["source"] == "user"
        wrong = [problem for problem in plan["problems"] if problem["code"] == "GID_INDEX_WRONG"]
        assert any("mlx5_1" in problem["message"] for problem in wrong)
        assert not any("mlx5_0" in problem["message"] for problem in wrong)

    def test_an_nccl_that_cannot_choose_gets_one_port_and_its_index(self, routed_fabric: Result) -> None:
        plan = routed_fabric["plan without NCCL"]
        used = used_indices(plan)
        assert used in ({"mlx5_0": 3}, {"mlx5_1": 5})
        (index,) = used.values()
        assert value_of(plan, "NCCL_IB_GID_INDEX") == str(index)
        left_out = [row["reason"] for row in plan["ports"] if not row["used"]]
        assert left_out == ["INDEX_MISMATCH"]
        assert "INDEX_MISMATCH" in problem_codes(plan)


class TestNcclOverTheRoutedFabric:
    def test_it_takes_our_hcas_and_the_predicted_indices_and_delivers(self, nccl_transfer: Result) -> None:
        assert len(nccl_transfer) >= 2
        for release, result in nccl_transfer.items():
            predicted = used_indices(result["plan"])
            assert predicted == {"mlx5_0": 3, "mlx5_1": 5}
            ours = result["ours"]
            assert ours["status"] == 0, (release, ours["stderr"])
            assert ours["devices"] == [[device, 1] for device in predicted], release
            assert ours["messages"] == [[0, True], [0, True]], (release, ours["log"])
            # The sender of each direction says which index it took: mlx5_0, then mlx5_1.
            assert gid_indices_in(ours["log"]) == list(predicted.values()), (release, ours["log"])

    def test_index_3_on_both_does_not_connect(self, nccl_transfer: Result) -> None:
        for release, result in nccl_transfer.items():
            wrong = result["index 3 on both"]
            assert wrong["status"] == 0, (release, wrong["stderr"])
            ((rc, arrived),) = wrong["messages"]
            assert rc != 0, release
            assert not arrived
            assert "on dev mlx5_1:1" in wrong["log"]
            assert "local GID index 3, local GID fd00:2::1" in wrong["log"]


def test_a_port_that_is_down_is_not_used_although_its_table_is_full(port_down: Result) -> None:
    assert rows(port_down["table"])[3] == ("10.0.2.1", "RoCE v2", "eth5")
    plan = port_down["plan"]
    assert used_indices(plan) == {"mlx5_0": 3}
    assert ports_of(plan)["mlx5_1"]["reason"] == "PORT_NOT_ACTIVE"
    assert value_of(plan, "NCCL_IB_HCA") == "=mlx5_0:1"
    assert value_of(plan, "NCCL_IB_GID_INDEX") == "3"


def test_an_address_on_a_vlan_is_used_at_its_own_index(vlan: Result) -> None:
    # Index 3 is the VLAN's link-local GID: occupied, RoCE v2, and wrong.
    assert rows(vlan["table"])[3][1:] == ("RoCE v2", "eth4.100")
    assert rows(vlan["table"])[5] == ("10.0.100.1", "RoCE v2", "eth4.100")
    row = ports_of(vlan["plan"])["mlx5_0"]
    assert (row["used"], row["gid_index"], row["gid"], row["netdev"]) == ((True, 5, "10.0.100.1", "eth4.100"))
    assert value_of(vlan["plan"], "NCCL_IB_GID_INDEX") == "5"


def test_a_bond_is_used_before_and_after_its_fail_over(bond: Result) -> None:
    assert sorted(map(int, bond["table before"])) == [0, 1, 2, 3]
    assert sorted(map(int, bond["table after"])) == [2, 3, 4, 5]  # the hole is at the front
    for moment in ("before", "after"):
        row = ports_of(bond[f"plan {moment}"])["mlx5_bond_0"]
        assert (row["used"], row["gid_index"], row["gid"], row["netdev"]) == ((True, 3, "10.0.1.1", "bond0"))
        assert value_of(bond[f"plan {moment}"], "NCCL_IB_HCA") == "=mlx5_bond_0:1"


class TestAddressAddedAgain:
    def test_the_index_is_the_one_it_has_now(self, address_added_again: Result) -> None:
        assert used_indices(address_added_again["plan before"]) == {"mlx5_0": 3}
        table = rows(address_added_again["table"])
        assert table[3] == ("10.0.8.1", "RoCE v2", "eth4")  # a valid GID, of another address
        assert table[7] == ("10.0.0.1", "RoCE v2", "eth4")
        assert used_indices(address_added_again["plan"]) == {"mlx5_0": 7}
        assert value_of(address_added_again["plan"], "NCCL_IB_GID_INDEX") == "7"

    def test_a_choice_among_subnets_is_said(self, address_added_again: Result) -> None:
        assert "AMBIGUOUS_SUBNET" in problem_codes(address_added_again["plan"])

    def test_a_configured_subnet_decides(self, address_added_again: Result) -> None:
        plan = address_added_again["plan for a subnet"]
        assert used_indices(plan) == {"mlx5_0": 3}
        assert "AMBIGUOUS_SUBNET" not in problem_codes(plan)


def test_an_hca_with_roce_v2_gids_only_is_used_at_index_1(unchanged_soft_roce: Result) -> None:
    # The kernel's own module, not a byte changed: one pair of slots less for each address.
    assert rows(unchanged_soft_roce["table"]) == {
        0: ("fe80::5054:ff:fe00:14", "RoCE v2", "eth4"),
        1: ("10.0.1.1", "RoCE v2", "eth4"),
    }
    assert used_indices(unchanged_soft_roce["plan"]) == {"mlx5_0": 1}
    assert value_of(unchanged_soft_roce["plan"], "NCCL_IB_GID_INDEX") == "1"


class TestPodInSharedMode:
    def test_the_nodes_hca_is_not_taken_for_the_pods_by_its_name(self, shared_pod: Result) -> None:
        assert rows(shared_pod["table"])[3] == ("10.0.1.1", "RoCE v2", "eth0")
        assert "eth0" in shared_pod["names in the pod"]
        assert used_indices(shared_pod["plan on the node"]) == {"mlx5_0": 3}
        plan = shared_pod["plan"]
        assert used_indices(plan) == {}
        assert ports_of(plan)["mlx5_0"]["reason"] == "NO_OWN_GID"
        assert value_of(plan, "NCCL_IB_HCA") is None
        assert plan["exit_code"] == plan["status"] == RDMA_UNUSABLE

    def test_the_nodes_gids_are_used_where_that_is_allowed(self, shared_pod: Result) -> None:
        plan = shared_pod["plan with foreign GIDs allowed"]
        assert used_indices(plan) == {"mlx5_0": 3}
        assert ports_of(plan)["mlx5_0"]["gid"] == "10.0.1.1"


class TestPodsInExclusiveMode:
    def test_every_pod_sees_all_verbs_devices_and_opens_its_own(self, exclusive_pods: Result) -> None:
        devices = exclusive_pods["verbs devices"]
        assert {place: sorted(answers.values()) for place, answers in devices.items()} == {
            "node": ["EPERM", "ok", "ok"],
            "pod": ["EPERM", "EPERM", "ok"],
            "empty": ["EPERM", "EPERM", "EPERM"],
        }

    def test_a_pod_uses_its_own_hca_only(self, exclusive_pods: Result) -> None:
        assert used_indices(exclusive_pods["plan"]) == {"mlx5_1": 3}
        assert ports_of(exclusive_pods["plan"])["mlx5_1"]["netdev"] == "net1"
        assert value_of(exclusive_pods["plan"], "NCCL_IB_HCA") == "=mlx5_1:1"
        assert exclusive_pods["plan"]["exit_code"] == 0
        assert "SYSFS_FOREIGN" not in problem_codes(exclusive_pods["plan"])
        assert used_indices(exclusive_pods["plan on the node"]) == {"mlx5_0": 3, "mlx5_2": 3}

    def test_a_pod_without_an_hca_selects_nothing(self, exclusive_pods: Result) -> None:
        plan = exclusive_pods["plan in the empty pod"]
        assert used_indices(plan) == {}
        assert plan["exit_code"] == plan["status"] == RDMA_UNUSABLE

    @pytest.mark.parametrize("pod", ["plan", "plan in the empty pod"])
    def test_the_nodes_sys_in_a_pod_is_recognised(self, exclusive_pods: Result, pod: str) -> None:
        plan = exclusive_pods[f"{pod} with the node's /sys"]
        assert used_indices(plan) == {}
        (foreign,) = (problem for problem in plan["problems"] if problem["code"] == "SYSFS_FOREIGN")
        assert "/sys mounted here belongs to another network namespace" in foreign["message"]
        assert plan["exit_code"] == plan["status"] == RDMA_UNUSABLE
        assert {row["reason"] for row in plan["ports"]} == {"VERBS_DENIED"}


class TestLateHardware:
    def test_an_address_is_waited_for_and_then_used(self, late_address: Result) -> None:
        self.check_waited_and_used(late_address)
        assert "mlx5_0:1 on eth4 has no own GID yet" in late_address["stderr"]
        # Nothing in the kernel announces it to those who wait for devices: only looking again helps.
        assert [event for event in late_address["events"] if event["SUBSYSTEM"] in WATCHED] == []

    def test_an_hca_is_waited_for_and_then_used(self, late_hca: Result) -> None:
        self.check_waited_and_used(late_hca)
        assert "no RDMA device is visible" in late_hca["stderr"]
        announced = {(event["ACTION"], event["SUBSYSTEM"], event["DEVPATH"]) for event in late_hca["events"]}
        assert ("add", "infiniband", "/devices/virtual/infiniband/mlx5_0") in announced

    @staticmethod
    def check_waited_and_used(late: Result) -> None:
        assert late["waited"], late["stderr"]
        assert late["arrival after start s"] >= 3
        assert late["status"] == 0, late["stderr"]
        assert rows(late["table"])[3] == ("10.0.1.1", "RoCE v2", "eth4")
        assert late["environ"]["NCCL_IB_HCA"] == "=mlx5_0:1"
        assert late["environ"]["NCCL_IB_GID_INDEX"] == "3"
        assert late["environ"]["NCCL_NET"] == "IB"
        assert late["argv"][-2:] == ["--model-path", "m"]
        # Two reads that agree, the interpreter's start as SGLang, under an emulated CPU.
        assert 0 < late["launch after arrival s"] < 20

    def test_what_never_comes_is_refused_in_time(self, never: Result) -> None:
        assert never["status"] == RDMA_UNUSABLE
        assert not never["launched"]
        assert 3 <= never["wall_s"] < 25

    def test_a_healthy_node_is_not_waited_for(self, healthy: Result) -> None:
        assert healthy["status"] == 0, healthy["stderr"]
        assert healthy["environ"]["NCCL_IB_GID_INDEX"] == "3"
        assert "wait" not in healthy["stderr"]


class TestAddressChurn:
    def test_no_discovery_reports_what_never_existed(self, address_churn: Result) -> None:
        reported = {tuple(row[:3]) for row in address_churn["reported"]}
        assert address_churn["discoveries"] == 1000
        assert reported - self.existed(address_churn) == set()

    def test_the_steady_gids_are_in_every_discovery(self, address_churn: Result) -> None:
        counts = {tuple(row[:3]): row[3] for row in address_churn["reported"]}
        for combination in rows(address_churn["steady"]).values():
            assert counts[combination] == address_churn["discoveries"]

    def test_the_churn_was_seen_and_tears_a_naive_reader(self, address_churn: Result) -> None:
        counts = {tuple(row[:3]): row[3] for row in address_churn["reported"]}
        for address, netdev in (("10.0.7.1", "eth4"), ("10.0.107.1", "eth4.100")):
            assert counts[address, "RoCE v2", netdev] >= 100
        naive = {tuple(row[:3]) for row in address_churn["naively reported"]}
        never_were = naive - self.existed(address_churn)
        # Some of them are complete, and look like any other GID: an address with the other one's netdev.
        assert any(gid_type and netdev for _, gid_type, netdev in never_were), never_were

    @staticmethod
    def existed(churn: Result) -> set[tuple[str, str, str]]:
        coming_and_going = {
            (address, gid_type, netdev)
            for address, netdev in (("10.0.7.1", "eth4"), ("10.0.107.1", "eth4.100"))
            for gid_type in ("IB/RoCE v1", "RoCE v2")
        }
        return coming_and_going | set(rows(churn["steady"]).values())
