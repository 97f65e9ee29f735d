"""Which rails are proven before SGLang starts, and with which values of NCCL's own."""

from __future__ import annotations

from ipaddress import IPv4Address

from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.constraints import REQUIRED
from sglang_roce_entry.host.facts import IpAddress
from sglang_roce_entry.plan.infiniband import addressing, given_integer, infiniband_affinity, infiniband_rails
from sglang_roce_entry.plan.inputs import Request
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.verbs.messages import Rail

_U8, _U16 = 0xFF, 0xFFFF


def rails_in_order(plan: Plan) -> tuple[PortRow, ...]:
    """Return the ports that NCCL will use, over RoCE or InfiniBand, in the order of the GPUs that they serve."""
    return plan.rails or infiniband_rails(plan)


def needed_by_device(plan: Plan, request: Request) -> dict[str, bool]:
    """Return the HCAs that are proven, and whether NCCL needs each: SGLang's GPUs are nearest to it.

    None where RDMA is not required, or NCCL's own transport over it is not the one that NCCL uses; nor where
    ``NCCL_IB_PKEY_VALUE`` (from 2.31 on) lets NCCL look for the partition of an InfiniBand port itself.
    """
    choice = plan.choice
    on = request.settings.prove_rails == "auto" and choice.constraints.rdma == REQUIRED and choice.plugin is None
    if not on or plan.environment().get("NCCL_NET", "").upper() != "IB":
        return {}
    value = choice.constraints.given.get("NCCL_IB_PKEY_VALUE")
    if not choice.used and value is not None and value.value:
        return {}
    affinity = plan.affinity if choice.used else infiniband_affinity(plan)
    used = [number for number in plan.use.gpus if number < len(affinity.assigned)]
    rows = [affinity.assigned[number] for number in used] or affinity.assigned
    near = {affinity.hcas[column].name for columns in rows for column in columns}
    names = [row.decision.hca.name for row in rails_in_order(plan)]
    return {name: not near or name in near for name in names}


def verbs_rails(plan: Plan) -> tuple[Rail | None, ...]:
    """Return the rails in their order, each as NCCL will use it; ``None`` where no GID of it is known."""
    return tuple(verbs_rail(plan, row) for row in rails_in_order(plan))


def verbs_rail(plan: Plan, row: PortRow) -> Rail | None:
    """Return a port with the index, partition, traffic class and service level that NCCL will use on it."""
    hca, port = row.decision.hca, row.decision.port
    gid = port.gid_at(row.gid_index)
    if row.gid_index is None or (row.decision.used and gid is None):
        return None
    return Rail(
        device=hca.name,
        port=port.number,
        gid_index=row.gid_index,
        # NCCL reads an InfiniBand port's when it connects, and needs none within a subnet.
        gid=_in_digits(gid.ip) if gid is not None and row.decision.used else "",
        node=hca.verbs or "",
        # -1 is NCCL's own "not given" there (from 2.26 on).
        traffic_class=max(0, _given(plan, "NCCL_IB_TC")) & _U8,
        service_level=max(0, _given(plan, "NCCL_IB_SL")) & _U8,
        pkey_index=_given(plan, "NCCL_IB_PKEY") & _U16,
        addressing=addressing(plan.facts.nccl_versions),
    )


def _given(plan: Plan, name: str) -> int:
    """Return what NCCL makes of a number; ``struct ibv_qp_attr`` takes its lower bits (``ncclIbRtrQp``)."""
    return given_integer(plan, name) or 0


def _in_digits(ip: IpAddress) -> str:
    """Return an address as the 32 digits of a GID, IPv4 mapped into IPv6."""
    value = 0xFFFF << 32 | int(ip) if isinstance(ip, IPv4Address) else int(ip)
    return f"{value:032x}"
