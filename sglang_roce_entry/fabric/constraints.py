"""What limits the choice: settings, the pod's own ``NCCL_*``, NCCL's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network

from sglang_roce_entry.fabric.nccl.numbers import parse_c_integer
from sglang_roce_entry.fabric.nccl.selector import Selector, parse_selector
from sglang_roce_entry.fabric.wishes import Given

IpNetwork = IPv4Network | IPv6Network

REQUIRED = "required"
OPTIONAL = "optional"
OFF = "off"


@dataclass(frozen=True, slots=True)
class Constraints:
    """Limits of the choice.

    ``selector`` limits the ports, ``selector_origin`` names where it was written. ``nccl`` is the
    oldest NCCL that may run here, ``None`` if its version is not known; ``given`` holds every value that the
    pod or NCCL's files have decided.
    """

    rdma: str = OPTIONAL
    rdma_asked: str = OPTIONAL  # before NCCL_IB_DISABLE was applied
    nvlink_only: bool = False  # no verbs device, but multi-node NVLink: RDMA is not required by default
    rdma_by_flag: bool = False  # beats the pod's NCCL_IB_DISABLE
    selector: Selector | None = None
    selector_origin: str = ""
    selector_final: bool = False  # the pod's own NCCL_IB_HCA: NCCL uses just these ports
    subnets: tuple[IpNetwork, ...] = ()
    subnets_origin: str = ""
    family: str = "auto"  # auto, ipv4, ipv6
    family_origin: str = ""
    family_by_flag: bool = False  # beats the pod's NCCL_IB_ADDR_FAMILY
    allow_foreign_gids: bool = False
    nccl: tuple[int, ...] | None = None
    given: Mapping[str, Given] = field(default_factory=dict)


def with_given(asked: Constraints, given: Mapping[str, Given], nccl: tuple[int, ...] | None) -> Constraints:
    """Return what the settings ask for, with what the pod's own NCCL variables decide of it.

    An explicit flag beats the pod's ``NCCL_*``; the pod's ``NCCL_*`` beats every other setting.
    """
    demanded = replace(asked, rdma_asked=asked.rdma, nccl=nccl, given=given)
    disable = given.get("NCCL_IB_DISABLE")
    if disable is not None and not asked.rdma_by_flag and parse_c_integer(disable.value)[0]:
        demanded = replace(demanded, rdma=OFF)
    hca = given.get("NCCL_IB_HCA")
    if hca is not None and asked.selector_origin != "--hca":
        selector = parse_selector(hca.value, nccl=nccl)
        origin = f"NCCL_IB_HCA ({hca.where})"
        demanded = replace(demanded, selector=selector, selector_origin=origin, selector_final=True)
    family = given.get("NCCL_IB_ADDR_FAMILY")
    if family is not None and not asked.family_by_flag:
        wanted = "ipv6" if family.value == "AF_INET6" else "ipv4"
        demanded = replace(demanded, family=wanted, family_origin=f"NCCL_IB_ADDR_FAMILY ({family.where})")
    return demanded


class Reason:
    """Reason codes of ports that are not used. Strings, because they are part of the JSON contract."""

    NOT_ROCE = "NOT_ROCE"
    NO_VERBS = "NO_VERBS"
    VERBS_DENIED = "VERBS_DENIED"
    NO_PROVIDER = "NO_PROVIDER"
    PORT_NOT_ACTIVE = "PORT_NOT_ACTIVE"
    NO_OWN_GID = "NO_OWN_GID"
    NETDEV_DOWN = "NETDEV_DOWN"
    FAMILY_MISMATCH = "FAMILY_MISMATCH"
    INDEX_MISMATCH = "INDEX_MISMATCH"
    SLOWER_RATE = "SLOWER_RATE"
    MANAGEMENT_NIC = "MANAGEMENT_NIC"
    FAR_FROM_GPU = "FAR_FROM_GPU"
    OTHER_CARD = "OTHER_CARD"
    DUPLICATE_FUNCTION = "DUPLICATE_FUNCTION"
    USER_EXCLUDED = "USER_EXCLUDED"
    RDMA_OFF = "RDMA_OFF"
    EXTERNAL_PLUGIN = "EXTERNAL_PLUGIN"
    TOO_MANY_PORTS = "TOO_MANY_PORTS"
