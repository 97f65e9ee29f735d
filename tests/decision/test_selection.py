"""Which ports are used and why not the others."""

from __future__ import annotations

import pytest

from tests.decision.conftest import Decide, rail
from tests.trees import V1, V2, Node


def test_eight_rails_in_natural_order(decide: Decide) -> None:
    node = Node()
    for number in (10, 2, 0, 1):
        rail(node, number)
    outcome = decide(node)
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_10:1"
    assert outcome.value("NCCL_IB_GID_INDEX") == "3"
    assert outcome.value("NCCL_NET") == "IB"
    assert outcome.codes == []


@pytest.mark.parametrize(
    ("verbs", "reason"),
    [
        (None, "NO_VERBS"),
        ("ENOENT", "NO_VERBS"),
        ("ENXIO", "NO_VERBS"),
        ("ENODEV", "NO_VERBS"),
        ("ENOTTY", "NO_VERBS"),
        ("EACCES", "VERBS_DENIED"),
        ("EPERM", "VERBS_DENIED"),
    ],
)
def test_verbs_device_that_does_not_open(decide: Decide, verbs: str | None, reason: str) -> None:
    outcome = decide(rail(Node(), 0, verbs=verbs))
    assert outcome.left == {"mlx5_0:1": reason}
    assert outcome.codes == ["NO_USABLE_HCA"]
    assert outcome.problems[0].exit_code == 69
    assert outcome.value("NCCL_IB_HCA") is None


@pytest.mark.parametrize(
    ("node_type", "link_layer"),
    [("4: RNIC", "Ethernet"), ("7: unspecified", "Unknown"), ("1: CA", "Unknown"), ("5: usNIC", "Ethernet")],
)
def test_what_is_no_roce(decide: Decide, node_type: str, link_layer: str) -> None:
    node = Node().interface("net0", "10.0.0.1/24")
    node.hca("irdma0", node_type=node_type).port(link_layer=link_layer).pair("10.0.0.1", "net0")
    assert decide(node).left == {"irdma0:1": "NOT_ROCE"}


@pytest.mark.parametrize("state", ["1: DOWN", "2: INIT", "3: ARMED", "5: ACTIVE_DEFER", "0: NOP"])
def test_only_state_four_is_active(decide: Decide, state: str) -> None:
    node = Node().interface("net0", "10.0.0.1/24")
    node.hca("mlx5_0").port(state=state).pair("10.0.0.1", "net0")
    assert decide(node).left == {"mlx5_0:1": "PORT_NOT_ACTIVE"}


def test_second_port_is_seen(decide: Decide) -> None:
    node = Node().interface("net0", "10.0.0.1/24")
    hca = node.hca("mlx4_0")
    hca.port(1, state="1: DOWN").pair("10.0.0.1", "net0")
    hca.port(2).pair("10.0.0.1", "net0", 2)
    outcome = decide(node)
    assert outcome.value("NCCL_IB_HCA") == "=mlx4_0:2"
    assert outcome.left == {"mlx4_0:1": "PORT_NOT_ACTIVE"}


OWN = {
    "classic": ([("fe80::1", "net0"), ("10.0.0.1", "net0")], 3),
    "v6 unique local": ([("fe80::1", "net0"), ("fd00::1", "net0")], 3),
    "v6 global": ([("fe80::1", "net0"), ("2001:db8::1", "net0")], 3),
    "link-local only": ([("fe80::1", "net0")], None),
    "169.254 only": ([("fe80::1", "net0"), ("169.254.3.4", "net0")], 3),
    "169.254 of nobody here": ([("fe80::1", "net0"), ("169.254.9.9", "net0")], None),
    "169.254 first": ([("fe80::1", "net0"), ("169.254.3.4", "net0"), ("10.0.0.1", "net0")], 5),
    "foreign first": ([("fe80::1", "net0"), ("10.0.0.77", "net0"), ("10.0.0.1", "net0")], 5),
    "right address on a wrong name": ([("10.0.0.1", "net9")], None),
    "somebody else's name and address": ([("10.9.9.9", "net9")], None),
    "v6 before v4": ([("fe80::1", "net0"), ("fd00::1", "net0"), ("10.0.0.1", "net0")], 5),
}


