"""GPUDirect RDMA: what NCCL needs for it, and what an IOMMU and ACS do to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from sglang_roce_entry.check.items import CheckItem, Examined, listed, ok, skip, warn
from sglang_roce_entry.fabric.affinity import shared_path
from sglang_roce_entry.host.further.peer_memory import AMD_PEERS, PEER_MODULE
from sglang_roce_entry.host.installed import oldest_version, parse_version
from sglang_roce_entry.host.rdma import pci_function_path
from sglang_roce_entry.report.folding import shortest_names

#: Models without GPUDirect RDMA: GB10's memory is the CPU's (NCCL says "GDR 0" there), and NVIDIA's driver
#: has it for data centre and professional GPUs only.
_WITHOUT = re.compile(r"\bGB10\b|\bGeForce\b")
#: From here on ``ncclIbGdrSupport`` also looks at the module itself, not only for its registration.
_SEES_MODULE = (2, 23)
#: Up to here RCCL leaves DMA-BUF off unless it is told otherwise (``DmaBufEnable`` of its src/misc/rocmwrap.cc).
_ASKS_FOR_DMA_BUF = (2, 27)
_HOST_MEMORY = "data is copied through host memory"
_TRANSLATED = ("DMA", "DMA-FQ")


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on GPUDirect."""
    if not examined.plan.choice.satisfied:
        return ()
    models = {gpu.model or "" for gpu in examined.inspection.gpus.devices if gpu.usable}
    if models and all(map(_WITHOUT.search, models)):
        what = "this SoC" if all("GB10" in model for model in models) else "these GPUs"
        return (ok("gpudirect", f"none on {what}, normal for {listed(sorted(models))}: {_HOST_MEMORY}"),)
    access = _amd_access if examined.inspection.gpus.vendor == "amd" else _access
    return (access(examined), *_iommu(examined))


def _access(examined: Examined) -> CheckItem:
    inspection, plan = examined.inspection, examined.plan
    nccl = oldest_version(plan.facts.nccl_versions)
    unseen = inspection.peer_memory == (PEER_MODULE,) and nccl is not None and nccl < _SEES_MODULE
    if inspection.peer_memory and not unseen:
        return ok("gpudirect", "the nvidia-peermem module is loaded")
    if inspection.nvidia_driver is None and not unseen:
        if not examined.live or not plan.gpus.count:
            return skip("gpudirect", "no NVIDIA driver is visible here (/proc/driver/nvidia)")
        return skip("gpudirect", "/proc/driver/nvidia/version is not visible in this container")
    missing = list(_missing(examined))
    if not missing:
        evidence = "nothing stands against it by DMA-BUF: open kernel module of the NVIDIA driver"
        return ok("gpudirect", evidence)
    lacks = f"DMA-BUF lacks {', '.join(missing)}: {_HOST_MEMORY}"
    if unseen:
        return warn(
            "gpudirect",
            f"nvidia-peermem is loaded, but not registered with the RDMA core (/sys/kernel/mm/memory_peers), and "
            f"NCCL {listed(plan.facts.nccl_versions or ())} looks only there; {lacks}",
            "use NCCL 2.23 or later, or build nvidia-peermem on the node against the installed OFED",
        )
    return warn(
        "gpudirect",
        f"nvidia-peermem is not loaded, and {lacks}",
        "modprobe nvidia-peermem on the node, or use the driver's open kernel module",
    )


def _amd_access(examined: Examined) -> CheckItem:
    """Return by which way RCCL reaches the memory of AMD's GPUs: peer memory, as it looks for it, or DMA-BUF."""
    inspection = examined.inspection
    registered = next((path for path in AMD_PEERS if path in inspection.peer_memory), None)
    if registered is not None:
        return ok("gpudirect", f"amdgpu is registered as peer memory ({registered.rpartition('/')[0]})")
    if inspection.takes_peers:
        return ok(
            "gpudirect", "the kernel takes peer memory (ib_register_peer_memory_client), as RCCL looks for it"
        )
    if inspection.takes_peers is None:
        why = (
            "/proc/kallsyms cannot be read" if examined.live else "the kernel's symbols are not in this recording"
        )
        return skip("gpudirect", f"amdgpu is not in the registry of peer memory, and {why}")
    none = "no peer memory for amdgpu: neither memory_peers/amdkfd in /sys nor ib_register_peer_memory_client"
    missing = list(_too_old(examined))
    rccl = oldest_version(examined.plan.facts.nccl_versions)
    if not missing and examined.environ.get("NCCL_DMABUF_ENABLE") != "1":
        if rccl is None or rccl[:2] > _ASKS_FOR_DMA_BUF:
            return skip("gpudirect", f"{none}; whether RCCL uses DMA-BUF instead is only in its log")
        missing.append("NCCL_DMABUF_ENABLE=1, without which RCCL leaves it off up to 2.27")
    if not missing:
        return ok("gpudirect", "nothing stands against it by DMA-BUF: NCCL_DMABUF_ENABLE=1")
    return warn(
        "gpudirect",
        f"{none}; DMA-BUF lacks {', '.join(missing)}: {_HOST_MEMORY}",
        "on the node amdgpu-dkms beside an RDMA core with peer memory (OFED, or a kernel that has it), or "
        "NCCL_DMABUF_ENABLE=1 on a kernel with CONFIG_DMABUF_MOVE_NOTIFY and CONFIG_PCI_P2PDMA",
    )


