"""Nodes whose pages are looked at: packaged ones, large ones, and those where nothing is as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_roce_entry.report.json import as_document
from tests.healthy import healthy
from tests.packaged import PACKAGED
from tests.planning import plan_of
from tests.trees import Node

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = ("--model-path", "/models/deepseek", "--trust-remote-code")
#: Letters without end, elements, quotes, breaks, marks that turn the direction, letters of East Asia and Arabic.
HOSTILE = "<script>alert(1)</script>\"'&amp;\n\u202e\u2066\x1b[2J日本語 \u0635\u0644\u0649 \ufdfd " + "x" * 300
#: Keys whose texts are not of the node: a change would only make another page of them.
_OURS = frozenset({"device", "devices", "class", "severity", "for", "source"})


def mi300x() -> Node:
    """Return eight MI300X, each beside its own NIC and below a switch of its own, and a NIC for management."""
    node = Node()
    for number in range(8):
        bus = 0x10 * (number + 1)
        above = f"pci0000:{bus:02x}/0000:{bus:02x}:01.1/0000:{bus + 1:02x}:00.0"
        numa = number // 4
        node.amd_gpu(
            number + 2,
            f"0000:{bus + 5:02x}:00.0",
            f"{above}/0000:{bus + 2:02x}:01.0/0000:{bus + 3:02x}:00.0/0000:{bus + 4:02x}:00.0",
            numa,
        )
        hca = node.hca(
            f"rdma{number}",
            pci=f"0000:{bus + 6:02x}:00.0",
            bridge=f"{above}/0000:{bus + 2:02x}:00.0",
            numa=numa,
            vendor="0x14e4",
            device_id="0x1760",
            netdevs=(f"rdma{number}",),
        )
        hca.port(gbps=400).pair(f"10.102.{number}.101", f"rdma{number}")
        node.interface(f"rdma{number}", f"10.102.{number}.101/24", mtu=9000)
    node.hca(
        "bnxt_re8", pci="0000:c1:00.0", numa=1, vendor="0x14e4", device_id="0x1750", netdevs=("eth0",)
    ).port().pair("10.0.0.5", "eth0")
    node.interface("eth0", "10.0.0.5/24", mtu=1500).default_route("eth0")
    return node.set(memlock="unlimited", versions={"sglang": "0.5.10", "nccl": "2.21.5"})


def sixteen() -> Node:
    """Return eight GPUs with two HCAs each; the GPUs of the last switch are on the other NUMA node."""
    node = Node()
    for number in range(8):
        bus = 0x10 * (number + 1)
        above = f"pci0000:{bus:02x}/0000:{bus:02x}:01.0/0000:{bus + 1:02x}:00.0"
        numa = number // 4
        node.gpu(f"0000:{bus + 4:02x}:00.0", f"{above}/0000:{bus + 2:02x}:00.0", numa, answer="ok")
        for twin in range(2):
            rail = 2 * number + twin
            hca = node.hca(
                f"mlx5_{rail}",
                pci=f"0000:{bus + 5 + twin:02x}:00.0",
                bridge=f"{above}/0000:{bus + 2:02x}:{twin + 1:02x}.0",
                numa=numa,
                netdevs=(f"rdma{rail}",),
            )
            hca.port(gbps=200).pair(f"fd00:{rail:x}::1:2:3:4", f"rdma{rail}")
            node.interface(f"rdma{rail}", f"fd00:{rail:x}::1:2:3:4/64", mtu=4220)
    return node.set(memlock="unlimited", versions={"sglang": "0.5.23", "nccl": "2.28.9"})


def across() -> Node:
    """Return a node all whose HCAs are on the other NUMA node than its GPUs."""
    node = healthy(rails=4)
    for number in range(8):
        node.gpu(f"0000:{number + 0x80:02x}:00.0", numa=1, answer="ok")
    for rail in range(4):
        node.files[f"{node.pci_path(f'0000:{rail + 0x18:02x}:00.0')}/numa_node"] = "0\n"
    return node


def nothing_usable() -> Node:
    """Return a node of which no port can be used, each for a reason of its own."""
    node = healthy(rails=5)
    for number, answer in enumerate(("EPERM", "ENOENT")):
        node.facts["verbs"][f"uverbs{number}"] = answer
    for path in node.files:
        if "mlx5_2/" in path and path.endswith("/state"):
            node.files[path] = "1: DOWN\n"
    node.facts["interfaces"]["net3"]["up"] = False
    node.facts["interfaces"]["net4"]["addresses"] = []
    return node


def virtual_functions() -> Node:
    """Return a node with 34 virtual functions that nobody has configured."""
    node = healthy()
    for number in range(34):
        node.hca(f"mlx5_{number + 10}", pci=f"0000:18:{number // 8 + 1:02x}.{number % 8}").port(state="1: DOWN")
    return node


def unplaced() -> Node:
    """Return a node of which little is known: a software device without PCI, NUMA node or rate."""
    node = Node()
    node.hca("rxe0").port(gbps=None).pair("10.0.0.1", "eth0")
    return node.interface("eth0", "10.0.0.1/24").set(memlock="unlimited")


def documents() -> dict[str, dict[str, Any]]:
    """Return the document of each node, by name."""
    built: dict[str, Callable[[], Node]] = {
        **PACKAGED, "mi300x": mi300x, "sixteen": sixteen, "across": across, "nothing usable": nothing_usable,
        "virtual functions": virtual_functions, "unplaced": unplaced,
    }  # fmt: skip
    made = {name: as_document(plan_of(build(), *MODEL)) for name, build in built.items()}
    return {**made, "hostile": spoilt(made["nothing usable"]), "hostile rails": spoilt(made["sixteen"])}


def spoilt(value: Any, key: str = "") -> Any:
    """Return a document whose texts, as far as a node or a peer gives them, are hostile."""
    if isinstance(value, dict):
        more = {HOSTILE: HOSTILE} if key == "versions" else {}
        named = key == "values"
        return {
            **{f"{name}{HOSTILE}" if named else name: spoilt(one, name) for name, one in value.items()},
            **more,
        }
    if isinstance(value, list):
        return [spoilt(one, key) for one in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) and key not in _OURS else value
