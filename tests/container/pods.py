"""Pods of one LeaderWorkerSet group: two networks, an HCA on the rail, what LWS injects."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.container.enclosure import POD_DNS
from tests.trees import V1, V2, Node

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NETWORKS = {
    "pods": ("--subnet=10.89.9.0/24",),
    "rail": ("--internal", "--subnet=10.89.77.0/24"),
}
#: ib_uverbs has major 231, minors from 192 (IB_UVERBS_BASE_MINOR).
VERBS_DEVICE = (231, 192)
#: A node with the numbers of /dev/null can be opened: the stand-in for a driver that is there.
NULL_DEVICE = (1, 3)
LEADER = "sglang-0.sglang"
#: The address of another pod, whose GIDs an inbox driver shows here too.
FOREIGN = "10.89.77.9"
LEADER_ADDRESS = f"{LEADER}.default"
#: What every pod of a manifest gets: SGLang's own arguments, the same for leader and worker.
SGLANG_ARGUMENTS = ("--model-path", "/models/m", "--trust-remote-code")


@dataclass(frozen=True)
class Pod:
    """The pod with this index in a group of ``size``, with ``mlx5_0`` on interface net1.

    ``slot`` is the index of the pod's own RoCE v2 GID: it is another one in every pod.
    """

    folder: Path
    index: int = 0
    size: int = 1
    slot: int = 3

    @property
    def address(self) -> str:
        """Return the address on the pod network."""
        return f"10.89.9.{100 + self.index}"

    @property
    def rail_address(self) -> str:
        """Return the address on the RDMA rail."""
        return f"10.89.77.{100 + self.index}"

    def network(self) -> tuple[str, ...]:
        """Return the options for both networks and the cluster's DNS."""
        # Always the same MAC for an address, else the neighbours of an earlier pod are lost for it.
        mac = f"02:00:00:00:{{}}:{self.index:02x}"
        return (
            f"--network=pods:ip={self.address},interface_name=eth0,mac={mac.format('09')}",
            f"--network=rail:ip={self.rail_address},interface_name=net1,mac={mac.format('77')}",
            f"--hostname=sglang-0{f'-{self.index}' if self.index else ''}",
            *POD_DNS,
        )

    def environment(self) -> dict[str, str]:
        """Return what LeaderWorkerSet injects, and the number of GPUs, of which there are none."""
        return {
            "LWS_LEADER_ADDRESS": LEADER_ADDRESS,
            "LWS_GROUP_SIZE": str(self.size),
            "LWS_WORKER_INDEX": str(self.index),
            "SGLANG_ROCE_GPUS": "2",
        }

    def group(self) -> tuple[str, ...]:
        """Return the options for ``environment``."""
        return tuple(f"--env={name}={value}" for name, value in self.environment().items())

    def write_sys(self, verbs_device: tuple[int, int]) -> Path:
        """Write ``/sys`` of a node with an inbox driver: mlx5_1 has another pod's GID on "net1"."""
        node = Node()
        for name in ("lo", "eth0", "net1"):
            node.netdev(name)
        hcas = (("mlx5_0", "0000:18:00.0", self.rail_address), ("mlx5_1", "0000:29:00.0", FOREIGN))
        for name, pci, address in hcas:
            port = node.hca(name, pci=pci).port(gbps=400)
            # As mlx5 fills its table: the default GIDs first, each address as v1 and v2.
            port.gid(0, "fe80::ff:fe00:1", V1, "net1").gid(1, "fe80::ff:fe00:1", V2, "net1")
            port.pair(address, "net1", self.slot - 1)
        numbers = f"{verbs_device[0]}:{verbs_device[1]}\n"
        for path in node.files:
            if "/infiniband_verbs/" in path and path.endswith("/dev"):
                node.files[path] = numbers
        return node.write(self.folder / "node") / "sys"

    def sysfs(self) -> tuple[str, ...]:
        """Return the option for ``/sys`` of a node whose verbs device can be opened."""
        return (f"--volume={self.write_sys(NULL_DEVICE)}:/sys:ro",)

    def devices(self) -> Path:
        """Make ``/dev/infiniband`` of that node and return it."""
        for name in ("uverbs0", "uverbs1"):
            make_node(self.folder / "infiniband" / name, NULL_DEVICE)
        return self.folder / "infiniband"

    def hardware(self) -> tuple[str, ...]:
        """Return the options for an HCA that can be used."""
        volume = f"--volume={self.devices()}:/dev/infiniband"
        return (*self.sysfs(), volume, "--cap-add=IPC_LOCK")

    def options(self) -> tuple[str, ...]:
        """Return all of them."""
        return (*self.network(), *self.group(), *self.hardware())


def make_node(path: Path, numbers: tuple[int, int], mode: int = 0o666) -> None:
    """Make a character device node with exactly this mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR | mode, os.makedev(*numbers))
    path.chmod(mode)


def events(log: str) -> dict[str, dict[str, Any]]:
    """Return what the stand-in for SGLang said, by event."""
    said = [json.loads(line) for line in log.splitlines() if line.startswith('{"event"')]
    return {event["event"]: event for event in said}


def values(arguments: Sequence[str]) -> dict[str, str]:
    """Return the options of a command line that have a value."""
    pairs = pairwise(arguments)
    return {name: value for name, value in pairs if name.startswith("--") and value[:2] != "--"}
