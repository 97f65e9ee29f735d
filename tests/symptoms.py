"""What the log says, what it means, what to change: the rows of a table in k8s/TROUBLESHOOTING.md.

``tests/command/test_symptoms.py`` produces each row by the command itself, so none can rot.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.healthy import healthy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.trees import Node

MODEL = ("--model-path", "/m")


@dataclass(frozen=True)
class Symptom:
    """One row. ``says`` and ``change`` are parts of what the command prints on ``node`` or here."""

    says: str
    means: str
    change: str
    node: Callable[[], Node] | None = None  # None: a launch on this machine
    environ: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = MODEL
    around: Callable[[], AbstractContextManager[str]] = lambda: nullcontext("64900")  # the dist-init port


def _node(change: Callable[[Node], object]) -> Callable[[], Node]:
    def make() -> Node:
        node = healthy()
        change(node)
        return node

    return make


def _only_foreign_gids(node: Node) -> None:
    for rail in range(2):
        del node.facts["interfaces"][f"net{rail}"]


def _slow(node: Node) -> None:
    path = next(path for path in node.files if path.endswith("infiniband/mlx5_1/ports/1/rate"))
    node.files[path] = "100 Gb/sec (4X EDR)\n"


def _two_indices(node: Node) -> None:
    port = node.ports[1]
    for index in (2, 3):
        port.used[index + 2] = port.used.pop(index)
    node.set(versions={"sglang": "0.5.10", "nccl": "2.20.5"})


def _foreign_sysfs(node: Node) -> None:
    node.netdev("ens1f0np0")


@contextmanager
def taken_port() -> Iterator[str]:
    """Hold a port of this machine."""
    with socket.create_server(("", 0)) as held:
        yield str(held.getsockname()[1])


_WAIT = ("--rdma", "off", "--gpus", "1", "--group-size", "2", "--wait-deadline", "1", "--linger", "0")
WORKER = (*_WAIT, "--worker-index", "1")

SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "no RDMA device is visible: /sys/class/infiniband is empty",
        "No RoCE HCA on this node, or RDMA is in exclusive mode and none was moved into the pod. "
        "NCCL alone: `NET/IB : No device found`, then TCP",
        "run on a node with RoCE HCAs",
        lambda: healthy(rails=0),
    ),
    Symptom(
        "/dev/infiniband/uverbs0 does not exist in this container",
        "The HCA is visible in /sys, as always, but was not given to the pod. NCCL alone: TCP, without a message",
        "request the RDMA resource in the manifest",
        _node(lambda node: node.set(verbs={})),
    ),
    Symptom(
        "may not be opened here (EPERM: device cgroup",
        "The device node is mounted (hostPath) but not granted. NCCL alone: `Unable to open device`, or a hang "
        "where only some ranks are refused",
        "request the RDMA resource in the manifest",
        _node(lambda node: node.set(verbs={"uverbs0": "EPERM", "uverbs1": "EPERM"})),
    ),
    Symptom(
        "belongs to net0 of another network namespace",
        "The pod sees the node's GIDs and has no address on the HCA itself. NCCL alone: "
        "`ibv_modify_qp failed with 19 No such device`",
        "hostNetwork: true, or a secondary network",
        _node(_only_foreign_gids),
    ),
    Symptom(
        "the ports need different GID indices",
        "One index does not fit every HCA, and this NCCL does not choose by itself. NCCL alone: "
        "`status=12` on some rails",
        "use an image with NCCL 2.26 or later",
        _node(_two_indices),
    ),
    Symptom(
        "NCCL_IB_GID_INDEX=1 (the pod's environment) is wrong on mlx5_0:1",
        "An index copied from a guide or another cluster. NCCL alone: error 12, or `ibv_modify_qp failed with 22`",
        "remove NCCL_IB_GID_INDEX: the right index is found at every start",
        healthy,
        {"NCCL_IB_GID_INDEX": "1"},
    ),
    Symptom(
        "names 'mlx5_9', which this node does not have",
        "NCCL does not report an unknown name, finds no device and uses TCP",
        "remove NCCL_IB_HCA: devices are found at every start",
        healthy,
        {"NCCL_IB_HCA": "=mlx5_9"},
    ),
    Symptom(
        "mlx5_1 port 1 runs at 100 Gb/s, others at 400 Gb/s",
        "A degraded link: every collective is as slow as its slowest rail",
        "check cable, transceiver and switch port",
        _node(_slow),
    ),
    Symptom(
        "memlock is limited to 65536 bytes and CAP_IPC_LOCK is not effective",
        "RDMA memory cannot be pinned. NCCL alone, at the first connection: "
        "`Call to ibv_reg_mr failed with error Cannot allocate memory`",
        "add securityContext.capabilities.add: [IPC_LOCK]",
        _node(lambda node: node.set(memlock=65536, capabilities=[])),
    ),
    Symptom(
        "libibverbs cannot be loaded",
        "The image lacks it. NCCL alone: TCP, without a message",
        "install libibverbs1 and ibverbs-providers in the image",
        _node(lambda node: node.set(libibverbs="libibverbs.so.1: cannot open shared object file")),
    ),
    Symptom(
        "libibverbs does not list it: the image has no verbs provider for it",
        "The image lacks the card's provider, or has one of another rdma-core release, or one too old for the node's "
        "driver. NCCL alone: `NET/IB : No device found`, then TCP",
        "install the card's verbs provider in the image, of the same release as its libibverbs",
        _node(lambda node: node.set(verbs_listed=[])),
    ),
    Symptom(
        "the /sys mounted here belongs to another network namespace",
        "The host's /sys is mounted into the pod: names and GIDs in it are the node's",
        "do not mount the host's /sys into the pod",
        _node(_foreign_sysfs),
    ),
    Symptom(
        "GLOO_SOCKET_IFNAME=^lo (the pod's environment): Gloo takes exact names",
        "NCCL's grammar given to Gloo. SGLang alone: `Unable to find address for: ^lo`",
        "remove it, or name one of: eth0",
        healthy,
        {"GLOO_SOCKET_IFNAME": "^lo"},
    ),
    Symptom(
        "SGLANG_HOST_IP=192.0.2.9 (the pod's environment) is not an address of this pod",
        "SGLang's message queue is put on an address that nothing can reach: it hangs after NCCL has "
        "succeeded, without a timeout",
        "status.hostIP is the node's address, not the pod's",
        healthy,
        {"SGLANG_HOST_IP": "192.0.2.9"},
    ),
    Symptom(
        "'$(LWS_LEADER_ADDRESS):20000' was not expanded",
        "Nobody has put the variable's value there. SGLang alone: DNS errors for ten minutes",
        "remove --dist-init-addr: it is filled in from the group",
        healthy,
        argv=(*MODEL, "--dist-init-addr", "$(LWS_LEADER_ADDRESS):20000"),
    ),
    Symptom(
        "incomplete identity",
        "Leader, size and index must all be known. Alone, SGLang would start as another rank, or wait forever",
        "set --worker-index (SGLANG_ROCE_WORKER_INDEX), or run under LeaderWorkerSet v0.6 or later",
        healthy,
        {"LWS_WORKER_INDEX": ""},
    ),
    Symptom(
        "PET_NNODES=2 looks like a group of Kubeflow Trainer or PyTorchJob, but nothing tells this pod its place",
        "Each pod would serve the model alone. Other controllers than LeaderWorkerSet and RoleBasedGroup are told by "
        "three lines of the manifest",
        "--leader-address $(PET_MASTER_ADDR) --group-size $(PET_NNODES) --worker-index $(PET_NODE_RANK)",
        healthy,
        {"LWS_LEADER_ADDRESS": "", "LWS_GROUP_SIZE": "", "LWS_WORKER_INDEX": "", "PET_NNODES": "2"},
    ),
    Symptom(
        "--tp 15 cannot be divided among 2 nodes",
        "SGLang would reject it after its imports",
        "remove --tp: it is computed as GPUs × nodes / pp",
        healthy,
        argv=(*MODEL, "--tp", "15"),
    ),
    Symptom(
        "SGLANG_BLOCK_NONZERO_RANK_CHILDREN=0 makes a worker exit right after loading",
        "Meant for SGLang's Python Engine; the group dies as soon as it has loaded",
        "remove it",
        healthy,
        {"SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "0"},
    ),
    Symptom(
        "does not resolve",
        "The leader pod is not scheduled, its headless Service is missing (or another Service has "
        "its name), or this pod does not use the cluster's DNS (`hostNetwork` without "
        "`dnsPolicy: ClusterFirstWithHostNet`)",
        "to wait longer: --wait-deadline",
        argv=(*WORKER, "--leader-address", "sglang-0.sglang.invalid", *MODEL),
    ),
    Symptom(
        "refuses connections on",
        "The leader's pod is up, but neither its launcher nor its SGLang is there: it has not started, has refused, or "
        "crashed. SGLang alone: `1/2 clients joined` after 600 s",
        "the leader's launcher is not there yet",
        argv=(*WORKER, "--leader-address", "127.0.0.1", *MODEL),
    ),
    Symptom(
        "ports that SGLang needs were not free",
        "Another pod of the host network, or a predecessor that is still ending. SGLang alone: `EADDRINUSE`, exit 137",
        "choose another port with the option in brackets (D with --dist-init)",
        argv=(*_WAIT, "--worker-index", "0", "--leader-address", "127.0.0.1", *MODEL),
        around=taken_port,
    ),
)


def table() -> str:
    """Return the rows as the page shows them."""
    rows = [
        f"| {one.says.replace('|', '/')} | {one.means} | {one.change} |".replace("...", "…") for one in SYMPTOMS
    ]
    return "\n".join(["| the log shows ... | it means | what to change |", "|---|---|---|", *rows])
