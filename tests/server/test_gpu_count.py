"""Which GPUs the process will see: the grammar of visible-devices lists, and lists that contradict."""

from __future__ import annotations

import pytest

from sglang_roce_entry.host.facts import Gpu, Gpus
from sglang_roce_entry.server.gpu_count import VisibleGpus, see_gpus
from tests.trees import gpu_uuid


def node(count: int = 8, **change: object) -> Gpus:
    devices = tuple(
        Gpu(f"0000:{0x10 + n:02x}:00.0", f"/sys/x/{n}", 0, n, gpu_uuid(n), model="H100", **change)  # type: ignore[arg-type]
        for n in range(count)
    )
    return Gpus(count, {f"/dev/nvidia{n}": "ok" for n in range(count)}, devices)


def see(gpus: Gpus, setting: int | None = None, **environ: str) -> VisibleGpus:
    return see_gpus((setting, "--gpus") if setting is not None else None, environ, gpus)


def minors(seen: VisibleGpus) -> list[int | None]:
    return [gpu.minor for gpu in seen.devices]


CUDA = {
    "indices": ("2,0", [2, 0]),
    "spaces": (" 2 , 0 ", [2, 0]),
    "all": ("0,1,2,3,4,5,6,7", list(range(8))),
    "uuid": (gpu_uuid(5), [5]),
    "short uuid": ("GPU-00000006,GPU-00000001", [6, 1]),
    "none": ("", []),
    "minus one": ("-1", []),
    "ended by minus one": ("3,-1,4", [3]),
    "NoDevFiles": ("NoDevFiles", []),
}


@pytest.mark.parametrize("name", sorted(CUDA))
def test_cuda_visible_devices(name: str) -> None:
    text, expected = CUDA[name]
    seen = see(node(), CUDA_VISIBLE_DEVICES=text)
    assert minors(seen) == expected
    assert seen.count.count == len(expected)


WRONG = {
    "beyond the last": ("0,8", 1, "names 8"),
    "unknown uuid": (f"{gpu_uuid(1)},GPU-ffffffff", 1, "names GPU-ffffffff"),
    "ambiguous uuid": ("GPU-0000", 0, "names GPU-0000"),
    "a word": ("0,gpu1", 1, "does not name a GPU"),
    "twice": ("1,1", 2, "names a GPU twice"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_lists_that_cuda_reads_otherwise(name: str) -> None:
    text, count, words = WRONG[name]
    seen = see(node(), CUDA_VISIBLE_DEVICES=text)
    (problem,) = seen.problems
    assert (problem.code, problem.value, problem.exit_code) == ("VISIBLE_DEVICES", True, 78)
    assert words in problem.message
    assert seen.count.count == count


def test_an_index_beyond_the_count_where_places_are_not_known() -> None:
    seen = see(Gpus(4), CUDA_VISIBLE_DEVICES="0,1,2,3,4,5")
    assert seen.count.count == 4
    assert [one.code for one in seen.problems] == ["VISIBLE_DEVICES"]
    assert see(Gpus(None), CUDA_VISIBLE_DEVICES="0,9").count.count == 2


def test_the_runtimes_list_limits_a_privileged_container() -> None:
    assert minors(see(node(), NVIDIA_VISIBLE_DEVICES=f"{gpu_uuid(6)},{gpu_uuid(2)}")) == [2, 6]
    assert minors(see(node(), NVIDIA_VISIBLE_DEVICES="6,2")) == [2, 6]
    assert minors(see(node(2), NVIDIA_VISIBLE_DEVICES="6,2")) == [0, 1]
    assert minors(see(node(), NVIDIA_VISIBLE_DEVICES="all")) == list(range(8))
    both = see(node(), NVIDIA_VISIBLE_DEVICES="6,2", CUDA_VISIBLE_DEVICES="1")
    assert minors(both) == [6]


def test_variables_that_contradict() -> None:
    seen = see(node(), NVIDIA_VISIBLE_DEVICES=f"{gpu_uuid(6)},{gpu_uuid(2)}", CUDA_VISIBLE_DEVICES="0,1,2")
    assert seen.count.count == 2
    assert "names 2, and CUDA ends the list there" in seen.problems[0].message
    more = see(node(), 9)
    assert [one.code for one in more.problems] == ["GPUS_DISAGREE"]
    assert more.devices == ()


def test_the_setting_takes_the_first_ones() -> None:
    assert minors(see(node(), 2, CUDA_VISIBLE_DEVICES="7,6,5")) == [7, 6]


def test_mixed_models_have_no_known_order() -> None:
    gpus = node(2)
    mixed = Gpus(2, gpus.nodes, (gpus.devices[0], Gpu("0000:99:00.0", "/sys/y", 0, 1, gpu_uuid(1), model="A40")))
    assert see(mixed, CUDA_VISIBLE_DEVICES="0,1").devices == ()
    assert minors(see(mixed, CUDA_VISIBLE_DEVICES="1,0", CUDA_DEVICE_ORDER="PCI_BUS_ID")) == [1, 0]


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"])
def test_mig_instances_are_said_to_be_unsupported(name: str) -> None:
    seen = see_gpus(None, {name: "MIG-11111111-2222"}, node())
    assert [one.code for one in seen.problems] == ["MIG_UNSUPPORTED"]
    assert "MIG-11111111-2222" in seen.problems[0].message
    assert seen.problems[0].value
    divided = see(node(mig=True))
    assert [one.code for one in divided.problems] == ["MIG_UNSUPPORTED"]


def test_amd_lists_build_on_each_other() -> None:
    gpus = node()
    amd = Gpus(8, gpus.nodes, gpus.devices, "amd")
    seen = see(amd, ROCR_VISIBLE_DEVICES="4,5,6,7", HIP_VISIBLE_DEVICES="3,0")
    assert minors(seen) == [7, 4]
    assert seen.count.count == 2
    beyond = see(amd, ROCR_VISIBLE_DEVICES="4,5", CUDA_VISIBLE_DEVICES="2")
    assert [one.code for one in beyond.problems] == ["VISIBLE_DEVICES"]
    assert see(amd).count.count == 8
