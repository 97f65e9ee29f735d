"""NVSHMEM, on which DeepEP's kernels run.

It carries a copy of NCCL's GID scan under its own names and takes the nearest HCA of each GPU by
itself. A list of HCAs or a PE mapping must not be set: in DeepEP's normal mode every GPU is PE 0 of
its own job, and both put all of them on the first HCA (deepseek-ai/DeepEP#336).

Source of the rules: NVIDIA/nvshmem ``src/modules/transport/common`` and ``src/modules/bootstrap/uid``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.control import check_family, check_route, check_selection, told, wish_interface
from sglang_roce_entry.fabric.given_checks import check_device_names, check_index, check_steering
from sglang_roce_entry.fabric.nccl.scan import AF_INET, AF_INET6
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.fabric.wishes import Given, Wish, found, traffic, unset
from sglang_roce_entry.problems import Problem, rdma_value, warning

_MAPPING, _LIST, _PE_MAPPING = "NVSHMEM_ENABLE_NIC_PE_MAPPING", "NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PE_MAPPING"
_PREFIX = "NVSHMEM_HCA_PREFIX"
_BOOT, _BOOT_FAMILY = "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME", "NVSHMEM_BOOTSTRAP_UID_SOCK_FAMILY"
_TRAFFIC = ("NVSHMEM_IB_TRAFFIC_CLASS", "NVSHMEM_IB_SL")

READS = (
    "NVSHMEM_IB_GID_INDEX",
    "NVSHMEM_IB_ADDR_FAMILY",  # the scan is a copy of NCCL's (fabric/nccl/scan.py)
    "NVSHMEM_IB_ADDR_RANGE",
    "NVSHMEM_IB_ROCE_VERSION_NUM",
    *(_MAPPING, _LIST, _PE_MAPPING, _PREFIX),
    *(_BOOT, _BOOT_FAMILY),
    *_TRAFFIC,
)


def wishes(choice: Choice, use: Use) -> Sequence[Wish]:
    """Return what is set for NVSHMEM."""
    everywhere = (
        wish_interface(_BOOT, choice.control, "="),
        *_bootstrap_family(choice),
        choice.index_wish("NVSHMEM_IB_GID_INDEX"),
    )
    if not choice.used:
        return everywhere
    alone = "NVSHMEM takes the HCA nearest to each GPU; with DeepEP it would put all GPUs on one HCA"
    return (
        *everywhere,
        *_scan(choice),
        *traffic(_TRAFFIC, used=use.nvshmem),
        *(unset(one, alone) for one in (_MAPPING, _LIST, _PE_MAPPING) if use.nvshmem),
    )


def _bootstrap_family(choice: Choice) -> Sequence[Wish]:
    control = choice.control
    if control.interface is None or control.address is None or control.address.version == 4:
        return ()
    return (found(_BOOT_FAMILY, AF_INET6, told(control)),)  # its default is IPv4


def _scan(choice: Choice) -> Sequence[Wish]:
    """Return for NVSHMEM's copy of the scan all that is set for NCCL's, by us or by the pod."""
    scan = choice.index.scan
    if choice.index.index is not None or scan is None:
        return ()
    values = {
        "NVSHMEM_IB_ADDR_FAMILY": scan.family if scan.family != AF_INET else None,
        "NVSHMEM_IB_ADDR_RANGE": scan.address_range,
        "NVSHMEM_IB_ROCE_VERSION_NUM": scan.roce_version if scan.roce_version != 2 else None,
    }
    reason = "NVSHMEM's scan is a copy of NCCL's and does not read NCCL's variables"
    return [found(name, str(value), reason) for name, value in values.items() if value is not None]


def check(given: Mapping[str, Given], choice: Choice, use: Use) -> Sequence[Problem]:
    """Return what is wrong with given values of NVSHMEM's."""
    interfaces, boot = choice.facts.interfaces, given.get(_BOOT)
    family = tuple(check_family(given.get(_BOOT_FAMILY), interfaces))
    if not choice.used:
        return family
    return (
        *family,
        *(_check_prefix(given.get(_PREFIX), choice) if use.nvshmem else ()),
        *check_index(given, choice.used, None, "NVSHMEM_IB_GID_INDEX", "NVSHMEM"),
        *check_steering(given, None, "NVSHMEM_IB_", "NVSHMEM"),
        *_check_hcas(given, [hca.name for hca in choice.facts.hcas], use),
        *check_selection(boot, interfaces),
        *check_route(boot, choice.control, interfaces),
    )


def _check_prefix(given: Given | None, choice: Choice) -> Iterator[Problem]:
    """Return warnings on HCAs that NVSHMEM cannot drive, or skips by name (``NVSHMEM_HCA_PREFIX``, mlx5).

    GPUs drive ConnectX only: IBGDA writes mlx5's own work requests (NVIDIA/nvshmem#90;
    deepseek-ai/DeepEP#202, #759). On AMD's GPUs DeepEP runs on another library.
    """
    if choice.facts.gpus.vendor != "nvidia":
        return
    others = [
        port.hca
        for port in choice.used
        if (port.hca.model or "").startswith("0x") and not _is_connectx(port.hca.model)
    ]
    if others:
        vendors = ", ".join(sorted({(hca.model or "").partition(":")[0] for hca in others}))
        yield warning(
            "NVSHMEM_VENDOR",
            f"DeepEP's transport between nodes (IBGDA) drives ConnectX only, and PCI vendor {vendors} is none: "
            f"{', '.join(dict.fromkeys(hca.name for hca in others))}",
            "use another --moe-a2a-backend on these cards: SGLang ends when DeepEP makes its first buffer",
        )
    prefix = given.value if given is not None else "mlx5"
    missed = sorted(
        {port.hca.name for port in choice.used if prefix not in port.hca.name and port.hca not in others}
    )
    if not missed:
        return
    connectx = "" if all(_is_connectx(port.hca.model) for port in choice.used) else "if they are ConnectX, "
    yield warning(
        "NVSHMEM_PREFIX",
        f"NVSHMEM looks only at HCAs with {prefix!r} in their name and skips {', '.join(missed)}",
        f"{connectx}set {_PREFIX} to what their names have in common",
    )


def _is_connectx(model: str | None) -> bool:
    return (model or "").startswith("0x15b3:")


def _check_hcas(given: Mapping[str, Given], names: Sequence[str], use: Use) -> Iterator[Problem]:
    listed, mapped, switch = (given.get(name) for name in (_LIST, _PE_MAPPING, _MAPPING))
    if listed is not None:
        entries = [part.partition(":")[0] for part in listed.value.removeprefix("^").split(",")]
        yield from check_device_names(listed, entries, names, "NVSHMEM")
    if mapped is not None:
        parts = [part.split(":") for part in mapped.value.split(",")]
        yield from check_device_names(mapped, [part[0] for part in parts], names, "NVSHMEM")
        if any(len(part) != 3 or not all(one.isdecimal() for one in part[1:]) for part in parts):
            yield rdma_value(
                "NVSHMEM_PE_MAPPING",
                f"{mapped} is not name:port:count for each entry",
                f"remove {_PE_MAPPING}: NVSHMEM takes the nearest HCA of each GPU",
            )
    if use.nvshmem and switch is not None and switch.value.strip().lower() not in ("0", "n", "no", "false"):
        yield warning(
            "NVSHMEM_ONE_HCA",
            f"{switch} puts all GPUs on one HCA in DeepEP's normal mode",
            f"remove {_MAPPING}, {_LIST} and {_PE_MAPPING} (deepseek-ai/DeepEP#336)",
        )
