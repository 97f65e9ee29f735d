"""The affinity of GPUs and HCAs as a table that a reader of ``nvidia-smi topo -m`` knows."""

from __future__ import annotations

from typing import Any

from sglang_roce_entry.fabric.affinity import Affinity
from sglang_roce_entry.plan.plan import Plan

#: GPUs side by side in 120 columns.
_COLUMNS = 16
_LEGEND = {
    "PIX": "PIX one PCIe switch",
    "PXB": "PXB several switches",
    "PHB": "PHB the host bridge",
    "NODE": "NODE one NUMA node",
    "SYS": "SYS across sockets",
    "?": "? not known",
}


def matrix_lines(plan: Plan) -> list[str]:
    """Return one row per HCA and one column per GPU, ``*`` at the HCAs of a GPU; nothing without places."""
    affinity = plan.affinity
    lines = _table(affinity) if affinity.gpus else []
    if affinity.note and affinity.gpus:
        lines.append(affinity.note)
    if plan.transfer.told is not None:
        lines.append(f"KV transfer by {plan.transfer.told}")
    return lines


def _table(affinity: Affinity) -> list[str]:
    name_width = max(len(hca.name) for hca in affinity.hcas)
    lines = []
    for start in range(0, len(affinity.gpus), _COLUMNS):
        rows = range(start, min(start + _COLUMNS, len(affinity.gpus)))
        lines.append("  ".join([" " * name_width, *(f"GPU{row}".ljust(5) for row in rows)]).rstrip())
        for column, hca in enumerate(affinity.hcas):
            cells = [_cell(affinity, row, column).ljust(5) for row in rows]
            lines.append("  ".join([hca.name.ljust(name_width), *cells]).rstrip())
    seen = {
        affinity.class_name(row, column)
        for row in range(len(affinity.gpus))
        for column in range(len(affinity.hcas))
    }
    return [*lines, "* its HCA; " + ", ".join(text for name, text in _LEGEND.items() if name in seen)]


def _cell(affinity: Affinity, row: int, column: int) -> str:
    mark = "*" if column in affinity.assigned[row] else ""
    return affinity.class_name(row, column) + mark


def gpus_document(affinity: Affinity) -> list[dict[str, Any]]:
    """Return the ``gpus`` array of the dry run's JSON, in the order of the process."""
    return [
        {
            "index": index,
            "pci_address": gpu.pci_address,
            "numa_node": gpu.numa_node,
            "devices": list(affinity.names(index)),
        }
        for index, gpu in enumerate(affinity.gpus)
    ]


def affinity_document(affinity: Affinity) -> list[dict[str, Any]]:
    """Return the ``affinity`` array of the dry run's JSON: one object per GPU-HCA pair."""
    return [
        {
            "gpu": row,
            "device": hca.name,
            "class": affinity.class_name(row, column),
            "assigned": column in affinity.assigned[row],
        }
        for row in range(len(affinity.gpus))
        for column, hca in enumerate(affinity.hcas)
    ]
