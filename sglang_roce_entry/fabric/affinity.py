"""How near a GPU and an HCA are, from their real sysfs paths.

The classes are those of ``nvidia-smi topo -m``: PIX (one PCIe bridge), PXB (several, no host
bridge), PHB (one host bridge), NODE (one NUMA node), SYS (across sockets).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_roce_entry.host.facts import Gpu, Gpus, Hca
from sglang_roce_entry.host.rdma import is_pci_address

PIX, PXB, PHB, NODE, SYS = range(5)
CLASS_NAMES = ("PIX", "PXB", "PHB", "NODE", "SYS")


@dataclass(frozen=True, slots=True)
class Affinity:
    """The class of every GPU-HCA pair, and the HCAs of each GPU.

    ``gpus`` are in the order of the process: the first is its GPU 0. ``classes[gpu][hca]`` is PIX to
    SYS as a number, ``None`` where neither PCI nor NUMA tells. ``informative``: the classes of some GPU
    differ, so that the pairing says more than a plain list.
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
    """Return the class of two PCI functions by their real sysfs paths, ``None`` where nothing tells."""
    if path and other:
        common, below = _common(path, other)
        if common > 1:
            # Below a shared switch port: each side has its own downstream port and its function.
            return PIX if below <= 2 else PXB
        if common == 1:
            return PHB
    if numa_node is None or other_numa_node is None:
        return None
    return NODE if numa_node == other_numa_node else SYS


def _common(path: str, other: str) -> tuple[int, int]:
    first, second = _chain(path), _chain(other)
    common = 0
    for one, two in zip(first, second):  # noqa: B905 - the shorter one ends the comparison
        if one != two:
            break
        common += 1
    return common, max(len(first), len(second)) - common


def _chain(path: str) -> list[str]:
    # pci0000:15 (the host bridge), then every function down to the device; what is no PCI function
    # (an mlx5_core.sf.4 below it) adds nothing.
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
    """Return whether ``hca`` is as near as any of ``hcas`` to at least one GPU; true where nothing tells."""
    best = nearest(hcas, gpus)
    return not best or any(
        mine is None or mine == other
        for mine, other in zip(distances(hca, gpus), best)  # noqa: B905 - both per GPU
    )


def keeps_every_gpu(before: Iterable[Hca], after: Iterable[Hca], gpus: Gpus) -> bool:
    """Return whether every GPU has an equally near HCA among ``after`` as it had among ``before``."""
    return nearest(list(before), gpus) == nearest(list(after), gpus)
