"""Lines of ``--check`` on GPUDirect, IOMMU, ARP and the driver, each on a node built for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.host.further.peer_memory import takes_peers
from tests.healthy import healthy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.command.conftest import Run
    from tests.trees import Node

MODEL = ("--", "--model-path", "/m")
DEEPEP = (*MODEL, "--moe-a2a-backend", "deepep")
SWITCH = "pci0000:15/0000:15:01.0/0000:16:00.0"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n"
PARAMS = (
    'ResmanDebugLevel: 4294967295\nEnableStreamMemOPs: {}\nRegistryDwords: "{}"\nRegistryDwordsPerDevice: ""\n'
)


def lines(run: Run, node: Node, name: str, *argv: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return status and evidence of the lines ``name``."""
    ran = run("--check=json", *(argv or MODEL), node=node, environ=environ)
    return [f"{one['status']} {one['evidence']}" for one in ran.document["items"] if one["name"] == name]


@pytest.mark.parametrize(
    ("nccl", "file", "said"),
    [
        ("2.19.3", "/sys/kernel/mm/memory_peers/nv_mem/version", "ok the nvidia-peermem module is loaded"),
        ("2.22.3", "/sys/kernel/mm/memory_peers/nv_mem_nc/version", "ok the nvidia-peermem module is loaded"),
        ("2.22.3", "/sys/module/nvidia_peermem/version", "warn nvidia-peermem is loaded, but not registered"),
        ("2.23.4", "/sys/module/nvidia_peermem/version", "ok the nvidia-peermem module is loaded"),
    ],
)
def test_peer_memory_as_the_release_of_nccl_looks_for_it(run: Run, nccl: str, file: str, said: str) -> None:
    node = healthy().set(versions={"sglang": "0.5.10", "nccl": nccl})
    del node.files["/sys/module/nvidia_peermem/version"]
    node.files[file] = "570.86\n"
    (line,) = lines(run, node, "gpudirect")
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("NVIDIA GB10", "ok none on this SoC, normal for NVIDIA GB10"),
        ("NVIDIA GeForce RTX 4090", "ok none on these GPUs, normal for NVIDIA GeForce RTX 4090"),
        ("NVIDIA GB100", "ok nothing stands against it by DMA-BUF"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "ok nothing stands against it by DMA-BUF"),
    ],
)
def test_gpus_without_gpudirect(run: Run, model: str, said: str) -> None:
    node = healthy(rails=1).gpu("0000:65:00.0", answer="ok", model=model)
    del node.files["/sys/module/nvidia_peermem/version"]
    node.files["/proc/driver/nvidia/version"] = OPEN
    (line,) = lines(run, node, "gpudirect")
    assert line.startswith(said)


AMDKFD = "/sys/kernel/memory_peers/amdkfd/version"


@pytest.mark.parametrize(
    ("rocm", "changes", "said"),
    [
        ("7.2.0", {"file": AMDKFD}, "ok amdgpu is registered as peer memory (/sys/kernel/memory_peers/amdkfd)"),
        ("7.2.0", {"takes_peers": True}, "ok the kernel takes peer memory (ib_register_peer_memory_client)"),
        ("7.2.0", {}, "skip amdgpu is not in the registry of peer memory, and the kernel's symbols are not in"),
        (
            "7.2.0",
            {"takes_peers": False},
            "warn no peer memory for amdgpu: neither memory_peers/amdkfd in /sys nor",
        ),
        (
            "7.2.0",
            {"takes_peers": False, "dma_buf": "1"},
            "ok nothing stands against it by DMA-BUF: NCCL_DMABUF_EN",
        ),
        ("7.2.0", {"takes_peers": False, "dma_buf": "1", "kernel": "5.4.0"}, "warn no peer memory for amdgpu"),
        ("7.14.0", {"takes_peers": False}, "skip no peer memory for amdgpu"),
    ],
)
def test_gpudirect_on_amd(run: Run, rocm: str, changes: Mapping[str, Any], said: str) -> None:
    """As RCCL looks for it: its registry, else the kernel's symbol, else DMA-BUF."""
    node = healthy()
    node.facts["open"] = {}
    for path in [path for path in node.files if path.startswith("/proc/driver/nvidia")]:
        del node.files[path]
    node.amd_gpu(1, "0000:65:00.0").set(versions={"sglang": "0.5.23", "nccl": None, "rocm": rocm})
    node.files["/proc/sys/kernel/osrelease"] = f"{changes.get('kernel', '6.8.0')}\n"
    if "file" in changes:
        node.files[changes["file"]] = "1.0\n"
    node.facts["check"] = {**node.facts.get("check", {}), "takes_peers": changes.get("takes_peers")}
    environ = {"NCCL_DMABUF_ENABLE": changes["dma_buf"]} if "dma_buf" in changes else {}
    ran = run("--check=json", *MODEL, node=node, environ=environ)
    (line,) = [f"{one['status']} {one['evidence']}" for one in ran.document["items"] if one["name"] == "gpudirect"]
    assert line.startswith(said)


