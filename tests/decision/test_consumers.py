"""What Mooncake, UCX, NVSHMEM and Gloo are told, and what of the pod's own values is wrong for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.decision.golden import finished, hgx
from tests.planning import codes, message, names, plan_of, value
from tests.trees import Node

if TYPE_CHECKING:
    from sglang_roce_entry.plan.plan import Plan

MODEL = ("--model-path", "/m")
MOONCAKE = (*MODEL, "--disaggregation-mode", "prefill")
NIXL = (*MOONCAKE, "--disaggregation-transfer-backend", "nixl")
DEEPEP = (*MODEL, "--moe-a2a-backend", "deepep")


def two(first: int = 2, second: int = 2, *, sglang: str | None = "0.5.23", foreign: str | None = None) -> Node:
    """Return two HCAs with their IPv4 pairs at ``first`` and ``second``; ``foreign`` lies before the second's."""
    node = Node()
    for number, index in ((0, first), (1, second)):
        port = node.hca(f"mlx5_{number}", pci=f"0000:0{number + 1}:00.0").port()
        port.pair(f"fe80::{number + 1}", f"net{number}", 0)
        if foreign is not None and number == 1:
            port.pair(foreign, "ens9", 2)
        port.pair(f"10.8.{number}.1", f"net{number}", index)
        node.interface(f"net{number}", f"10.8.{number}.1/24")
    return finished(node, sglang=sglang).gateway_route("net0").gateway_route("net1")


def argument(plan: Plan) -> str | None:
    argv = plan.argv or ()
    return argv[argv.index("--disaggregation-ib-device") + 1] if "--disaggregation-ib-device" in argv else None


def test_one_index_for_all() -> None:
    plan = plan_of(two(), *MOONCAKE)
    for name in ("NCCL_IB_GID_INDEX", "MC_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX"):
        assert value(plan, name) == "3"
    assert argument(plan) == "mlx5_0,mlx5_1"
    assert codes(plan) == []


def test_a_withheld_index_that_mooncake_and_ucx_find_by_themselves() -> None:
    plan = plan_of(two(2, 4), *MOONCAKE)
    for name in ("NCCL_IB_GID_INDEX", "MC_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX"):
        assert value(plan, name) is None
    assert "UCX_IB_ROCE_SUBNETS" not in names(plan)
    # 0.3.10 and 0.3.11 end at the first empty slot, here 2 and 3 of mlx5_1.
    assert codes(plan) == ["MOONCAKE_GID"]
    assert "0.3.10 and 0.3.11 takes index 1 (fe80::2)" in message(plan, "MOONCAKE_GID")
    assert argument(plan) == "mlx5_0"
    newer = two(2, 4)
    newer.facts["versions"]["mooncake"] = "0.3.13.post1"
    plan = plan_of(newer, *MOONCAKE)
    assert codes(plan) == []
    assert argument(plan) == "mlx5_0,mlx5_1"


def _unrouted(networks: tuple[str, ...]) -> Node:
    node = Node()
    for number, network in enumerate(networks):
        port = node.hca(f"mlx5_{number}", pci=f"0000:0{number + 1}:00.0").port()
        port.pair(f"fe80::{number + 1}", f"net{number}", 0).pair(network.partition("/")[0], f"net{number}", 2)
        node.interface(f"net{number}", network)
    return finished(node)


def test_networks_of_a_kv_transfer_without_a_route_between_them() -> None:
    """vllm-project/vllm#44919, NVIDIA-NeMo/RL#2935: Mooncake connects any HCA with any other."""
    apart = ("172.16.0.1/13", "172.24.0.1/13")
    plan = plan_of(_unrouted(apart), *MOONCAKE)
    assert codes(plan) == ["KV_NETWORKS"]
    assert "in 2 networks (172.16.0.0/13, 172.24.0.0/13)" in message(plan, "KV_NETWORKS")
    assert "MC_ENABLE_DEST_DEVICE_AFFINITY=1" in plan.problems[0].hint
    assert plan.exit_code == 0
    assert codes(plan_of(_unrouted(apart), *MODEL)) == []
    assert codes(plan_of(_unrouted(("172.16.0.1/13", "172.16.0.2/13")), *MOONCAKE)) == []
    routed = _unrouted(apart).gateway_route("net0").gateway_route("net1")
    assert codes(plan_of(routed, *MOONCAKE)) == []
    named = (*MOONCAKE, "--disaggregation-ib-device", "mlx5_1")
    assert "KV_NETWORKS" not in codes(plan_of(_unrouted(apart), *named))