@pytest.mark.parametrize("name", sorted(OWN))
def test_own_gid(decide: Decide, name: str) -> None:
    table, index = OWN[name]
    node = Node().interface("net0", "10.0.0.1/24", "fe80::1/64", "fd00::1/64", "2001:db8::1/64", "169.254.3.4/16")
    port = node.hca("mlx5_0").port()
    for ip, netdev in table:
        port.pair(ip, netdev)
    outcome = decide(node)
    if index is None:
        assert outcome.left == {"mlx5_0:1": "NO_OWN_GID"}
    else:
        assert outcome.used == {"mlx5_0:1": index}
        assert outcome.value("NCCL_IB_GID_INDEX") == str(index)


def test_index_three_is_never_a_fallback(decide: Decide) -> None:
    node = Node().interface("net0", "10.0.0.1/24")
    node.hca("mlx5_0").port().gid(3, "10.0.0.1", V1, "net0")
    outcome = decide(node)
    assert outcome.left == {"mlx5_0:1": "NO_OWN_GID"}
    assert outcome.value("NCCL_IB_GID_INDEX") is None
    assert outcome.variables["NCCL_IB_GID_INDEX"].source == "withheld"


def test_v2_only_driver_has_it_at_one(decide: Decide) -> None:
    node = Node().interface("net0", "10.0.0.1/24")
    node.hca("irdma0").port().gid(0, "fe80::1", V2, "net0").gid(1, "10.0.0.1", V2, "net0")
    assert decide(node).used == {"irdma0:1": 1}


def test_unreadable_type_or_netdev_is_not_own(decide: Decide) -> None:
    node = Node().interface("net0", "10.0.0.1/24", "10.0.0.2/24")
    port = node.hca("mlx5_0").port()
    port.gid(3, "10.0.0.1", None, "net0").gid(5, "10.0.0.2", V2, None)
    assert decide(node).left == {"mlx5_0:1": "NO_OWN_GID"}


def test_link_local_v4_inside_a_configured_subnet(decide: Decide) -> None:
    node = Node().interface("net0", "169.254.3.4/16")
    node.hca("mlx5_0").port().pair("169.254.3.4", "net0", 2)
    rail(node, 1)
    without = decide(node).decision.ports[0].decision
    assert without.detail == "only link-local RoCE v2 GIDs: 169.254.3.4 counts only with --subnets 169.254.0.0/16"
    assert decide(node, subnets=("169.254.0.0/16",)).used == {"mlx5_0:1": 3, "mlx5_1:1": 3}


def test_down_netdev(decide: Decide) -> None:
    node = Node().interface("net0", "10.0.0.1/24", up=False)
    node.hca("mlx5_0").port().pair("10.0.0.1", "net0", 2)
    outcome = decide(node)
    assert outcome.left == {"mlx5_0:1": "NETDEV_DOWN"}
    assert "net0" in outcome.decision.ports[0].decision.detail


def test_foreign_gids_only_on_purpose(decide: Decide) -> None:
    node = Node().interface("eth0", "10.244.0.5/24")
    node.hca("mlx5_0").port().pair("fe80::1", "ens1").pair("10.0.0.1", "ens1")
    assert decide(node).left == {"mlx5_0:1": "NO_OWN_GID"}
    allowed = decide(node, allow_foreign=True)
    assert allowed.used == {"mlx5_0:1": 3}
    assert "allowed" in allowed.decision.ports[0].decision.detail


def test_several_foreign_addresses_are_ambiguous(decide: Decide) -> None:
    node = Node().interface("eth0", "10.244.0.5/24")
    node.hca("mlx5_0").port().pair("10.3.0.1", "ens1").pair("10.0.0.9", "ens1")
    outcome = decide(node, allow_foreign=True)
    assert outcome.codes == ["AMBIGUOUS_SUBNET"]
    assert outcome.used == {"mlx5_0:1": 3}  # the lowest address: the order of slots is history
    assert decide(node, allow_foreign=True, subnets=("10.3.0.0/16",)).used == {"mlx5_0:1": 1}


def test_a_port_that_lost_ipv4_is_left_out(decide: Decide) -> None:
    node = rail(rail(Node(), 0), 1)
    node.hca("mlx5_2").port().pair("fe80::3", "net2").pair("fd00::3", "net2")
    node.interface("net2", "fd00::3/64")
    outcome = decide(node)
    assert outcome.left == {"mlx5_2:1": "FAMILY_MISMATCH"}
    assert set(outcome.used) == {"mlx5_0:1", "mlx5_1:1"}


