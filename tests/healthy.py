"""A node where nothing is wrong, for tests that break one thing."""

from __future__ import annotations

from tests.trees import Node

LEADER = "sglang-0.sglang.default"
COUNTERS = ("out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "np_cnp_sent")


def healthy(*, rails: int = 2, mtu: int = 4200, state: str = "4: ACTIVE") -> Node:
    """Return a worker of two nodes on the host network where nothing is wrong."""
    node = Node()
    node.interface("lo", "127.0.0.1/8", mtu=65536)
    node.interface("eth0", "10.0.0.12/24", mtu=1500)
    node.default_route("eth0")
    for rail in range(rails):
        pci = f"0000:{rail + 0x18:02x}:00.0"
        hca = node.hca(f"mlx5_{rail}", pci=pci, netdevs=(f"net{rail}",))
        port = hca.port(gbps=400, state=state)
        port.pair(f"fe80::{rail + 1}", f"net{rail}").pair(f"10.1.{rail}.1", f"net{rail}")
        node.interface(f"net{rail}", f"10.1.{rail}.1/24", f"fe80::{rail + 1}/64", mtu=mtu)
        path = node.pci_path(pci)
        node.files[f"{path}/current_link_speed"] = node.files[f"{path}/max_link_speed"] = "32.0 GT/s PCIe\n"
        node.files[f"{path}/current_link_width"] = node.files[f"{path}/max_link_width"] = "16\n"
        node.links[f"{path}/driver"] = "../../../bus/pci/drivers/mlx5_core"
        node.files[f"{hca.path}/fw_ver"] = "28.41.1000\n"
        for name in COUNTERS:
            node.files[f"{hca.path}/ports/1/hw_counters/{name}"] = "0\n"
    node.files["/sys/bus/pci/drivers/mlx5_core/module/refcnt"] = "1\n"
    node.files["/sys/module/mlx5_core/version"] = "24.10-0.7.0\n"
    node.files["/sys/module/nvidia_peermem/version"] = "570.86\n"
    node.files["/etc/resolv.conf"] = "search default.svc.cluster.local svc.cluster.local cluster.local\n"
    node.files["/etc/os-release"] = 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n'
    node.files["/etc/libibverbs.d/mlx5.driver"] = "driver mlx5\n"
    node.files["/proc/sys/kernel/osrelease"] = "6.8.0-45-generic\n"
    return node.set(
        memlock="unlimited",
        resolve={LEADER: ["10.0.0.11"]},
        routes={"10.0.0.11": {"interface": "eth0", "source": "10.0.0.12"}},
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
        gpus=8,
        uid=0,
        libibverbs="ok",
        check={
            "shm_bytes": 32 << 30,
            "shm_free_bytes": 32 << 30,
            "glibc": "2.35",
            "rdma_core": "39.0",
            "own_name": ["10.0.0.12"],
            "proxy": {"variable": None, "host": "", "no_proxy": ""},
            "packages": {"torch": "2.9.1", "sgl-kernel": "0.3.21"},
        },
        environ={"LWS_LEADER_ADDRESS": LEADER, "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"},
    )