@pytest.mark.parametrize(("value", "found"), [("1", []), ("0", ["MC_AFFINITY"]), ("False", ["MC_AFFINITY"])])
def test_any_value_switches_mooncakes_affinity_on(value: str, found: list[str]) -> None:
    environ = {"MC_ENABLE_DEST_DEVICE_AFFINITY": value}
    plan = plan_of(_unrouted(("172.16.0.1/13", "172.24.0.1/13")), *MOONCAKE, environ=environ)
    assert codes(plan) == found
    assert codes(plan_of(_unrouted(("172.16.0.1/13",)), *MODEL, environ=environ)) == []


def test_a_rail_that_ucx_finds_no_route_by() -> None:
    """openucx/ucx#10996: a /31 holds the switch only, and without a route UCX uses TCP."""
    links = ("10.50.0.2/31", "10.50.1.2/31")
    plan = plan_of(_unrouted(links), *NIXL)
    assert codes(plan) == ["UCX_NO_ROUTE"]
    assert "beyond the link of net0 (10.50.0.2/31), net1 (10.50.1.2/31)" in message(plan, "UCX_NO_ROUTE")
    partly = plan_of(_unrouted(links).gateway_route("net0"), *NIXL)
    assert "link of net1 (10.50.1.2/31)" in message(partly, "UCX_NO_ROUTE")
    assert codes(plan_of(_unrouted(links), *NIXL, environ={"UCX_IB_ROCE_REACHABILITY_MODE": "all"})) == []
    assert codes(plan_of(_unrouted(("10.50.0.2/24", "10.50.1.2/24")), *NIXL)) == []
    assert codes(plan_of(_unrouted(links), *MODEL)) == []


def test_foreign_gids_first_are_shut_out_for_each_library() -> None:
    plan = plan_of(two(2, 4, foreign="172.16.0.9"), *MOONCAKE)
    assert value(plan, "NCCL_IB_ADDR_RANGE") == value(plan, "NVSHMEM_IB_ADDR_RANGE") == "10.8.0.0/23"
    assert value(plan, "UCX_IB_ROCE_SUBNETS") == "10.8.0.0/23"
    assert value(plan, "MC_GID_INDEX") is None
    assert argument(plan) == "mlx5_0"
    assert "mlx5_1:1: Mooncake" in message(plan, "MOONCAKE_GID")
    assert "takes index 3 (172.16.0.9)" in message(plan, "MOONCAKE_GID")
    assert plan.exit_code == 0
    strict = plan_of(two(2, 4, foreign="172.16.0.9"), "--strict", *MOONCAKE)
    assert strict.exit_code == 69


def test_without_mooncake_its_choice_is_nobodys_problem() -> None:
    hicache = plan_of(two(2, 4, foreign="172.16.0.9"), *MODEL, "--hicache-storage-backend", "mooncake")
    assert codes(hicache) == ["MOONCAKE_GID"]
    assert "(it is not given these): mlx5_1:1" in message(hicache, "MOONCAKE_GID")
    assert value(hicache, "MC_TE_FILTERS") == "mlx5_0"
    given = plan_of(two(2, 4, foreign="172.16.0.9"), *MOONCAKE, "--disaggregation-ib-device", "mlx5_0,mlx5_1")
    assert "(transfers there would fail): mlx5_1:1" in message(given, "MOONCAKE_GID")
    assert argument(given) == "mlx5_0,mlx5_1"
    nixl = plan_of(two(2, 4, foreign="172.16.0.9"), *NIXL)
    assert argument(nixl) == "mlx5_0,mlx5_1"
    plan = plan_of(two(2, 4, foreign="172.16.0.9"), *MODEL)
    assert codes(plan) == []
    assert value(plan, "UCX_IB_ROCE_SUBNETS") == "10.8.0.0/23"


def test_a_forced_index_of_nccl_is_inherited_and_said() -> None:
    plan = plan_of(two(2, 4), *MOONCAKE, environ={"NCCL_IB_GID_INDEX": "3"})
    assert "MC_GID_INHERITED" in codes(plan)
    assert "NCCL_IB_GID_INDEX=3" in message(plan, "MC_GID_INHERITED")
    assert "MOONCAKE_GID" not in codes(plan)
    # Where one index is right, Mooncake is given it whatever NCCL was told.
    plan = plan_of(two(), *MOONCAKE, environ={"NCCL_IB_GID_INDEX": "1"})
    assert value(plan, "MC_GID_INDEX") == "3"
    assert "MC_GID_INHERITED" not in codes(plan)


