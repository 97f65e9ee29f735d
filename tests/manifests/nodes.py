"""Recorded nodes that fit the pods of the manifests, and the launcher run on them.

The host network's node is the one that the package carries. The others are described here: SR-IOV
functions whose physical functions the pod sees but cannot open, NICs that a DRA driver moved into
the pod, a tray of GB200 with an NVLink channel and no RDMA, and a node of AMD's. What a pod specification decides is written into the recording: whether the verbs devices open,
who the user is, whether IPC_LOCK is effective, what the leader's name resolves to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sglang_roce_entry
from tests.manifests.injection import container_arguments, container_environment, lws_variables
from tests.trees import V2
from tests.trees import Node as Tree

if TYPE_CHECKING:
    from tests.manifests.manifest_set import PodTemplate

PACKAGE = Path(sglang_roce_entry.__file__).parent
CONTAINERD_MEMLOCK_BYTES = 8 << 20  # what systemd gives a container runtime whose unit says nothing
RAILS = 4
AMD_RAILS = 8


@dataclass
class Node:
    """A recorded node, unpacked once, whose facts are written anew for every pod."""

    folder: Path
    recorded: dict[str, Any]
    control_address: str
    peer_address: str
    devices: list[str]

    def place(self, pod: PodTemplate, leader: str, index: int, **changed: Any) -> None:
        """Write the facts of ``pod`` on this node; ``changed`` replaces some of them."""
        container = pod.containers[0]
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        root = context.get("runAsUser", 0) == 0
        locks = root and (
            context.get("privileged", False) or "IPC_LOCK" in context.get("capabilities", {}).get("add", [])
        )
        address = self.control_address if index == 0 else self.peer_address
        facts = {
            **self.recorded,
            "environ": {},
            "uid": context.get("runAsUser", 0),
            "capabilities": ["CAP_IPC_LOCK"] if locks else [],
            # restricted: what its comment asks of the node
            "memlock": CONTAINERD_MEMLOCK_BYTES if root else "unlimited",
            "resolve": {leader: [address]},
            "routes": {address: {"interface": "eth0", "source": self.control_address}},
            **changed,
        }
        if not grants_rdma(pod):
            facts["verbs"] = dict.fromkeys(self.recorded["verbs"], "ENOENT")
        (self.folder / "facts.json").write_text(json.dumps(facts))


def grants_rdma(pod: PodTemplate) -> bool:
    """Return whether something in the pod makes ``/dev/infiniband/uverbs*`` open."""
    container = pod.containers[0]
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    return bool(
        container.get("securityContext", {}).get("privileged")
        or any(name.startswith(("rdma/", "amd.com/nic")) or "_vf" in name for name in limits)
        or resources.get("claims")
    )


def _pod_network(*, functions: bool) -> Tree:
    """Return a pod of eight GPUs and four 400 Gb/s rails: virtual functions, or NICs moved into it."""
    tree = Tree()
    tree.interface("lo", "127.0.0.1/8", "::1/128", mtu=65536, gbps=0)
    tree.interface("eth0", "10.244.2.23/24", "fe80::5c8d:2fff:fe11:1/64", mtu=1450, gbps=10)
    tree.default_route("eth0")
    for rail in range(RAILS):
        root = 0x10 + 0x20 * rail
        bridge = f"pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{root + 1:02x}:00.0"
        own, link_local = f"10.56.{rail}.173", f"fe80::a0b1:c2ff:fe33:{rail + 20:x}"
        netdev, physical = f"net{rail + 1}", f"0000:{root + 4:02x}:00.0"
        tree.interface(netdev, f"{own}/24", f"{link_local}/64", gbps=400)
        if functions:
            hidden = tree.hca(f"mlx5_{rail}", pci=physical, bridge=bridge, verbs="ENOENT", numa=rail // 2)
            hidden.port(gbps=400).pair(f"10.56.{rail}.20", f"ens{rail}np0")
            granted = tree.hca(
                f"mlx5_{rail + 8}",
                pci=f"0000:{root + 4:02x}:01.2",
                bridge=bridge,
                numa=rail // 2,
                physfn=physical,
                device_id="0x101e",
                netdevs=(netdev,),
            )
            port = granted.port(gbps=400).pair(link_local, netdev)
            port.pair(f"10.56.{rail}.171", netdev)  # a neighbour's, on its own interface of this name
            port.pair(own, netdev)
        else:
            moved = tree.hca(f"mlx5_{rail}", pci=physical, bridge=bridge, numa=rail // 2, netdevs=(netdev,))
            moved.port(gbps=400).pair(link_local, netdev).pair(own, netdev)
        for position in range(2):
            bus = root + 6 + 2 * position
            tree.gpu(f"0000:{bus:02x}:00.0", f"{bridge}/0000:{root + 2:02x}:{position:02x}.0", rail // 2)
    return tree.set(
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
        open={f"/dev/nvidia{minor}": "ok" for minor in range(8)},
        gpus=8,
        libibverbs="ok",
    )


def _tray() -> Tree:
    """Return a pod on a tray of GB200: four GPUs, a channel of its NVLink domain, NICs that it may not open."""
    tree = Tree()
    tree.interface("lo", "127.0.0.1/8", "::1/128", mtu=65536, gbps=0)
    tree.interface("eth0", "10.244.2.23/24", mtu=1450, gbps=10)
    tree.default_route("eth0")
    for rail in range(RAILS):
        hca = tree.hca(f"mlx5_{rail}", pci=f"000{rail}:03:00.0", device_id="0x1023", verbs="ENOENT")
        hca.port(gbps=400).pair(f"2603:c020::{rail + 1}", f"rdma{rail}")
        tree.gpu(f"000{rail}:06:00.0", f"pci000{rail}:05", rail // 2, model="NVIDIA GB200")
    channel = {"/dev/nvidia-caps-imex-channels/channel0": "ok"}
    return tree.set(
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
        open={**{f"/dev/nvidia{minor}": "ok" for minor in range(RAILS)}, **channel},
        gpus=RAILS,
        libibverbs="ok",
    )


def _amd_host() -> Tree:
    """Return a node of MI355X with an AI NIC (Pollara) for each of its eight GPUs, whose tables have no v1 GIDs."""
    tree = Tree()
    tree.interface("lo", "127.0.0.1/8", "::1/128", mtu=65536, gbps=0)
    tree.interface("eth0", "10.0.0.11/24", mtu=1500, gbps=25)
    tree.default_route("eth0")
    for rail in range(AMD_RAILS):
        name, own = f"benic{rail + 1}p1", f"10.20.{rail}.11"
        bridge = f"pci0000:{rail + 1:02x}/0000:{rail + 1:02x}:01.0"
        hca = tree.hca(
            f"ionic_{rail}",
            pci=f"0000:{rail + 0x20:02x}:00.0",
            bridge=f"{bridge}/0000:{rail + 0x10:02x}:00.0",
            vendor="0x1dd8",
            device_id="0x1002",
            netdevs=(name,),
        )
        hca.port(gbps=400).gid(0, f"fe80::{rail + 1}", V2, name).gid(1, own, V2, name)
        tree.interface(name, f"{own}/24", f"fe80::{rail + 1}/64", gbps=400)
        tree.amd_gpu(rail + 2, f"0000:{rail + 0x30:02x}:00.0", f"{bridge}/0000:{rail + 0x10:02x}:01.0")
    return tree.set(versions={"sglang": "0.5.15", "nccl": None, "rocm": "7.2.0"}, gpus=AMD_RAILS, libibverbs="ok")


def recorded_nodes(folder: Path) -> dict[str, Node]:
    """Return the nodes by the network of the pods that they fit, unpacked below ``folder``."""
    with tarfile.open(PACKAGE / "snapshots" / "h20-roce.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python has none
        archive.extractall(folder / "host")
    places = {
        "host": (next((folder / "host").rglob("facts.json")).parent, "10.0.0.11", "10.0.0.10"),
        "functions": (_pod_network(functions=True).write(folder / "functions"), "10.244.2.23", "10.244.1.17"),
        "claims": (_pod_network(functions=False).write(folder / "claims"), "10.244.2.23", "10.244.1.17"),
        "tray": (_tray().write(folder / "tray"), "10.244.2.23", "10.244.1.17"),
        "amd": (_amd_host().write(folder / "amd"), "10.0.0.11", "10.0.0.10"),
    }
    devices = {
        "host": [f"mlx5_bond_{rail}" for rail in range(RAILS)],
        "functions": [f"mlx5_{rail + 8}" for rail in range(RAILS)],
        "claims": [f"mlx5_{rail}" for rail in range(RAILS)],
        "tray": [],
        "amd": [f"ionic_{rail}" for rail in range(AMD_RAILS)],
    }
    return {
        name: Node(where, json.loads((where / "facts.json").read_text()), own, peer, devices[name])
        for name, (where, own, peer) in places.items()
    }


def node_of(pod: PodTemplate, nodes: dict[str, Node]) -> Node:
    """Return the recorded node that fits the pod's network and what it asks for."""
    claims = [claim["name"] for claim in pod.spec.get("resourceClaims", [])]
    if pod.spec.get("hostNetwork"):
        limits = pod.containers[0].get("resources", {}).get("limits", {})
        return nodes["amd" if "amd.com/gpu" in limits else "host"]
    if claims == ["nvlink"]:
        return nodes["tray"]
    return nodes["claims" if claims else "functions"]


@dataclass
class Outcome:
    """What one run of the launcher said."""

    code: int
    stdout: str
    stderr: str
    plan: dict[str, Any] = field(default_factory=dict)


def launcher(snapshot: str, arguments: list[str], environment: dict[str, str], *mode: str) -> Outcome:
    """Run the launcher as the container would, on a recorded node."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", "--snapshot", snapshot, *mode, *arguments],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    if mode == ("--dry-run=json",) and done.stdout:
        outcome.plan = json.loads(done.stdout)
    return outcome


def run_member(pod: PodTemplate, index: int, nodes: dict[str, Node], *, group: int = 0, **changed: Any) -> Outcome:
    """Run the launcher as pod ``index`` of a group, with what LeaderWorkerSet injects."""
    node = node_of(pod, nodes)
    injected = lws_variables(pod.owner, group, index)
    node.place(pod, injected["LWS_LEADER_ADDRESS"], index, **changed)
    environment = container_environment(pod, pod.containers[0], injected)
    arguments = container_arguments(pod.containers[0], environment)
    return launcher(str(node.folder), arguments, environment, "--dry-run=json")
