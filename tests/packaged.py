"""The three nodes that the package carries as snapshots. ``python -m tests.packaged`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import sglang_roce_entry
from sglang_roce_entry.host.snapshot.write import pack
from tests.trees import FakeHca, Node

SLOTS = 256
#: The verbs providers of Ubuntu 24.04 (ibverbs-providers 50.0).
_PROVIDERS = (
    *("bnxt_re", "cxgb4", "efa", "erdma", "hfi1verbs", "hns", "ipathverbs", "irdma", "mana", "mlx4"),
    *("mlx5", "mthca", "ocrdma", "qedr", "rxe", "siw", "vmw_pvrdma"),
)
#: What the image of SGLang 0.5.10 (CUDA 12.9) has installed.
_PACKAGES = {
    "torch": "2.9.1",
    "sglang-kernel": "0.4.1",
    "mooncake-transfer-engine": "0.3.9",
    "nvidia-nvshmem-cu12": "3.4.5",
}
_VERSIONS = {"sglang": "0.5.10", "nccl": "2.28.3", "mooncake": "0.3.9"}


_CLUSTER_DNS = (
    "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
)


def _image(node: Node, *, shm_gib: int, own_address: str, dns: str = _CLUSTER_DNS, cuda: str = "cu129") -> None:
    """Put SGLang's image and what the pod's manifest, or ``docker run``, gives it."""
    node.files["/etc/os-release"] = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nID=ubuntu\n'
    node.files.update({f"/etc/libibverbs.d/{name}.driver": f"driver {name}\n" for name in _PROVIDERS})
    node.files["/etc/resolv.conf"] = dns
    node.set(
        check={
            "shm_bytes": shm_gib << 30,
            "shm_free_bytes": (shm_gib << 30) - (24 << 20),
            "glibc": "2.39",
            "rdma_core": "50.0",
            "packages": {**_PACKAGES, "torch": f"{_PACKAGES['torch']}+{cuda}"},
            "own_name": [own_address],
            "proxy": {"variable": None, "host": "", "no_proxy": ""},
        },
        versions=dict(_VERSIONS),
    )


def _kernel(node: Node, *, release: str, nvidia: str, ofed: str | None = None) -> None:
    """Put the versions of the node: its kernel, the GPU driver and NVIDIA's OFED, which has one, if any."""
    node.files["/proc/sys/kernel/osrelease"] = f"{release}\n"
    if ofed is not None:
        node.files["/sys/module/mlx5_core/version"] = f"{ofed}\n"
    node.files["/proc/driver/nvidia/version"] = f"NVRM version: NVIDIA UNIX {nvidia}\n"
    node.links["/sys/bus/pci/drivers/mlx5_core/module"] = "../../../../module/mlx5_core"


def _connectx7(hca: FakeHca, *, firmware: str, virtual: bool = False, lanes: int = 16) -> FakeHca:
    """Put the driver, the firmware and the PCI link of a card for PCIe 5.0; a VF has no link of its own."""
    function = hca.path.rpartition("/infiniband/")[0]
    hca.node.links[f"{function}/driver"] = os.path.relpath("/sys/bus/pci/drivers/mlx5_core", function)
    hca.node.files[f"{hca.path}/fw_ver"] = f"{firmware}\n"
    speed = "32.0 GT/s PCIe"
    link = {
        "current_link_speed": "Unknown" if virtual else speed,
        "current_link_width": "0" if virtual else f"{lanes}",
        "max_link_speed": speed,
        "max_link_width": f"{lanes}",
    }
    hca.node.files.update({f"{function}/{name}": f"{value}\n" for name, value in link.items()})
    return hca


def _counters(hca: FakeHca, *, sent: int, handled: int) -> None:
    """Put the counters of a port that lost nothing: ``sent`` congestion notifications, and those it handled."""
    values = {
        **dict.fromkeys(("hw_counters/out_of_sequence", "hw_counters/packet_seq_err"), 0),
        **dict.fromkeys(("hw_counters/local_ack_timeout_err", "counters/port_xmit_discards"), 0),
        **dict.fromkeys(("counters/link_downed", "counters/symbol_error"), 0),
        "hw_counters/np_ecn_marked_roce_packets": 4 * sent,
        "hw_counters/np_cnp_sent": sent,
        "hw_counters/rp_cnp_handled": handled,
    }
    hca.node.files.update({f"{hca.path}/ports/1/{name}": f"{value}\n" for name, value in values.items()})


