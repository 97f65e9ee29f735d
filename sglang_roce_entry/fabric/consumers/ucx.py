"""UCX, which NIXL transfers with: its variables, and a model of the GID index it takes by itself.

Source of the rules: openucx/ucx ``uct_ib_device_select_gid`` (``src/uct/ib/base/ib_device.c``): passes
over the table by kind, RoCE v2 before v1 and IPv4 before IPv6 before link-local, the lowest index of
the first pass that finds one; index 0 if none does. ``UCX_IB_ROCE_SUBNETS`` limits the candidates and
is refused together with ``UCX_IB_GID_INDEX``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from sglang_roce_entry.fabric.constraints import IpNetwork
from sglang_roce_entry.fabric.gids import covering_network
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.host.facts import ROCE_V2, Gid


def predict_index(gids: Sequence[Gid], subnets: Iterable[IpNetwork] = ()) -> int:
    """Return the index that UCX takes on a RoCE port when none is set.

    ``gids`` are the occupied slots as sysfs shows them: a type that cannot be read counts as v1. Each
    candidate must also survive an ``ibv_create_ah``; here all do.
    """
    allowed = tuple(subnets)
    candidates = [gid for gid in gids if not allowed or any(_inside(gid, network) for network in allowed)]
    ranked = [(_pass_of(gid), gid.index) for gid in candidates]
    return min(ranked)[1] if ranked else 0


def _inside(gid: Gid, network: IpNetwork) -> bool:
    return gid.ip.version == network.version and gid.ip in network


def _pass_of(gid: Gid) -> int:
    by_address = 0 if isinstance(gid.ip, IPv4Address) else 2 if gid.ip.is_link_local else 1
    return by_address if gid.type == ROCE_V2 else 3 + by_address


def right_by_itself(ports: Sequence[PortDecision], subnets: Iterable[IpNetwork] = ()) -> bool:
    """Return whether UCX takes an own GID of the chosen network on every port."""
    allowed = tuple(subnets)
    return all(
        predict_index(port.port.gids, allowed) in {choice.gid.index for choice in port.choices} for port in ports
    )


def steering_subnet(ports: Sequence[PortDecision]) -> IpNetwork | None:
    """Return the network that makes UCX right on every port, ``None`` if none does."""
    network = covering_network(ports)
    return network if network is not None and right_by_itself(ports, (network,)) else None


def net_devices(ports: Iterable[PortDecision], interface: str) -> str:
    """Return ``UCX_NET_DEVICES``: the ports and ``interface``.

    The list governs TCP as well, which NIXL needs to reach itself: without an interface in it every
    agent fails.
    """
    return ",".join([*(port.label for port in ports), interface])
