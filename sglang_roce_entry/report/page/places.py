"""Where GPUs and ports sit on a node, as the drawing shows it: in NUMA domains, and there behind PCIe switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_roce_entry.natural import natural_key

#: Host bridge, root port, a switch's upstream and downstream port, device. There may be further switches below it:
#: a GPU of AMD's has one of its own.
_BEHIND_A_SWITCH = 5


@dataclass(frozen=True, slots=True)
class Switch:
    """What is behind one PCIe switch, or else one bridge; ``title`` is ``None`` where the place is not known."""

    title: str | None
    gpus: tuple[Mapping[str, Any], ...]
    ports: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """One NUMA domain; ``number`` is ``None`` where the kernel does not tell it."""

    number: int | None
    switches: tuple[Switch, ...]


def domains_of(shown: Mapping[str, Any]) -> list[Domain]:
    """Return the NUMA domains of a dry run's document, the unknown one last; GPUs in order, ports by rail."""
    node = shown["node"] or {"gpus": [], "hcas": []}
    hcas = {hca["device"]: hca for hca in node["hcas"]}
    placed = [(gpu, gpu) for gpu in node["gpus"]]
    placed += [(hcas.get(port["device"], {}), port) for port in sorted(shown["ports"], key=_by_rail)]
    found: dict[int | None, dict[str | None, list[Mapping[str, Any]]]] = {}
    for place, one in placed:
        found.setdefault(place.get("numa_node"), {}).setdefault(_title(place.get("path")), []).append(one)
    domains = [
        Domain(number, tuple(sorted((_switch(*one) for one in switches.items()), key=_by_first)))
        for number, switches in found.items()
    ]
    return sorted(domains, key=lambda one: (one.number is None, one.number or 0))


def _title(path: Sequence[str] | None) -> str | None:
    """Return what a device is behind, by what leads to it."""
    if not path or len(path) < 2:
        return None
    if len(path) >= _BEHIND_A_SWITCH:
        return f"PCIe switch {path[2]}"
    return f"PCI bridge {path[1]}" if len(path) > 2 else f"PCI host bridge {path[0].removeprefix('pci')}"


def _switch(title: str | None, devices: Sequence[Mapping[str, Any]]) -> Switch:
    ports = tuple(one for one in devices if "device" in one)
    return Switch(title, tuple(one for one in devices if "device" not in one), ports)


def _by_rail(port: Mapping[str, Any]) -> tuple[bool, int, Any]:
    return not port["used"], port["rail"] or 0, natural_key(f"{port['device']}:{port['port']}")


def _by_first(switch: Switch) -> tuple[bool, bool, int, str]:
    """Return what switches are ordered by: their first GPU, else their first rail, else their address."""
    gpus = [gpu["index"] for gpu in switch.gpus]
    rails = [port["rail"] for port in switch.ports if port["used"]]
    return switch.title is None, not (gpus or rails), min(gpus or rails or [0]), switch.title or ""
