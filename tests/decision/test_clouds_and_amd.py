"""Plugins of clouds, providers of the image, and AMD: RCCL, ionic, MoRI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.host.installed import rccl_as_nccl, rccl_net_plugin
from tests.decision.conftest import Decide, rail
from tests.healthy import healthy
from tests.planning import codes, message, names, plan_of, value
from tests.trees import V2, Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GIB = "/usr/local/gib"
OFI = "/opt/amazon/ofi-nccl"


@pytest.mark.parametrize(
    ("folders", "environ"),
    [
        ((GIB,), {}),
        ((), {"LD_LIBRARY_PATH": f"{GIB}/lib64:/usr/local/nvidia/lib64"}),
        ((), {"NCCL_INIT_SCRIPT": f"{GIB}/scripts/set_nccl_env.sh"}),
    ],
)
def test_gib_that_nobody_has_sourced(folders: tuple[str, ...], environ: Mapping[str, str]) -> None:
    plan = plan_of(healthy().set(net_plugins=list(folders)), "--model-path", "/m", environ=environ)
    assert plan.exit_code == 0
    assert codes(plan) == ["PLUGIN_IDLE"]
    assert "source /usr/local/gib/scripts/set_nccl_env.sh before the launcher" in plan.problems[0].hint
    for quiet in ({"NCCL_NET": "gIB"}, {"NCCL_NET_PLUGIN": "none"}):
        node = healthy().set(net_plugins=list(folders))
        assert "PLUGIN_IDLE" not in codes(plan_of(node, "--model-path", "/m", environ={**environ, **quiet}))


def test_efa_without_its_plugin_in_the_path(decide: Decide) -> None:
    node = Node().set(net_plugins=[OFI])
    node.hca("rdmap80s0", pci="0000:80:00.0", node_type="7: unspecified").port(link_layer="Unknown")
    outcome = decide(node)
    assert outcome.codes == ["NO_USABLE_HCA"]
    assert outcome.problems[0].hint.startswith(
        f"aws-ofi-nccl is in this container ({OFI}): put its library folder"
    )
    assert decide(node, environ={"LD_LIBRARY_PATH": f"{OFI}/lib/x86_64-linux-gnu"}).codes == []


def test_alibabas_card_in_iwarp_mode(decide: Decide) -> None:
    node = Node().interface("eth0", "172.17.3.8/20")
    hca = node.hca("erdma_0", pci="0000:00:05.0", node_type="4: RNIC", vendor="0x1ded", device_id="0x107f")
    hca.port().gid(1, "172.17.3.8", V2, "eth0")
    assert "compat_mode=1" in decide(node).problems[0].hint


def _ionic(*, providers: tuple[str, ...] = ("mlx5", "ionic")) -> Node:
    """Return a node of MI355X with Pollara NICs, their one table without v1 GIDs."""
    node = Node()
    for number in range(2):
        name, ip = f"benic{number + 1}p1", f"10.{number}.0.1"
        hca = node.hca(f"ionic_{number}", pci=f"0000:0{number + 1}:00.0", vendor="0x1dd8", device_id="0x1002")
        hca.port(gbps=400).gid(0, f"fe80::{number + 1}", V2, name).gid(1, ip, V2, name)
        node.interface(name, f"{ip}/24")
        node.amd_gpu(number, f"0000:1{number}:00.0")
    node.files.update({f"/etc/libibverbs.d/{name}.driver": f"driver {name}\n" for name in providers})
    leader = "sglang-0.sglang.default"
    return node.interface("eth0", "10.158.0.2/21").set(
        memlock="unlimited",
        resolve={leader: ["10.158.0.1"]},
        routes={"10.158.0.1": {"interface": "eth0", "source": "10.158.0.2"}},
        versions={"sglang": "0.5.23", "nccl": None},
        environ={"LWS_LEADER_ADDRESS": leader, "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"},
    )


def _left(node: Node) -> dict[str, str | None]:
    rows = plan_of(node, "--model-path", "/m").choice.ports
    return {row.decision.label: row.decision.reason for row in rows if not row.decision.used}


def test_an_image_without_the_provider_of_its_hcas() -> None:
    """Also where a recording does not tell what libibverbs lists; if it does, that is the last word."""
    bare = _ionic(providers=("mlx5", "bnxt_re"))
    assert _left(bare) == {"ionic_0:1": "NO_PROVIDER", "ionic_1:1": "NO_PROVIDER"}
    assert plan_of(bare, "--model-path", "/m").exit_code == 69
    assert _left(_ionic()) == {}
    assert _left(bare.set(verbs_listed=["ionic_0", "ionic_1"])) == {}
    assert _left(_ionic(providers=())) == {}


@pytest.mark.parametrize(
    ("rocm", "sglang", "nccl"),
    [
        ("6.2.4", None, ("2.20.5",)),
        ("6.3.0", None, ("2.21.5",)),
        ("6.4", None, ("2.22.3",)),
        ("7.0.2", None, ("2.26.6",)),
        ("7.2.0", None, ("2.27.7",)),
        ("7.12.0", None, ("2.28.3",)),
        ("7.14.0", None, ("2.30.4",)),
        ("10.0.0", None, ("2.30.4",)),
        ("5.7.0", None, ()),
        (None, "0.5.10", ("2.21.5",)),
        (None, "0.4.1", ()),
        (None, None, ()),
    ],
)
def test_the_nccl_that_rccl_was_cut_from(rocm: str | None, sglang: str | None, nccl: tuple[str, ...]) -> None:
    assert rccl_as_nccl(rocm, sglang) == nccl


@pytest.mark.parametrize("rocm", [None, "7.0.0"])
def test_rails_with_different_indices_are_all_used_by_rccl(rocm: str | None) -> None:
    node = _ionic()
    node.ports[1].used.clear()
    node.ports[1].gid(0, "fe80::2", V2, "benic2p1").gid(3, "10.1.0.1", V2, "benic2p1")
    node.facts["versions"]["rocm"] = rocm
    plan = plan_of(node, "--model-path", "/m")
    assert value(plan, "NCCL_IB_HCA") == "=ionic_0:1,ionic_1:1"
    assert value(plan, "NCCL_IB_GID_INDEX") is None
    assert "INDEX_MISMATCH" not in codes(plan)


def test_amds_own_plugin_decides() -> None:
    plan = plan_of(_ionic(), "--model-path", "/m", environ={"NCCL_NET_PLUGIN": "librccl-anp.so"})
    assert plan.choice.plugin == "AMD ANP"
    assert value(plan, "NCCL_NET") is None


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/opt/amd-anp/build/librccl-anp.so", "AMD ANP"),
        ("/opt/aws-ofi-rccl/lib/librccl-net.so", "aws-ofi-nccl"),
        ("/opt/rocm/lib/librccl-net.so", "/opt/rocm/lib/librccl-net.so"),
    ],
)
def test_the_plugin_that_rccl_loads_by_itself_decides(file: str, name: str) -> None:
    """NCCL_NET=IB would keep it out."""
    node = _ionic().set(net_plugins=[file])
    plan = plan_of(node, "--model-path", "/m")
    assert plan.choice.plugin == name
    assert value(plan, "NCCL_NET") is None
    assert plan.exit_code == 0
    assert codes(plan) == []
    for given in ({"NCCL_NET": "IB"}, {"NCCL_NET_PLUGIN": "none"}):
        ours = plan_of(node, "--model-path", "/m", environ=given)
        assert ours.choice.plugin is None
        assert value(ours, "NCCL_IB_HCA") == "=ionic_0:1,ionic_1:1"


def test_the_file_that_rccl_loads_is_found_where_its_loader_looks(tmp_path: Path) -> None:
    (tmp_path / "librccl-anp.so").touch()
    (tmp_path / "librccl-net.so").symlink_to("librccl-anp.so")
    assert rccl_net_plugin({"LD_LIBRARY_PATH": f"/none:{tmp_path}/"}) == (str(tmp_path / "librccl-anp.so"),)
    assert rccl_net_plugin({"LD_LIBRARY_PATH": "/none"}) == ()


PREFILL = ("--model-path", "/m", "--disaggregation-mode", "prefill", "--disaggregation-transfer-backend")


def test_mori_is_told_devices_index_and_interface() -> None:
    plan = plan_of(_ionic(), *PREFILL, "mori")
    assert value(plan, "MORI_RDMA_DEVICES") == "ionic_0,ionic_1"
    assert value(plan, "MORI_IB_GID_INDEX") == "1"
    assert value(plan, "MORI_SOCKET_IFNAME") == "eth0"
    assert value(plan_of(_ionic(), "--model-path", "/m", "--moe-a2a-backend", "mori"), "MORI_IB_GID_INDEX") == "1"
    assert not {name for name in names(plan_of(_ionic(), "--model-path", "/m")) if name.startswith("MORI")}


def test_what_is_wrong_with_values_for_mori() -> None:
    environ = {"MORI_RDMA_DEVICES": "^mlx5_0", "MORI_IB_GID_INDEX": "3"}
    plan = plan_of(_ionic(), *PREFILL, "mori", environ=environ)
    assert {"DEVICE_UNKNOWN", "GID_INDEX_WRONG"} <= set(codes(plan))
    mapped = plan_of(_ionic(), *PREFILL, "mori", "--disaggregation-ib-device", '{"0": "ionic_0", "1": "ionic_1"}')
    assert "which MoRI takes for the name of one device" in message(mapped, "MORI_MAP")


def test_nixl_is_refused_on_ionic_by_name() -> None:
    plan = plan_of(_ionic(), *PREFILL, "nixl")
    assert plan.exit_code == 78
    assert "cannot use ionic_0:1, ionic_1:1" in message(plan, "UCX_IONIC")
    assert "UCX_IONIC" not in codes(plan_of(_ionic(), *PREFILL, "mooncake"))


def test_three_sparks_in_a_ring_are_told_what_nvidia_sets() -> None:
    node = healthy()
    for number in range(2, 4):
        rail(node, number, pci=f"000{number}:01:00.0")
    node.gpu("000f:01:00.0", answer="ok", model="NVIDIA GB10")
    plan = plan_of(node, "--model-path", "/m", environ={"NCCL_IB_MERGE_NICS": "0"})
    assert value(plan, "NCCL_IB_MERGE_NICS") == "0"
    assert value(plan, "NCCL_IB_SUBNET_AWARE_ROUTING") is None
    assert "NCCL_IB_SUBNET_AWARE_ROUTING" not in names(plan_of(healthy(), "--model-path", "/m"))
