"""Which HCA serves which GPU: each GPU takes its nearest, equally near ones are shared evenly.

SGLang computes no affinity, and no two libraries compute the same one; what is decided here is what
``--disaggregation-ib-device`` says and what the dry run shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_roce_entry.fabric.affinity import Affinity, distance
from sglang_roce_entry.host.facts import Gpu, Hca


def pair(gpus: Sequence[Gpu], hcas: Sequence[Hca], first: Sequence[int] = (), note: str | None = None) -> Affinity:
    """Return the pairing of ``gpus`` (in process order) with ``hcas``.

    ``first`` are the GPUs that SGLang will use (all, if empty): they share the HCAs before the others.
    """
    if not gpus or not hcas:
        return Affinity(note=note)
    # In the order of PCI addresses on both sides, so that the order of the process changes nothing.
    rows = sorted(range(len(gpus)), key=lambda row: (gpus[row].pci_address or "~", row))
    columns = sorted(range(len(hcas)), key=lambda column: (hcas[column].pci_address or "~", column))
    classes = tuple(
        tuple(distance(hca.path, hca.numa_node, gpu.path, gpu.numa_node) for hca in hcas) for gpu in gpus
    )
    wanted = set(first) or set(range(len(gpus)))
    chosen: dict[int, tuple[int, ...]] = {}
    for group in ([row for row in rows if row in wanted], [row for row in rows if row not in wanted]):
        chosen.update(_share({row: _nearest(classes[row], columns) for row in group}))
    informative = any(len(set(row)) > 1 for row in classes)
    if all(value is None for row in classes for value in row):
        note = "; ".join(filter(None, (note, "neither PCI nor NUMA tells what is near: paired by order")))
    return Affinity(
        tuple(gpus), tuple(hcas), classes, tuple(chosen[row] for row in range(len(gpus))), informative, note
    )


def _nearest(classes: Sequence[int | None], columns: Sequence[int]) -> tuple[int, ...]:
    known = [value for value in classes if value is not None]
    best = min(known) if known else None
    return tuple(column for column in columns if classes[column] == best)


def _share(candidates: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Return the HCAs of each GPU: GPUs with the same nearest ones share these by rank, in blocks."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, nearest in candidates.items():
        groups.setdefault(nearest, []).append(row)
    chosen: dict[int, list[int]] = {}
    for nearest, rows in groups.items():
        for rank, row in enumerate(rows):
            start = rank * len(nearest) // len(rows)
            end = max(start + 1, (rank + 1) * len(nearest) // len(rows))
            chosen[row] = list(nearest[start:end])
    _level(chosen, candidates)
    return {row: tuple(columns) for row, columns in chosen.items()}


def _level(chosen: dict[int, list[int]], candidates: Mapping[int, tuple[int, ...]]) -> None:
    """Move GPUs from an HCA to one that serves two fewer, until there is none.

    Only where nearest sets overlap without being equal does this find anything to do. Every move lowers
    the sum of squares of the loads, so it ends.
    """
    while True:
        load = dict.fromkeys((column for nearest in candidates.values() for column in nearest), 0)
        for columns in chosen.values():
            for column in columns:
                load[column] += 1
        path = next(filter(None, (_lighter(column, load, chosen, candidates) for column in load)), None)
        if path is None:
            return
        for row, source, target in path:
            chosen[row][chosen[row].index(source)] = target


def _lighter(
    start: int,
    load: Mapping[int, int],
    chosen: Mapping[int, Sequence[int]],
    candidates: Mapping[int, tuple[int, ...]],
) -> list[tuple[int, int, int]] | None:
    """Return the moves (GPU, from, to) that lead from ``start`` to an HCA with two fewer GPUs."""
    reached: dict[int, list[tuple[int, int, int]]] = {start: []}
    pending = [start]
    while pending:
        column = pending.pop(0)
        for row, columns in chosen.items():
            if column not in columns:
                continue
            for target in candidates[row]:
                if target in reached or target in columns:
                    continue
                reached[target] = [*reached[column], (row, column, target)]
                if load[target] + 2 <= load[start]:
                    return reached[target]
                pending.append(target)
    return None
