"""The README's `docker run` on two DGX Sparks with one cable: launchers of two network namespaces, no Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaged import spark
from tests.process.group import assert_clean_handover, assert_control_interface, option_values
from tests.process.nodes import Cluster, Node, ip_batch
from tests.readme import docker_run
from tests.verbs.stubs import stub_library

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.netns

CABLE, TWIN, MANAGEMENT = "enp1s0f1np1", "enP2p1s0f1np1", "enP7s7"
NETDEVS = (CABLE, TWIN, "enp1s0f0np0", "enP2p1s0f0np0")
HCAS = ("rocep1s0f0", "rocep1s0f1", "roceP2p1s0f0", "roceP2p1s0f1")
MEETS_S = 60.0
#: Device nodes with the numbers of /dev/null open.
DEVICES = (
    "mkdir /dev/infiniband && for node in infiniband/uverbs{0,1,2,3} nvidia0; do mknod /dev/$node c 1 3; done"
)


def _as_spark(machine: Node, own: str, twin: str | None, leader: str, index: int) -> None:
    """Give the node a DGX Spark's interfaces, sysfs and devices."""
    recorded = spark(own, leader, index=index, twin=twin)
    recorded.files.update({path: "1:3\n" for path in recorded.files if path.endswith("/dev")})
    folder = recorded.write(machine.directory / "recorded")
    machine.mount_over(Path("/sys"), folder / "sys")
    machine.ip(
        f"link set eth0 down name {MANAGEMENT}",
        f"link set {MANAGEMENT} up",
        "route add default via 10.77.0.1",
        *(f"link set {name} up addrgenmode none" for name in (CABLE, TWIN)),
        *(
            f"addr add {address} dev {name}{' nodad' if ':' in address else ''}"
            for name in (CABLE, TWIN)
            for address in recorded.facts["interfaces"][name]["addresses"]
        ),
    )
    assert machine.start((), command=["bash", "-ec", DEVICES]).wait_exit(10) == 0


@pytest.mark.parametrize(
    ("own", "twins", "used"),
    [
        (("192.168.100.10/24", "192.168.100.11/24"), ("192.168.101.10/24", "192.168.101.11/24"), 2),
        (("169.254.35.62/16", "169.254.35.63/16"), (None, None), 1),
    ],
    ids=["addresses", "link-local"],
)
def test_the_readmes_docker_run(
    cluster: Cluster, tmp_path: Path, own: Sequence[str], twins: Sequence[str | None], used: int
) -> None:
    machines = [cluster.add_node("spark-0"), cluster.add_node("spark-1")]
    for name in NETDEVS:
        ip_batch(machines[0].pid, f"link add {name} type veth peer name {name} netns {machines[1].pid}")
    leader = own[0].partition("/")[0]
    library = {"LD_LIBRARY_PATH": str(stub_library(tmp_path)), "STUB_VERBS": ",".join(HCAS)}
    launches = []
    for rank, machine in enumerate(machines):
        _as_spark(machine, own[rank], twins[rank], leader, rank)
        variables, arguments = docker_run(rank)
        if used == 2:
            assert variables["SGLANG_ROCE_LEADER_ADDRESS"] == leader
        variables["SGLANG_ROCE_LEADER_ADDRESS"] = leader
        launches.append(machine.start(arguments, {**variables, **library}))
    for rank, launch in enumerate(launches):
        record = launch.wait_record(MEETS_S)
        assert launch.wait_exit(10) == 0, launch.account()
        assert_clean_handover(launch, record)
        given = option_values(record["argv"])
        assert given == {
            "--tp-size": "2", "--nnodes": "2", "--node-rank": str(rank), "--dist-init-addr": f"{leader}:20000",
            "--host": "0.0.0.0", "--model-path": "/models/deepseek",
        }  # fmt: skip
        assert_control_interface(record, CABLE, own[rank].partition("/")[0])
        ports = ["roceP2p1s0f1:1", "rocep1s0f1:1"][-used:]
        assert record["environment"]["NCCL_IB_HCA"] == f"={','.join(ports)}"
        assert record["environment"]["NCCL_IB_GID_INDEX"] == "3"
        assert ("LINK_LOCAL_FABRIC" in launch.text()) == ("RAIL_WITHOUT_ADDRESS" in launch.text()) == (used == 1)