def test_the_symbol_that_rccl_looks_for(tmp_path: Path) -> None:
    symbols = tmp_path / "kallsyms"
    assert takes_peers(str(symbols)) is None
    symbols.write_text("0000000000000000 t ib_register_device\t[ib_core]\n")
    assert takes_peers(str(symbols)) is False
    with symbols.open("a") as more:
        more.write("0000000000000000 T ib_register_peer_memory_client\t[ib_core]\n")
    assert takes_peers(str(symbols)) is True


def switched() -> Node:
    """Return a node with one HCA and one GPU under one PCIe switch."""
    node = healthy(rails=0).gpu("0000:18:00.0", f"{SWITCH}/0000:17:00.0", answer="ok")
    hca = node.hca("mlx5_0", pci="0000:1a:00.0", bridge=f"{SWITCH}/0000:17:01.0", netdevs=("net0",))
    hca.port(gbps=400).pair("10.1.0.1", "net0")
    return node.interface("net0", "10.1.0.1/24")


@pytest.mark.parametrize(
    ("kind", "apart", "said"),
    [
        ("identity", False, "ok type identity"),
        ("DMA", False, "warn the IOMMU translates every access of 1 GPU and mlx5_0 (type DMA)"),
        ("DMA-FQ", False, "warn the IOMMU translates every access of 1 GPU and mlx5_0 (type DMA-FQ)"),
        ("identity", True, "warn GPU 0000:18:00.0 and mlx5_0 under one PCIe switch, but in separate IOMMU groups"),
    ],
)
def test_iommu_groups(run: Run, tmp_path: Path, kind: str, apart: bool, said: str) -> None:
    node = switched().iommu(kind, apart=apart)
    (line,) = lines(run, node, "iommu")
    assert line.startswith(said)
    again = tmp_path / "again.tar.gz"
    assert run("--save-snapshot", str(again), node=node).code == 0
    replayed = run("--snapshot", str(again), "--check=json", *MODEL).document["items"]
    assert [f"{one['status']} {one['evidence']}" for one in replayed if one["name"] == "iommu"] == [line]


def test_without_an_iommu_nothing_is_claimed(run: Run) -> None:
    node = switched()
    assert lines(run, node, "iommu") == ["skip not in this recording"]


def one_network(**values: int) -> Node:
    """Return a healthy node whose two rails are in one network, with these values of ``conf/all``."""
    node = healthy()
    for rail in range(2):
        node.facts["interfaces"][f"net{rail}"]["addresses"][0] = f"10.1.{rail}.1/16"
    for netdev in ("all", "net0", "net1"):
        for name in ("arp_ignore", "arp_announce", "arp_filter", "rp_filter"):
            value = values.get(name, 0) if netdev == "all" else 0
            node.files[f"/proc/sys/net/ipv4/conf/{netdev}/{name}"] = f"{value}\n"
    return node


OF_ITS_OWN = {"10.1.0.1": ["net0", "100"], "10.1.1.1": ["net1", "101"]}
BY_THE_FIRST = {"10.1.0.1": ["net0", "main"], "10.1.1.1": ["net0", "main"]}
CROSSED = {"10.1.0.1": ["net1", "100"], "10.1.1.1": ["net0", "101"]}
LOST = {"10.1.0.1": ["net0", "100"], "10.1.1.1": ["", ""]}
STRICT = {"arp_ignore": 1, "rp_filter": 1}
ONE_NETWORK = "2 used rails are in one network (10.1.0.0/16)"


