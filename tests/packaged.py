"""The two nodes that the package carries as snapshots. ``python -m tests.packaged`` writes them anew."""

from __future__ import annotations

from pathlib import Path

import sglang_roce_entry
from sglang_roce_entry.host.snapshot.write import pack
from tests.trees import Node

SLOTS = 256


def h20_roce() -> Node:
    """Return the leader of two nodes with 8 GPUs and four bonded 200 Gb/s HCAs, host network."""
    node = Node()
    node.interface("lo", "127.0.0.1/8", "::1/128", mtu=65536, gbps=0)
    node.interface("eth0", "10.0.0.11/24", "fe80::e42:a1ff:fe00:11/64", mtu=1500, gbps=25)
    node.default_route("eth0")
    for rail in range(4):
        root = 0x10 + 0x20 * rail
        bridge = f"pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{root + 1:02x}:00.0"
        hca = node.hca(
            f"mlx5_bond_{rail}",
            pci=f"0000:{root + 4:02x}:00.0",
            bridge=f"{bridge}/0000:{root + 2:02x}:02.0",
            numa=rail // 2,
            device_id="0x101f",
        )
        own, link_local = f"10.20.{rail}.11", f"fe80::e42:a1ff:fe00:{rail + 20:x}"
        hca.port(gbps=200, slots=SLOTS).pair(link_local, f"bond{rail}").pair(own, f"bond{rail}")
        node.interface(f"bond{rail}", f"{own}/24", f"{link_local}/64", gbps=400)
        for position in range(2):
            bus = root + 6 + 2 * position
            node.gpu(f"0000:{bus:02x}:00.0", f"{bridge}/0000:{root + 2:02x}:{position:02x}.0", rail // 2)
    return node.set(
        memlock="unlimited",
        resolve={"sglang-0.sglang.default": ["10.0.0.11"]},
        routes={"10.0.0.11": {"interface": "eth0", "source": "10.0.0.11"}},
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
        open={f"/dev/nvidia{minor}": "ok" for minor in range(8)},
        gpus=8,
        uid=0,
        libibverbs="ok",
        environ={
            "LWS_LEADER_ADDRESS": "sglang-0.sglang.default",
            "LWS_GROUP_SIZE": "2",
            "LWS_WORKER_INDEX": "0",
        },
    )


def cx7_pod() -> Node:
    """Return a worker pod on one SR-IOV function of a ConnectX-7: index 3 is another pod's, 5 its own."""
    node = Node()
    node.interface("lo", "127.0.0.1/8", mtu=65536, gbps=0)
    node.interface("eth0", "10.244.2.23/24", "fe80::5c8d:2fff:fe11:1/64", mtu=1450, gbps=10)
    node.interface("net1", "10.56.217.173/24", "fe80::a0b1:c2ff:fe33:7/64", mtu=4200)
    node.default_route("eth0")
    bridge = "pci0000:a0/0000:a0:01.0"
    physical = node.hca("mlx5_0", pci="0000:a1:00.0", bridge=bridge, verbs="ENOENT", numa=1)
    physical.port(gbps=400, slots=SLOTS).pair("fe80::a0b1:c2ff:fe33:1", "ens1np0").pair("10.56.217.20", "ens1np0")
    function = node.hca(
        "mlx5_7",
        pci="0000:a1:01.2",
        bridge=bridge,
        numa=1,
        physfn="0000:a1:00.0",
        device_id="0x101e",
        netdevs=("net1",),
    )
    port = function.port(gbps=400, slots=SLOTS)
    port.pair("fe80::a0b1:c2ff:fe33:7", "net1")
    port.pair("10.56.217.171", "net1")  # a neighbour's, on its own net1
    port.pair("10.56.217.173", "net1")
    return node.set(
        memlock="unlimited",
        resolve={"sglang-0.sglang.default": ["10.244.1.17"]},
        routes={"10.244.1.17": {"interface": "eth0", "source": "10.244.2.23"}},
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
        gpus=8,
        uid=0,
        libibverbs="ok",
        environ={
            "LWS_LEADER_ADDRESS": "sglang-0.sglang.default",
            "LWS_GROUP_SIZE": "2",
            "LWS_WORKER_INDEX": "1",
        },
    )


PACKAGED = {"h20-roce": h20_roce, "cx7-pod": cx7_pod}


def packed(name: str) -> bytes:
    """Return the archive of one packaged node."""
    return pack(*PACKAGED[name]().content())


def folder() -> Path:
    """Return where the package keeps them."""
    return Path(sglang_roce_entry.__file__).parent / "snapshots"


if __name__ == "__main__":
    for name in PACKAGED:
        (folder() / f"{name}.tar.gz").write_bytes(packed(name))
