"""The hardware of one node deviates: every pod of a group of real launchers says so, with who it is.

Each node has real interfaces with a tree of its own mounted as its sysfs, verbs devices that open, GPUs and a driver.
RDMA is optional here, so that libibverbs, which would list none of these devices, is not asked.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from sglang_roce_entry.group.meeting.comparison.keys import KEYS_BY_NAME
from tests.process.group import lws, nodes_of
from tests.process.test_meeting_deviations import DEVIANT, MEETS_S, MODEL, NAMED, everywhere, installed
from tests.process.test_meeting_deviations import DEVIATIONS as OTHER_DEVIATIONS
from tests.trees import Node as Tree

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Launch, Node

pytestmark = pytest.mark.netns

OPTIONS = ("--rdma", "optional", "--gpus", "8", "--wait-deadline", "60")
#: A device node with the numbers of /dev/null opens.
DEVICES = """
mkdir /dev/infiniband /dev/nvidia-caps-imex-channels
for path; do mknod "$path" c 1 3; done
"""


@dataclass(frozen=True)
class Hardware:
    """What a node has: a rail in each network, where ``{}`` is the node's number."""

    networks: tuple[str, ...] = ("10.80.0.{}/24", "10.80.1.{}/24")
    state: str = "4: ACTIVE"
    gbps: float = 400.0
    mtu: int = 4200
    model: str = "NVIDIA H100 80GB HBM3"
    driver: str = "580.95.05"
    imex: bool = False

    def put_into(self, node: Node, number: int, folder: Path) -> None:
        """Give ``node`` the interfaces and device nodes, and mount the tree."""
        tree = Tree().netdev("lo").netdev("eth0").gpu("0000:80:00.0", model=self.model)
        tree.files["/proc/driver/nvidia/version"] = (
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {self.driver}  Release Build\n"
        )
        for rail, network in enumerate(self.networks):
            netdev, address = f"net{rail}", network.format(number)
            node.add_interface(netdev, address)
            node.ip(f"link set {netdev} mtu {self.mtu}")
            hca = tree.hca(f"mlx5_{rail}", pci=f"0000:{0x18 + rail:02x}:00.0", netdevs=(netdev,))
            port = hca.port(gbps=self.gbps, state=self.state, slots=8)
            port.pair(f"fe80::{rail + 1}", netdev).pair(address.partition("/")[0], netdev)
            tree.netdev(netdev)
        for path in [path for path in tree.files if "/infiniband_verbs/" in path and path.endswith("/dev")]:
            tree.files[path] = "1:3\n"
        tree.write(folder)
        devices = [f"/dev/infiniband/uverbs{rail}" for rail in range(len(self.networks))]
        devices += ["/dev/nvidia0", *(["/dev/nvidia-caps-imex-channels/channel0"] if self.imex else [])]
        subprocess.run(
            ["nsenter", f"--mount=/proc/{node.pid}/ns/mnt", "sh", "-ec", DEVICES, "sh", *devices], check=True
        )
        node.mount_over(Path("/sys"), folder / "sys")
        node.mount_over(Path("/proc/driver"), folder / "proc/driver")


SAME = Hardware()


class Deviation(NamedTuple):
    """What is different on one node, and what every pod says of it, with the code and the exit code."""

    said: str
    code: str
    exit_code: int
    hardware: Hardware = SAME
    nccl: str = "2.28.9"  # on all


