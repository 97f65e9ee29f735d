"""Real launchers of a group whose rails are InfiniBand: proven through a library that delivers by LID and P_Key."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.command import base_environment, run_entry
from tests.process.group import lws, nodes_of
from tests.process.test_hardware_deviations import DEVICES
from tests.process.test_meeting_deviations import MEETS_S, MODEL, installed
from tests.trees import V1
from tests.trees import Node as Tree
from tests.verbs.subnets import DEFAULT_PREFIX, FULL, Subnet

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Launch, Node

pytestmark = pytest.mark.netns

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
HCAS = ("mlx5_0", "mlx5_1")


def _put_into(node: Node, seen: Subnet, number: int, pkey: int) -> None:
    """Give ``node`` two InfiniBand HCAs with LIDs of its own, each beside a GPU, the second beside the first GPU."""
    tree = Tree().netdev("lo").netdev("eth0")
    for rail, name in enumerate(HCAS):
        bridge = f"pci0000:{0x20 - 8 * rail:02x}/0000:{0x20 - 8 * rail:02x}:01.0"
        lid = 0x10 * number + rail
        hca = tree.hca(name, pci=f"0000:{0x21 - 8 * rail:02x}:00.0", bridge=bridge)
        port = hca.port(gbps=400, link_layer="InfiniBand", slots=4).gid(0, f"fe80::{lid:x}", V1, None)
        tree.files[f"{port.base}/lid"] = f"0x{lid:x}\n"
        tree.gpu(f"0000:{0x22 - 8 * rail:02x}:00.0", bridge)
        seen.port(name, lid, prefix=DEFAULT_PREFIX, pkeys=(FULL, pkey))
    for path in [path for path in tree.files if "/infiniband_verbs/" in path and path.endswith("/dev")]:
        tree.files[path] = "1:3\n"
    recorded = tree.write(seen.folder / "tree")
    nodes = ["/dev/infiniband/uverbs0", "/dev/infiniband/uverbs1", "/dev/nvidia0", "/dev/nvidia1"]
    enter = ["nsenter", f"--mount=/proc/{node.pid}/ns/mnt"]
    subprocess.run([*enter, "sh", "-ec", DEVICES, "sh", *nodes], check=True)
    node.mount_over(Path("/sys"), recorded / "sys")
    node.mount_over(Path("/proc/driver"), recorded / "proc/driver")
    (seen.folder / "boot_id").write_text(f"{number}0000000-0000-4000-8000-000000000000\n")
    node.mount_over(BOOT_ID, seen.folder / "boot_id")


def rehearsed(
    cluster: Cluster,
    standin: Path,
    folder: Path,
    *options: str,
    pkeys: tuple[int, int] = (FULL, FULL),
    **given: str,
) -> list[Launch]:
    """Rehearse a group of two."""
    subnet = Subnet.in_folder(folder)
    packages = installed(folder / "packages", standin, {"nvidia-nccl-cu12": "2.28.9"})
    launches = []
    for index, node in enumerate(nodes_of(cluster, 2)):
        seen = subnet.node(f"node{index}")
        _put_into(node, seen, index + 1, pkeys[index])
        asked = ["--rdma", "required", "--wait-deadline", "60", "--rehearse=json", *options, *MODEL]
        library = {"LD_LIBRARY_PATH": str(seen.library), "SUBNET": str(seen.folder)}
        launches.append(node.start(asked, {**lws(index, 2), "PYTHONPATH": packages, **library, **given}))
    return launches


def _shown(launch: Launch) -> Any:
    return json.loads(launch.text("stdout"))


def test_rails_that_carry_and_what_is_saved_of_them(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    rehearsals = rehearsed(cluster, standin, tmp_path, "--save-meeting", "meeting.json", NCCL_IB_SL="3")
    assert [launch.wait_exit(MEETS_S) for launch in rehearsals] == [0, 0], rehearsals[0].account()
    shown = _shown(rehearsals[0])
    assert shown["problems"] == []
    assert [(rail["position"], rail["status"]) for rail in shown["rails"]] == [(0, "proven"), (1, "proven")]
    # In the order of the GPUs: the second HCA is beside the first.
    assert [[rail["device"] for rail in node["rails"]] for node in shown["nodes"]] == [["mlx5_1", "mlx5_0"]] * 2
    assert shown["nodes"][1]["rails"][0] == {
        "position": 0, "device": "mlx5_1", "port": 1, "network": "fe80::/64", "gid": "fe80::21", "gid_index": 0,
        "rate_gbps": 400.0, "roce_mtu": None, "lid": 0x21,
    }  # fmt: skip
    handles = Subnet(tmp_path / "fabric", tmp_path).handles()
    assert sorted((one.dlid, one.is_global, one.sl) for one in handles) == [
        (0x10, 0, 3), (0x11, 0, 3), (0x20, 0, 3), (0x21, 0, 3),
    ]  # fmt: skip
    file = str(cluster.nodes[0].directory / "meeting.json")
    alone = base_environment(tmp_path, sglang=None)
    ran = run_entry(["--meeting-file", file, "--rehearse=json"], alone, cwd=tmp_path, timeout_s=MEETS_S)
    assert (ran.code, ran.json()) == (0, shown)


def test_a_check_proves_each_port_against_itself(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    subnet = Subnet.in_folder(tmp_path)
    node = cluster.add_node("alone")
    _put_into(node, subnet, 1, FULL)
    subnet.port("mlx5_1", 0x11, state=2)
    packages = installed(tmp_path / "packages", standin, {"nvidia-nccl-cu12": "2.28.9"})
    library = {"LD_LIBRARY_PATH": str(subnet.library), "SUBNET": str(subnet.folder)}
    check = node.start(["--rdma", "required", "--check=json", *MODEL], {"PYTHONPATH": packages, **library})
    check.wait_exit(MEETS_S)
    found = {one["status"]: one["evidence"] for one in _shown(check)["items"] if one["name"] == "loopback"}
    assert found == {
        "ok": "mlx5_0:1 carried 64 bytes and full packets of 4096 through the HCA to itself",
        "warn": "mlx5_1:1 did not carry a message to itself: NO_SM (state 2, LID 17)",
    }


def test_two_limited_members_of_a_partition(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    rehearsals = rehearsed(cluster, standin, tmp_path, pkeys=(0x0005, 0x0005), NCCL_IB_PKEY="1")
    assert [launch.wait_exit(MEETS_S) for launch in rehearsals] == [69, 69], rehearsals[0].account()
    (problem,) = _shown(rehearsals[1])["problems"]
    assert (problem["severity"], problem["code"]) == ("error", "RAIL_NO_PARTITION")
    assert problem["message"].startswith(
        "rails 0-1 between 0 (sglang-0) mlx5_1:1 LID 17 and 1 (sglang-0-1) mlx5_1:1 LID 33: the ports share no partition"
    )


def test_a_slot_of_the_p_key_table_that_is_not_there(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    rehearsals = rehearsed(cluster, standin, tmp_path, NCCL_IB_PKEY="7")
    assert [launch.wait_exit(MEETS_S) for launch in rehearsals] == [69, 69], rehearsals[0].account()
    (problem,) = _shown(rehearsals[0])["problems"]
    assert problem["code"] == "RAIL_NO_PARTITION"
    assert problem["message"].endswith("its port has no P_Key at NCCL_IB_PKEY; P_Key index 7, the port has 2")