@pytest.mark.parametrize(
    ("values", "ways", "said"),
    [
        ({}, OF_ITS_OWN, f"warn {ONE_NETWORK}, and ARP for one's address is answered"),
        ({}, None, f"warn {ONE_NETWORK}, and ARP for one's address is answered"),
        (
            {"arp_ignore": 1, "arp_announce": 2, "rp_filter": 2},
            None,
            f"ok {ONE_NETWORK}, each answers for its own",
        ),
        (STRICT, BY_THE_FIRST, "mlx5_1 (net1) leaves by net0, table main: behind rp_filter 1"),
        (
            STRICT,
            CROSSED,
            "mlx5_0 (net0) leaves by net1, table 100, mlx5_1 (net1) leaves by net0, table 101: behind",
        ),
        (STRICT, LOST, f"warn {ONE_NETWORK}, but traffic from the address of mlx5_1 (net1) has no route: behind"),
        (
            STRICT,
            OF_ITS_OWN,
            f"ok {ONE_NETWORK}, each answers for its own address and leaves by its own interface",
        ),
        ({"rp_filter": 1}, OF_ITS_OWN, f"ok {ONE_NETWORK}"),
        ({"rp_filter": 1}, BY_THE_FIRST, "; a socket on the address of mlx5_1 (net1) leaves by net0, table main"),
        ({"arp_filter": 1}, OF_ITS_OWN, f"ok {ONE_NETWORK}"),
        ({"arp_ignore": 1}, BY_THE_FIRST, "; a socket on the address of mlx5_1 (net1) leaves by net0, table main"),
        ({"rp_filter": 1}, None, f"skip {ONE_NETWORK}: arp_ignore, rp_filter and the routes of each address"),
    ],
)
def test_rails_in_one_network(
    run: Run, tmp_path: Path, values: dict[str, int], ways: dict[str, list[str]] | None, said: str
) -> None:
    # Which of them answers is as Debian's kernel answers between two network namespaces (test_routes.py).
    node = one_network(**values)
    if ways is not None:
        node.facts["check"]["ways"] = ways
    (line,) = lines(run, node, "rails")
    assert said in line
    silent = ways is not None and values == STRICT and ways is not OF_ITS_OWN
    assert ("errno 110" in line) == silent
    assert ("status 12" in line) == (line.startswith("warn") and not silent)
    again = tmp_path / "again.tar.gz"
    assert run("--save-snapshot", str(again), node=node).code == 0
    replayed = run("--snapshot", str(again), "--check=json", *MODEL).document["items"]
    assert [f"{one['status']} {one['evidence']}" for one in replayed if one["name"] == "rails"] == [line]


@pytest.mark.parametrize(
    ("nvshmem", "memops", "dwords", "said"),
    [
        ("3.3.9", "0", "", "warn the NVIDIA driver lacks NVreg_EnableStreamMemOPs=1 and NVreg_RegistryDwords="),
        ("3.3.9", "1", "RMx=2;PeerMappingOverride=0", "warn the NVIDIA driver lacks NVreg_RegistryDwords="),
        ("3.3.9", "1", "RMx=2;PeerMappingOverride=1;", "ok the NVIDIA driver has"),
        ("3.4.5", "0", "", "ok the NVIDIA driver lacks"),
        (None, "0", "", "skip the NVIDIA driver lacks"),
    ],
)
def test_driver_options_of_ibgda(run: Run, nvshmem: str | None, memops: str, dwords: str, said: str) -> None:
    node = healthy()
    node.files["/proc/driver/nvidia/params"] = PARAMS.format(memops, dwords)
    if nvshmem:
        node.facts["check"]["packages"]["nvidia-nvshmem-cu12"] = nvshmem
    (line,) = lines(run, node, "ibgda", *DEEPEP)
    assert line.startswith(said)


def test_hpcx_plugin_beside_nccl_net(run: Run) -> None:
    environ = {"LD_LIBRARY_PATH": "/opt/hpcx/nccl_rdma_sharp_plugin/lib"}
    (line,) = lines(run, healthy(), "net plugin", environ=environ)
    assert line.startswith("ok NCCL_NET=IB keeps /opt/hpcx/nccl_rdma_sharp_plugin/lib out")


@pytest.mark.parametrize(("rdma_core", "warns"), [("50.0", True), ("62.0", True), ("63.0", False)])
def test_bnxt_before_rdma_core_63(run: Run, rdma_core: str, warns: bool) -> None:
    node = healthy()
    for path in [path for path in node.files if path.endswith("/vendor")]:
        node.files[path] = "0x14e4\n"
    node.files["/etc/libibverbs.d/bnxt_re.driver"] = "driver bnxt_re\n"
    node.facts["check"]["rdma_core"] = rdma_core
    assert any("ROCm/MAD#215" in line for line in lines(run, node, "image")) == warns


def test_the_mtu_says_what_gin_does_with_it(run: Run) -> None:
    (line,) = lines(run, healthy(mtu=1500), "mtu", *DEEPEP)
    assert "GIN hangs" in line


def test_a_replay_without_counters_says_so(run: Run) -> None:
    node = healthy()
    node.files = {path: text for path, text in node.files.items() if "counters" not in path}
    assert lines(run, node, "congestion") == ["skip not in this recording"]


def test_no_ok_beside_a_warning_on_gids(run: Run) -> None:
    node = healthy()
    node.facts["interfaces"]["net1"]["addresses"] = ["fe80::2/64"]
    assert [line[:4] for line in lines(run, node, "gid")] == ["warn"]
    (used,) = lines(run, node, "used")
    assert used.split()[:2] == ["ok", "mlx5_0:1"]