def test_ipv6_when_configured(decide: Decide) -> None:
    node = rail(Node(), 0)
    node.hca("mlx5_2").port().pair("fe80::3", "net2").pair("fd00::3", "net2")
    node.interface("net2", "fd00::3/64")
    outcome = decide(node, family="ipv6")
    assert outcome.used == {"mlx5_2:1": 3}
    assert outcome.left == {"mlx5_0:1": "FAMILY_MISMATCH"}


def _two_networks(first: str, second: str) -> Node:
    node = Node().interface("net0.9", f"{first}/24").interface("net0.10", f"{second}/24")
    node.hca("mlx5_0").port().pair("fe80::1", "net0").pair(first, "net0.9").pair(second, "net0.10")
    return node


def test_lowest_network_not_the_first_slot(decide: Decide) -> None:
    outcome = decide(_two_networks("192.168.0.5", "10.1.0.5"))
    assert outcome.used == {"mlx5_0:1": 5}
    assert outcome.codes == ["AMBIGUOUS_SUBNET"]
    assert "10.1.0.0/24, 192.168.0.0/24" in outcome.problem("AMBIGUOUS_SUBNET")
    assert decide(_two_networks("10.1.0.5", "192.168.0.5")).used == {"mlx5_0:1": 3}


def test_configured_subnets_in_their_order(decide: Decide) -> None:
    node = _two_networks("192.168.0.5", "10.1.0.5")
    outcome = decide(node, subnets=("172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"))
    assert outcome.used == {"mlx5_0:1": 3}
    assert outcome.codes == []


def test_several_addresses_of_one_network_are_not_ambiguous(decide: Decide) -> None:
    node = Node().interface("net0", "10.1.0.5/24", "10.1.0.4/24")
    node.hca("mlx5_0").port().pair("fe80::1", "net0").pair("10.1.0.5", "net0").pair("10.1.0.4", "net0")
    outcome = decide(node)
    assert outcome.used == {"mlx5_0:1": 3}
    assert outcome.codes == []


def test_a_slower_card_of_another_model_is_left_out(decide: Decide) -> None:
    node = rail(rail(Node(), 0, pci="0000:10:00.0"), 1, pci="0000:20:00.0")
    rail(node, 2, gbps=25, pci="0000:30:00.0", device_id="0x1015")
    outcome = decide(node)
    assert outcome.left == {"mlx5_2:1": "SLOWER_RATE"}
    assert outcome.codes == []


def test_a_slow_card_that_a_gpu_needs_keeps_no_other_slow_card_in(decide: Decide) -> None:
    root = "pci0000:{0}/0000:{0}:01.0"
    node = rail(Node(), 0, pci="0000:12:00.0", bridge=root.format(10) + "/0000:11:00.0", numa=0)
    node.gpu("0000:13:00.0", root.format(10) + "/0000:11:01.0", 0)
    # The rail of the second GPU is down; a storage card hangs on the same root port, another one does not.
    node.gpu("0000:23:00.0", root.format(20) + "/0000:21:01.0", 0)
    rail(node, 1, gbps=25, pci="0000:22:00.0", bridge=root.format(20) + "/0000:21:02.0", device_id="0x1015")
    rail(node, 2, gbps=25, pci="0000:32:00.0", bridge=root.format(30), device_id="0x1015", numa=1)
    outcome = decide(node)
    assert set(outcome.used) == {"mlx5_0:1", "mlx5_1:1"}
    assert outcome.left == {"mlx5_2:1": "SLOWER_RATE"}


def test_a_degraded_link_of_the_same_model_is_kept_and_said(decide: Decide) -> None:
    node = rail(rail(Node(), 0, pci="0000:10:00.0"), 1, gbps=100, pci="0000:20:00.0")
    outcome = decide(node)
    assert set(outcome.used) == {"mlx5_0:1", "mlx5_1:1"}
    assert outcome.codes == ["DEGRADED_LINK"]
    assert "100 Gb/s" in outcome.problem("DEGRADED_LINK")


def _unlike_cards() -> Node:
    """Two 400 Gb/s rails at 0 and 2, two 25 Gb/s cards of another model at 1 and 3 (NVIDIA/nccl#1277)."""
    node = Node()
    for number in range(4):
        slow = number % 2
        rail(node, number, gbps=25 if slow else 400, pci=f"0000:{number + 1}0:00.0",
             device_id="0x1015" if slow else "0x1021")  # fmt: skip
    return node