def test_nvshmem_is_told_what_the_pod_told_nccl() -> None:
    node = Node().interface("net0", "fd00::1/64", "10.0.0.1/24").interface("net1", "fd00:1::1/64", "10.1.0.1/24")
    first, second = node.hca("mlx5_0").port(), node.hca("mlx5_1").port()
    first.pair("fe80::1", "net0", 0).pair("fd00::1", "net0", 2).pair("10.0.0.1", "net0", 6)
    second.pair("fe80::2", "net1", 0).pair("fd00:1::1", "net1", 4).pair("10.1.0.1", "net1", 6)
    plan = plan_of(finished(node), *MODEL, environ={"NCCL_IB_ADDR_FAMILY": "AF_INET6"})
    assert value(plan, "NCCL_IB_GID_INDEX") is None
    assert value(plan, "NVSHMEM_IB_ADDR_FAMILY") == "AF_INET6"


def test_deepep_is_given_no_list_and_no_mapping() -> None:
    plan = plan_of(hgx(), *DEEPEP)
    for name in ("NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PE_MAPPING", "NVSHMEM_ENABLE_NIC_PE_MAPPING"):
        assert value(plan, name) is None
    assert "nearest" in next(one.reason for one in plan.variables if one.name == "NVSHMEM_HCA_LIST")
    assert value(plan, "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME") == "=eth0"
    assert "NVSHMEM_HCA_LIST" not in names(plan_of(hgx(), *MODEL))


def test_the_fabrics_quality_of_service_is_left_alone() -> None:
    plan = plan_of(hgx(), *MOONCAKE)
    for name in ("NCCL_IB_TC", "NCCL_IB_SL", "MC_IB_TC"):
        assert value(plan, name) is None
    assert "NVSHMEM_IB_SL" not in names(plan)
    kept = plan_of(hgx(), *MODEL, environ={"NCCL_IB_TC": "106", "NVSHMEM_IB_SL": "3"})
    assert (value(kept, "NCCL_IB_TC"), value(kept, "NVSHMEM_IB_SL")) == ("106", "3")


def test_nixl_of_an_older_sglang_goes_by_ucx() -> None:
    plan = plan_of(two(sglang="0.5.10"), *NIXL)
    assert value(plan, "UCX_NET_DEVICES") == "mlx5_0:1,mlx5_1:1,eth0"
    assert argument(plan) is None
    one_node = two(sglang="0.5.10").set(environ={})
    one_node.files.pop("/proc/net/route")
    assert value(plan_of(one_node, *NIXL), "UCX_NET_DEVICES") == "mlx5_0:1,mlx5_1:1,lo"


def test_nixl_of_a_newer_sglang_goes_by_the_option_which_ucx_would_silence() -> None:
    plan = plan_of(hgx(), *NIXL)
    assert value(plan, "UCX_NET_DEVICES") is None
    assert "ignore --disaggregation-ib-device" in next(
        one.reason for one in plan.variables if one.name == "UCX_NET_DEVICES"
    )
    assert (argument(plan) or "").startswith('{"0":"mlx5_4"')
    loud = plan_of(hgx(), *NIXL, environ={"UCX_NET_DEVICES": "mlx5_0:1,eth0"})
    assert codes(loud) == ["UCX_SILENCES_MAP"]


def test_mooncake_without_an_option_of_sglangs_is_filtered() -> None:
    node = hgx()
    node.hca("mlx5_9", pci="0000:99:00.0").port().pair("10.99.0.1", "ens9", 2)
    plan = plan_of(node, *MODEL, "--hicache-storage-backend", "mooncake")
    assert value(plan, "MC_TE_FILTERS") == ",".join(f"mlx5_{n}" for n in range(8))
    assert value(plan_of(node, *MOONCAKE), "MC_TE_FILTERS") is None
    assert "MC_TE_FILTERS" not in names(plan_of(hgx(), *MODEL, "--hicache-storage-backend", "mooncake"))
    assert "MC_TE_FILTERS" not in names(plan_of(node, *MODEL))


def test_a_port_that_is_not_the_first() -> None:
    node = Node()
    hca = node.hca("mlx4_0", pci="0000:01:00.0")
    hca.port(1, state="1: DOWN")
    hca.port(2).pair("10.8.0.1", "net0", 2)
    node.interface("net0", "10.8.0.1/24")
    plan = plan_of(finished(node), *MOONCAKE)
    assert value(plan, "MC_IB_PORT") == "2"
    assert argument(plan) == "mlx4_0"
    assert "MC_IB_PORT" not in names(plan_of(hgx(), *MOONCAKE))


