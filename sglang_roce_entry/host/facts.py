"""What is known of a node, as frozen values: HCAs, GIDs, interfaces, GPUs, limits, versions.

``None`` always means "not known"; it is never a stand-in for zero or false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

#: The exact strings of the kernel (drivers/infiniband/core/sysfs.c, gid_attr_show_type).
ROCE_V1 = "IB/RoCE v1"
ROCE_V2 = "RoCE v2"

INIT, ARMED, ACTIVE = 2, 3, 4  # enum ib_port_state, include/rdma/ib_verbs.h
CHANNEL_ADAPTER = 1  # enum rdma_node_type: RoCE and InfiniBand HCAs; iWARP is 4, EFA is 7

IpAddress = IPv4Address | IPv6Address
IpInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Gid:
    """One occupied slot of a port's GID table.

    ``ip`` is the GID as an address, an IPv4-mapped one as IPv4. ``type`` is the kernel's text, ``netdev``
    the interface that the kernel names; either is ``None`` where the kernel does not give it (EINVAL).
    """

    index: int
    ip: IpAddress
    type: str | None
    netdev: str | None


@dataclass(frozen=True, slots=True)
class Port:
    """One port of an HCA, as in ``/sys/class/infiniband/<device>/ports/<number>``."""

    device: str
    number: int
    state: int | None  # 4 is ACTIVE
    state_name: str
    link_layer: str | None
    rate_gbps: float | None
    table_length: int
    gids: tuple[Gid, ...]
    lid: int | None = None  # of InfiniBand; 0 before a subnet manager has given it one

    @property
    def label(self) -> str:
        """``mlx5_0:1``."""
        return f"{self.device}:{self.number}"

    def gid_at(self, index: int | None) -> Gid | None:
        """Return the GID in slot ``index`` of the table, ``None`` if that is empty."""
        return next((gid for gid in self.gids if gid.index == index), None)


@dataclass(frozen=True, slots=True)
class Hca:
    """One RDMA device.

    ``verbs_answer`` is what opening its verbs device read-write gave: ``ok``, an errno name, or
    ``ENOENT`` if the node does not exist. ``netdevs`` are the interfaces of the same function that
    the mounted sysfs shows.
    """

    name: str
    node_type: int | None
    ports: tuple[Port, ...]
    verbs: str | None = None
    verbs_answer: str = "ENOENT"
    path: str | None = None  # real sysfs path of the parent device
    pci_address: str | None = None
    physical_function: str | None = None  # PCI address of the PF if this is a VF
    numa_node: int | None = None
    model: str | None = None  # PCI vendor:device, or the driver's hca_type
    board: str | None = None  # the driver's board_id, or the PCI subsystem; read only beside other HCAs
    netdevs: tuple[str, ...] = ()

    @property
    def card(self) -> str | None:
        """What tells cards apart: the chip and the board. One chip is on rail, storage and management cards."""
        return f"{self.model} {self.board}" if self.model and self.board else self.model


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of this network namespace."""

    name: str
    up: bool
    mtu: int
    speed_mbps: int
    addresses: tuple[IpInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's route to an address: outgoing interface and source address."""

    interface: str
    source: IpAddress


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the node. ``usable``: its device node opens here."""

    pci_address: str | None
    path: str | None = None  # real sysfs path of its PCI function
    numa_node: int | None = None
    minor: int | None = None  # of /dev/nvidia<N>, or of /dev/dri/renderD<N>
    uuid: str | None = None
    model: str | None = None
    usable: bool = True
    mig: bool = False  # divided into MIG instances


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that this container may use.

    ``count`` is how many device nodes open here, ``None`` where there are none at all. ``nodes`` are the
    answers of opening them; ``devices`` what is known of each GPU, in the order of its PCI address,
    empty where their places were not asked for or are not known.
    """

    count: int | None = None
    nodes: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[Gpu, ...] = ()
    vendor: str = "nvidia"

    @property
    def placed(self) -> tuple[Gpu, ...]:
        """The usable GPUs whose place on the node is known."""
        return tuple(gpu for gpu in self.devices if gpu.usable and gpu.path is not None)


@dataclass(frozen=True, slots=True)
class Libibverbs:
    """What libibverbs answers here.

    ``loads`` is ``ok``, or why it cannot be loaded; ``devices`` are those that it lists: the others have no
    provider. ``failure``: why it is not known what it lists, although it was asked.
    """

    loads: str | None = None
    devices: tuple[str, ...] | None = None
    failure: str | None = None

    def lacks(self, device: str) -> bool:
        """Return whether it is known not to list ``device``."""
        return self.devices is not None and device not in self.devices


@dataclass(frozen=True, slots=True)
class HostFacts:
    """All that a decision may rest on. Collected once, replayable from a snapshot."""

    hcas: tuple[Hca, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    gpus: Gpus = Gpus()
    imex_channels: Mapping[str, str] = field(default_factory=dict)  # answers of opening; without verbs only
    foreign_netdevs: tuple[str, ...] = ()  # the mounted sysfs lists them, this namespace lacks them
    default_route_interfaces: tuple[str, ...] = ()
    routed_interfaces: tuple[str, ...] = ()  # with a route beyond their own link in the main table
    memlock_bytes: int | None = None  # hard limit; None with memlock_known is "unlimited"
    memlock_known: bool = False
    ipc_lock: bool | None = None
    uid: int | None = None
    libibverbs: Libibverbs = Libibverbs()
    nccl_versions: tuple[str, ...] | None = None  # () = none installed, None = not known; AMD: RCCL's equivalent
    rocm_version: str | None = None  # asked for only where RCCL takes NCCL's place
    sglang_version: str | None = None
    sglang_installed: bool | None = None
    mooncake_version: str | None = None  # asked for only with more than one HCA
    nccl_files: tuple[tuple[str, str], ...] = ()  # (path, text), in the order NCCL reads them
    net_plugin_paths: tuple[str, ...] = ()
    #: NCCL's topology file, if there is one: its path and its text (``None``: named, but unreadable).
    topology_file: tuple[str, str | None] | None = None
    search_domains: tuple[str, ...] | None = None

    def mtu_of(self, interface: str | None) -> int | None:
        """Return the MTU of an interface of this namespace, ``None`` if it is not here."""
        return next((one.mtu for one in self.interfaces if one.name == interface), None)