@pytest.mark.parametrize("listed", ["mlx5_1,mlx5_3", "=mlx5_1:1,mlx5_3:1", "mlx5_0,mlx5_1"])
def test_a_list_of_another_node_is_no_degraded_link(decide: Decide, listed: str) -> None:
    outcome = decide(_unlike_cards(), environ={"NCCL_IB_HCA": listed})
    assert outcome.codes == ["SELECTOR_TAKES_SLOWER"]
    said = outcome.problem("SELECTOR_TAKES_SLOWER")
    assert "mlx5_1:1 25 Gb/s" in said
    assert "mlx5_2:1 400 Gb/s" in said
    assert "remove NCCL_IB_HCA:" in outcome.problems[0].hint


@pytest.mark.parametrize("listed", ["mlx5_0,mlx5_2", "^mlx5_1", "mlx5_0", "mlx5"])
def test_a_list_that_leaves_no_faster_card_out_is_right(decide: Decide, listed: str) -> None:
    assert "SELECTOR_TAKES_SLOWER" not in decide(_unlike_cards(), environ={"NCCL_IB_HCA": listed}).codes


def test_a_list_of_rails_leaves_out_one_fast_card_for_storage(decide: Decide) -> None:
    node = Node()
    for number in range(4):
        rail(node, number, gbps=200, pci=f"0000:{number + 1}0:00.0")
    rail(node, 9, gbps=400, pci="0000:90:00.0", device_id="0x1023")
    assert decide(node, environ={"NCCL_IB_HCA": "^mlx5_9"}).codes == []


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ((), "no address is configured on net0"),
        (
            ("169.254.35.62/16",),
            "no address is configured on net0, only 169.254.35.62/16, which is link-local too",
        ),
        (("10.0.0.1/24", "fe80::1/64"), "net0 has 10.0.0.1/24, which the GID table lacks"),
    ],
)
def test_what_the_interface_of_a_port_with_link_local_gids_has(
    decide: Decide, addresses: tuple[str, ...], said: str
) -> None:
    node = Node().interface("net0", *addresses)
    node.hca("mlx5_0").port().pair("fe80::1", "net0")
    outcome = decide(node)
    assert outcome.left == {"mlx5_0:1": "NO_OWN_GID"}
    assert said in outcome.problem("NO_USABLE_HCA")


def test_a_port_of_the_host_or_an_address_on_lo(decide: Decide) -> None:
    """An address on lo (BGP unnumbered, NVIDIA/nccl#1053) has no GID; that of 127.0.0.1 is nobody's business."""
    node = Node().interface("eth0", "10.1.0.7/24")
    node.hca("mlx5_0").port().pair("fe80::1", "net0")
    node.hca("mlx5_1").port().pair("fe80::2", "net1")
    said = "NO_OWN_GID on mlx5_0:1, mlx5_1:1 (mlx5_0:1: only link-local RoCE v2 GIDs: net0 is in another network"
    assert said in decide(node).problem("NO_USABLE_HCA")
    node.interface("net0").interface("lo", "127.0.0.1/8", "::1/128")
    assert "no address is configured on net0)" in decide(node).problem("NO_USABLE_HCA")
    node.interface("lo", "127.0.0.1/8", "10.32.0.17/32")
    said = "no address is configured on net0; 10.32.0.17/32 is on lo, for which the kernel makes no GID"
    assert said in decide(node).problem("NO_USABLE_HCA")


def test_who_refuses_a_verbs_device(decide: Decide) -> None:
    """In exclusive mode a pod's own sysfs lists only what the pod may open: EPERM is then the device cgroup's."""
    node = Node().interface("net0", "10.0.0.1/24")
    node.hca("mlx5_0").port().pair("10.0.0.1", "net0")
    node.set(verbs={"uverbs0": "EPERM"})
    said = "/dev/infiniband/uverbs0 may not be opened here (EPERM: device cgroup"
    assert decide(node).decision.ports[0].decision.detail == f"{said})"
    node.netdev("ens9")
    assert decide(node).decision.ports[0].decision.detail == f"{said}, or an exclusive RDMA namespace)"
    node.set(verbs={"uverbs0": "E{X}"})
    assert decide(node).decision.ports[0].decision.detail == "/dev/infiniband/uverbs0 cannot be opened (E{X})"


def test_a_slow_card_of_unknown_model_is_kept(decide: Decide) -> None:
    outcome = decide(rail(rail(Node(), 0), 1, gbps=25))
    assert set(outcome.used) == {"mlx5_0:1", "mlx5_1:1"}


