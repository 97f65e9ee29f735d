"""Which HCA serves which GPU, on golden trees and on any."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.fabric.affinity import pair
from sglang_roce_entry.host.facts import Gpu, Hca
from tests.decision.golden import finished, flattened, hgx, own_domains, rail, two_per_gpu
from tests.packaged import h20_roce
from tests.planning import plan_of
from tests.trees import Node, gpu_uuid

PREFILL = ("--model-path", "/m", "--disaggregation-mode", "prefill")


def pairs(node: Node, *argv: str, environ: dict[str, str] | None = None) -> list[tuple[str, ...]]:
    affinity = plan_of(node, *argv, environ=environ).affinity
    return [affinity.names(gpu) for gpu in range(len(affinity.gpus))]


def row(node: Node, gpu: int) -> dict[str, str]:
    affinity = plan_of(node).affinity
    return {hca.name: affinity.class_name(gpu, column) for column, hca in enumerate(affinity.hcas)}


def test_hgx_pairs_by_switch_not_by_number() -> None:
    assert pairs(hgx()) == [(f"mlx5_{n}",) for n in (4, 5, 6, 7, 0, 1, 2, 3)]
    classes = row(hgx(), 0)
    assert classes["mlx5_4"] == "PIX"
    assert classes["mlx5_5"] == "NODE"
    assert classes["mlx5_0"] == "SYS"


def test_four_bonds_for_eight_gpus() -> None:
    assert pairs(h20_roce()) == [(f"mlx5_bond_{gpu // 2}",) for gpu in range(8)]


def test_two_nics_per_gpu() -> None:
    assert pairs(two_per_gpu()) == [(f"mlx5_{2 * gpu}", f"mlx5_{2 * gpu + 1}") for gpu in range(4)]


def test_a_flat_bus_tells_nothing_and_is_paired_by_order() -> None:
    plan = plan_of(flattened(), *PREFILL)
    affinity = plan.affinity
    assert {affinity.class_name(gpu, hca) for gpu in range(8) for hca in range(8)} == {"PHB"}
    assert not affinity.informative
    assert pairs(flattened()) == [(f"mlx5_{gpu}",) for gpu in range(8)]
    assert plan.transfer.tokens == (
        "--disaggregation-ib-device",
        ",".join(f"mlx5_{hca}" for hca in range(8)),
    )


def test_domains_of_their_own_are_joined_by_numa() -> None:
    assert pairs(own_domains()) == [(f"mlx5_{gpu}",) for gpu in range(4)]
    assert row(own_domains(), 0) == {"mlx5_0": "NODE", "mlx5_1": "NODE", "mlx5_2": "SYS", "mlx5_3": "SYS"}


def test_nothing_tells_where_numa_is_minus_one() -> None:
    plan = plan_of(own_domains(numa=False))
    affinity = plan.affinity
    assert affinity.class_name(0, 0) == "?"
    assert affinity.note is not None
    assert "neither PCI nor NUMA" in affinity.note
    assert pairs(own_domains(numa=False)) == [(f"mlx5_{gpu}",) for gpu in range(4)]


def test_a_sub_function_is_as_near_as_its_function() -> None:
    node = Node()
    switch = "pci0000:10/0000:10:01.0/0000:11:00.0"
    rail(node, "mlx5_0", 0, "0000:90:00.0", "pci0000:90/0000:90:01.0")
    rail(node, "mlx5_2", 2, None)
    real = f"/sys/devices/{switch}/0000:11:01.0/0000:12:00.0/mlx5_core.sf.4"
    base = "/sys/devices/virtual/infiniband/mlx5_2"
    node.links[f"{base}/device"] = "../../../../../.." + real
    node.files[f"{real}/sfnum"] = "88\n"
    node.gpu("0000:13:00.0", f"{switch}/0000:11:02.0", answer="ok")
    assert row(finished(node, gpus=1), 0)["mlx5_2"] == "PIX"


def test_an_hca_without_pci_parent_is_left_in_and_said() -> None:
    node = hgx()
    rail(node, "rxe0", 9, None)
    assert row(node, 0)["rxe0"] == "?"
    assert pairs(node) == pairs(hgx())


def test_several_switches_are_pxb() -> None:
    node = Node()
    deep = "pci0000:10/0000:10:01.0/0000:11:00.0"
    rail(node, "mlx5_0", 0, "0000:13:00.0", f"{deep}/0000:11:01.0/0000:12:00.0")
    rail(node, "mlx5_1", 1, "0000:15:00.0", f"{deep}/0000:11:02.0/0000:14:00.0/0000:14:01.0")
    node.gpu("0000:19:00.0", f"{deep}/0000:11:03.0/0000:18:00.0", answer="ok")
    assert set(row(finished(node, gpus=1), 0).values()) == {"PXB"}


def test_visible_devices_order_the_columns() -> None:
    assert pairs(hgx(), environ={"CUDA_VISIBLE_DEVICES": "7,0"}) == [("mlx5_3",), ("mlx5_4",)]
    uuids = f"{gpu_uuid(2)},GPU-00000000"
    assert pairs(hgx(), environ={"CUDA_VISIBLE_DEVICES": uuids}) == [("mlx5_6",), ("mlx5_4",)]
    assert pairs(hgx(), environ={"CUDA_VISIBLE_DEVICES": ""}) == []


def test_half_of_the_gpus_keep_to_their_own_nics() -> None:
    assert pairs(hgx(gpus=4)) == [("mlx5_4",), ("mlx5_5",), ("mlx5_6",), ("mlx5_7",)]


def test_gpus_that_sglang_leaves_out_do_not_take_a_share() -> None:
    node = Node()
    switch = "pci0000:10/0000:10:01.0/0000:11:00.0"
    for side in range(2):
        rail(node, f"mlx5_{side}", side, f"0000:{0x12 + side:02x}:00.0", f"{switch}/0000:11:0{side + 1}.0")
    for gpu in range(4):
        node.gpu(f"0000:{0x18 + gpu:02x}:00.0", f"{switch}/0000:11:0{gpu + 4}.0", answer="ok")
    node = finished(node, gpus=4)
    assert pairs(node) == [("mlx5_0",), ("mlx5_0",), ("mlx5_1",), ("mlx5_1",)]
    stepped = pairs(node, "--model-path", "/m", "--base-gpu-id", "2")
    assert stepped[2:] == [("mlx5_0",), ("mlx5_1",)]
    # GPU 1 is not used: alone among the others, it is near to both.
    every_other = pairs(
        node, "--model-path", "/m", "--gpu-id-step", "2", environ={"CUDA_VISIBLE_DEVICES": "0,1,2"}
    )
    assert every_other == [("mlx5_0",), ("mlx5_0", "mlx5_1"), ("mlx5_1",)]
    staged = ("--gpu-id-step", "2", "--pp-size", "2", "--tp-size", "2")
    assert pairs(node, "--model-path", "/m", *staged, environ={"CUDA_VISIBLE_DEVICES": "0,1,2"}) == [
        ("mlx5_0",), ("mlx5_0",), ("mlx5_1",),
    ]  # fmt: skip


def test_the_map_has_every_visible_gpu() -> None:
    plan = plan_of(hgx(), *PREFILL, "--base-gpu-id", "4")
    option, text = plan.transfer.tokens
    assert option == "--disaggregation-ib-device"
    assert json.loads(text) == {str(gpu): f"mlx5_{(4, 5, 6, 7, 0, 1, 2, 3)[gpu]}" for gpu in range(8)}
    assert plan.argv is not None
    assert plan.argv.index("--disaggregation-ib-device") < plan.argv.index("--model-path")


def test_one_hca_is_given_to_all() -> None:
    node = Node()
    rail(node, "mlx5_0", 0, "0000:12:00.0", "pci0000:10")
    node.gpu("0000:13:00.0", "pci0000:10", answer="ok")
    plan = plan_of(finished(node, gpus=1), *PREFILL)
    assert plan.transfer.tokens == ("--disaggregation-ib-device", "mlx5_0")


# Any tree: three switches on two sockets, places drawn at random.
PLACES = st.sampled_from([
    ("/pci0000:10/0000:10:01.0/0000:11:00.0", 0),
    ("/pci0000:20/0000:20:01.0/0000:21:00.0", 0),
    ("/pci0000:90/0000:90:01.0/0000:91:00.0", 1),
    ("/pci0000:00", None),
])  # fmt: skip


def _gpus(places: list[tuple[str, int | None]]) -> list[Gpu]:
    return [
        Gpu(f"0000:{0x40 + i:02x}:00.0", f"{path}/0000:{0x40 + i:02x}:00.0", numa)
        for i, (path, numa) in enumerate(places)
    ]


def _hcas(places: list[tuple[str, int | None]]) -> list[Hca]:
    found = []
    for i, (path, numa) in enumerate(places):
        pci = f"0000:{0x80 + i:02x}:00.0"
        found.append(Hca(f"mlx5_{i}", 1, (), path=f"{path}/{pci}", pci_address=pci, numa_node=numa))
    return found


@given(st.lists(PLACES, min_size=1, max_size=16), st.lists(PLACES, min_size=1, max_size=16))
def test_every_gpu_gets_its_nearest_and_equals_share_evenly(
    gpu_places: list[tuple[str, int | None]], hca_places: list[tuple[str, int | None]]
) -> None:
    affinity = pair(_gpus(gpu_places), _hcas(hca_places))
    loads: dict[tuple[int, ...], dict[int, int]] = {}
    for classes, assigned in zip(affinity.classes, affinity.assigned, strict=True):
        known = [one for one in classes if one is not None]
        best = min(known) if known else None
        nearest = tuple(column for column, one in enumerate(classes) if one == best)
        assert assigned
        assert set(assigned) <= set(nearest)
        load = loads.setdefault(nearest, dict.fromkeys(nearest, 0))
        for column in assigned:
            load[column] += 1
    disjoint = sum(len(nearest) for nearest in loads) == len({column for nearest in loads for column in nearest})
    if disjoint:
        for load in loads.values():
            assert max(load.values()) - min(load.values()) <= 1


@given(st.lists(PLACES, min_size=1, max_size=8), st.lists(PLACES, min_size=1, max_size=8), st.randoms())
def test_the_order_of_the_process_changes_no_pair(
    gpu_places: list[tuple[str, int | None]], hca_places: list[tuple[str, int | None]], random: object
) -> None:
    gpus, hcas = _gpus(gpu_places), _hcas(hca_places)
    first = pair(gpus, hcas)
    shuffled = list(gpus)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    second = pair(shuffled, hcas[::-1])
    by_gpu = {gpu.pci_address: sorted(first.names(position)) for position, gpu in enumerate(gpus)}
    assert by_gpu == {gpu.pci_address: sorted(second.names(position)) for position, gpu in enumerate(shuffled)}


def test_overlapping_neighbourhoods_are_levelled() -> None:
    # GPU 0 and 1 are near to HCA 0 only, GPU 2 and 3 equally near (no place) to both.
    near = ("/pci0000:10/0000:10:01.0/0000:11:00.0", 0)
    gpus = [*_gpus([near, near]), Gpu("0000:60:00.0", None, None), Gpu("0000:61:00.0", None, None)]
    hcas = _hcas([near, ("/pci0000:90/0000:90:01.0/0000:91:00.0", 1)])
    affinity = pair(gpus, hcas)
    assert [affinity.names(gpu) for gpu in range(4)] == [("mlx5_0",), ("mlx5_0",), ("mlx5_1",), ("mlx5_1",)]


def test_nothing_to_pair() -> None:
    assert pair([], _hcas([("/pci0000:00", None)])).assigned == ()
    assert pair(_gpus([("/pci0000:00", None)]), []).assigned == ()


@pytest.mark.parametrize("count", [32, 40])
def test_more_hcas_than_nccl_reads(count: int) -> None:
    node = Node()
    for number in range(count):
        bus = f"{number + 1:02x}"
        rail(node, f"mlx5_{number}", number, f"0000:{bus}:00.0", "pci0000:00", numa=0)
    for gpu in range(8):
        node.gpu(f"0000:{0xA0 + gpu:02x}:00.0", "pci0000:00", 0, answer="ok")
    plan = plan_of(finished(node), *PREFILL)
    assert len(plan.affinity.hcas) == 32
    assert ("TOO_MANY_PORTS" in [one.code for one in plan.problems]) == (count > 32)
    assert [len(plan.affinity.names(gpu)) for gpu in range(8)] == [4] * 8


STRANGE = ["rocep26s0-vf.1", "a" * 63, "mlx5.core_0", "bnxt_re0", "ionic_0", "0123"]


def test_strange_names_go_through_unchanged() -> None:
    node = Node()
    for number, name in enumerate(STRANGE):
        root = 0x10 * (number + 1)
        rail(node, name, number, f"0000:{root + 2:02x}:00.0", f"pci0000:{root:02x}/0000:{root:02x}:01.0", numa=0)
        node.gpu(f"0000:{root + 3:02x}:00.0", f"pci0000:{root:02x}/0000:{root:02x}:01.0", 0, answer="ok")
    plan = plan_of(finished(node, gpus=len(STRANGE)), *PREFILL)
    assert set(json.loads(plan.transfer.tokens[1]).values()) == set(STRANGE)
    hca = next(one.value for one in plan.variables if one.name == "NCCL_IB_HCA")
    assert hca is not None
    assert set(hca[1:].split(",")) == {f"{name}:1" for name in STRANGE}
