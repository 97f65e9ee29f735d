"""The faults of a rail in the words of its field: what is said of each, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Fault:
    """A code, what is said of a rail that has it, and what to do.

    In the hint OWN, PEER, OWN_LID, PEER_LID, INDEX and SIZE stand for what the ends have; SIZE is that of a ping
    which is as large as a full packet.
    """

    code: str
    what: str
    hint: str


_DENIED = Fault(
    "RAIL_NO_DEVICE",
    "the pod may not open its verbs device",
    "grant the pod its RDMA device (device plugin, DRA, docker run --device /dev/infiniband): --check",
)
_GONE = replace(_DENIED, what="its verbs device is not in the pod")
_UNLISTED = Fault(
    "RAIL_NO_DEVICE",
    "libibverbs does not list its HCA",
    "install the card's verbs provider (ibverbs-providers), of the same release as libibverbs: --check",
)
_MOVED = Fault(
    "RAIL_GID_MOVED",
    "its GID index does not hold the GID that was decided",
    "its addresses have just changed: see who configures the interface (ip monitor address), and start again",
)
_DOWN = Fault(
    "RAIL_LINK_DOWN",
    "its port is down",
    "check the cable, the transceiver and the switch port: rdma link; ethtool NETDEV",
)
_UNSOUND = Fault(
    "RAIL_UNSOUND",
    "what arrived is not what was sent",
    "run ibv_rc_pingpong -g INDEX between the two ports; update the NIC's firmware and rdma-core",
)
_NOT_PROVEN = Fault(
    "RAIL_NOT_PROVEN",
    "it could not be tried",
    "run ibv_rc_pingpong -g INDEX between the two ports by hand; without the proof: --prove-rails off",
)
_NO_PARTITION = Fault(
    "RAIL_NO_PARTITION",
    "its port has no P_Key at NCCL_IB_PKEY",
    "set NCCL_IB_PKEY to a slot that is filled, or leave it: cat /sys/class/infiniband/*/ports/1/pkeys/*",
)
_FAULTS: Mapping[str, Fault] = {
    "NO_NEIGHBOUR": Fault(
        "RAIL_NO_NEIGHBOUR",
        "no neighbour answers for the peer's address",
        "see that the peer has its address, then look at ip neigh on both nodes (ping -I OWN PEER), at VLAN and "
        "switch port of this rail, or at its gateway",
    ),
    "NO_ROUTE": Fault(
        "RAIL_NO_ROUTE",
        "there is no route to the peer's address",
        "give the rail's interface a route, or a policy rule, to the peers' network: ip route get PEER from OWN",
    ),
    "GID_REFUSED": Fault(
        "RAIL_GID_REFUSED",
        "the kernel refuses to connect the two GIDs",
        "look at the GIDs of both ends: one family, RoCE v2, and an interface that is up (show_gids, ip address)",
    ),
    "NO_WAY": Fault(
        "RAIL_NO_WAY",
        "nothing arrives",
        "let UDP port 4791 pass (firewall, ACL), and look at VLAN, cabling and routes behind the leaf: "
        "ping -I OWN PEER",
    ),
    "LARGE_LOST": Fault(
        "RAIL_LARGE_LOST",
        "64 bytes arrive, full packets do not",
        "give every switch and link on the way the MTU of the interfaces (4200 for RoCE 4096): "
        "ping -M do -s SIZE -I OWN PEER",
    ),
    "LOSSY": Fault(
        "RAIL_LOSSY",
        "packets are lost on the way",
        "look at discards and pauses of the port and its switch (ethtool -S), and at the cable's error counters",
    ),
    "MEMLOCK": Fault(
        "RAIL_MEMLOCK",
        "no memory can be locked for it",
        "add securityContext.capabilities.add: [IPC_LOCK], or raise the memlock limit of the runtime",
    ),
    "PKEY_REFUSED": _NO_PARTITION,
    **dict.fromkeys(("GID_MOVED", "NO_GID"), _MOVED),
    **dict.fromkeys(("PORT_DOWN", "LINK_DOWN"), _DOWN),
    "DEVICE_DENIED": _DENIED,
    "NO_DEVICE_NODE": _GONE,
    "NO_PROVIDER": _UNLISTED,
    "QP_REFUSED": replace(
        _NOT_PROVEN,
        what="its HCA makes no RC queue pair",
        hint="nothing, where NCCL uses a plugin for this card (EFA); else update the NIC's firmware and rdma-core",
    ),
    "CHILD_FAILED": replace(
        _NOT_PROVEN,
        hint="run sglang-roce-entry --check there, which tries each HCA against itself, and look at the image's "
        "rdma-core; without the proof: --prove-rails off",
    ),
    "WRONG_DATA": _UNSOUND,
    "REFUSED_KEY": replace(_UNSOUND, what="its HCA has refused a write that was allowed"),
}
_LATE = replace(_FAULTS["LOSSY"], what="it carried everything only at the second, patient try")

_NO_SM = Fault(
    "RAIL_NO_SM",
    "no subnet manager has brought its port up",
    "see that a subnet manager runs and reaches this port: ibstat on the node, sminfo, the log of opensm or UFM",
)
_COUNTERS = "look at the error counters of both ports and of the switches between: ibqueryerrors"
_BROKEN = replace(_DOWN, hint="check the cable, the transceiver and the switch port: ibstat; iblinkinfo")
#: What is called otherwise over InfiniBand, or looked at elsewhere.
_OVER_INFINIBAND: Mapping[str, Fault] = {
    "NO_SM": _NO_SM,
    "NO_LID": replace(_NO_SM, what="its port has no LID from a subnet manager, and nothing arrives"),
    "PKEY_DIFFERS": replace(
        _NO_PARTITION,
        what="the ports share no partition with a full member in it, and nothing arrives",
        hint="let the subnet manager put both ports into one partition, one of them as a full member, and let "
        "NCCL_IB_PKEY name its slot on each: cat /sys/class/infiniband/*/ports/1/pkeys/*",
    ),
    "LID_REFUSED": Fault(
        "RAIL_LID_REFUSED",
        "the kernel refuses the peer's LID",
        "compare LID and subnet prefix of the two ports (ibstat; show_gids), and see the subnet manager's log",
    ),
    "NO_WAY": replace(
        _FAULTS["NO_WAY"],
        hint="see that both ports are in one subnet, or have a router between them, with a path for NCCL_IB_SL: "
        "sminfo on both nodes, ibtracert OWN_LID PEER_LID",
    ),
    "LARGE_LOST": replace(
        _FAULTS["LARGE_LOST"],
        hint="see that every switch on the way, and the partition in the subnet manager, has the MTU of the "
        "ports: ibv_devinfo; smpquery portinfo",
    ),
    "LOSSY": replace(_FAULTS["LOSSY"], hint=_COUNTERS),
    **dict.fromkeys(("PORT_DOWN", "LINK_DOWN"), _BROKEN),
    "GID_MOVED": replace(
        _MOVED,
        what="its GID has changed meanwhile",
        hint="a subnet manager has just given the port another prefix: see its log, and start again",
    ),
    **{
        cause: replace(_FAULTS[cause], hint=_UNSOUND.hint.replace(" -g INDEX", ""))
        for cause in ("REFUSED_KEY", "WRONG_DATA")
    },
    "LATE": replace(_LATE, hint=_COUNTERS),
}


def fault_of(cause: str, *, infiniband: bool) -> Fault:
    """Return what is said of a rail with this cause; of one that is not known, that the rail was not tried."""
    if infiniband:
        known = _OVER_INFINIBAND.get(cause) or _FAULTS.get(cause)
        return known or replace(_NOT_PROVEN, hint=_NOT_PROVEN.hint.replace(" -g INDEX", ""))
    return _LATE if cause == "LATE" else _FAULTS.get(cause, _NOT_PROVEN)
