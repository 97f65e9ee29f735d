"""What only ``--check`` reads of a node: shared memory, PCI links, counters, the image's libraries.

No decision of a launch rests on these facts, and a launch does not read them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import Gpus, Hca, Interface, IpAddress
from sglang_roce_entry.host.further.peer_memory import peer_memory, takes_peers
from sglang_roce_entry.host.further.providers import verbs_providers
from sglang_roce_entry.host.further.routes import Way, ways_to_neighbours
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.installed import NVSHMEM_DISTRIBUTIONS, distribution_versions, rdma_core_version
from sglang_roce_entry.host.rdma import pci_function_path
from sglang_roce_entry.host.tree import Tree, attribute_or_none, lines_or_empty, names_or_empty
from sglang_roce_entry.natural import whole_number

_IOMMU_GROUPS = "/sys/kernel/iommu_groups"
_ARP = ("arp_ignore", "arp_announce", "arp_filter", "rp_filter")
#: Documentation/networking/ip-sysctl.rst; both are those of this network namespace, for IPv6 as well.
_IPV4 = "/proc/sys/net/ipv4"
_PROXY_VARIABLES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
#: Counters of lost and of marked packets. The names are mlx5's (drivers/infiniband/hw/mlx5/counters.c),
#: ``port_xmit_discards`` and ``link_downed`` are the core's (Documentation/ABI/stable/sysfs-class-infiniband).
LOSS_COUNTERS = ("out_of_sequence", "packet_seq_err", "local_ack_timeout_err")
MARK_COUNTERS = ("np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets")
PORT_COUNTERS = ("port_xmit_discards", "link_downed", "symbol_error")
#: Distributions whose versions matter besides SGLang and NCCL.
DISTRIBUTIONS = (
    "torch",
    "sgl-kernel",
    "sglang-kernel",
    "mooncake-transfer-engine",
    *NVSHMEM_DISTRIBUTIONS,
    "netifaces",
)
#: NCCL's net plugin without a name (``src/plugin/net.cc``), in HPC-X built on UCX or on verbs ("IBext").
_NET_PLUGIN = "libnccl-net.so"


@dataclass(frozen=True, slots=True)
class PciLink:
    """A PCIe link: what it runs at and what both ends could do. ``None``: not known."""

    speed_gts: float | None = None
    max_speed_gts: float | None = None
    width: int | None = None
    max_width: int | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """The HTTP proxy of the pod's environment; ``variable`` is ``None`` where none is set.

    Of the proxy's address only the host is kept: the rest can hold a password.
    """

    variable: str | None
    host: str
    no_proxy: str


@dataclass(frozen=True, slots=True)
class Iommu:
    """IOMMU groups (Documentation/ABI/testing/sysfs-kernel-iommu_groups).

    ``groups``: how many there are, ``None`` where the folder cannot be listed. ``of``: number and type of
    a PCI function's group (the type ``None`` where it cannot be read), by its address.
    """

    groups: int | None = None
    of: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """The further facts of one node. ``None`` is "not known" throughout."""

    shm_bytes: int | None = None
    shm_free_bytes: int | None = None
    glibc: str | None = None
    #: What the pod's host name resolves to; empty: to nothing.
    own_name: tuple[IpAddress, ...] | None = None
    packages: Mapping[str, str] | None = None
    proxy: Proxy | None = None
    distribution: str | None = None
    kernel: str | None = None
    rdma_core: str | None = None
    verbs_providers: tuple[str, ...] | None = None
    peer_memory: tuple[str, ...] = ()  # those of NCCL's and RCCL's files for it that exist
    takes_peers: bool | None = None  # whether the kernel has the symbol that RCCL looks for; AMD only
    nvidia_driver: str | None = None  # the first line of /proc/driver/nvidia/version
    nvidia_options: Mapping[str, str] | None = None  # /proc/driver/nvidia/params
    gpus: Gpus = field(default_factory=Gpus)  # with their places
    iommu: Iommu = Iommu()
    #: By interface, and "all": arp_ignore and the like of IPv4, as written.
    arp: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: By own address, where several interfaces are in one IPv4 network: the route to a neighbour in it.
    ways: Mapping[str, Way] | None = None
    net_plugin: str | None = None  # the libnccl-net.so that LD_LIBRARY_PATH leads to
    drivers: Mapping[str, str] = field(default_factory=dict)  # HCA to driver, version, firmware
    outgoing_ports: str | None = None  # ip_local_port_range: what the kernel gives outgoing connections
    reserved_ports: str | None = None  # ip_local_reserved_ports: not these
    pci_links: Mapping[str, PciLink] = field(default_factory=dict)  # by HCA
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by mlx5_0:1

    def answers(self) -> dict[str, Any]:
        """Return what is not in a file, as a snapshot holds it under ``check``."""
        found: dict[str, Any] = {
            "shm_bytes": self.shm_bytes,
            "shm_free_bytes": self.shm_free_bytes,
            "glibc": self.glibc,
            "packages": dict(self.packages) if self.packages is not None else None,
            "rdma_core": self.rdma_core,
            "net_plugin": self.net_plugin,
            "takes_peers": self.takes_peers,
        }
        if self.ways:
            found["ways"] = {address: [way.interface, way.table] for address, way in self.ways.items()}
        if self.own_name is not None:
            found["own_name"] = [str(address) for address in self.own_name]
        if self.proxy is not None:
            proxy = self.proxy
            found["proxy"] = {"variable": proxy.variable, "host": proxy.host, "no_proxy": proxy.no_proxy}
        return {name: value for name, value in found.items() if value is not None}


def read_check_facts(
    host: Host, hcas: Iterable[Hca], environ: Mapping[str, str], own_name: tuple[IpAddress, ...] | None = None
) -> CheckFacts:
    """Return the further facts of ``host``.

    ``own_name`` are the addresses of the pod's host name; looking it up can take time and is the
    caller's business. A recording answers from itself.
    """
    tree, devices = host.tree, tuple(hcas)
    recorded, interfaces = host.answers.recorded_check(), host.answers.interfaces()
    gpus = read_gpus(host, places=True)
    answers = _live_answers(environ, interfaces, gpus.vendor) if recorded is None else _recorded_answers(recorded)
    functions = {hca.pci_address: pci_function_path(hca.path or "") for hca in devices if hca.pci_address}
    functions |= {gpu.pci_address: gpu.path for gpu in gpus.devices if gpu.pci_address}
    return CheckFacts(
        **{"own_name": own_name, "net_plugin": _net_plugin(tree, environ), **answers},
        distribution=_distribution(tree),
        kernel=attribute_or_none(tree, "/proc/sys/kernel/osrelease"),
        verbs_providers=verbs_providers(tree),
        peer_memory=peer_memory(tree),
        nvidia_driver=next(iter(lines_or_empty(tree, "/proc/driver/nvidia/version")), None),
        nvidia_options=_nvidia_options(tree),
        gpus=gpus,
        iommu=_iommu(tree, functions),
        arp=_arp(tree, interfaces) if len(devices) > 1 else {},
        drivers={hca.name: driver for hca in devices if (driver := _driver(tree, hca))},
        outgoing_ports=attribute_or_none(tree, f"{_IPV4}/ip_local_port_range"),
        reserved_ports=attribute_or_none(tree, f"{_IPV4}/ip_local_reserved_ports"),
        pci_links={hca.name: _pci_link(tree, hca.path) for hca in devices if hca.path and hca.pci_address},
        counters=_counters(tree, devices),
    )


def _live_answers(environ: Mapping[str, str], interfaces: Sequence[Interface], vendor: str) -> dict[str, Any]:
    total, free = _shared_memory()
    return {
        "ways": ways_to_neighbours(interfaces),
        "shm_bytes": total,
        "shm_free_bytes": free,
        "glibc": _glibc(),
        "packages": distribution_versions(DISTRIBUTIONS),
        "proxy": _proxy(environ),
        "rdma_core": rdma_core_version(),
        "takes_peers": takes_peers() if vendor == "amd" else None,
    }


def _recorded_answers(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded answers that have the right form; others are not known."""
    kinds: dict[str, type] = dict.fromkeys(("shm_bytes", "shm_free_bytes"), int)
    kinds |= {**dict.fromkeys(("glibc", "rdma_core", "net_plugin"), str), "takes_peers": bool}
    found: dict[str, Any] = {
        name: recorded[name] for name, kind in kinds.items() if isinstance(recorded.get(name), kind)
    }
    packages = recorded.get("packages")
    if isinstance(packages, dict):
        found["packages"] = {str(name): str(version) for name, version in packages.items()}
    proxy = recorded.get("proxy")
    if isinstance(proxy, dict):
        variable = proxy.get("variable")
        texts = (str(proxy.get("host") or ""), str(proxy.get("no_proxy") or ""))
        found["proxy"] = Proxy(str(variable) if variable else None, *texts)
    ways = recorded.get("ways")
    if isinstance(ways, dict) and all(isinstance(one, list) and len(one) == 2 for one in ways.values()):
        found["ways"] = {str(address): Way(str(one[0]), str(one[1])) for address, one in ways.items()}
    own_name = recorded.get("own_name")
    if isinstance(own_name, list):
        with suppress(ValueError):
            found["own_name"] = tuple(ip_address(str(text)) for text in own_name)
    return found