def _management(bridge_of_nic: str) -> Node:
    node = Node().gpu("0000:16:00.0", "pci0000:10/0000:10:01.0/0000:11:00.0/0000:12:00.0", 0)
    near = "pci0000:10/0000:10:01.0/0000:11:00.0/0000:12:01.0"
    rail(node, 0, pci="0000:17:00.0", bridge=near, numa=0)
    rail(node, 1, pci="0000:91:00.0", bridge=bridge_of_nic, numa=1)
    return node.default_route("net1")


def test_the_default_route_nic_far_from_every_gpu(decide: Decide) -> None:
    outcome = decide(_management("pci0000:90/0000:90:01.0"))
    assert outcome.left == {"mlx5_1:1": "MANAGEMENT_NIC"}


def test_the_default_route_nic_near_a_gpu_is_kept(decide: Decide) -> None:
    node = _management("pci0000:10/0000:10:01.0/0000:11:00.0/0000:12:02.0")
    assert set(decide(node).used) == {"mlx5_0:1", "mlx5_1:1"}


def test_the_only_nic_is_kept_even_with_the_default_route(decide: Decide) -> None:
    node = Node().gpu("0000:16:00.0", "pci0000:10", 0)
    rail(node, 0, pci="0000:91:00.0", bridge="pci0000:90", numa=1).default_route("net0")
    assert set(decide(node).used) == {"mlx5_0:1"}


def test_without_known_gpus_no_nic_is_called_management(decide: Decide) -> None:
    node = rail(rail(Node(), 0, pci="0000:10:00.0"), 1, pci="0000:90:00.0").default_route("net1")
    assert set(decide(node).used) == {"mlx5_0:1", "mlx5_1:1"}


def test_a_physical_function_beside_its_own_virtual_one(decide: Decide) -> None:
    node = rail(Node(), 0, pci="0000:10:00.0", bridge="pci0000:0f")
    rail(node, 1, pci="0000:10:00.2", bridge="pci0000:0f", physfn="0000:10:00.0")
    outcome = decide(node)
    assert outcome.left == {"mlx5_0:1": "DUPLICATE_FUNCTION"}
    assert set(outcome.used) == {"mlx5_1:1"}


def test_names_decide_nothing(decide: Decide) -> None:
    node = Node()
    for number, name in enumerate(["mlx5_bond_0", "eth_rdma", "rocep153s0", "bnxt_re0", "erdma_0"]):
        port = node.hca(name).port()
        port.pair(f"fe80::{number + 1}", f"if{number}").pair(f"10.{number}.0.1", f"if{number}")
        node.interface(f"if{number}", f"10.{number}.0.1/24")
    assert len(decide(node).used) == 5


def test_setting_selects_and_names_itself(decide: Decide) -> None:
    node = rail(rail(rail(Node(), 1), 10), 2)
    outcome = decide(node, hca="=mlx5_1,mlx5_2")
    assert outcome.left == {"mlx5_10:1": "USER_EXCLUDED"}
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_1:1,mlx5_2:1"
    assert decide(node, hca="mlx5_1").left == {"mlx5_2:1": "USER_EXCLUDED"}
    assert decide(node, hca="^=mlx5_1").left == {"mlx5_1:1": "USER_EXCLUDED"}


def test_a_selector_that_matches_nothing(decide: Decide) -> None:
    outcome = decide(rail(Node(), 0), hca="=mlx5_7")
    assert outcome.codes == ["SELECTOR_MATCHES_NOTHING"]
    assert "'=mlx5_7'" in outcome.problem("SELECTOR_MATCHES_NOTHING")
    assert outcome.problems[0].exit_code == 69
    assert "mlx5_0:1" in outcome.problems[0].hint


def test_more_than_thirty_two_ports(decide: Decide) -> None:
    node = Node()
    for number in range(34):
        rail(node, number)
    outcome = decide(node)
    value = outcome.value("NCCL_IB_HCA")
    assert value is not None
    assert value.count(",") == 31
    assert outcome.left == {"mlx5_32:1": "TOO_MANY_PORTS", "mlx5_33:1": "TOO_MANY_PORTS"}
    assert "TOO_MANY_PORTS" in outcome.codes


