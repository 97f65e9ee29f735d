"""The harness itself: what the other tests rest on, and that nothing of it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.process.command import CHECKOUT
from tests.process.dns import TYPE_A, TYPE_AAAA
from tests.process.group import LEADER_ADDRESS, LEADER_RECORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.nodes import Cluster, Node

pytestmark = pytest.mark.netns

# Opens a cluster as a test does, says which processes it has, and goes on for ever.
ABANDONED = """
import signal, sys, time
from pathlib import Path
from tests.process.nodes import Cluster

# A shell's background job, and so these tests in it, inherits an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
with Cluster(Path(sys.argv[1]), None) as cluster:
    node = cluster.add_node("sglang-0")
    plain = node.start(["60"], command=["sleep"])
    first = node.start(["60"], command=["sleep"], pid_1=True)
    pids = [node.pid, plain.process.pid, first.process.pid, first.first_in_pid_namespace()]
    print(*pids, flush=True)
    time.sleep(60)
"""


def network_namespace(pid: int | str) -> str | None:
    """Return the network namespace that a process is in, None if it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def lives(process: psutil.Process) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def network_namespaces() -> set[str | None]:
    """Return the network namespaces that some process is in."""
    return {network_namespace(pid) for pid in psutil.pids()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_survives(cluster: Cluster, tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends the run of the tests: the processes in the nodes go, and so do the nodes."""
    del cluster  # only asked for as the requirement
    directory = tmp_path / "abandoned"
    directory.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", ABANDONED, str(directory)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert run.stdout is not None
    with run:
        # Held as processes, not as numbers: a number can be somebody else's a moment later.
        processes = [psutil.Process(int(word)) for word in run.stdout.readline().split()]
        assert len(processes) == 4
        own = network_namespace(processes[0].pid)
        assert own is not None
        assert own in network_namespaces()
        run.send_signal(number)
        run.wait(timeout=10)
    end_s = time.monotonic() + 5
    while any(lives(process) for process in processes) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert [process for process in processes if lives(process)] == []
    assert own not in network_namespaces()


def test_a_node_looks_like_a_pod(cluster: Cluster) -> None:
    """Host name, interfaces, search list and both families, as the C library sees them."""
    node = cluster.add_node("sglang-0", (4, 6))
    assert node.ipv4 is not None
    assert node.ipv6 is not None
    cluster.dns.publish(LEADER_RECORD, node.ipv4, node.ipv6)
    script = f"uname -n; ls /sys/class/net; getent ahosts {LEADER_ADDRESS}; getent ahosts no.such"
    launch = node.start(["-c", script], command=["sh"])
    assert launch.wait_exit(10) == 2, launch.account()  # getent: not found
    said = launch.text("stdout").split()
    assert said[:3] == ["sglang-0", "eth0", "lo"]
    assert {node.ipv4, node.ipv6} < set(said)
    # The search list: the name with `default.` in front of the domain first, then the right one.
    asked = [query.name for query in cluster.dns.queries(record_type=TYPE_A)]
    assert asked[:2] == [f"{LEADER_ADDRESS}.default.svc.cluster.local", LEADER_RECORD]
    assert cluster.dns.queries(LEADER_RECORD, TYPE_AAAA)


def test_the_name_server_answers_while_nodes_are_added(cluster: Cluster) -> None:
    """A bridge takes the lowest address of its ports, unless it has one of its own: then all others' ARP is stale."""
    node = cluster.add_node("sglang-0")
    cluster.dns.publish(LEADER_RECORD, node.address)
    for number in range(2, 8):
        node.add_interface(f"net{number}", f"10.80.{number}.1/24")
        launch = node.start(["hosts", LEADER_ADDRESS], command=["getent"])
        assert launch.wait_exit(4) == 0, launch.account()  # the C library asks again after 5 s


def test_nodes_reach_each_other_and_not_the_machine(cluster: Cluster, leader: Node, worker: Node) -> None:
    """A connection arrives, is seen as orderly; what does not listen refuses, and is counted."""
    connect = (
        "import socket, sys\n"
        "for port in (20000, 20001):\n"
        "    try:\n"
        "        socket.create_connection((sys.argv[1], port), 5).close()\n"
        "    except ConnectionRefusedError:\n"
        "        print('refused', port)\n"
    )
    with leader.listen(20000) as port:
        launch = worker.start(["-c", connect, leader.address], command=[sys.executable])
        assert launch.wait_exit(10) == 0, launch.account()
        visits = port.visits()
    assert [(visit.peer, visit.orderly) for visit in visits] == [(worker.address, True)]
    assert launch.text("stdout") == "refused 20001"
    assert leader.refusals() == 1
    namespaces = {network_namespace(pid) for pid in (leader.pid, worker.pid, "self")}
    assert len(namespaces) == 3