def _nvidia_options(tree: Tree) -> dict[str, str] | None:
    pairs = [line.partition(":") for line in lines_or_empty(tree, "/proc/driver/nvidia/params")]
    return {name: value.strip().strip('"') for name, _, value in pairs} or None


def _iommu(tree: Tree, functions: Mapping[str, str | None]) -> Iommu:
    try:
        groups = tree.names(_IOMMU_GROUPS)
    except OSError:
        return Iommu()
    found = {}
    for address, path in functions.items():
        link = tree.real(f"{path}/iommu_group") if path else None
        group = link.rpartition("/")[2] if link else _group_with(tree, groups, address)
        if group is not None:
            found[address] = (group, attribute_or_none(tree, f"{_IOMMU_GROUPS}/{group}/type"))
    return Iommu(len(groups), found)


def _group_with(tree: Tree, groups: Iterable[str], address: str) -> str | None:
    folders = ((group, f"{_IOMMU_GROUPS}/{group}/devices") for group in groups)
    return next((group for group, folder in folders if address in names_or_empty(tree, folder)), None)


def _arp(tree: Tree, interfaces: Iterable[Interface]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name in ("all", *(interface.name for interface in interfaces)):
        texts = {one: attribute_or_none(tree, f"{_IPV4}/conf/{name}/{one}") or "" for one in _ARP}
        values = {one: int(text) for one, text in texts.items() if text.isdecimal() and len(text) < 6}
        if values:
            found[name] = values
    return found


def _net_plugin(tree: Tree, environ: Mapping[str, str]) -> str | None:
    folders = (part.rstrip("/") for part in environ.get("LD_LIBRARY_PATH", "").split(":") if part.startswith("/"))
    return next((path for folder in folders if tree.real(path := f"{folder}/{_NET_PLUGIN}")), None)


def _proxy(environ: Mapping[str, str]) -> Proxy:
    """Return what ``requests`` would read, in its order: SGLang calls itself and its peers with it."""
    variable = next((name for name in _PROXY_VARIABLES if environ.get(name)), None)
    value = environ[variable] if variable else ""
    try:
        host = urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        host = ""
    return Proxy(variable, host, environ.get("no_proxy") or environ.get("NO_PROXY") or "")


def _shared_memory() -> tuple[int | None, int | None]:
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 - asked, not written
    except OSError:
        return None, None
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def _glibc() -> str | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None  # musl
    return text.rpartition(" ")[2] if text else None


def _distribution(tree: Tree) -> str | None:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        values = dict(line.partition("=")[::2] for line in lines_or_empty(tree, path) if "=" in line)
        name = values.get("PRETTY_NAME") or values.get("ID")
        if name:
            return name.strip("\"'")
    return None


def _driver(tree: Tree, hca: Hca) -> str | None:
    real = tree.real(f"{hca.path}/driver") if hca.path else None
    if real is None:
        return None
    name = real.rpartition("/")[2]
    # The inbox modules have no version; NVIDIA's OFED and DOCA have one.
    version = attribute_or_none(tree, f"/sys/module/{name}/version")
    firmware = attribute_or_none(tree, f"/sys/class/infiniband/{hca.name}/fw_ver")
    parts = [name, *([version] if version else [])]
    return " ".join(parts) + (f", firmware {firmware}" if firmware else "")


def _pci_link(tree: Tree, path: str | None) -> PciLink:
    def number(name: str) -> float | None:
        text = (attribute_or_none(tree, f"{path}/{name}") or "").split(" ")[0]
        return float(text) if text.replace(".", "", 1).isdecimal() and float(text) > 0 else None

    def lanes(name: str) -> int | None:
        width = number(name)
        # A virtual function, and many virtual machines, report 0 or 255.
        return int(width) if width is not None and width <= 32 else None

    return PciLink(
        number("current_link_speed"),
        number("max_link_speed"),
        lanes("current_link_width"),
        lanes("max_link_width"),
    )


def _counters(tree: Tree, hcas: Iterable[Hca]) -> dict[str, dict[str, int]]:
    # They exist for the namespace that owns the device: with the host network, or in exclusive mode.
    found: dict[str, dict[str, int]] = {}
    for hca in hcas:
        for port in hca.ports:
            base = f"/sys/class/infiniband/{hca.name}/ports/{port.number}"
            paths = {name: f"{base}/hw_counters/{name}" for name in (*LOSS_COUNTERS, *MARK_COUNTERS)}
            paths |= {name: f"{base}/counters/{name}" for name in PORT_COUNTERS}
            texts = {name: attribute_or_none(tree, path) or "" for name, path in paths.items()}
            values = {name: value for name, text in texts.items() if (value := whole_number(text)) is not None}
            if values:
                found[port.label] = values
    return found
