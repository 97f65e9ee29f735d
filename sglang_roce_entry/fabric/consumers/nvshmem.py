"""NVSHMEM, on which DeepEP's kernels run.

It carries a copy of NCCL's GID scan under its own names and takes the nearest HCA of each GPU by
itself. A list of HCAs or a PE mapping must not be set: in DeepEP's normal mode every GPU is PE 0 of
its own job, and both put all of them on the first HCA (deepseek-ai/DeepEP#336).
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_roce_entry.fabric.consumers.variables import DISCOVERED, VariablePlan
from sglang_roce_entry.fabric.gids import IndexDecision
from sglang_roce_entry.fabric.nccl.scan import AF_INET
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.problems import Problem, warning

LEFT_ALONE = ("NVSHMEM_ENABLE_NIC_PE_MAPPING", "NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PE_MAPPING")
_PREFIX = "NVSHMEM_HCA_PREFIX"


def put_scan(plan: VariablePlan, decision: IndexDecision) -> None:
    """Tell NVSHMEM's copy of the scan all that NCCL's is told, be it by us or by the pod."""
    scan = decision.scan
    if decision.index is not None or scan is None:
        return
    reason = "NVSHMEM's scan is a copy of NCCL's and does not read NCCL's variables"
    if scan.family != AF_INET:
        plan.put("NVSHMEM_IB_ADDR_FAMILY", scan.family, DISCOVERED, reason)
    if scan.address_range is not None:
        plan.put("NVSHMEM_IB_ADDR_RANGE", str(scan.address_range), DISCOVERED, reason)
    if scan.roce_version != 2:
        plan.put("NVSHMEM_IB_ROCE_VERSION_NUM", str(scan.roce_version), DISCOVERED, reason)


def leave_alone(plan: VariablePlan) -> None:
    """Say why NVSHMEM is given no HCAs."""
    for name in LEFT_ALONE:
        plan.withhold(name, "NVSHMEM takes the HCA nearest to each GPU; with DeepEP this puts all GPUs on one HCA")


def check_names(plan: VariablePlan, ports: Sequence[PortDecision]) -> list[Problem]:
    """Return a warning if NVSHMEM passes over HCAs by their names (``NVSHMEM_HCA_PREFIX``, mlx5)."""
    given = plan.given(_PREFIX)
    prefix = given.value if given is not None else "mlx5"
    missed = sorted({port.hca.name for port in ports if prefix not in port.hca.name})
    if not missed:
        return []
    return [
        warning(
            "NVSHMEM_PREFIX",
            f"NVSHMEM looks only at HCAs with {prefix!r} in their name and passes over {', '.join(missed)}",
            f"if they are ConnectX, set {_PREFIX} to what their names have in common",
        )
    ]