def test_infiniband_satisfies_required(decide: Decide) -> None:
    node = Node()
    node.hca("mlx5_0").port(link_layer="InfiniBand").gid(0, "fe80::1", V1, None)
    outcome = decide(node)
    assert outcome.codes == []
    assert outcome.decision.satisfied
    assert outcome.value("NCCL_IB_HCA") is None
    assert outcome.value("NCCL_IB_GID_INDEX") is None
    assert outcome.value("NCCL_NET") == "IB"
    assert "InfiniBand" in outcome.decision.notes[0]


def test_infiniband_beside_roce_is_never_mixed_in(decide: Decide) -> None:
    node = rail(Node(), 0)
    node.hca("mlx5_9").port(link_layer="InfiniBand").gid(0, "fe80::1", V1, None)
    outcome = decide(node)
    assert outcome.left == {"mlx5_9:1": "NOT_ROCE"}
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_0:1"


def _infiniband_rails(*, gpus: bool = True) -> Node:
    node = Node()
    for bus in ("10", "20"):
        bridge = f"pci0000:{bus}/0000:{bus}:01.0"
        hca = node.hca(f"ib{bus}", pci=f"0000:{bus}:10.0", bridge=bridge, numa=0)
        hca.port(link_layer="InfiniBand", gbps=400).gid(0, "fe80::1", V1, None)
        if gpus:
            node.gpu(f"0000:{bus}:11.0", bridge, 0)
    return node


@pytest.mark.parametrize("origin", ["--hca", "SGLANG_ROCE_HCA"])
def test_chosen_infiniband_ports_are_told_to_nccl(decide: Decide, origin: str) -> None:
    outcome = decide(_infiniband_rails(), hca="^ib20", hca_origin=origin)
    assert outcome.decision.infiniband == ("ib10:1",)
    assert outcome.value("NCCL_IB_HCA") == "=ib10:1"
    assert outcome.value("NCCL_IB_GID_INDEX") is None


def test_a_far_ethernet_card_does_not_idle_infiniband_rails(decide: Decide) -> None:
    outcome = decide(rail(_infiniband_rails(), 9, gbps=400, pci="0000:90:00.0", numa=1))
    assert outcome.left["mlx5_9:1"] == "FAR_FROM_GPU"
    assert outcome.decision.infiniband == ("ib10:1", "ib20:1")
    assert outcome.value("NCCL_IB_HCA") == "^=mlx5_9:1"  # NCCL alone takes the Ethernet card as well
    assert outcome.value("NCCL_IB_GID_INDEX") is None
    assert outcome.codes == []


def test_a_slower_ethernet_card_does_not_idle_infiniband_rails(decide: Decide) -> None:
    node = rail(_infiniband_rails(gpus=False), 9, gbps=25, pci="0000:90:00.0", device_id="0x1015")
    outcome = decide(node)
    assert outcome.left["mlx5_9:1"] == "SLOWER_RATE"
    assert outcome.decision.infiniband == ("ib10:1", "ib20:1")


@pytest.mark.parametrize(
    "chosen", [{"hca": "=mlx5_9"}, {"subnets": ("10.9.0.0/16",)}, {"environ": {"NCCL_IB_HCA": "mlx5"}}]
)
def test_an_ethernet_card_that_somebody_chose_is_used(decide: Decide, chosen: dict[str, object]) -> None:
    outcome = decide(rail(_infiniband_rails(), 9, gbps=400, pci="0000:90:00.0", numa=1), **chosen)
    assert set(outcome.used) == {"mlx5_9:1"}


def test_a_fast_infiniband_card_does_not_idle_many_ethernet_rails(decide: Decide) -> None:
    node = Node()
    node.hca("ib0", pci="0000:90:00.0").port(link_layer="InfiniBand", gbps=400).gid(0, "fe80::1", V1, None)
    for number in (0, 1):
        rail(node, number, pci=f"0000:{number + 1}0:00.0", device_id="0x101b")
    assert set(decide(node).used) == {"mlx5_0:1", "mlx5_1:1"}


def test_a_near_ethernet_card_is_used_beside_infiniband(decide: Decide) -> None:
    node = _infiniband_rails()
    rail(node, 9, gbps=400, pci="0000:10:12.0", bridge="pci0000:10/0000:10:01.0", numa=0)
    assert set(decide(node).used) == {"mlx5_9:1"}


