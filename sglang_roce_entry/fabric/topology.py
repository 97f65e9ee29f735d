"""NCCL's topology file: where a cloud describes what its virtual PCI buses hide.

``NCCL_TOPO_FILE``, else ``/var/run/nvidia-topologyd/virtualTopology.xml``, overrides what the kernel
shows (NVIDIA/nccl ``graph/topo.cc`` and ``graph/xml.cc``)::

    <system version="1"> <cpu numaid="0"> <pci busid="ffff:ff:01.0" class="0x060400">
        <pci busid="0001:00:00.0" class="0x030200"/> ...

A GPU or HCA that the file does not name keeps the place that the kernel shows, as in NCCL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from xml.etree import ElementTree

from sglang_roce_entry.host.facts import Gpu, Hca, HostFacts
from sglang_roce_entry.host.rdma import is_pci_address
from sglang_roce_entry.problems import Problem, rdma_value

#: PCI classes of what is paired here: display and 3D controllers, network controllers, accelerators.
_GPU_CLASSES = ("0x03", "0x12")
_NIC_CLASSES = ("0x02",)


#: A node has five or six; a path is as long as its level, and thousands of levels are a gigabyte.
_DEEPEST = 64

Device = TypeVar("Device", Gpu, Hca)


class TopologyError(ValueError):
    """A text that is not an NCCL topology."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the file puts a PCI function: its path below a CPU, and that CPU's NUMA node."""

    path: str
    numa_node: int | None
    kind: str  # the start of its PCI class: 0x03


@dataclass(frozen=True, slots=True)
class Placed:
    """Facts with the file's places in them, what is wrong with it, and a note for the report."""

    facts: HostFacts
    problems: tuple[Problem, ...] = ()
    note: str | None = None


def parse_topology(text: str) -> dict[str, Place]:
    """Return the place of every PCI function by its bus id. Raises :class:`TopologyError`."""
    if "<!" in text.replace("<!--", ""):
        # NCCL's own parser knows no declarations, and entities are how XML is made to explode.
        raise TopologyError("it has a DOCTYPE or entities")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - without declarations there is nothing to expand
    except (ElementTree.ParseError, ValueError) as failure:
        raise TopologyError(f"it is not XML: {failure}") from failure
    if root.tag != "system":
        raise TopologyError(f"its root is <{root.tag}>, not <system>")
    places: dict[str, Place] = {}
    for position, cpu in enumerate(root.findall("cpu")):
        numa = cpu.get("numaid", "")
        number = int(numa) if numa.isdecimal() else None
        start = f"/pci-cpu{numa if number is not None else f'-{position}'}"
        for path, element in _functions(cpu, start):
            places.setdefault(path.rpartition("/")[2], Place(path, number, element.get("class", "")[:4]))
    return places


def _functions(cpu: Any, start: str) -> Iterator[tuple[str, Any]]:
    """Yield each PCI function with its path. Raises :class:`TopologyError` on too many levels."""
    pending = [(start, child) for child in cpu]
    while pending:
        above, element = pending.pop()
        if above.count("/") > _DEEPEST:
            raise TopologyError(f"it has more than {_DEEPEST} PCI levels, one below the other")
        bus = element.get("busid", "").lower()
        here = f"{above}/{bus}" if element.tag == "pci" and is_pci_address(bus) else above
        if here != above:
            yield here, element
        pending.extend((here, child) for child in element)


def place(facts: HostFacts) -> Placed:
    """Return ``facts`` with the places of the topology file, if there is one."""
    if facts.topology_file is None:
        return Placed(facts)
    path, text = facts.topology_file
    if text is None:
        return Placed(facts, (_unusable(path, "it cannot be read"),))
    try:
        places = parse_topology(text)
    except TopologyError as failure:
        return Placed(facts, (_unusable(path, str(failure)),))
    gpus = replace(facts.gpus, devices=_placed(facts.gpus.devices, places))
    placed = replace(facts, hcas=_placed(facts.hcas, places), gpus=gpus)
    return Placed(placed, _another_machine(path, places, facts), _note(path, places, facts))


def _placed(devices: tuple[Device, ...], places: Mapping[str, Place]) -> tuple[Device, ...]:
    known = [places.get(one.pci_address or "") for one in devices]
    return tuple(
        one if where is None else replace(one, path=where.path, numa_node=where.numa_node)
        for one, where in zip(devices, known)  # noqa: B905 - both per device
    )


def _named(places: Mapping[str, Place], classes: tuple[str, ...]) -> set[str]:
    return {bus for bus, one in places.items() if one.kind in classes}


def _another_machine(path: str, places: Mapping[str, Place], facts: HostFacts) -> tuple[Problem, ...]:
    here = {hca.pci_address for hca in facts.hcas} | {gpu.pci_address for gpu in facts.gpus.devices}
    here.discard(None)
    if not here or here & set(places):
        return ()
    return (
        _unusable(path, f"it names none of this node's devices ({', '.join(sorted(map(str, here))[:3])}, ...)"),
    )


def _note(path: str, places: Mapping[str, Place], facts: HostFacts) -> str:
    note = f"topology from {path}"
    absent = sorted(
        (_named(places, _NIC_CLASSES) - {hca.pci_address for hca in facts.hcas})
        | (_named(places, _GPU_CLASSES) - {gpu.pci_address for gpu in facts.gpus.devices})
    )
    if absent:
        note += f", which also names {', '.join(absent[:4])}{' ...' if len(absent) > 4 else ''}: not on this node"
    return note


def _unusable(path: str, why: str) -> Problem:
    return rdma_value(
        "TOPOLOGY_FILE",
        f"the topology file {path} cannot be used: {why}",
        "correct or remove NCCL_TOPO_FILE (the pod's environment, /etc/nccl.conf); without it the kernel's "
        "PCI paths are used",
    )
