"""Nodes as people run them: pairs on a cable, GB200, clouds, cards with the chip of the rails, routed hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.decision.conftest import Decide, rail
from tests.healthy import healthy
from tests.planning import codes, message, names, plan_of, value
from tests.trees import Node

if TYPE_CHECKING:
    from collections.abc import Mapping

SWITCH = "pci0000:{0}/0000:{0}:01.0/0000:{0}:02.0/0000:{0}:03.{1}"
GROUP = {"LWS_LEADER_ADDRESS": "sglang-0.sglang.default", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}


def spark(*, twin: str | None = None, address: str = "169.254.35.62/16") -> Node:
    """Return a DGX Spark: one cable, seen as two functions; ``twin`` is the address of the second."""
    node = Node()
    for number, (name, netdev, own) in enumerate(
        (("rocep1s0f1", "enp1s0f1np1", address), ("roceP2p1s0f1", "enP2p1s0f1np1", twin))
    ):
        port = node.hca(name, pci=f"000{2 * number}:01:00.1", netdevs=(netdev,)).port(gbps=200)
        port.pair(f"fe80::{number + 1}", netdev)
        if own is not None:
            port.pair(own.partition("/")[0], netdev)
        node.interface(netdev, *([own] if own else []), f"fe80::{number + 1}/64")
    node.gpu("000f:01:00.0", answer="ok", model="NVIDIA GB10")
    leader = "169.254.35.63" if "169.254" in address else "192.168.177.11"
    route = {"interface": "enp1s0f1np1", "source": address.partition("/")[0]}
    return node.set(
        memlock="unlimited",
        resolve={GROUP["LWS_LEADER_ADDRESS"]: [leader]},
        routes={leader: route},
        versions={"sglang": "0.5.10", "nccl": "2.28.9"},
        environ=dict(GROUP),
    )


def test_two_machines_on_one_cable(decide: Decide) -> None:
    plan = plan_of(spark(), "--model-path", "/m")
    assert plan.exit_code == 0
    assert value(plan, "NCCL_IB_HCA") == "=rocep1s0f1:1"
    assert value(plan, "NCCL_IB_GID_INDEX") == "3"
    assert value(plan, "NCCL_SOCKET_IFNAME") == "=enp1s0f1np1"
    assert codes(plan) == ["LINK_LOCAL_FABRIC", "RAIL_WITHOUT_ADDRESS"]
    assert "roceP2p1s0f1:1 is up" in message(plan, "RAIL_WITHOUT_ADDRESS")
    both = decide(spark(twin="169.254.40.1/16"))
    assert set(both.used) == {"rocep1s0f1:1", "roceP2p1s0f1:1"}
    assert decide(spark(), subnets=("169.254.0.0/16",)).codes == ["RAIL_WITHOUT_ADDRESS"]


@pytest.mark.parametrize("selector", ["rocep1s0f1", "=rocep1s0f1:1"])
def test_a_pinned_port_on_a_cable_is_not_refused(decide: Decide, selector: str) -> None:
    node = rail(spark(), 7)  # a management card with a better address
    assert set(decide(node).used) == {"mlx5_7:1"}
    assert decide(node, environ={"NCCL_IB_HCA": selector}).used == {"rocep1s0f1:1": 3}


def test_link_local_never_displaces_infiniband(decide: Decide) -> None:
    node = spark()
    node.hca("ib0", pci="0009:01:00.0").port(gbps=400, link_layer="InfiniBand").gid(0, "fe80::9", None)
    outcome = decide(node)
    assert outcome.used == {}
    assert outcome.value("NCCL_IB_HCA") == "^=roceP2p1s0f1:1,rocep1s0f1:1"


def test_no_index_where_the_users_selector_has_a_port_without_it(decide: Decide) -> None:
    """The setup of eugr/spark-vllm-docker: both twins are named, one has an address."""
    node = spark(address="192.168.177.12/24")
    named = {"NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1"}
    outcome = decide(node, environ=named)
    assert outcome.used == {"rocep1s0f1:1": 3}
    assert outcome.value("NCCL_IB_GID_INDEX") is None
    assert "index 3 is no RoCE v2 GID on roceP2p1s0f1:1" in outcome.variables["NCCL_IB_GID_INDEX"].reason
    assert outcome.codes == ["HCA_UNUSABLE"]
    assert "roceP2p1s0f1:1, which NCCL will use as it is: only link-local" in outcome.problem("HCA_UNUSABLE")
    # Before 2.21 NCCL would use index 0 on both: the index is better.
    assert decide(node, environ=named, nccl=(2, 20, 5)).value("NCCL_IB_GID_INDEX") == "3"
    assert decide(node, hca="rocep1s0f1,roceP2p1s0f1").value("NCCL_IB_GID_INDEX") == "3"


def gb200(*, management_gbps: float = 400, verbs: str = "ok") -> Node:
    """Return a GB200 tray: four IPv6 rails, a management card of another chip with the only IPv4 address."""
    node = Node().default_route("eth0")
    for number in range(4):
        name, ip = f"rdma{number}", f"2603:c020::{number + 1}"
        hca = node.hca(
            f"mlx5_{number}",
            pci=f"000{number}:03:00.0",
            numa=number // 2,
            device_id="0x1023",
            verbs=verbs,
            netdevs=(name,),
        )
        hca.port(gbps=400).pair(f"fe80::{number + 1}", name).pair(ip, name)
        node.interface(name, f"{ip}/64", f"fe80::{number + 1}/64", mtu=9000)
        node.gpu(f"000{number}:06:00.0", f"pci000{number}:05", number // 2, answer="ok", model="NVIDIA GB200")
    port = node.hca("mlx5_9", pci="0007:01:00.0", numa=0, device_id="0xa2dc", verbs=verbs, netdevs=("eth0",))
    port.port(gbps=management_gbps).pair("fe80::9", "eth0").pair("10.140.65.248", "eth0")
    return node.interface("eth0", "10.140.65.248/20", "fe80::9/64", mtu=9000)


@pytest.mark.parametrize("management", [100, 400, 800])
def test_ipv6_rails_beside_an_ipv4_management_card(decide: Decide, management: float) -> None:
    outcome = decide(gb200(management_gbps=management))
    assert outcome.used == {f"mlx5_{number}:1": 3 for number in range(4)}
    assert outcome.left == {"mlx5_9:1": "MANAGEMENT_NIC"}
    assert outcome.codes == []


def test_ipv6_rails_without_gpu_places_or_default_route(decide: Decide) -> None:
    node = gb200()
    del node.files["/proc/net/route"]
    outcome = decide(node)
    assert set(outcome.used) == {f"mlx5_{number}:1" for number in range(4)}
    assert outcome.left == {"mlx5_9:1": "FAMILY_MISMATCH"}
    assert outcome.codes == ["FAMILY_MISMATCH"]
    assert "mlx5_9:1 is left out: it has no IPv6 address" in outcome.problem("FAMILY_MISMATCH")
    assert outcome.problems[0].severity == "warning"


def test_a_family_that_drops_more_than_it_keeps_is_an_error(decide: Decide) -> None:
    node = gb200()
    del node.files["/proc/net/route"]
    outcome = decide(node, family="ipv4")
    assert [one.severity for one in outcome.problems if one.code == "FAMILY_MISMATCH"] == ["error"]
    assert "(1600 Gb/s dropped, 400 Gb/s kept)" in outcome.problem("FAMILY_MISMATCH")
    relaxed = decide(node, family="ipv4", rdma="optional")
    assert [one.severity for one in relaxed.problems if one.code == "FAMILY_MISMATCH"] == ["warning"]


def test_rails_with_both_families_do_not_move_because_of_one(decide: Decide) -> None:
    node = Node()
    for number in range(8):
        port = node.hca(f"mlx5_{number}").port(gbps=400).pair(f"fe80::{number + 1}", f"net{number}")
        own = [f"fd00:{number}::5/64", f"fe80::{number + 1}/64"]
        if number != 3:
            port.pair(f"10.{number}.0.5", f"net{number}")
            own.append(f"10.{number}.0.5/24")
        port.pair(f"fd00:{number}::5", f"net{number}")
        node.interface(f"net{number}", *own)
    assert decide(node).left == {"mlx5_3:1": "FAMILY_MISMATCH"}


def _tray(channel: str | None = "ok") -> Node:
    node = gb200(verbs="ENOENT").set(environ=dict(GROUP))
    if channel is not None:
        node.facts["open"]["/dev/nvidia-caps-imex-channels/channel0"] = channel
    return node


def test_nvlink_between_nodes_needs_no_rdma() -> None:
    plan = plan_of(_tray(), "--model-path", "/m")
    assert plan.exit_code == 0
    assert "NCCL_NET" not in names(plan)
    assert value(plan, "NCCL_IB_HCA") is None
    assert "NVLINK_ONLY" in codes(plan)
    quiet = plan_of(_tray(), "--model-path", "/m", environ={"NCCL_IB_DISABLE": "1"})
    assert "RDMA_DISABLED" not in codes(quiet)


@pytest.mark.parametrize("channel", [None, "EACCES"])
def test_without_a_channel_that_opens_rdma_is_required(channel: str | None) -> None:
    assert plan_of(_tray(channel), "--model-path", "/m").exit_code == 69


def test_rdma_required_by_a_setting_beats_the_channel() -> None:
    assert plan_of(_tray(), "--rdma", "required", "--model-path", "/m").exit_code == 69
    alone = dict.fromkeys(GROUP, "")
    assert "NVLINK_ONLY" not in codes(plan_of(_tray(), "--model-path", "/m", environ=alone))


@pytest.mark.parametrize(("model", "with_address"), [("0x101e", True), ("0x101e", False), ("0x1015", True)])
def test_infiniband_is_never_left_for_a_slower_ethernet_card(
    decide: Decide, model: str, with_address: bool
) -> None:
    """Azure ND: the accelerated-networking function has the chip of the InfiniBand ones."""
    node = Node()
    for number in range(4):
        hca = node.hca(f"mlx5_ib{number}", pci=f"010{number}:00:00.0", device_id="0x101e")
        hca.port(gbps=400, link_layer="InfiniBand").gid(0, f"fe80::{number + 1}", None)
    side = node.hca("mlx5_an0", pci="1ee2:00:02.0", device_id=model).port(gbps=50).pair("fe80::9", "eth0")
    if with_address:
        side.pair("10.60.0.5", "eth0")
    node.interface("eth0", "10.60.0.5/24", "fe80::9/64")
    outcome = decide(node)
    assert outcome.used == {}
    assert outcome.value("NCCL_IB_HCA") == "^=mlx5_an0:1"
    assert outcome.value("NCCL_IB_GID_INDEX") is None
    assert outcome.decision.satisfied
    chosen = decide(node, environ={"NCCL_IB_HCA": "mlx5_ib"})
    assert chosen.value("NCCL_IB_HCA") == "mlx5_ib"


def _switched(slow: Mapping[str, object], *, near: bool = True, default_route: bool = True) -> Node:
    """Return four GPUs, each with a rail below its switch, and one more card of the same chip."""
    node = Node()
    for number in range(4):
        root = f"{0x10 + 0x10 * number:02x}"
        pci = f"0000:{0x14 + 0x10 * number:02x}:00.0"
        rail(node, number, gbps=400, pci=pci, bridge=SWITCH.format(root, 1), numa=0, device_id="0xa2dc")
        bus = f"0000:{0x16 + 0x10 * number:02x}:00.0"
        node.gpu(bus, SWITCH.format(root, 2), 0, answer="ok")
    place = SWITCH.format("30", 3) if near else "pci0000:90/0000:90:01.0"
    gbps, board = float(str(slow["gbps"])), slow.get("board")
    rail(node, 9, gbps=gbps, pci="0000:39:00.0", bridge=place, numa=0, device_id="0xa2dc")
    if board is not None:
        for number in (0, 1, 2, 3, 9):
            path = next(path for path in node.files if path.endswith(f"/infiniband/mlx5_{number}/node_type"))
            text = str(board) if number == 9 else "MT_0000001069"
            node.files[path.replace("node_type", "board_id")] = f"{text}\n"
    return node.default_route("net9") if default_route else node


@pytest.mark.parametrize(
    ("slow", "near", "default_route", "reason"),
    [
        ({"gbps": 200}, True, True, "MANAGEMENT_NIC"),  # Dell XE9680: below the switch of one GPU
        ({"gbps": 400}, True, True, "MANAGEMENT_NIC"),
        ({"gbps": 200}, False, False, "SLOWER_RATE"),  # Cisco C885A: storage
        ({"gbps": 200}, True, False, "SLOWER_RATE"),
        ({"gbps": 200, "board": "MT_0000000884"}, True, False, "SLOWER_RATE"),
        # As fast as the rails, and the default route is on a card of its own.
        ({"gbps": 400, "board": "MT_0000000884"}, True, False, "OTHER_CARD"),
        ({"gbps": 400, "board": "MT_0000000884"}, False, False, "OTHER_CARD"),
        ({"gbps": 800, "board": "MT_0000000884"}, False, False, "OTHER_CARD"),
    ],
)
def test_a_card_with_the_chip_of_the_rails_is_no_further_rail(
    decide: Decide, slow: Mapping[str, object], near: bool, default_route: bool, reason: str
) -> None:
    outcome = decide(_switched(slow, near=near, default_route=default_route))
    assert set(outcome.used) == {f"mlx5_{number}:1" for number in range(4)}
    assert outcome.left == {"mlx5_9:1": reason}
    assert outcome.codes == []


@pytest.mark.parametrize(("below_a_switch", "left"), [(False, {"mlx5_9:1": "SLOWER_RATE"}), (True, {})])
def test_a_storage_card_at_its_own_root_is_no_degraded_rail(
    decide: Decide, below_a_switch: bool, left: Mapping[str, str]
) -> None:
    """NVIDIA/nccl#1277: a switch for each GPU, a rail below every second one, storage at a root of its own."""
    node = Node()
    for number in range(8):
        root = f"{0x10 + 0x10 * number:02x}"
        node.gpu(f"0000:{0x16 + 0x10 * number:02x}:00.0", SWITCH.format(root, 2), number // 4, answer="ok")
        if number % 2 == 0:
            pci = f"0000:{0x14 + 0x10 * number:02x}:00.0"
            rail(node, number, gbps=400, pci=pci, bridge=SWITCH.format(root, 1), numa=number // 4)
    place = SWITCH.format("20", 1) if below_a_switch else "pci0000:90/0000:90:01.0"
    rail(node, 9, gbps=200, pci="0000:91:00.0", bridge=place, numa=0)
    outcome = decide(node)
    assert outcome.left == left
    assert outcome.codes == (["DEGRADED_LINK"] if below_a_switch else [])


def test_boards_tell_cards_apart_where_places_do_not(decide: Decide) -> None:
    node = Node()
    for number, (gbps, board) in enumerate(((400, "MT_1"), (400, "MT_1"), (200, "MT_2"))):
        rail(node, number, gbps=gbps, pci=f"0000:{number + 1}0:00.0")
        path = next(path for path in node.files if path.endswith(f"/mlx5_{number}/node_type"))
        node.files[path.replace("node_type", "board_id")] = board + "\n"
    assert decide(node).left == {"mlx5_2:1": "SLOWER_RATE"}
    assert decide(node).codes == []


@pytest.mark.parametrize("places", ["none", "flat", "numa"])
def test_one_fast_card_displaces_no_rails_that_carry_more(decide: Decide, places: str) -> None:
    """Eight rails of 200 Gb/s beside storage with 400, where neither PCI nor NUMA shows whose they are."""
    node = Node()
    for number in range(8):
        numa = number // 4 if places == "numa" else None
        rail(node, number, pci=f"0000:{number + 1}0:00.0", device_id="0x101b", numa=numa)
        if places != "none":
            node.gpu(f"0001:{number + 1}0:00.0", numa=numa, answer="ok")
    rail(node, 8, gbps=400, pci="0002:10:00.0", device_id="0xa2dc", numa=0 if places == "numa" else None)
    assert {f"mlx5_{number}:1" for number in range(8)} <= set(decide(node).used)


def test_virtual_functions_of_a_slow_card_carry_no_more_than_it(decide: Decide) -> None:
    node = rail(Node(), 0, gbps=400, pci="0000:10:00.0")
    for number in range(1, 20):
        pci = f"0000:20:{number // 8:02x}.{number % 8}"
        rail(node, number, gbps=50, pci=pci, physfn="0000:20:00.0", device_id="0x101e")
    assert set(decide(node).used) == {"mlx5_0:1"}


def test_two_equal_cards_of_which_one_has_the_default_route_are_both_rails(decide: Decide) -> None:
    node = Node()
    for number in range(2):
        rail(node, number, gbps=100, pci=f"0000:21:00.{number}", bridge="pci0000:20/0000:20:03.0", numa=0)
    for number in range(4):
        node.gpu(f"0000:{number + 4}1:00.0", numa=0, answer="ok")
    assert set(decide(node.default_route("net0")).used) == {"mlx5_0:1", "mlx5_1:1"}


def test_the_address_of_the_port_comes_before_that_of_a_vlan(decide: Decide) -> None:
    node = Node()
    for number in range(2):
        port = node.hca(f"mlx5_{number}", pci=f"0000:{number + 1}0:00.0").port()
        port.pair(f"fe80::{number + 1}", f"eth{number}").pair(f"172.{16 + number}.3.2", f"eth{number}")
        port.pair(f"10.40.{number}.2", f"eth{number}.400")
        node.interface(f"eth{number}", f"172.{16 + number}.3.2/31", f"fe80::{number + 1}/64")
        node.interface(f"eth{number}.400", f"10.40.{number}.2/24")
    outcome = decide(node)
    assert outcome.used == {"mlx5_0:1": 3, "mlx5_1:1": 3}
    assert outcome.codes == []
    assert decide(node, subnets=("10.40.0.0/16",)).used == {"mlx5_0:1": 5, "mlx5_1:1": 5}


def test_a_bond_of_two_hcas(decide: Decide) -> None:
    node = Node().interface("bond1", "10.9.0.2/24")
    for number in range(2):
        node.hca(f"rocep12s0f{number}", pci=f"0000:0c:00.{number}").port().pair("10.9.0.2", "bond1", 2)
    outcome = decide(node)
    assert outcome.codes == ["BOND_WITHOUT_LAG"]
    assert "rocep12s0f0:1, rocep12s0f1:1 have the same address, 10.9.0.2 of bond1" in outcome.problems[0].message


def _routed(name: str, *addresses: str) -> Node:
    node = healthy().interface(name, *addresses)
    node.facts["routes"]["10.0.0.11"] = {"interface": name, "source": "10.32.0.17"}
    return node


def test_an_address_on_lo_is_given_to_nobody() -> None:
    plan = plan_of(_routed("lo", "127.0.0.1/8", "10.32.0.17/32", "::1/128"), "--model-path", "/m")
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME"):
        assert value(plan, name) is None
    assert value(plan, "SGLANG_HOST_IP") == "10.32.0.17"
    assert codes(plan) == ["CONTROL_ON_LOOPBACK"]
    assert "10.32.0.17, the address towards the other nodes, is on lo" in message(plan, "CONTROL_ON_LOOPBACK")
    on_dummy = plan_of(_routed("dummy0", "10.32.0.17/32"), "--model-path", "/m")
    assert value(on_dummy, "NCCL_SOCKET_IFNAME") == "=dummy0"
    assert codes(on_dummy) == []
    by_name = plan_of(_routed("lo", "127.0.0.1/8", "10.32.0.17/32"), "--interface", "lo", "--model-path", "/m")
    assert value(by_name, "NCCL_SOCKET_IFNAME") is None


def test_an_address_that_is_not_the_first_of_its_interface() -> None:
    plan = plan_of(_routed("eth0", "10.0.0.12/24", "10.32.0.17/32"), "--model-path", "/m")
    assert codes(plan) == ["CONTROL_ADDRESS_NOT_FIRST"]
    assert "NCCL and Gloo use 10.0.0.12 of it" in message(plan, "CONTROL_ADDRESS_NOT_FIRST")
    assert (
        codes(plan_of(_routed("eth0", "fe80::1/64", "10.32.0.17/32", "10.0.0.12/24"), "--model-path", "/m")) == []
    )


def test_an_address_on_a_bridge_above_the_port_is_named(decide: Decide) -> None:
    node = Node().interface("eno1", "10.1.2.3/24").default_route("eno1")
    node.hca("mlx5_0").port().pair("fe80::30", "ens0np0")
    node.interface("ens0np0", "fe80::30/64").interface("br-r0", "10.3.0.5/24")
    problem = decide(node).problems[0]
    assert problem.code == "NO_USABLE_HCA"
    assert problem.hint.startswith("give ens0np0 an address on the node:")
    assert problem.hint.endswith("or another interface (here br-r0)")
