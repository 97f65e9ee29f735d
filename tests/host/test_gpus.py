"""Reading GPUs: device nodes, the driver's /proc, KFD, and what is not read where it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.snapshot.write import RecordingTree
from tests.decision.golden import hgx
from tests.trees import Node, gpu_uuid

if TYPE_CHECKING:
    from sglang_roce_entry.host.facts import Gpu


def gpus(node: Node) -> tuple[Gpu, ...]:
    return read_gpus(node.host(), places=True).devices


def test_places_uuids_and_minors() -> None:
    found = gpus(hgx())
    assert [gpu.pci_address for gpu in found] == [f"0000:{0x13 + 0x10 * n:02x}:00.0" for n in range(8)]
    assert [gpu.minor for gpu in found] == list(range(8))
    assert found[3].uuid == gpu_uuid(3)
    assert found[5].numa_node == 1
    assert all(gpu.usable for gpu in found)


def test_minors_need_not_follow_the_bus() -> None:
    node = Node().gpu("0000:20:00.0", minor=0, answer="ok").gpu("0000:10:00.0", minor=1, answer="EPERM")
    found = gpus(node)
    assert [(gpu.pci_address, gpu.usable) for gpu in found] == [("0000:10:00.0", False), ("0000:20:00.0", True)]
    assert read_gpus(node.host()).count == 1


def test_a_uuid_that_the_driver_does_not_know_yet() -> None:
    node = Node().gpu("0000:20:00.0", answer="ok")
    path = "/proc/driver/nvidia/gpus/0000:20:00.0/information"
    node.files[path] = node.files[path].replace(gpu_uuid(0), "GPU-????????-????-????-????-????????????")
    assert gpus(node)[0].uuid is None


def test_information_without_minors_is_matched_by_order_if_the_counts_agree() -> None:
    node = Node().gpu("0000:20:00.0", answer="EPERM").gpu("0000:30:00.0", answer="ok")
    for path in list(node.files):
        if path.endswith("/information"):
            node.files[path] = "Model: unknown\n"
    assert [gpu.usable for gpu in gpus(node)] == [False, True]
    node.facts["open"]["/dev/nvidia7"] = "ok"
    assert gpus(node) == ()


def test_places_are_not_read_for_one_hca() -> None:
    node = Node().gpu("0000:20:00.0", answer="ok")
    node.hca("mlx5_0").port().pair("10.0.0.1", "net0")
    inner = node.host()
    tree = RecordingTree(inner.tree)
    found = read_gpus(Host(tree, inner.answers))
    assert (found.count, found.devices) == (1, ())
    assert not any("nvidia" in path for path in (*tree.files, *tree.directories, *tree.resolved))
    node.hca("mlx5_1").port().pair("10.1.0.1", "net1")
    assert len(read_gpus(node.host()).devices) == 1


def test_facts_have_the_gpus_by_the_same_rule() -> None:
    node = Node().gpu("0000:20:00.0", answer="ok")
    for number in range(2):
        node.hca(f"mlx5_{number}").port().pair(f"10.{number}.0.1", f"net{number}")
        found = collect(node.host(), {}).gpus
        assert found == read_gpus(node.host())
        assert (found.count, len(found.devices)) == (1, number)


def test_amd_gpus_of_the_kfd_topology() -> None:
    node = Node()
    node.files["/sys/class/kfd/kfd/topology/nodes/0/gpu_id"] = "0\n"
    for number in (1, 2, 10):
        node.amd_gpu(number, f"000{number % 3}:{number + 0x20:02x}:03.1", answer="EACCES" if number == 2 else "ok")
    found = read_gpus(node.host())
    assert (found.vendor, found.count) == ("amd", 2)
    assert [gpu.pci_address for gpu in found.devices] == ["0001:21:03.1", "0002:22:03.1", "0001:2a:03.1"]
    assert [gpu.usable for gpu in found.devices] == [True, False, True]
    assert found.devices[0].path is not None


@pytest.mark.parametrize("shift", [0, 28], ids=["function", "31:28"])
def test_partitions_of_an_amd_gpu_sit_where_it_does(shift: int) -> None:
    """An MI300 in CPX mode: eight KFD nodes, of which only one is a PCI function of its own."""
    node = Node()
    for number in range(16):
        node.amd_gpu(number + 2, f"0000:{5 + number // 8:02x}:00.0", partition=number % 8 << shift)
    found = read_gpus(node.host())
    assert found.count == 16
    assert [gpu.path for gpu in found.devices[:8]] == [found.devices[0].path] * 8
    assert found.devices[8].path not in (None, found.devices[0].path)
    assert len({gpu.minor for gpu in found.devices}) == 16


def test_a_gpu_divided_by_mig() -> None:
    node = Node().gpu("0000:20:00.0", answer="ok").gpu("0000:30:00.0", answer="ok")
    node.files["/proc/driver/nvidia/capabilities/gpu1/mig/gi3/access"] = "DeviceFileMinor: 30\n"
    assert [gpu.mig for gpu in gpus(node)] == [False, True]
