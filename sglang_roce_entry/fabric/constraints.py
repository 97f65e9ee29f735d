"""What the operator decided about the fabric, free of where it was written."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from sglang_roce_entry.fabric.nccl.selector import Selector

IpNetwork = IPv4Network | IPv6Network

REQUIRED = "required"
OPTIONAL = "optional"
OFF = "off"


@dataclass(frozen=True, slots=True)
class FabricPolicy:
    """Settings that steer the decision.

    ``selector`` limits the ports, ``selector_origin`` says in a word where it was written.
    """

    rdma: str = OPTIONAL
    rdma_explicit: bool = False  # by flag: beats the pod's NCCL_IB_DISABLE
    selector: Selector | None = None
    selector_origin: str = ""
    selector_final: bool = False  # the pod's own NCCL_IB_HCA: NCCL uses just these ports
    subnets: tuple[IpNetwork, ...] = ()
    family: str = "auto"  # auto, ipv4, ipv6
    family_explicit: bool = False  # by flag: beats the pod's NCCL_IB_ADDR_FAMILY
    allow_foreign_gids: bool = False
    interface: str | None = None


class Reason:
    """Reason codes of ports that are not used. Strings, because they are part of the JSON contract."""

    NOT_ROCE = "NOT_ROCE"
    NO_VERBS = "NO_VERBS"
    VERBS_DENIED = "VERBS_DENIED"
    PORT_NOT_ACTIVE = "PORT_NOT_ACTIVE"
    NO_OWN_GID = "NO_OWN_GID"
    NETDEV_DOWN = "NETDEV_DOWN"
    FAMILY_MISMATCH = "FAMILY_MISMATCH"
    INDEX_MISMATCH = "INDEX_MISMATCH"
    SLOWER_RATE = "SLOWER_RATE"
    MANAGEMENT_NIC = "MANAGEMENT_NIC"
    FAR_FROM_GPU = "FAR_FROM_GPU"
    DUPLICATE_FUNCTION = "DUPLICATE_FUNCTION"
    USER_EXCLUDED = "USER_EXCLUDED"
    RDMA_OFF = "RDMA_OFF"
    EXTERNAL_PLUGIN = "EXTERNAL_PLUGIN"
    TOO_MANY_PORTS = "TOO_MANY_PORTS"
