"""What lets RDMA devices reach the memory of GPUs: the files and the symbol that NCCL and RCCL look for."""

from __future__ import annotations

from sglang_roce_entry.host.tree import Tree, attribute_or_none

#: The files whose presence is NCCL's own test for peer memory (``ncclIbGdrSupport``): by the RDMA core's
#: registry, and from 2.23 on also by the module itself. 2.18 to 2.21 knew a third name in the registry.
REGISTERED_PEERS = tuple(
    f"/sys/kernel/mm/memory_peers/{name}/version" for name in ("nv_mem", "nv_mem_nc", "nvidia-peermem")
)
PEER_MODULE = "/sys/module/nvidia_peermem/version"
#: Those of RCCL (``ibGdrSupportInitOnce`` of its src/transport/net_ib/gdr.cc): where the RDMA core, or a module
#: beside it, has its registry.
AMD_PEERS = tuple(f"/sys/{place}memory_peers/amdkfd/version" for place in ("kernel/mm/", "kernel/", ""))
#: ... and if none is there, this symbol in /proc/kallsyms, which the kernels of some distributions have.
_SYMBOL = b"ib_register_peer_memory_client"


def peer_memory(tree: Tree) -> tuple[str, ...]:
    """Return those of the files that are there."""
    paths = (*REGISTERED_PEERS, PEER_MODULE, *AMD_PEERS)
    return tuple(path for path in paths if attribute_or_none(tree, path) is not None)


def takes_peers(symbols: str = "/proc/kallsyms") -> bool | None:
    """Return whether this kernel has RCCL's symbol, ``None`` where its symbols cannot be read."""
    try:
        with open(symbols, "rb") as lines:
            return any(_SYMBOL in line for line in lines)
    except OSError:
        return None