def _missing(examined: Examined) -> Iterator[str]:
    """Return what DMA-BUF needs on NVIDIA's GPUs and this node or image lacks."""
    if "Open Kernel Module" not in (examined.inspection.nvidia_driver or ""):
        yield "the open kernel module of the NVIDIA driver"
    yield from _too_old(examined)


def _too_old(examined: Examined) -> Iterator[str]:
    inspection = examined.inspection
    kernel = parse_version(inspection.kernel)
    if kernel is not None and kernel < (5, 12):
        yield f"a kernel from 5.12 on (here {inspection.kernel})"
    rdma_core = parse_version(inspection.rdma_core)
    if rdma_core is not None and rdma_core < (34,):
        yield f"rdma-core from 34 on in the image (here {inspection.rdma_core})"


def _iommu(examined: Examined) -> tuple[CheckItem, ...]:
    """Return what the IOMMU groups of the GPUs and HCAs in use show.

    In a group of type DMA or DMA-FQ every access is translated. Functions that can reach each other without
    the IOMMU share a group: the kernel separates them only where ACS redirects their traffic upwards
    (``pci_device_group`` of drivers/iommu/iommu.c), as it was when the groups were made, at boot
    (NVIDIA/nccl#489, #1412, #1737, NVIDIA/nccl-tests#115, #252).
    """
    iommu = examined.inspection.iommu
    functions = _functions(examined)
    if not functions:
        return ()
    if iommu.groups is None:
        why = (
            "/sys/kernel/iommu_groups is not visible in this container"
            if examined.live
            else "not in this recording"
        )
        return (skip("iommu", why),)
    types = {label: iommu.of.get(path.rpartition("/")[2]) for label, path in functions}
    if not iommu.groups or not any(types.values()):
        none = "no IOMMU is in use" if not iommu.groups else "these GPUs and HCAs are in no IOMMU group"
        return (skip("iommu", f"{none}: whether ACS sends GPUDirect through the root complex is not visible"),)
    found = []
    translated = [label for label, group in types.items() if group is not None and group[1] in _TRANSLATED]
    if translated:
        kinds = sorted({group[1] for group in types.values() if group is not None and group[1] in _TRANSLATED})
        found.append(
            warn(
                "iommu",
                f"the IOMMU translates every access of {_named(translated)} (type {', '.join(map(str, kinds))}): "
                "GPUDirect is slow, or not possible",
                "boot the node with iommu=pt (on Arm iommu.passthrough=1), or switch the IOMMU off in the BIOS",
            )
        )
    apart = _apart(iommu.of, functions)
    if apart:
        found.append(
            warn(
                "iommu",
                f"{listed(apart, most=3)} under one PCIe switch, but in separate IOMMU groups: ACS was on at boot "
                "and sends their traffic through the root complex",
                "switch ACS off on the node's PCIe bridges (BIOS, or setpci ECAP_ACS+6.w=0; if each boot "
                "does that already, all is well: lspci -vvv shows ACSCtl)",
            )
        )
    known = sorted({group[1] for group in types.values() if group is not None and group[1]})
    shown = f"type {', '.join(known)}" if known else "type not known"
    return tuple(found) or (ok("iommu", f"{shown}; no GPU is kept apart from an HCA under its PCIe switch"),)


def _functions(examined: Examined) -> list[tuple[str, str]]:
    """Return the GPUs and the HCAs in use, each with the real path of its PCI function."""
    gpus = [(f"GPU {gpu.pci_address}", gpu.path) for gpu in examined.inspection.gpus.placed]
    hcas = dict.fromkeys(port.hca for port in examined.plan.choice.used)
    paths = [(hca.name, pci_function_path(hca.path or "")) for hca in hcas]
    nics = [(name, path) for name, path in paths if path]
    return [(label, path) for label, path in (*gpus, *nics) if path] if gpus and nics else []


def _apart(iommu: Mapping[str, tuple[str, str | None]], labelled: Sequence[tuple[str, str]]) -> list[str]:
    functions = [(label, path, path.rpartition("/")[2]) for label, path in labelled]
    gpus = [one for one in functions if one[0].startswith("GPU ")]
    return [
        f"{gpu} and {hca}"
        for gpu, gpu_path, gpu_address in gpus
        for hca, hca_path, hca_address in functions
        if not hca.startswith("GPU ")
        # The host bridge, a root port and the upstream port of a switch at least.
        and shared_path(gpu_path, hca_path)[0] > 2
        and gpu_address in iommu
        and hca_address in iommu
        and iommu[gpu_address][0] != iommu[hca_address][0]
    ]


def _named(labels: Sequence[str]) -> str:
    gpus = [label for label in labels if label.startswith("GPU ")]
    hcas = shortest_names([label for label in labels if not label.startswith("GPU ")])
    counted = [f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"] if gpus else []
    return " and ".join([*counted, *([",".join(hcas)] if hcas else [])])