@pytest.mark.parametrize(
    "environ",
    [
        {"NCCL_NET": "gIB"},
        {"NCCL_NET": "AWS Libfabric"},
        {"NCCL_NET_PLUGIN": "libnccl-net-aws-ofi.so"},
    ],
)
def test_an_external_plugin_is_left_to_itself(decide: Decide, environ: dict[str, str]) -> None:
    outcome = decide(rail(Node(), 0), environ=environ)
    assert outcome.decision.plugin is not None
    assert outcome.decision.satisfied
    assert outcome.left == {"mlx5_0:1": "EXTERNAL_PLUGIN"}
    assert outcome.value("NCCL_IB_HCA") is None
    assert outcome.value("NCCL_IB_GID_INDEX") is None
    assert outcome.value("NCCL_NET") in (None, environ.get("NCCL_NET"))


def test_no_hca_at_all_required_and_optional(decide: Decide) -> None:
    outcome = decide(Node())
    assert outcome.codes == ["NO_USABLE_HCA"]
    assert "/sys/class/infiniband is empty" in outcome.problem("NO_USABLE_HCA")
    assert decide(Node(), rdma="optional").codes == []


def test_rdma_off(decide: Decide) -> None:
    outcome = decide(rail(Node(), 0), rdma="off", rdma_explicit=True, environ={"NCCL_IB_DISABLE": "0"})
    assert outcome.value("NCCL_IB_DISABLE") == "1"
    assert outcome.left == {"mlx5_0:1": "RDMA_OFF"}
    assert outcome.value("NCCL_IB_HCA") is None


@pytest.mark.parametrize(
    ("memlock", "capabilities", "code"),
    [
        ("unlimited", [], None),
        (65536, ["CAP_IPC_LOCK"], None),
        (65536, [], "MEMLOCK_TOO_LOW"),
        (64 << 20, [], "MEMLOCK_TOO_LOW"),
        ((64 << 20) + 1, [], "MEMLOCK_LIMITED"),
    ],
)
def test_memlock(decide: Decide, memlock: object, capabilities: list[str], code: str | None) -> None:
    node = rail(Node(), 0).set(memlock=memlock, capabilities=capabilities)
    assert decide(node).codes == ([code] if code else [])
    assert decide(node, rdma="optional").codes == []


def test_libibverbs_that_does_not_load(decide: Decide) -> None:
    node = rail(Node(), 0).set(libibverbs="libibverbs.so.1: cannot open shared object file")
    outcome = decide(node)
    assert outcome.codes == ["LIBIBVERBS_MISSING"]
    assert outcome.problems[0].exit_code == 69


@pytest.mark.parametrize(
    ("listed", "left"),
    [
        (["mlx5_0", "mlx5_1"], {}),
        (["mlx5_1", "bnxt_re0"], {"mlx5_0:1": "NO_PROVIDER"}),
        ([], {"mlx5_0:1": "NO_PROVIDER", "mlx5_1:1": "NO_PROVIDER"}),
        (None, {}),  # not recorded: not known
    ],
)
def test_what_libibverbs_does_not_list(decide: Decide, listed: list[str] | None, left: dict[str, str]) -> None:
    outcome = decide(rail(rail(Node(), 0), 1).set(libibverbs="ok", verbs_listed=listed))
    assert outcome.left == left
    assert outcome.codes == (["NO_USABLE_HCA"] if len(left) == 2 else [])


def test_infiniband_without_a_provider_is_no_rdma(decide: Decide) -> None:
    node = Node()
    node.hca("mlx5_0").port(link_layer="InfiniBand")
    assert decide(node.set(verbs_listed=["mlx5_0"])).codes == []
    assert decide(node.set(verbs_listed=[])).codes == ["NO_USABLE_HCA"]


def test_a_provider_that_crashes_is_a_warning(decide: Decide) -> None:
    outcome = decide(rail(Node(), 0).set(libibverbs="ok", verbs_failure="was ended by signal 11"))
    assert outcome.codes == ["LIBIBVERBS_BROKEN"]
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_0:1"
    assert "signal 11" in outcome.problem("LIBIBVERBS_BROKEN")


def test_sysfs_of_another_namespace_is_said(decide: Decide) -> None:
    node = Node().interface("eth0", "10.244.0.5/24")
    node.netdev("ens1np0").hca("mlx5_0").port().pair("10.0.0.1", "ens1np0", 2)
    outcome = decide(node)
    assert outcome.codes == ["SYSFS_FOREIGN", "NO_USABLE_HCA"]
    assert "ens1np0" in outcome.problem("SYSFS_FOREIGN")
