"""GPUs, HCAs and NCCL's neighbours as the command shows them, and bad input for them at its boundary."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.decision.golden import finished, flattened, hgx, rail, topology_xml
from tests.trees import Node, gpu_uuid

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

MODEL = ("--model-path", "/m")
PREFILL = (*MODEL, "--disaggregation-mode", "prefill")
TOPOLOGY = "/opt/topo.xml"
OPTION = "--disaggregation-ib-device"


def test_the_matrix_of_the_packaged_node(run: Run) -> None:
    text = run("--snapshot", "h20-roce", "--dry-run", *PREFILL).out
    section = text.partition("GPUs and HCAs\n")[2].partition("\n\n")[0].splitlines()
    assert section == [
        "               GPU0   GPU1   GPU2   GPU3   GPU4   GPU5   GPU6   GPU7",
        "  mlx5_bond_0  PIX*   PIX*   NODE   NODE   SYS    SYS    SYS    SYS",
        "  mlx5_bond_1  NODE   NODE   PIX*   PIX*   SYS    SYS    SYS    SYS",
        "  mlx5_bond_2  SYS    SYS    SYS    SYS    PIX*   PIX*   NODE   NODE",
        "  mlx5_bond_3  SYS    SYS    SYS    SYS    NODE   NODE   PIX*   PIX*",
        "  * its HCA; PIX one PCIe switch, NODE one NUMA node, SYS across sockets",
        f"  KV transfer by mooncake: {OPTION}, one list for all GPUs: SGLang 0.5.10 does not read a map",
    ]
    assert "--disaggregation-ib-device mlx5_bond_0,mlx5_bond_1,mlx5_bond_2,mlx5_bond_3 \\\n" in text
    assert "Fingerprint\n  hcas=4:mlx5_bond_[0-3]:1 rails=" in text


def test_the_document(run: Run) -> None:
    document = run("--snapshot", "h20-roce", "--dry-run=json", *MODEL).document
    assert document["gpus"][2] == {
        "index": 2, "pci_address": "0000:36:00.0", "numa_node": 0, "devices": ["mlx5_bond_1"],
    }  # fmt: skip
    assert len(document["affinity"]) == 32
    assert document["affinity"][9] == {"gpu": 2, "device": "mlx5_bond_1", "class": "PIX", "assigned": True}
    assert document["fingerprint"].startswith("hcas=4:")


def test_a_map_reaches_sglang_as_one_argument(run: Run) -> None:
    document = run("--dry-run=json", *PREFILL, node=hgx()).document
    text = document["argv"][document["argv"].index("--disaggregation-ib-device") + 1]
    assert json.loads(text)["0"] == "mlx5_4"
    shown = run("--dry-run", *PREFILL, node=hgx()).out
    assert f"--disaggregation-ib-device '{text}' \\\n" in shown


def test_a_recorded_node_keeps_what_the_matrix_needs(run: Run) -> None:
    node = flattened()
    node.facts["files"] = {TOPOLOGY: topology_xml()}
    node.facts["environ"] = {**node.facts["environ"], "NCCL_TOPO_FILE": TOPOLOGY, "CUDA_VISIBLE_DEVICES": "3,2"}
    first = run("--dry-run=json", *PREFILL, node=node).document
    assert [gpu["devices"] for gpu in first["gpus"]] == [["mlx5_5"], ["mlx5_4"]]
    assert run("--save-snapshot", "again.tar.gz", node=node).code == 0
    assert run("--snapshot", "again.tar.gz", "--dry-run=json", *PREFILL).document == first


def _amd() -> Node:
    node = Node()
    node.files["/sys/class/kfd/kfd/topology/nodes/0/gpu_id"] = "0\n"
    for number in range(2):
        bridge = f"pci0000:{0x10 * (number + 1):02x}"
        rail(node, f"rdma{number}", number, f"0000:{0x10 * (number + 1) + 2:02x}:00.0", bridge, numa=number)
        node.amd_gpu(number + 1, f"0000:{0x10 * (number + 1) + 3:02x}:00.0", bridge, number)
    node = finished(node)
    del node.facts["gpus"]
    return node


def test_amd(run: Run) -> None:
    document = run("--dry-run=json", *MODEL, node=_amd()).document
    assert [gpu["devices"] for gpu in document["gpus"]] == [["rdma0"], ["rdma1"]]
    assert document["argv"][3:5] == ["--tp-size", "4"]
    again = run("--save-snapshot", "amd.tar.gz", node=_amd(), environ={"HIP_VISIBLE_DEVICES": "1"})
    assert again.code == 0
    one = run("--snapshot", "amd.tar.gz", "--dry-run=json", *MODEL).document
    assert [gpu["devices"] for gpu in one["gpus"]] == [["rdma1"]]
    assert run("--save-snapshot", "amd.tar.gz", node=_amd()).code == 0
    assert run("--snapshot", "amd.tar.gz", "--dry-run=json", *MODEL).document == document


#: Environment, arguments, code, words of the message, exit code in strict mode.
BAD = {
    "topology is no XML": ({"NCCL_TOPO_FILE": "/etc/nccl-topo.txt"}, MODEL, "TOPOLOGY_FILE", "it is not XML", 69),
    "topology is missing": ({"NCCL_TOPO_FILE": "/none.xml"}, MODEL, "TOPOLOGY_FILE", "/none.xml", 69),
    "topology of another machine": (
        {"NCCL_TOPO_FILE": "/etc/nccl-topo.xml"}, MODEL, "TOPOLOGY_FILE", "none of this node's devices", 69,
    ),
    "visible GPUs beyond": ({"CUDA_VISIBLE_DEVICES": "0,9"}, MODEL, "VISIBLE_DEVICES", "names 9", 78),
    "visible UUID unknown": ({"CUDA_VISIBLE_DEVICES": f"{gpu_uuid(1)},GPU-ffff"}, MODEL, "VISIBLE_DEVICES", "GPU-ffff", 78),
    "visible lists contradict": (
        {"NVIDIA_VISIBLE_DEVICES": gpu_uuid(1), "CUDA_VISIBLE_DEVICES": "0,1"}, MODEL, "VISIBLE_DEVICES", "names 1", 78,
    ),
    "MIG": ({"NVIDIA_VISIBLE_DEVICES": "MIG-1"}, MODEL, "MIG_UNSUPPORTED", "MIG-1", 78),
    "device with port": (
        {}, (*PREFILL, "--disaggregation-ib-device", "mlx5_0:1"), "IB_DEVICE", "has a port in mlx5_0:1", 78,
    ),
    "device map is no JSON": ({}, (*PREFILL, "--disaggregation-ib-device={0:1}"), "IB_DEVICE", "is not JSON", 78),
    "device file": (
        {}, (*PREFILL, "--disaggregation-ib-device", "/none.json"), "IB_DEVICE", "cannot be read", 78,
    ),
    "Mooncake's index": ({"MC_GID_INDEX": "0"}, PREFILL, "GID_INDEX_WRONG", "MC_GID_INDEX=0", 69),
    "UCX in NCCL's grammar": ({"UCX_NET_DEVICES": "=mlx5_0:1"}, MODEL, "UCX_NET_DEVICES_UNKNOWN", "'=mlx5_0:1'", 69),
    "Gloo in NCCL's grammar": ({"GLOO_SOCKET_IFNAME": "=eth0"}, MODEL, "GLOO_IFNAME_UNKNOWN", "'=eth0'", 78),
    "NCCL's file": ({"NCCL_CONF_FILE": "/none.conf"}, MODEL, "NCCL_CONF_FILE", "/none.conf", 78),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_values(run: Run, name: str) -> None:
    environ, argv, code, words, strict_code = BAD[name]
    node = hgx()
    node.files["/etc/nccl-topo.txt"] = "GPU0 NIC0\n"
    node.files["/etc/nccl-topo.xml"] = '<system><cpu numaid="0"><pci busid="ffff:ff:00.0"/></cpu></system>'
    ran = run("--dry-run=json", *argv, node=node, environ=environ)
    assert ran.code == 0, ran.out
    found = [one for one in ran.document["problems"] if one["code"] == code]
    assert found, ran.codes
    assert words in found[0]["message"]
    assert found[0]["hint"]
    assert found[0]["severity"] == "warning"
    assert "\n" not in found[0]["message"]
    assert run("--strict", "--dry-run=json", *argv, node=node, environ=environ).code == strict_code


def test_strange_names_at_the_boundary(run: Run) -> None:
    node = Node()
    names = ("rocep26s0-vf.1", "n" * 63)
    for number, name in enumerate(names):
        rail(node, name, number, f"0000:{number + 1:02x}:00.0", "pci0000:00", numa=0)
        node.gpu(f"0000:{number + 9:02x}:00.0", "pci0000:00", 0, answer="ok")
    ran = run("--dry-run", *PREFILL, node=finished(node, gpus=2))
    assert ran.code == 0
    assert f"--disaggregation-ib-device {','.join(sorted(names))}" in ran.out
    assert f"{'n' * 63}  PHB" in ran.out


def test_a_device_map_from_a_file_that_lies_here(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ib.json").write_text('{"0": "mlx5_4"}')
    document = run("--dry-run=json", *PREFILL, "--disaggregation-ib-device", "ib.json", node=hgx()).document
    (problem,) = document["problems"]
    assert problem["code"] == "IB_DEVICE"
    assert "has no HCA for GPU 1, 2, 3, 4, 5, 6, 7" in problem["message"]


@pytest.mark.parametrize("packed", [False, True])
def test_nccls_files_are_replayed(run: Run, packed: bool) -> None:
    node = hgx()
    node.facts["files"] = {"/etc/nccl.conf": "NCCL_IB_HCA==mlx5_2:1\n"}
    words = ["--dry-run=json", *MODEL]
    if packed:
        assert run("--save-snapshot", "node.tar.gz", node=node).code == 0
        document = run("--snapshot", "node.tar.gz", *words).document
    else:
        document = run(*words, node=node).document
    assert document["environment"]["NCCL_IB_HCA"] == {
        "value": "=mlx5_2:1", "source": "file", "reason": "set in /etc/nccl.conf",
    }  # fmt: skip


def test_uuids_in_a_record_still_name_the_same_gpus(run: Run, tmp_path: Path) -> None:
    node = hgx()
    node.facts["environ"] = {**node.facts["environ"], "CUDA_VISIBLE_DEVICES": f"{gpu_uuid(6)},GPU-00000001"}
    assert run("--save-snapshot", "uuids.tar.gz", node=node).code == 0
    with tarfile.open(tmp_path / "uuids.tar.gz") as archive:
        texts = [stream.read() for member in archive if (stream := archive.extractfile(member))]
    assert not any(b"aaaa-bbbb" in text for text in texts)
    document = run("--snapshot", "uuids.tar.gz", "--dry-run=json", *MODEL).document
    assert [gpu["devices"] for gpu in document["gpus"]] == [["mlx5_2"], ["mlx5_5"]]
    assert document["problems"] == []