def test_nothing_is_said_where_no_port_is_chosen() -> None:
    plugin = plan_of(hgx(), *MOONCAKE, environ={"NCCL_NET": "gIB"})
    assert argument(plugin) is None
    assert plugin.transfer.told == "mooncake: no --disaggregation-ib-device, Google gIB"
    off = plan_of(hgx(), "--rdma", "off", *MOONCAKE)
    assert argument(off) is None
    assert codes(off) == []


def test_the_users_device_stays() -> None:
    plan = plan_of(hgx(), *MOONCAKE, "--disaggregation-ib-device", "mlx5_1")
    assert plan.argv is not None
    assert plan.argv.count("--disaggregation-ib-device") == 1
    assert plan.transfer.told == "mooncake: the user's --disaggregation-ib-device"
    assert codes(plan) == []


#: The pod's value, SGLang's arguments, the code, words of the message.
WRONG = {
    "Mooncake index": ({"MC_GID_INDEX": "2"}, MODEL, "GID_INDEX_WRONG", "MC_GID_INDEX=2 (the pod's environment) is wrong"),
    "NVSHMEM index": ({"NVSHMEM_IB_GID_INDEX": "0"}, MODEL, "GID_INDEX_WRONG", "NVSHMEM_IB_GID_INDEX=0"),
    "UCX index": ({"UCX_IB_GID_INDEX": "1"}, MODEL, "GID_INDEX_WRONG", "a link-local address"),
    "no number": ({"MC_GID_INDEX": "auto"}, MODEL, "GID_INDEX_NOT_A_NUMBER", "Mooncake reads it as 0"),
    "UCX conflict": (
        {"UCX_IB_GID_INDEX": "3", "UCX_IB_ROCE_SUBNETS": "10.0.0.0/8"}, MODEL, "UCX_GID_CONFLICT", "UCX rejects",
    ),
    "Mooncake filter": ({"MC_TE_FILTERS": "mlx5_0,mlx5_77"}, MODEL, "DEVICE_UNKNOWN", "'mlx5_77'"),
    "Mooncake device with port": ({"MOONCAKE_DEVICE": "mlx5_0:1"}, MODEL, "DEVICE_UNKNOWN", "'mlx5_0:1'"),
    "Mooncake port": ({"MC_IB_PORT": "2"}, MODEL, "MC_IB_PORT", "is not a usable port of mlx5_0"),
    "Mooncake port word": ({"MC_IB_PORT": "first"}, MODEL, "MC_IB_PORT", "is not a number"),
    "NVSHMEM list in NCCL's grammar": ({"NVSHMEM_HCA_LIST": "=mlx5_0:1"}, MODEL, "DEVICE_UNKNOWN", "'=mlx5_0'"),
    "NVSHMEM mapping": (
        {"NVSHMEM_HCA_PE_MAPPING": "mlx5_0:1,mlx5_1:1:2"}, MODEL, "NVSHMEM_PE_MAPPING", "name:port:count",
    ),
    "NVSHMEM mapping in DeepEP": ({"NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}, DEEPEP, "NVSHMEM_ONE_HCA", "all GPUs on one"),
    "NVSHMEM bootstrap": (
        {"NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": "=bond9"}, MODEL, "SOCKET_IFNAME_MATCHES_NOTHING", "=bond9",
    ),
    "NVSHMEM family": ({"NVSHMEM_IB_ADDR_FAMILY": "ipv6"}, MODEL, "ADDR_FAMILY_UNKNOWN", "NVSHMEM reads it as AF_INET"),
    "UCX name": ({"UCX_NET_DEVICES": "mlx5_0:1,bond9"}, MODEL, "UCX_NET_DEVICES_UNKNOWN", "'bond9'"),
    "UCX port": ({"UCX_NET_DEVICES": "mlx5_0:7,eth0"}, MODEL, "UCX_NET_DEVICES_UNKNOWN", "'mlx5_0:7'"),
    "UCX in NCCL's grammar": ({"UCX_NET_DEVICES": "=mlx5_0:1"}, MODEL, "UCX_NET_DEVICES_UNKNOWN", "'=mlx5_0:1'"),
    "UCX without TCP": ({"UCX_NET_DEVICES": "mlx5_0:1"}, NIXL, "UCX_WITHOUT_TCP", "no network interface in it"),
    "Gloo in NCCL's grammar": ({"GLOO_SOCKET_IFNAME": "^lo"}, MODEL, "GLOO_IFNAME_UNKNOWN", "'^lo'"),
    "off the route": ({"NCCL_SOCKET_IFNAME": "=rail0"}, MODEL, "SOCKET_IFNAME_ELSEWHERE", "selects rail0, but leader and worker are connected over eth0"),
    "Gloo off the route": ({"GLOO_SOCKET_IFNAME": "rail0"}, MODEL, "SOCKET_IFNAME_ELSEWHERE", "selects rail0"),
    "device": ({}, (*MOONCAKE, "--disaggregation-ib-device", "mlx5_77"), "IB_DEVICE", "mlx5_77"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_values_of_the_pod(name: str) -> None:
    environ, argv, code, words = WRONG[name]
    node = hgx()
    plan = plan_of(node, *argv, environ=environ)
    assert code in codes(plan)
    assert words in message(plan, code)
    assert plan.exit_code == 0
    for variable, text in environ.items():
        if variable in names(plan):
            assert value(plan, variable) == text
    if next(one for one in plan.problems if one.code == code).value:
        assert plan_of(node, "--strict", *argv, environ=environ).exit_code in (69, 78)


RIGHT = {
    "MC_GID_INDEX": "3",
    "UCX_IB_GID_INDEX": "auto",
    "NVSHMEM_IB_GID_INDEX": "-1",
    "MC_TE_FILTERS": "mlx5_0, mlx5_1",
    "NVSHMEM_HCA_LIST": "^mlx5_0:1,mlx5_1",
    "NVSHMEM_HCA_PE_MAPPING": "mlx5_0:1:2,mlx5_1:1:2",
    "UCX_NET_DEVICES": "mlx5_0:1,mlx5_1,eth0",
    "GLOO_SOCKET_IFNAME": "eth0",
    "NCCL_SOCKET_IFNAME": "eth",
    "MC_IB_PORT": "1",
    "MOONCAKE_DEVICE": '{"0": "mlx5_0"}',
}


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_right_values_of_the_pod(name: str) -> None:
    assert codes(plan_of(hgx(), *MODEL, environ={name: RIGHT[name]})) == []


def test_a_value_that_a_flag_overrides_is_not_held_against_the_node() -> None:
    environ = {
        "NCCL_SOCKET_IFNAME": "eth9",
        "GLOO_SOCKET_IFNAME": "=eth9",
        "SGLANG_HOST_IP": "10.9.9.9",
        "NCCL_IB_HCA": "mlx5_0,mlx4",
    }
    group = ("--leader-address", "10.8.0.9", "--group-size", "2", "--worker-index", "1")
    assert len(codes(plan_of(two(), *group, *MODEL, environ=environ))) == 4
    plan = plan_of(two(), *group, "--interface", "net0", "--hca", "=mlx5_1", *MODEL, environ=environ)
    assert value(plan, "NCCL_SOCKET_IFNAME") == "=net0"
    assert value(plan, "NCCL_IB_HCA") == "=mlx5_1:1"
    assert codes(plan) == []


@pytest.mark.parametrize("vendor", ["0x1ded", "0x14e4", "0x1dd8"])
def test_deepep_drives_connectx_only(vendor: str) -> None:
    node = Node()
    node.hca("rdma0", pci="0000:1a:00.0", vendor=vendor).port().pair("10.8.0.1", "net0", 2)
    node.interface("net0", "10.8.0.1/24")
    plan = plan_of(finished(node), *DEEPEP)
    assert codes(plan) == ["NVSHMEM_VENDOR"]
    assert vendor in message(plan, "NVSHMEM_VENDOR")


def test_names_that_nvshmem_passes_over() -> None:
    node = Node()
    node.hca("rocep26s0", pci="0000:1a:00.0").port().pair("10.8.0.1", "net0", 2)
    node.interface("net0", "10.8.0.1/24")
    node = finished(node)
    assert codes(plan_of(node, *DEEPEP)) == ["NVSHMEM_PREFIX"]
    assert codes(plan_of(node, *DEEPEP, environ={"NVSHMEM_HCA_PREFIX": "rocep"})) == []
    assert codes(plan_of(node, *MODEL)) == []


def test_rails_with_different_mtus() -> None:
    node = hgx()
    node.facts["interfaces"]["rail3"]["mtu"] = 1500
    plan = plan_of(node, *MODEL)
    assert codes(plan) == ["MTU_DIFFERS"]
    assert "rail3 1500 (RoCE 1024)" in message(plan, "MTU_DIFFERS")
    for mtu, said in ((9000, []), (4192, []), (4191, ["MTU_DIFFERS"])):
        node.facts["interfaces"]["rail3"]["mtu"] = mtu
        assert codes(plan_of(node, *MODEL)) == said
