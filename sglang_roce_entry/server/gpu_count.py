"""How many GPUs SGLang will see on this node.

``gpus`` setting; else the entries of ``CUDA_VISIBLE_DEVICES``; else of an index or UUID list in
``NVIDIA_VISIBLE_DEVICES`` (``all``, ``void``, ``none`` and paths say nothing); else the
``/dev/nvidia<N>`` that open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_roce_entry.errors import CONFIGURATION, Problem, value_warning
from sglang_roce_entry.server.command import GpuCount

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAYS_NOTHING = frozenset({"all", "void", "none", ""})


def count_gpus(
    setting: tuple[int, str] | None, environ: Mapping[str, str], nodes: int | None
) -> tuple[GpuCount, list[Problem]]:
    """Return the number of GPUs and what said so; ``setting`` is (number, where it was written)."""
    counts: list[GpuCount] = []
    if setting is not None:
        counts.append(GpuCount(*setting))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        counts.append(GpuCount(_cuda_devices(visible), f"CUDA_VISIBLE_DEVICES={visible}"))
    nvidia = environ.get("NVIDIA_VISIBLE_DEVICES", "")
    listed = _nvidia_devices(nvidia)
    if listed is not None:
        counts.append(GpuCount(listed, f"NVIDIA_VISIBLE_DEVICES={nvidia}"))
    if nodes is not None:
        counts.append(GpuCount(nodes, "/dev/nvidia* that open"))
    if not counts:
        return GpuCount(None, "nothing tells"), []
    chosen = counts[0]
    more = [other for other in counts[1:] if other.count is not None and _contradicts(chosen, other)]
    problems = [
        value_warning(
            "GPUS_DISAGREE",
            f"{chosen.count} GPUs by {chosen.source}, but {other.count} by {other.source}",
            "correct the one that is wrong; the first is used",
            CONFIGURATION,
        )
        for other in more
    ]
    return chosen, problems


def _contradicts(chosen: GpuCount, other: GpuCount) -> bool:
    # Fewer than there are is an ordinary choice; more than there are cannot be.
    return (chosen.count or 0) > (other.count or 0)


def _cuda_devices(text: str) -> int:
    """Return how many devices CUDA makes of the list: it ends at the first entry that names none."""
    count = 0
    for part in text.split(","):
        entry = part.strip()
        if not entry.isdecimal() and not entry.startswith(("GPU-", "MIG-")):
            break
        count += 1
    return count


def _nvidia_devices(text: str) -> int | None:
    if text in _SAYS_NOTHING or "/" in text:
        return None
    entries = [part.strip() for part in text.split(",") if part.strip()]
    if not all(entry.isdecimal() or entry.startswith(("GPU-", "MIG-")) for entry in entries):
        return None
    return len(entries)
