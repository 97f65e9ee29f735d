"""InfiniBand rails, where NCCL uses such ports: their order, and the GID and subnet by which NCCL knows each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Network

from sglang_roce_entry.fabric.affinity import Affinity, pair
from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.nccl.numbers import parse_c_integer
from sglang_roce_entry.host.facts import Port
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.plan.plan import Plan, in_order
from sglang_roce_entry.verbs.addressing import NO_GRH, PORT_GRH, SUBNET_GRH, flid_of

_WITH_SUBNETS, _WITH_PORT_FLAGS = (2, 22), (2, 30, 7)
_ROUTABLE = "NCCL_IB_ROUTABLE_FLID_GID_INDEX"
_PREFIX_BITS = 64


def infiniband_affinity(plan: Plan) -> Affinity:
    """Return which InfiniBand HCAs serve which GPU."""
    hcas = {row.decision.hca.name: row.decision.hca for row in _used(plan)}
    return pair(plan.gpu_devices, tuple(hcas.values()), plan.use.gpus)


def infiniband_rails(plan: Plan) -> tuple[PortRow, ...]:
    """Return the ports that NCCL uses in the order of the GPUs that they serve, each with NCCL's GID of it."""
    rows = []
    for row in in_order(_used(plan), infiniband_affinity(plan)):
        index = _gid_index(plan, row.decision.port)
        gid = row.decision.port.gid_at(index)
        rows.append(replace(row, gid_index=index, gid=str(gid.ip) if gid is not None else None, netdev=None))
    return tuple(rows)


def _used(plan: Plan) -> list[PortRow]:
    choice = plan.choice
    labels = choice.infiniband if choice.plugin is None else ()
    return [row for row in choice.ports if row.decision.label in labels]


def _gid_index(plan: Plan, port: Port) -> int:
    """Return the index that NCCL takes: that of a GID with a FLID, else 0 (``ncclIbGetGidIndex`` from 2.22 on)."""
    routable = given_integer(plan, _ROUTABLE)
    gid = port.gid_at(1 if routable is None else routable)
    routed = gid is not None and bool(flid_of(f"{int(gid.ip):032x}"))
    return gid.index if gid is not None and routed and addressing(plan.facts.nccl_versions) != NO_GRH else 0


def given_integer(plan: Plan, name: str) -> int | None:
    """Return what NCCL makes of a number that the pod or NCCL's files give, ``None`` where it takes none."""
    constraints = plan.choice.constraints
    given = constraints.given.get(name)
    return parse_c_integer(given.value, constraints.nccl)[0] if given is not None else None


def subnet(row: PortRow) -> tuple[str | None, bool | None]:
    """Return the subnet of an InfiniBand rail, and whether routers know its port; ``None``: not known.

    The FLID is no part of it: each switch has one of its own.
    """
    gid = row.decision.port.gid_at(row.gid_index)
    if gid is None or gid.ip.version != 6:
        return None, None
    flid = flid_of(f"{int(gid.ip):032x}")
    prefix = (int(gid.ip) >> _PREFIX_BITS) - (flid << 16)
    return str(IPv6Network((prefix << _PREFIX_BITS, _PREFIX_BITS))), True if flid else None


def addressing(nccl_versions: Sequence[str] | None) -> str:
    """Return how NCCL addresses InfiniBand peers, "" where its release is not known or several are here."""
    ways = {_way(parse_version(text)) for text in nccl_versions or ()}
    return ways.pop() if len(ways) == 1 else ""


def _way(nccl: tuple[int, ...] | None) -> str:
    if nccl is None:
        return ""
    return NO_GRH if nccl < _WITH_SUBNETS else SUBNET_GRH if nccl < _WITH_PORT_FLAGS else PORT_GRH
