"""NCCL's topology file overrides the PCI paths; one that cannot be used is reported and skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.topology import TopologyError, parse_topology
from tests.decision.golden import flattened, topology_xml
from tests.planning import codes, message, plan_of

if TYPE_CHECKING:
    from tests.trees import Node

PATH = "/opt/topo/ndv5-topo.xml"
VIRTUAL = "/var/run/nvidia-topologyd/virtualTopology.xml"


def with_file(text: str | None, path: str = PATH, node: Node | None = None) -> Node:
    node = node or flattened()
    if text is not None:
        node.files[path] = text
    return node


def test_the_file_tells_what_a_flat_bus_hides() -> None:
    plan = plan_of(with_file(topology_xml()), environ={"NCCL_TOPO_FILE": PATH})
    affinity = plan.affinity
    assert [affinity.names(gpu) for gpu in range(8)] == [
        (f"mlx5_{n}",) for n in (6, 7, 4, 5, 2, 3, 0, 1)
    ]  # fmt: skip
    assert affinity.class_name(0, 7) == "PIX"
    assert affinity.class_name(0, 4) == "PHB"
    assert affinity.class_name(0, 0) == "SYS"
    assert affinity.note == f"topology from {PATH}"
    assert codes(plan) == []


def test_nccls_own_configuration_file_names_it() -> None:
    node = with_file(topology_xml())
    node.files["/etc/nccl.conf"] = f"NCCL_TOPO_FILE={PATH}\n"
    assert plan_of(node).affinity.names(0) == ("mlx5_6",)


def test_the_virtual_topology_is_found_by_itself() -> None:
    assert plan_of(with_file(topology_xml(), VIRTUAL)).affinity.names(0) == ("mlx5_6",)


def test_devices_that_the_file_lacks_keep_the_kernels_place() -> None:
    text = topology_xml().replace('busid="0000:00:01.0"', 'busid="0000:77:00.0"')
    plan = plan_of(with_file(text), environ={"NCCL_TOPO_FILE": PATH})
    affinity = plan.affinity
    assert affinity.class_name(0, 0) == "?"
    assert affinity.class_name(1, 7) == "PIX"
    assert affinity.note is not None
    assert "also names 0000:77:00.0: not on this node" in affinity.note
    assert codes(plan) == []


BAD = {
    "no XML": ("GPU0 NIC0 PIX", "it is not XML"),
    "truncated": (topology_xml()[:200], "it is not XML"),
    "empty": ("", "it is not XML"),
    "other XML": ("<html/>", "its root is <html>"),
    "entities": ('<!DOCTYPE s [<!ENTITY a "b">]><system/>', "DOCTYPE"),
    "another machine": (
        '<system><cpu numaid="0"><pci busid="0001:00:00.0"/></cpu></system>',
        "none of this node's",
    ),
    "missing": (None, "cannot be read"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_file_of_no_use(name: str) -> None:
    text, words = BAD[name]
    plan = plan_of(with_file(text), environ={"NCCL_TOPO_FILE": PATH})
    assert codes(plan) == ["TOPOLOGY_FILE"]
    assert words in message(plan, "TOPOLOGY_FILE")
    assert PATH in message(plan, "TOPOLOGY_FILE")
    assert plan.problems[0].value
    assert plan.affinity.class_name(0, 0) == "PHB"


def test_no_file_no_word() -> None:
    assert codes(plan_of(flattened())) == []


def test_comments_are_no_declarations() -> None:
    text = topology_xml().replace("<system", "<!-- of the cloud -->\n<system", 1)
    assert len(parse_topology(text)) == 20


def test_bus_ids_that_are_none_are_passed_over() -> None:
    places = parse_topology(
        '<system><cpu><pci busid="x"><pci busid="0000:0A:00.0" class="0x02"/></pci></cpu></system>'
    )
    assert list(places) == ["0000:0a:00.0"]
    assert places["0000:0a:00.0"].numa_node is None


def test_a_bomb_is_refused_unread() -> None:
    lines = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(30))
    with pytest.raises(TopologyError):
        parse_topology(f"<!DOCTYPE s [{lines}]><system>&a30;</system>")