def h20_roce() -> Node:
    """Return the leader of two nodes with 8 GPUs and four bonded 200 Gb/s HCAs, host network."""
    node = Node()
    node.interface("lo", "127.0.0.1/8", "::1/128", mtu=65536, gbps=0)
    node.interface("eth0", "10.0.0.11/24", "fe80::e42:a1ff:fe00:11/64", mtu=1500, gbps=25)
    node.default_route("eth0")
    for rail in range(4):
        root = 0x10 + 0x20 * rail
        bridge = f"pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{root + 1:02x}:00.0"
        hca = node.hca(
            f"mlx5_bond_{rail}",
            pci=f"0000:{root + 4:02x}:00.0",
            bridge=f"{bridge}/0000:{root + 2:02x}:02.0",
            numa=rail // 2,
        )
        _connectx7(hca, firmware="28.42.1000")
        _counters(hca, sent=(18_213, 17_964, 20_551, 19_870)[rail], handled=(21_406, 20_988, 18_745, 19_312)[rail])
        own, link_local = f"10.20.{rail}.11", f"fe80::e42:a1ff:fe00:{rail + 20:x}"
        hca.port(gbps=200, slots=SLOTS).pair(link_local, f"bond{rail}").pair(own, f"bond{rail}")
        node.interface(f"bond{rail}", f"{own}/24", f"{link_local}/64", gbps=400)
        for position in range(2):
            bus = root + 6 + 2 * position
            place = f"{bridge}/0000:{root + 2:02x}:{position:02x}.0"
            node.gpu(f"0000:{bus:02x}:00.0", place, rail // 2, model="NVIDIA H20")
    _image(node, shm_gib=64, own_address="10.0.0.11")
    _kernel(
        node,
        release="5.15.0-122-generic",
        ofed="24.07-0.6.1",
        nvidia="x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
    )
    node.files["/sys/module/nvidia_peermem/version"] = "535.183.01\n"
    node.iommu()
    return node.set(
        memlock="unlimited",
        resolve={"sglang-0.sglang.default": ["10.0.0.11"]},
        routes={"10.0.0.11": {"interface": "eth0", "source": "10.0.0.11"}},
        open={f"/dev/nvidia{minor}": "ok" for minor in range(8)},
        gpus=8,
        uid=0,
        libibverbs="ok",
        environ={
            "LWS_LEADER_ADDRESS": "sglang-0.sglang.default",
            "LWS_GROUP_SIZE": "2",
            "LWS_WORKER_INDEX": "0",
        },
    )


def cx7_pod() -> Node:
    """Return a worker pod on one SR-IOV function of a ConnectX-7: index 3 is another pod's, 5 its own."""
    node = Node()
    node.interface("lo", "127.0.0.1/8", mtu=65536, gbps=0)
    node.interface("eth0", "10.244.2.23/24", "fe80::5c8d:2fff:fe11:1/64", mtu=1450, gbps=10)
    node.interface("net1", "10.56.217.173/24", "fe80::a0b1:c2ff:fe33:7/64", mtu=4200)
    node.default_route("eth0")
    bridge = "pci0000:a0/0000:a0:01.0"
    physical = node.hca("mlx5_0", pci="0000:a1:00.0", bridge=bridge, verbs="ENOENT", numa=1)
    _connectx7(physical, firmware="28.43.2026")
    physical.port(gbps=400, slots=SLOTS).pair("fe80::a0b1:c2ff:fe33:1", "ens1np0").pair("10.56.217.20", "ens1np0")
    function = node.hca(
        "mlx5_7",
        pci="0000:a1:01.2",
        bridge=bridge,
        numa=1,
        physfn="0000:a1:00.0",
        device_id="0x101e",
        netdevs=("net1",),
    )
    _connectx7(function, firmware="28.43.2026", virtual=True)
    port = function.port(gbps=400, slots=SLOTS)
    port.pair("fe80::a0b1:c2ff:fe33:7", "net1")
    port.pair("10.56.217.171", "net1")  # a neighbour's, on its own net1
    port.pair("10.56.217.173", "net1")
    # Counters are not among its files: the kernel shows them to the namespace that owns the device.
    _image(node, shm_gib=32, own_address="10.244.2.23")
    _kernel(
        node,
        release="6.8.0-87-generic",
        ofed="24.10-1.1.4",
        nvidia=(
            "Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22-I3-B17-02-5)  "
            "Tue Sep 23 09:55:41 UTC 2025"
        ),
    )
    return node.set(
        memlock="unlimited",
        resolve={"sglang-0.sglang.default": ["10.244.1.17"]},
        routes={"10.244.1.17": {"interface": "eth0", "source": "10.244.2.23"}},
        gpus=8,
        uid=0,
        libibverbs="ok",
        environ={
            "LWS_LEADER_ADDRESS": "sglang-0.sglang.default",
            "LWS_GROUP_SIZE": "2",
            "LWS_WORKER_INDEX": "1",
        },
    )


def spark(own: str, leader: str, *, index: int, twin: str | None = None) -> Node:
    """Return one of two DGX Sparks on one cable, in a container on the host network, with these addresses.

    Public (NVIDIA/dgx-spark-playbooks, nvidia/connect-two-sparks and nvidia/nccl): one ConnectX-7 whose two
    sockets are two functions each, so that a cable is seen twice; their names; and the addresses. Made up: the
    order of the GID table, PCI paths, firmware, release of the kernel, MTU.
    """
    node = Node()
    node.interface("lo", "127.0.0.1/8", "::1/128", mtu=65536, gbps=0)
    node.interface("enP7s7", f"192.168.1.2{index}/24", f"fe80::3e6d:66ff:fe00:{index}7/64", mtu=1500, gbps=10)
    node.default_route("enP7s7")
    for function, (domain, prefix) in enumerate(((0, "p1"), (2, "P2p1"))):
        for socket in range(2):
            plugged = socket == 1
            netdev = f"en{prefix}s0f{socket}np{socket}"
            link_local = f"fe80::3e6d:66ff:fe00:{index}{domain + socket}"
            hca = node.hca(
                f"roce{prefix}s0f{socket}",
                pci=f"{domain:04x}:01:00.{socket}",
                bridge=f"pci{domain:04x}:00/{domain:04x}:00:00.0",
                numa=0,
                netdevs=(netdev,),
            )
            _connectx7(hca, firmware="28.45.4028", lanes=4)
            state = "4: ACTIVE" if plugged else "1: DOWN"
            port = hca.port(gbps=200 if plugged else 40, state=state, slots=SLOTS).pair(link_local, netdev)
            addresses = [f"{link_local}/64"] if plugged else []
            address = (own, twin)[function] if plugged else None
            if address is not None:
                port.pair(address.partition("/")[0], netdev)
                addresses.insert(0, address)
            node.interface(netdev, *addresses, up=plugged, mtu=9000, gbps=200 if plugged else 0)
    node.gpu("000f:01:00.0", "pci000f:00/000f:00:00.0", 0, model="NVIDIA GB10")
    _image(node, shm_gib=32, own_address=f"192.168.1.2{index}", dns="nameserver 127.0.0.53\n", cuda="cu130")
    _kernel(
        node,
        release="6.14.0-1013-nvidia",
        nvidia="Open Kernel Module for aarch64  580.95.05  Release Build  (dvs-builder@U22-I3-AM02-24-3)",
    )
    node.iommu()
    return node.set(
        memlock="unlimited",
        resolve={leader: [leader]},
        routes={leader: {"interface": "enp1s0f1np1", "source": own.partition("/")[0]}},
        open={"/dev/nvidia0": "ok"},
        gpus=1,
        uid=0,
        libibverbs="ok",
        environ={
            "SGLANG_ROCE_LEADER_ADDRESS": leader,
            "SGLANG_ROCE_GROUP_SIZE": "2",
            "SGLANG_ROCE_WORKER_INDEX": f"{index}",
        },
    )


def gb10() -> Node:
    """Return the second DGX Spark as ``link-local: [ipv4]`` of NVIDIA's playbook leaves it: its twin has no address."""
    return spark("169.254.35.63/16", "169.254.35.62", index=1)


PACKAGED = {"h20-roce": h20_roce, "cx7-pod": cx7_pod, "gb10": gb10}


def packed(name: str) -> bytes:
    """Return the archive of one packaged node."""
    return pack(*PACKAGED[name]().content())


def folder() -> Path:
    """Return where the package keeps them."""
    return Path(sglang_roce_entry.__file__).parent / "snapshots"


if __name__ == "__main__":
    for name in PACKAGED:
        (folder() / f"{name}.tar.gz").write_bytes(packed(name))