#: By the key of the comparison.
DEVIATIONS = {
    "rdma": Deviation("RDMA is off on", "RDMA_DIFFERS", 69, replace(SAME, state="1: DOWN")),
    "family": Deviation(
        "the rails' address family is IPv6 on",
        "FAMILY_DIFFERS",
        69,
        replace(SAME, networks=("fd80:0::{}/64", "fd80:1::{}/64")),
    ),
    "rail_networks": Deviation(
        "the rails' network is 10.99.0.0/24 10.99.1.0/24 on",
        "NO_COMMON_NETWORK",
        69,
        replace(SAME, networks=("10.99.0.{}/24", "10.99.1.{}/24")),
    ),
    "rail_1_network": Deviation(
        "the network of rail 1 is 10.99.1.0/24 on",
        "RAILS_DIFFER",
        0,
        replace(SAME, networks=("10.80.0.{}/24", "10.99.1.{}/24")),
    ),
    "rail_order": Deviation(
        "the order of the rails' networks is 10.80.1.0/24 10.80.0.0/24 on",
        "RAILS_DIFFER",
        0,
        replace(SAME, networks=SAME.networks[::-1]),
    ),
    "rails": Deviation(
        "the number of rails is 1 on", "RAILS_DIFFER", 0, replace(SAME, networks=SAME.networks[:1])
    ),
    "rail_rates": Deviation("the rails' rate in Gb/s is 200 on", "RAILS_DIFFER", 0, replace(SAME, gbps=200.0)),
    "roce_mtu": Deviation("the rails' RoCE MTU is 1024 on", "ROCE_MTU_DIFFERS", 69, replace(SAME, mtu=1500)),
    "roce_mtu, with an NCCL that bears it": Deviation(
        "the rails' RoCE MTU is 1024 on", "ROCE_MTU_DIFFERS", 0, replace(SAME, mtu=1500), "2.29.2"
    ),
    "gpu_model": Deviation(
        "the GPUs' model is NVIDIA H20 on", "GPUS_DIFFER", 0, replace(SAME, model="NVIDIA H20")
    ),
    "nvlink_domain": Deviation(
        "the way into an NVLink domain is an IMEX channel on", "GPUS_DIFFER", 0, replace(SAME, imex=True)
    ),
    "driver": Deviation(
        "the GPU driver's release is 570.86.15 on", "VERSION_DIFFERS", 0, replace(SAME, driver="570.86.15")
    ),
}


def started(
    cluster: Cluster, size: int, packages: str, folder: Path, deviates: Hardware = SAME, deviant: int = DEVIANT
) -> list[Launch]:
    """Start a launch on each of so many nodes, the hardware of one of them as it ``deviates``."""
    launches = []
    for index, node in enumerate(nodes_of(cluster, size)):
        hardware = deviates if index == deviant else SAME
        hardware.put_into(node, index + 1, folder / f"tree-{index}")
        launches.append(node.start([*OPTIONS, *MODEL], {**lws(index, size), "PYTHONPATH": packages}))
    return launches


@pytest.mark.parametrize("deviation", DEVIATIONS.values(), ids=DEVIATIONS.keys())
def test_hardware_that_deviates_is_named_on_every_pod(
    cluster: Cluster, standin: Path, tmp_path: Path, deviation: Deviation
) -> None:
    packages = installed(tmp_path / "packages", standin, {"nvidia-nccl-cu12": deviation.nccl})
    launches = started(cluster, 8, packages, tmp_path, deviation.hardware)
    everywhere(launches, deviation.code, f"{deviation.said} {NAMED}", deviation.exit_code)


def test_no_key_is_without_a_deviation() -> None:
    assert KEYS_BY_NAME.keys() <= DEVIATIONS.keys() | OTHER_DEVIATIONS.keys()


def test_of_two_both_values_are_shown(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    packages = installed(tmp_path / "packages", standin, {})
    launches = started(cluster, 2, packages, tmp_path, replace(SAME, mtu=1500), deviant=1)
    said = "the rails' RoCE MTU differs: 4096 on 0 (sglang-0), 1024 on 1 (sglang-0-1)"
    everywhere(launches, "ROCE_MTU_DIFFERS", said, 69)


def test_equal_hardware_is_no_problem(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    """Each node's own addresses, devices and clock differ by nature."""
    for launch in started(cluster, 3, installed(tmp_path / "packages", standin, {}), tmp_path):
        assert launch.wait_exit(MEETS_S) == 0, launch.account()
        assert "DIFFER" not in launch.text()
        assert "NETWORK" not in launch.text()
