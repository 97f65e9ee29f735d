"""The verbs providers of the image: without its own, libibverbs does not list an HCA, and NCCL finds none."""

from __future__ import annotations

from collections.abc import Iterable

from sglang_roce_entry.host.facts import Hca
from sglang_roce_entry.host.tree import Tree, names_or_empty

#: PCI vendor to the verbs provider of rdma-core that drives its RoCE HCAs.
_PROVIDERS = {
    "0x15b3": "mlx5",
    "0x14e4": "bnxt_re",
    "0x8086": "irdma",
    "0x1ded": "erdma",
    "0x1414": "mana",
    "0x1dd8": "ionic",
}
_FOLDERS = ("/etc/libibverbs.d", "/usr/etc/libibverbs.d")


def verbs_providers(tree: Tree) -> tuple[str, ...] | None:
    """Return the names of the installed providers, ``None`` where none is listed."""
    for folder in _FOLDERS:
        names = names_or_empty(tree, folder)
        if names:
            return tuple(sorted(name.removesuffix(".driver") for name in names if name.endswith(".driver")))
    return None


def missing_provider(hca: Hca, providers: tuple[str, ...] | None) -> str | None:
    """Return the name of the provider of ``hca`` if the image lists others, but not this one."""
    provider = _PROVIDERS.get((hca.model or "").partition(":")[0])
    return provider if providers is not None and provider not in providers else None


def listed_by_files(tree: Tree, hcas: Iterable[Hca]) -> tuple[str, ...] | None:
    """Return the HCAs that libibverbs can list by the files of its providers, ``None`` if none speaks against one.

    For a recording in which libibverbs was not asked.
    """
    providers = verbs_providers(tree)
    names = {hca.name: missing_provider(hca, providers) for hca in hcas}
    return tuple(name for name, missing in names.items() if missing is None) if any(names.values()) else None
