"""How near a GPU and an HCA are, from their real sysfs paths, and which HCA serves which GPU.

The classes are those of ``nvidia-smi topo -m``: PIX (one PCIe bridge), PXB (several, no host
bridge), PHB (one host bridge), NODE (one NUMA node), SYS (across sockets). SGLang computes no
affinity, and no two libraries compute the same one; what is decided here goes into
``--disaggregation-ib-device`` and is shown by the dry run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.host.facts import Gpu, Gpus, Hca
from sglang_roce_entry.host.rdma import is_pci_address

PIX, PXB, PHB, NODE, SYS = range(5)
CLASS_NAMES = ("PIX", "PXB", "PHB", "NODE", "SYS")


@dataclass(frozen=True, slots=True)
class Affinity:
    """The class of every GPU-HCA pair, and the HCAs of each GPU.

    ``gpus`` are in the order of the process: the first is its GPU 0. ``classes[gpu][hca]`` is PIX to
    SYS as a number, ``None`` where neither PCI nor NUMA shows it. ``informative``: the classes of some GPU
    differ, so that a map is worth more than a plain list.
    """

    gpus: tuple[Gpu, ...] = ()
    hcas: tuple[Hca, ...] = ()
    classes: tuple[tuple[int | None, ...], ...] = ()
    assigned: tuple[tuple[int, ...], ...] = ()
    informative: bool = False
    note: str | None = None

    def names(self, gpu: int) -> tuple[str, ...]:
        """Return the names of the HCAs of one GPU."""
        return tuple(self.hcas[column].name for column in self.assigned[gpu])

    def class_name(self, gpu: int, hca: int) -> str:
        """Return ``PIX`` ... ``SYS``, or ``?``."""
        value = self.classes[gpu][hca]
        return CLASS_NAMES[value] if value is not None else "?"


def distance(
    path: str | None, numa_node: int | None, other: str | None, other_numa_node: int | None
) -> int | None:
    """Return the class of two PCI functions by their real sysfs paths, ``None`` if unknown."""
    if path and other:
        common, below = shared_path(path, other)
        if common > 1:
            # Below a shared switch port: each side has its own downstream port and its function.
            return PIX if below <= 2 else PXB
        if common == 1:
            return PHB
    if numa_node is None or other_numa_node is None:
        return None
    return NODE if numa_node == other_numa_node else SYS


def shared_path(path: str, other: str) -> tuple[int, int]:
    """Return how much two real sysfs paths share from the top, host bridge included, and the longest rest."""
    first, second = pci_chain(path), pci_chain(other)
    common = 0
    for one, two in zip(first, second):  # noqa: B905 - the shorter one ends the comparison
        if one != two:
            break
        common += 1
    return common, max(len(first), len(second)) - common


def pci_chain(path: str) -> list[str]:
    """Return what leads to a device: the host bridge (pci0000:15), then every PCI function down to its own.

    Anything that is not a PCI function (an mlx5_core.sf.4 below it) is skipped.
    """
    return [part for part in path.split("/") if part.startswith("pci") or is_pci_address(part)]


def distances(hca: Hca, gpus: Gpus) -> tuple[int | None, ...]:
    """Return the class of ``hca`` to each GPU whose place is known."""
    return tuple(distance(hca.path, hca.numa_node, gpu.path, gpu.numa_node) for gpu in gpus.placed)


def nearest(hcas: Sequence[Hca], gpus: Gpus) -> tuple[int | None, ...]:
    """Return for each GPU the best class that one of ``hcas`` offers."""
    table = [distances(hca, gpus) for hca in hcas]
    best: list[int | None] = []
    for column in range(len(gpus.placed)):
        classes = [row[column] for row in table]
        known = [value for value in classes if value is not None]
        best.append(min(known) if known else None)
    return tuple(best)


def near_some_gpu(hca: Hca, hcas: Sequence[Hca], gpus: Gpus) -> bool:
    """Return whether ``hca`` is as near as any of ``hcas`` to at least one GPU; true if unknown."""
    best = nearest(hcas, gpus)
    return not best or any(
        mine is None or mine == other
        for mine, other in zip(distances(hca, gpus), best)  # noqa: B905 - both per GPU
    )


def is_surplus(hca: Hca, hcas: Iterable[Hca], gpus: Gpus) -> bool:
    """Return whether the GPUs that ``hca`` is nearest to have more nearest ones than most GPUs have.

    True also if it is nearest to none, false if that is not known.
    """
    different = list({one.name: one for one in hcas}.values())
    best, mine = nearest(different, gpus), distances(hca, gpus)
    if not best or None in mine:
        return False
    table = [distances(one, gpus) for one in different]
    counts = [sum(row[column] == value for row in table) for column, value in enumerate(best)]
    served = [count for count, value, own in zip(counts, best, mine) if value == own]  # noqa: B905 - per GPU
    usual = next((count for count in counts if counts.count(count) * 2 > len(counts)), None)
    return not served or (usual is not None and min(served) > usual)


def keeps_every_gpu(before: Iterable[Hca], after: Iterable[Hca], gpus: Gpus) -> bool:
    """Return whether every GPU has an equally near HCA among ``after`` as it had among ``before``."""
    return nearest(list(before), gpus) == nearest(list(after), gpus)


def pair(gpus: Sequence[Gpu], hcas: Sequence[Hca], first: Sequence[int] = (), note: str | None = None) -> Affinity:
    """Return the pairing of ``gpus`` (in process order) with ``hcas``.

    Each GPU takes its nearest HCA; equally near ones are shared evenly. ``first`` are the GPUs that SGLang
    will use (all, if empty): they share the HCAs before the others.
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
        note = "; ".join(filter(None, (note, "neither PCI nor NUMA shows what is near: paired by order")))
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

    There is something to move only where nearest sets overlap without being equal. Every move lowers the
    sum of squares of the loads, so it ends.
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
