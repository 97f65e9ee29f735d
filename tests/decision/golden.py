"""Nodes whose PCI trees are known from the field, for the pairing of GPUs and HCAs."""

from __future__ import annotations

from tests.trees import Node

LWS = {"LWS_LEADER_ADDRESS": "sglang-0.sglang", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0"}


def finished(node: Node, *, sglang: str | None = "0.5.23", gpus: int = 8) -> Node:
    """Return the node as a group's leader with its control interface and versions."""
    node.interface("eth0", "10.0.0.11/24", mtu=1500, gbps=25).default_route("eth0")
    return node.set(
        environ=LWS,
        gpus=gpus,
        memlock="unlimited",
        resolve={"sglang-0.sglang": ["10.0.0.11"]},
        versions={"sglang": sglang, "nccl": "2.28.3"},
    )


def rail(node: Node, name: str, number: int, pci: str | None, bridge: str = "", **hca: object) -> None:
    """Add an HCA with 10.20.<number>.11 at index 3 on ``rail<number>``."""
    port = node.hca(name, pci=pci, bridge=bridge, **hca).port(gbps=400)  # type: ignore[arg-type]
    port.pair(f"fe80::{number + 1:x}", f"rail{number}", 0).pair(f"10.20.{number}.11", f"rail{number}", 2)
    node.interface(f"rail{number}", f"10.20.{number}.11/24", gbps=400)


def hgx(gpus: int = 8) -> Node:
    """Return an HGX with eight rails, one switch per GPU-NIC pair; GPU 0's NIC is mlx5_4 (SGLang PR #23003).

    The names of the NICs follow the probing order of the sockets, the GPUs that of the buses.
    """
    node = Node()
    names = (4, 5, 6, 7, 0, 1, 2, 3)
    for position in range(8):
        root = 0x10 + 0x10 * position
        switch = f"pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{root + 1:02x}:00.0"
        numa = position // 4
        rail(node, f"mlx5_{names[position]}", names[position], f"0000:{root + 2:02x}:00.0",
             f"{switch}/0000:{root + 1:02x}:01.0", numa=numa)  # fmt: skip
        if position < gpus:
            node.gpu(f"0000:{root + 3:02x}:00.0", f"{switch}/0000:{root + 1:02x}:02.0", numa, answer="ok")
    return finished(node, gpus=gpus)


def two_per_gpu() -> Node:
    """Return four GPUs with two NICs each below their switch (OCI's sixteen-NIC shape, halved)."""
    node = Node()
    for position in range(4):
        root = 0x10 + 0x10 * position
        switch = f"pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{root + 1:02x}:00.0"
        for side in range(2):
            rail(node, f"mlx5_{2 * position + side}", 2 * position + side, f"0000:{root + 2 + side:02x}:00.0",
                 f"{switch}/0000:{root + 1:02x}:{side + 1:02x}.0", numa=position // 2)  # fmt: skip
        node.gpu(f"0000:{root + 8:02x}:00.0", f"{switch}/0000:{root + 1:02x}:04.0", position // 2, answer="ok")
    return finished(node, gpus=4)


def flattened(numa: int | None = None) -> Node:
    """Return a VM whose eight GPUs and eight NICs all lie on one virtual bus."""
    node = Node()
    for position in range(8):
        rail(node, f"mlx5_{position}", position, f"0000:00:{position + 0x10:02x}.0", "pci0000:00", numa=numa)
        node.gpu(f"0000:00:{position + 1:02x}.0", "pci0000:00", numa, answer="ok")
    return finished(node)


def own_domains(numa: bool = True) -> Node:
    """Return a Grace-like node: every device in a PCI domain of its own, only NUMA joins them."""
    node = Node()
    for position in range(4):
        where = position // 2 if numa else None
        rail(node, f"mlx5_{position}", position, f"{position:04x}:03:00.0",
             f"pci{position:04x}:00/{position:04x}:00:00.0", numa=where)  # fmt: skip
        domain = position + 8
        node.gpu(f"{domain:04x}:01:00.0", f"pci{domain:04x}:00/{domain:04x}:00:00.0", where, answer="ok")
    return finished(node, gpus=4)


#: The topology of a VM as its cloud describes it: two GPUs and two NICs to a switch, four switches.
def topology_xml(start: int = 0) -> str:
    """Return a topology file for :func:`flattened`: GPU n and NIC n share a switch with their neighbours."""
    text = '<system version="1">\n'
    for cpu in range(2):
        text += f'  <cpu numaid="{cpu}" arch="x86_64" vendor="AuthenticAMD">\n'
        for switch in (2 * cpu, 2 * cpu + 1):
            text += f'    <pci busid="ffff:ff:{switch + 1:02x}.0" class="0x060400">\n'
            for position in (2 * switch + start, 2 * switch + 1 + start):
                text += f'      <pci busid="0000:00:{position + 1:02x}.0" class="0x030200"/>\n'
                # The cloud's NICs are numbered against the GPUs: without the file nobody could tell.
                text += f'      <pci busid="0000:00:{0x17 - position:02x}.0" class="0x020700"/>\n'
            text += "    </pci>\n"
        text += "  </cpu>\n"
    return text + "</system>\n"
