"""Which rails are proven before SGLang starts, and with which values of NCCL's own."""

from __future__ import annotations

from ipaddress import IPv4Address

from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.constraints import REQUIRED
from sglang_roce_entry.fabric.nccl.numbers import parse_c_integer
from sglang_roce_entry.host.facts import IpAddress
from sglang_roce_entry.plan.inputs import Request
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.server.transfer import read_use
from sglang_roce_entry.verbs.messages import Rail

_BYTE = 0xFF


def needed_by_device(plan: Plan, request: Request) -> dict[str, bool]:
    """Return the HCAs that are proven, and whether NCCL needs each: SGLang's GPUs are nearest to it.

    None where RDMA is not required, or NCCL's own transport over it is not the one that NCCL uses.
    """
    choice = plan.choice
    on = request.settings.prove_rails == "auto" and choice.constraints.rdma == REQUIRED and choice.plugin is None
    if not on or plan.environment().get("NCCL_NET", "").upper() != "IB":
        return {}
    affinity = plan.affinity
    gpus = read_use(request.user, plan.facts, affinity.gpus, request.environ).gpus
    rows = [affinity.assigned[number] for number in gpus if number < len(affinity.assigned)] or affinity.assigned
    near = {affinity.hcas[column].name for columns in rows for column in columns}
    return {row.decision.hca.name: not near or row.decision.hca.name in near for row in choice.used_rows}


def verbs_rails(plan: Plan) -> tuple[Rail | None, ...]:
    """Return the rails in their order, each as NCCL will use it; ``None`` where no GID of it is known."""
    return tuple(verbs_rail(plan, row) for row in plan.rails)


def verbs_rail(plan: Plan, row: PortRow) -> Rail | None:
    """Return a port with the index, traffic class and service level that NCCL will use on it."""
    hca, port = row.decision.hca, row.decision.port
    gid = port.gid_at(row.gid_index)
    if row.gid_index is None or gid is None:
        return None
    return Rail(
        device=hca.name,
        port=port.number,
        gid_index=row.gid_index,
        gid=_in_digits(gid.ip),
        node=hca.verbs or "",
        traffic_class=_byte(plan, "NCCL_IB_TC"),
        service_level=_byte(plan, "NCCL_IB_SL"),
    )


def _byte(plan: Plan, name: str) -> int:
    """Return what NCCL hands to the kernel of a number, an ``uint8_t`` (``ncclIbRtrQp``, src/transport/net_ib)."""
    constraints = plan.choice.constraints
    given = constraints.given.get(name)
    return ((parse_c_integer(given.value, constraints.nccl)[0] if given is not None else None) or 0) & _BYTE


def _in_digits(ip: IpAddress) -> str:
    """Return an address as the 32 digits of a GID, IPv4 mapped into IPv6."""
    value = 0xFFFF << 32 | int(ip) if isinstance(ip, IPv4Address) else int(ip)
    return f"{value:032x}"
