"""Versions of SGLang, NCCL, torch and the image below them, with the traps known of each."""

from __future__ import annotations

import re

from sglang_roce_entry.check.items import (
    CheckItem,
    Examined,
    listed,
    ok,
    skip,
    warn,
)
from sglang_roce_entry.host.further.providers import missing_provider
from sglang_roce_entry.host.installed import NVSHMEM_DISTRIBUTIONS, first_version, parse_version
from sglang_roce_entry.server.spellings import CHECKED_FROM, CHECKED_TO

#: torch's wheels ask for it from 2.6 on (manylinux_2_28); Ubuntu 18.04 has 2.27.
_OLDEST_GLIBC = (2, 28)
_HPCX = "/nccl_rdma_sharp_plugin"  # its folder, of which a recording may hold no more than the name
_CPU_ASSISTED = (3, 4, 5)
_BROADCOM, _GOOD_BNXT = "0x14e4", (63,)
_REBUILD = "build on a current SGLang image (Ubuntu 22.04 or later)"


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on versions."""
    return (
        *_sglang(examined),
        _nccl(examined),
        *_net_plugin(examined),
        *_ibgda(examined),
        _torch(examined),
        *_image(examined),
    )


def _sglang(examined: Examined) -> tuple[CheckItem, ...]:
    facts, environ = examined.plan.facts, examined.environ
    if facts.sglang_installed is False:
        return examined.lines("sglang", skip("sglang", "not installed; what is run is another program"))
    version = parse_version(facts.sglang_version)
    if version is None:
        return examined.lines("sglang", skip("sglang", "its version is not known"))
    found = []
    command, identity = examined.plan.command, examined.plan.identity
    big = identity is not None and identity.size > 2
    if command is not None and command.attention_dp and big and (0, 5, 4) <= version < (0, 5, 6):
        found.append(
            warn(
                "sglang",
                f"{facts.sglang_version} breaks attention DP over more than two nodes (sgl-project/sglang#12822)",
                "use 0.5.6 or later",
            )
        )
    overwritten = [name for name in ("NCCL_CUMEM_ENABLE", "NCCL_NVLS_ENABLE") if environ.get(name)]
    if overwritten and version < (0, 5, 5):
        evidence = f"{facts.sglang_version} overwrites {listed(overwritten)} of the pod"
        found.append(warn("sglang", evidence, "use 0.5.5 or later, or SGLang's own flags (--enable-nccl-nvls)"))
    packages = examined.inspection.packages
    if environ.get("SGLANG_LOCAL_IP_NIC") and packages is not None and "netifaces" not in packages:
        evidence = "SGLANG_LOCAL_IP_NIC needs the Python package netifaces, which is not installed"
        found.append(
            warn("sglang", evidence, "remove SGLANG_LOCAL_IP_NIC: SGLANG_HOST_IP is set from the hardware")
        )
    checked = f"{CHECKED_FROM} to {CHECKED_TO}"
    newer = version > (parse_version(CHECKED_TO) or ())
    note = f" (newer than those whose arguments were checked: {checked})" if newer else ""
    return examined.lines("sglang", ok("sglang", f"{facts.sglang_version}{note}"), found)


def _nccl(examined: Examined) -> CheckItem:
    versions = examined.plan.facts.nccl_versions
    if versions is None:
        return skip("nccl", "its version is not known")
    if not versions:
        return skip("nccl", "not found in this interpreter or the library folders")
    shown = ", ".join(versions)
    if len(versions) > 1:
        evidence = f"several side by side ({shown}); which one is loaded depends on torch"
        return warn("nccl", evidence, "uninstall all nvidia-nccl wheels but the one that torch was built for")
    version = parse_version(versions[0])
    if version is None:
        return ok("nccl", shown)
    rocm, newer = examined.plan.facts.rocm_version, "use 2.26 or later (nvidia-nccl wheel of the image)"
    if examined.plan.facts.gpus.vendor == "amd":
        shown = f"RCCL of ROCm {rocm or '(not known)'}, cut from NCCL {shown}, whose choice of a GID it has"
        newer = "use an image with ROCm 7.0 or later"
    if version < (2, 21):
        evidence = f"{shown} uses GID index 0 unless one is set, and one index for all HCAs"
        return warn("nccl", evidence, "use 2.26 or later; until then every HCA needs its GID at the same index")
    if version < (2, 26):
        evidence = f"{shown} fails if the GID table holds another pod's GID (NVIDIA/nccl#1573)"
        return warn("nccl", evidence, newer)
    return ok("nccl", shown)


def _net_plugin(examined: Examined) -> tuple[CheckItem, ...]:
    """Return what becomes of a net plugin of the image, as HPC-X has one (NVIDIA/nccl#1814).

    ``NCCL_NET=IB`` names NCCL's own transport, so that a plugin of another name ("IBext") is not asked.
    """
    plan, searched = examined.plan, examined.environ.get("LD_LIBRARY_PATH", "").split(":")
    path = examined.inspection.net_plugin or next((part for part in searched if _HPCX in part), None)
    net = plan.environment().get("NCCL_NET") or examined.environ.get("NCCL_NET", "")
    if path is None or plan.choice.plugin is not None or net.lower() != "ib":
        return ()
    return (
        ok("net plugin", f"NCCL_NET={net} keeps {path} out: NCCL's own transport is used, with its variables"),
    )


def _ibgda(examined: Examined) -> tuple[CheckItem, ...]:
    """Return whether NVIDIA's driver lets DeepEP's GPUs drive the HCAs (NVSHMEM's IBGDA).

    Up to NVSHMEM 3.4.4 it needs both options; from 3.4.5 on a CPU-assisted way is taken without them
    (NVIDIA/nvshmem#23, #34; deepseek-ai/DeepEP#139, #163).
    """
    inspection, plan = examined.inspection, examined.plan
    if not plan.use.nvshmem or not plan.choice.used or plan.facts.gpus.vendor != "nvidia":
        return ()
    options = inspection.nvidia_options
    shown = first_version(inspection.packages or {}, NVSHMEM_DISTRIBUTIONS)
    version = parse_version(shown)
    if options is None:
        return (skip("ibgda", "/proc/driver/nvidia/params is not visible here"),)
    words = re.split(r"[;,\s]+", options.get("RegistryDwords", ""))
    missing = [] if options.get("EnableStreamMemOPs") == "1" else ["NVreg_EnableStreamMemOPs=1"]
    missing += [] if "PeerMappingOverride=1" in words else ['NVreg_RegistryDwords="PeerMappingOverride=1;"']
    if not missing:
        return (ok("ibgda", "the NVIDIA driver has EnableStreamMemOPs=1 and PeerMappingOverride=1"),)
    lacks = f"the NVIDIA driver lacks {' and '.join(missing)}"
    if version is None:
        return (skip("ibgda", f"{lacks}, and NVSHMEM's version is not known: it needs them up to 3.4.4"),)
    if version >= _CPU_ASSISTED:
        return (ok("ibgda", f"{lacks}: NVSHMEM {shown} does without them, through the CPU, which is slower"),)
    return (
        warn(
            "ibgda",
            f"{lacks}, which NVSHMEM {shown} needs: DeepEP's transport between nodes (IBGDA) does not start",
            f"on the node: options nvidia {' '.join(missing)} in /etc/modprobe.d and a reboot, or NVSHMEM 3.4.5",
        ),
    )


def _torch(examined: Examined) -> CheckItem:
    packages = examined.inspection.packages
    if packages is None:
        return skip("torch", "not in this recording")
    others = [f"{name} {version}" for name, version in sorted(packages.items()) if name != "torch"]
    beside = f"; {listed(others)}" if others else ""
    torch = packages.get("torch")
    if torch is None:
        if examined.plan.facts.sglang_installed:
            return warn("torch", f"SGLang is installed, torch is not{beside}", "install SGLang with its own pins")
        return skip("torch", f"not installed in this interpreter{beside}")
    return ok("torch", f"{torch}{beside}")


def _image(examined: Examined) -> tuple[CheckItem, ...]:
    inspection = examined.inspection
    parts = [inspection.distribution or "distribution not known"]
    parts += [f"glibc {inspection.glibc}"] if inspection.glibc else []
    parts += [f"rdma-core {inspection.rdma_core}"] if inspection.rdma_core else []
    found: list[CheckItem] = []
    glibc = parse_version(inspection.glibc)
    if glibc is not None and glibc < _OLDEST_GLIBC:
        evidence = f"{', '.join(parts)}: too old for current wheels of torch and NCCL (glibc 2.28)"
        found.append(warn("image", evidence, _REBUILD))
    rdma_core = parse_version(inspection.rdma_core)
    if rdma_core is not None and rdma_core < (28,):
        evidence = (
            f"{', '.join(parts)}: NCCL misses ibv_reg_mr_iova2 (relaxed ordering) and its provider may be too old"
        )
        found.append(warn("image", evidence, _REBUILD))
    used = {port.hca.model for port in examined.plan.choice.used}
    broadcom = any((model or "").startswith(_BROADCOM) for model in used)
    if broadcom and rdma_core is not None and (28,) <= rdma_core < _GOOD_BNXT:
        found.append(
            warn(
                "image",
                f"{', '.join(parts)}: its bnxt_re provider fails to create queue pairs from several threads "
                "(ROCm/MAD#215: EFAULT with 39 and 50, none with 63)",
                "use an image with rdma-core 63 or later, or with Broadcom's own libbnxt_re",
            )
        )
    missing = _missing_providers(examined)
    if missing:
        found.append(
            warn(
                "image",
                f"no verbs provider for {listed(missing)}: libibverbs lists no such device, NCCL finds none",
                "install ibverbs-providers in the image",
            )
        )
    known = inspection.distribution or inspection.verbs_providers or len(parts) > 1
    if not known and not examined.of("image"):
        return (skip("image", "not in this recording"),)
    providers = inspection.verbs_providers
    count = f", {len(providers)} verbs provider{'s' if len(providers) > 1 else ''}" if providers else ""
    return examined.lines("image", ok("image", ", ".join(parts) + count), found)


def _missing_providers(examined: Examined) -> list[str]:
    providers = examined.inspection.verbs_providers
    if examined.plan.facts.libibverbs.devices is not None:
        return []  # libibverbs itself has been asked
    found = [(hca.name, missing_provider(hca, providers)) for hca in examined.plan.facts.hcas]
    return [f"{name} ({provider})" for name, provider in found if provider is not None]
