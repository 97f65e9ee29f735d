"""How an end addresses its peer, with the values that NCCL hands to the kernel: by GID, by LID, or by both.

Over Ethernet it is the GID alone. Over InfiniBand, by release of NCCL (``ncclIbRtrQp`` in src/transport/net_ib.cc,
from 2.29 in src/transport/net_ib/connect.cc; ``ncclIbQpRtr`` there from 2.30):

* up to 2.21 the peer's LID, whatever the subnets are;
* from 2.22 on the LID where the lower 16 bits of both subnet prefixes are the same. Elsewhere a GRH for the
  router: the peer's GID, behind the FLID in it, or behind its LID where it has none;
* from 2.30.7 on a GRH also where the own port demands one (``IBV_QPF_GRH_REQUIRED``).

The traffic class goes into the GRH over Ethernet only, the service level everywhere.
"""

from __future__ import annotations

from sglang_roce_entry.verbs import layouts as ibv
from sglang_roce_entry.verbs.messages import Offer, Rail

#: When NCCL puts a GRH before the packets to an InfiniBand peer: never; in another subnet; there, and where the
#: own port demands it.
NO_GRH, SUBNET_GRH, PORT_GRH = "lid", "subnet", "port"
_HOPS = 255


class UndecidedError(Exception):
    """The releases of NCCL would address this peer differently, and it is not known which one is here."""


def address_of_peer(rail: Rail, own: Offer, peer: Offer, port_flags: int) -> ibv.AddressHandle:
    """Return how ``peer`` is addressed; both ends have a LID, or neither. Raises :class:`UndecidedError`."""
    handle = ibv.AddressHandle(sl=rail.service_level, port_num=rail.port)
    if peer.lid is None:
        handle.is_global = 1
        handle.grh = _global_route(rail, peer, rail.traffic_class)
        return handle
    elsewhere = subnet_of(own.gid) != subnet_of(peer.gid)
    demanded = bool(port_flags & ibv.QPF_GRH_REQUIRED)
    if not rail.addressing and (elsewhere or demanded):
        raise UndecidedError
    handle.dlid = peer.lid
    if (elsewhere and rail.addressing in (SUBNET_GRH, PORT_GRH)) or (demanded and rail.addressing == PORT_GRH):
        handle.dlid = (flid_of(peer.gid) if elsewhere else 0) or peer.lid
        handle.is_global = 1
        handle.grh = _global_route(rail, peer, 0)
    return handle


def _global_route(rail: Rail, peer: Offer, traffic_class: int) -> ibv.GlobalRoute:
    route = ibv.GlobalRoute(sgid_index=rail.gid_index, hop_limit=_HOPS, traffic_class=traffic_class)
    route.dgid.raw[:] = bytes.fromhex(peer.gid)
    return route


def flid_of(gid: str) -> int:
    """Return the LID by which the routers know the switch of a GID of 32 digits, 0 for none.

    NCCL's view of an InfiniBand GID: 32 bits, the FLID of 16, a subnet prefix of 16, and the port's GUID.
    """
    return int(gid[8:12], 16)


def subnet_of(gid: str) -> int:
    """Return the part of the subnet prefix by which NCCL tells subnets apart: its lower 16 bits."""
    return int(gid[12:16], 16)


def one_partition(pkey: int, other: int) -> bool:
    """Return whether two P_Keys let packets pass: one partition, and one of the two a full member of it.

    InfiniBand Architecture, 10.9.3: the upper bit is full membership, and partition 0 is none.
    """
    return pkey & 0x7FFF == other & 0x7FFF != 0 and bool((pkey | other) & 0x8000)
