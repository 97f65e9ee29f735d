"""Builds fake nodes that read as hardware descriptions, for the real reader to read.

node = Node()
hca = node.hca("mlx5_0", pci="0000:18:00.0").port(gbps=200)
hca.pair("10.0.0.1", "eth0")          # RoCE v1 and v2 of one address, at the next two slots
node.interface("eth0", "10.0.0.1/24")
host = node.host()
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.snapshot.format import Document
from sglang_roce_entry.host.snapshot.recorded import MemoryTree, RecordedAnswers

if TYPE_CHECKING:
    from pathlib import Path

V1, V2 = "IB/RoCE v1", "RoCE v2"
ZERO = "0000:0000:0000:0000:0000:0000:0000:0000"

_ROUTE_HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def gid_text(ip: str) -> str:
    """Return an address as the kernel prints it in ``gids/N``."""
    address = ip_address(ip)
    value = (0xFFFF << 32 | int(address)) if isinstance(address, IPv4Address) else int(address)
    digits = f"{value:032x}"
    return ":".join(digits[i : i + 4] for i in range(0, 32, 4))


def gpu_uuid(minor: int) -> str:
    """Return the UUID of the fake GPU with this minor number."""
    return f"GPU-{minor:08x}-aaaa-bbbb-cccc-{minor:012x}"


@dataclass
class FakePort:
    """One port of a fake HCA; slots not given are empty."""

    node: Node
    base: str
    slots: int
    used: dict[int, tuple[str, str | None, str | None]] = field(default_factory=dict)

    def gid(self, index: int, ip: str, kind: str | None = V2, netdev: str | None = None) -> FakePort:
        """Put one GID at ``index``; ``None`` for a type or netdev that reads EINVAL."""
        self.used[index] = (gid_text(ip), kind, netdev)
        return self

    def pair(self, ip: str, netdev: str, index: int | None = None) -> FakePort:
        """Put the RoCE v1 and v2 GIDs of one address at the lowest two free slots, or at ``index``."""
        first = index
        if first is None:
            first = next(i for i in range(self.slots) if i not in self.used and i + 1 not in self.used)
        return self.gid(first, ip, V1, netdev).gid(first + 1, ip, V2, netdev)

    def write(self) -> None:
        """Write the table into the node."""
        for index in range(self.slots):
            gid, kind, netdev = self.used.get(index, (ZERO, None, None))
            self.node.files[f"{self.base}/gids/{index}"] = gid + "\n"
            for name, value in (("types", kind), ("ndevs", netdev)):
                path = f"{self.base}/gid_attrs/{name}/{index}"
                if value is None:
                    self.node.errno[path] = "EINVAL"
                else:
                    self.node.files[path] = value + "\n"


@dataclass
class FakeHca:
    """One fake HCA below its parent function."""

    node: Node
    name: str
    path: str  # real path of the device below infiniband/

    def port(
        self,
        number: int = 1,
        *,
        gbps: float | None = 100.0,
        state: str = "4: ACTIVE",
        link_layer: str = "Ethernet",
        slots: int = 32,
    ) -> FakePort:
        """Add a port."""
        base = f"{self.path}/ports/{number}"
        files = self.node.files
        files[f"{base}/state"] = state + "\n"
        files[f"{base}/phys_state"] = "5: LinkUp\n"
        files[f"{base}/link_layer"] = link_layer + "\n"
        if gbps is not None:
            files[f"{base}/rate"] = f"{gbps:g} Gb/sec (4X EDR)\n"
        port = FakePort(self.node, base, slots)
        self.node.ports.append(port)
        return port


@dataclass
class Node:
    """A fake node: files, links, errno of reads, and the answers of system calls."""

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    errno: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(
        default_factory=lambda: {"format": 1, "interfaces": {}, "verbs": {}, "capabilities": ["CAP_IPC_LOCK"]}
    )
    ports: list[FakePort] = field(default_factory=list)
    _uverbs: int = 0
    _gpus: int = 0

    def interface(self, name: str, *addresses: str, up: bool = True, mtu: int = 4200, gbps: int = 100) -> Node:
        """Add an interface of this namespace, listed in sysfs as well."""
        self.facts["interfaces"][name] = {
            "up": up,
            "mtu": mtu,
            "speed_mbps": gbps * 1000,
            "addresses": list(addresses),
        }
        return self.netdev(name)

    def netdev(self, name: str) -> Node:
        """List an interface in sysfs."""
        target = f"/sys/devices/virtual/net/{name}"
        self.files[f"{target}/mtu"] = "4200\n"
        self.links[f"/sys/class/net/{name}"] = os.path.relpath(target, "/sys/class/net")
        return self

    def hca(
        self,
        name: str,
        *,
        pci: str | None = None,
        bridge: str = "",
        node_type: str = "1: CA",
        verbs: str | None = "ok",
        numa: int | None = None,
        device_id: str = "0x1021",
        vendor: str = "0x15b3",
        physfn: str | None = None,
        netdevs: tuple[str, ...] = (),
    ) -> FakeHca:
        """Add an HCA. ``bridge`` is the path between the PCI root and the function; ``verbs=None``: no uverbs."""
        parent = self.pci_path(pci, bridge) if pci else "/sys/devices/virtual"
        path = f"{parent}/infiniband/{name}"
        self.files[f"{path}/node_type"] = node_type + "\n"
        self.links[f"/sys/class/infiniband/{name}"] = os.path.relpath(path, "/sys/class/infiniband")
        if pci:
            self.links[f"{path}/device"] = "../.."
            self.files[f"{parent}/vendor"] = vendor + "\n"
            self.files[f"{parent}/device"] = device_id + "\n"
            self.files[f"{parent}/numa_node"] = f"{-1 if numa is None else numa}\n"
            for netdev in netdevs:
                self.files[f"{parent}/net/{netdev}/mtu"] = "4200\n"
            if physfn:
                target = self.pci_path(physfn, bridge)
                self.links[f"{parent}/physfn"] = os.path.relpath(target, parent)
                self.files.setdefault(f"{target}/vendor", vendor + "\n")
        if verbs is not None:
            uverbs = f"uverbs{self._uverbs}"
            real = f"{parent}/infiniband_verbs/{uverbs}"
            self.files[f"{real}/ibdev"] = name + "\n"
            self.files[f"{real}/dev"] = f"231:{192 + self._uverbs}\n"
            self.links[f"/sys/class/infiniband_verbs/{uverbs}"] = os.path.relpath(
                real, "/sys/class/infiniband_verbs"
            )
            if verbs != "ENOENT":
                self.facts["verbs"][uverbs] = verbs
            self._uverbs += 1
        return FakeHca(self, name, path)

    def pci_path(self, address: str, bridge: str = "") -> str:
        """Return the real path of a PCI function and make it known to ``/sys/bus/pci``."""
        middle = f"/{bridge}" if bridge else f"/pci{address[:7]}"
        path = f"/sys/devices{middle}/{address}"
        self.links[f"/sys/bus/pci/devices/{address}"] = os.path.relpath(path, "/sys/bus/pci/devices")
        return path

    def gpu(
        self,
        pci: str,
        bridge: str = "",
        numa: int | None = None,
        *,
        minor: int | None = None,
        answer: str | None = None,
        model: str = "NVIDIA H100 80GB HBM3",
    ) -> Node:
        """Add an NVIDIA GPU at a PCI address; ``answer`` also adds its device node."""
        number = self._gpus if minor is None else minor
        self._gpus += 1
        path = self.pci_path(pci, bridge)
        self.files[f"{path}/numa_node"] = f"{-1 if numa is None else numa}\n"
        information = (
            f"Model: \t\t {model}\nIRQ:   \t\t 16\nGPU UUID: \t {gpu_uuid(number)}\nBus Type: \t PCIe\n"
            f"Bus Location: \t {pci}\nDevice Minor: \t {number}\nGPU Excluded:\t No\n"
        )
        self.files[f"/proc/driver/nvidia/gpus/{pci}/information"] = information
        if answer is not None:
            self.facts.setdefault("open", {})[f"/dev/nvidia{number}"] = answer
        return self

    def amd_gpu(
        self,
        number: int,
        pci: str,
        bridge: str = "",
        numa: int | None = None,
        answer: str = "ok",
        *,
        partition: int = 0,
    ) -> Node:
        """Add an AMD GPU as KFD node ``number``, with its render node; or one ``partition`` of it (its bits)."""
        path = self.pci_path(pci, bridge)
        self.files[f"{path}/numa_node"] = f"{-1 if numa is None else numa}\n"
        domain, bus, rest = pci.split(":")
        device, function = rest.split(".")
        location = int(bus, 16) << 8 | int(device, 16) << 3 | int(function) | partition
        base = f"/sys/class/kfd/kfd/topology/nodes/{number}"
        self.files[f"{base}/gpu_id"] = f"{4096 + number}\n"
        self.files[f"{base}/properties"] = (
            f"cpu_cores_count 0\nsimd_count 1216\nvendor_id 4098\ndevice_id 29857\nlocation_id {location}\n"
            f"domain {int(domain, 16)}\ndrm_render_minor {128 + number}\n"
        )
        self.facts.setdefault("open", {})[f"/dev/dri/renderD{128 + number}"] = answer
        return self

    def iommu(self, kind: str = "identity", *, apart: bool = False) -> Node:
        """Put every PCI function into an IOMMU group: one for all below a root port, or each ``apart``."""
        groups: dict[str, int] = {}
        for link, target in list(self.links.items()):
            if not link.startswith("/sys/bus/pci/devices/"):
                continue
            path = os.path.normpath(f"{os.path.dirname(link)}/{target}")
            number = groups.setdefault(path if apart else path.split("/")[4], len(groups))
            group = f"/sys/kernel/iommu_groups/{number}"
            self.files[f"{group}/type"] = f"{kind}\n"
            self.links[f"{group}/devices/{os.path.basename(path)}"] = os.path.relpath(path, f"{group}/devices")
            self.links[f"{path}/iommu_group"] = os.path.relpath(group, path)
        return self

    def default_route(self, interface: str) -> Node:
        """Give ``interface`` the IPv4 default route."""
        self.files["/proc/net/route"] = _ROUTE_HEAD
        return self.gateway_route(interface, mask="00000000")

    def gateway_route(self, interface: str, *, mask: str = "000000FF") -> Node:
        """Give ``interface`` an IPv4 route beyond its link, to 10.0.0.0/8 where ``mask`` is not given."""
        destination = "0000000A" if mask != "00000000" else mask
        line = f"{interface}\t{destination}\t0100000A\t0003\t0\t0\t0\t{mask}\t0\t0\t0\n"
        self.files["/proc/net/route"] = self.files.get("/proc/net/route", _ROUTE_HEAD) + line
        return self

    def set(self, **facts: Any) -> Node:
        """Set keys of ``facts.json``."""
        self.facts.update(facts)
        return self

    def content(self) -> tuple[dict[str, bytes], dict[str, str], dict[str, Any]]:
        """Return files, links and facts, as a snapshot holds them."""
        for port in self.ports:
            port.write()
        files = {path: text.encode() for path, text in self.files.items()}
        return files, dict(self.links), {**self.facts, "errno": dict(self.errno)}

    def host(self) -> Host:
        """Return the node as a recorded host."""
        files, links, facts = self.content()
        return Host(MemoryTree(files, links, facts["errno"]), RecordedAnswers(Document("test", facts)))

    def write(self, folder: Path) -> Path:
        """Write the node as a snapshot folder and return it."""
        import json

        files, links, facts = self.content()
        for path, data in files.items():
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for path, destination in links.items():
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(destination)
        (folder / "facts.json").write_text(json.dumps(facts))
        return folder
