"""The leader's own wait: for its name and for its ports; then both roles together."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.process.command import START_S
from tests.process.group import (
    ATTENTION_DP,
    DIST_PORT,
    HTTP_PORT,
    LEADER_ADDRESS,
    LEADER_RECORD,
    NOT_RESOLVED,
    NOTICE_S,
    PROMPT_S,
    SGLANG_ARGUMENTS,
    WAITING,
    assert_clean_handover,
    assert_control_interface,
    assert_group_arguments,
    launch_arguments,
    lws,
    option_values,
)

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Node

pytestmark = pytest.mark.netns


def test_own_name_comes_late(cluster: Cluster, leader: Node) -> None:
    """The Service is made after the pod: rank 0 must not start before its own name is known."""
    launch = leader.start(launch_arguments("--wait-deadline", "30"), lws(0), behaviour="exit:4")
    launch.wait_for_line(NOT_RESOLVED, START_S)
    launch.still_waiting(0.5)
    cluster.dns.publish(LEADER_RECORD, leader.address)
    record = launch.wait_record(NOTICE_S)
    assert launch.wait_exit(5) == 4
    assert_group_arguments(record, index=0)
    assert_control_interface(record, "eth0", leader.address)
    assert_clean_handover(launch, record)
    # SGLang's own patience with its workers begins here; the log says so.
    assert "600" in launch.text()


def test_own_name_is_stale(cluster: Cluster, leader: Node) -> None:
    """After a recreation DNS can serve the old pod's address for a while; the line names it."""
    cluster.dns.publish(LEADER_RECORD, "10.77.0.200")
    launch = leader.start(launch_arguments("--wait-deadline", "30"), lws(0))
    launch.wait_for_line(r"10\.77\.0\.200", START_S)
    launch.still_waiting(0.5)
    cluster.dns.publish(LEADER_RECORD, leader.address)
    record = launch.wait_record(NOTICE_S)
    assert launch.wait_exit(5) == 0
    assert_group_arguments(record, index=0)


def test_own_name_never_comes(cluster: Cluster, leader: Node) -> None:
    launch = leader.start(launch_arguments("--wait-deadline", "1", "--linger", "0"), lws(0))
    first = launch.wait_for_line(WAITING, START_S)
    assert launch.wait_exit(START_S) == 124, launch.account()
    assert time.monotonic() - first.at_s < 2.0
    launch.assert_not_started()
    assert LEADER_ADDRESS in leader.termination_log().decode().splitlines()[0]


def test_name_that_stays_another_nodes(cluster: Cluster, leader: Node, worker: Node) -> None:
    """Rank 0 on a name that leads elsewhere would wait for its workers for ever."""
    cluster.dns.publish(LEADER_RECORD, worker.address)
    launch = leader.start(launch_arguments("--wait-deadline", "1", "--linger", "0"), lws(0))
    assert launch.wait_exit(START_S + 2) == 124, launch.account()
    launch.assert_not_started()
    assert worker.address in launch.text()


def test_ipv6_only(cluster: Cluster) -> None:
    leader = cluster.add_node("sglang-0", (6,))
    launch = leader.start(launch_arguments("--wait-deadline", "30"), lws(0))
    launch.wait_for_line(NOT_RESOLVED, START_S)
    cluster.dns.publish(LEADER_RECORD, leader.address)
    record = launch.wait_record(NOTICE_S)
    assert launch.wait_exit(5) == 0
    assert_group_arguments(record, index=0, leader=f"[{leader.ipv6}]", host="::")
    assert_control_interface(record, "eth0", leader.address)


def test_interface_that_owns_the_name(cluster: Cluster, leader: Node) -> None:
    leader.add_interface("net1", "10.78.0.1/24")
    cluster.dns.publish(LEADER_RECORD, "10.78.0.1")
    launch = leader.start(launch_arguments(), lws(0))
    record = launch.wait_record(START_S)
    assert launch.wait_exit(5) == 0
    assert_control_interface(record, "net1", "10.78.0.1")


@pytest.mark.parametrize(
    ("port", "address", "further"),
    [
        pytest.param(DIST_PORT, None, (), id="D"),
        pytest.param(DIST_PORT, "127.0.0.1", (), id="D-loopback"),
        pytest.param(HTTP_PORT, None, (), id="HTTP"),
        pytest.param(31000, None, ("--port", "31000"), id="users-HTTP"),
        pytest.param(DIST_PORT + 1, None, ATTENTION_DP, id="D+1-attention-DP"),
        pytest.param(DIST_PORT + 6, None, ATTENTION_DP, id="D+6-attention-DP"),
        pytest.param(DIST_PORT + 13, None, ATTENTION_DP, id="D+13-attention-DP"),
        pytest.param(8998, None, ("--disaggregation-mode", "prefill"), id="bootstrap"),
        pytest.param(7100, None, ("--gated-launch-port", "7100"), id="gate"),
    ],
)
def test_port_is_taken_then_freed(
    cluster: Cluster, leader: Node, port: int, address: str | None, further: tuple[str, ...]
) -> None:
    """A terminating predecessor on the same host network: its port comes free, SGLang gets it.

    The stand-in binds it without SO_REUSEADDR: the launcher holds nothing and left nothing.
    """
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(port, address):
        launch = leader.start(
            launch_arguments("--wait-deadline", "30", sglang=[*SGLANG_ARGUMENTS, *further]),
            lws(0),
            behaviour=f"listen:{port} exit:0",
        )
        launch.wait_for_line(rf"\b{port}\b", START_S)
        launch.still_waiting(0.5)
    launch.wait_record(NOTICE_S)
    assert launch.wait_exit(5) == 0, launch.account()


def test_ports_that_do_not_matter(cluster: Cluster, leader: Node) -> None:
    """Without attention DP nobody needs D+1 and D+13."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT + 1), leader.listen(DIST_PORT + 13):
        launch = leader.start(launch_arguments(), lws(0))
        launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0


def test_port_stays_taken(cluster: Cluster, leader: Node) -> None:
    """78, within the deadline when that is shorter than the 60 s for ports."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = leader.start(launch_arguments("--wait-deadline", "2", "--linger", "0"), lws(0))
        launch.wait_for_line(str(DIST_PORT), START_S)
        assert launch.wait_exit(START_S + 2) == 78, launch.account()
    launch.assert_not_started()
    assert str(DIST_PORT) in leader.termination_log().decode().splitlines()[0]


def test_one_deadline_for_name_and_ports(cluster: Cluster, leader: Node) -> None:
    """A name that comes late leaves less time for the ports, not a second deadline."""
    with leader.listen(DIST_PORT):
        launch = leader.start(launch_arguments("--wait-deadline", "3", "--linger", "0"), lws(0))
        first = launch.wait_for_line(NOT_RESOLVED, START_S)
        cluster.dns.publish(LEADER_RECORD, leader.address)  # seen 2 s after the first look-up
        assert launch.wait_exit(START_S + 6) in {78, 124}, launch.account()
    assert time.monotonic() - first.at_s < 3.0 + 1.0, launch.account()
    launch.assert_not_started()


@pytest.mark.parametrize("state", ["no name", "port taken"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_wait(cluster: Cluster, leader: Node, state: str, number: signal.Signals) -> None:
    if state == "port taken":
        cluster.dns.publish(LEADER_RECORD, leader.address)
        leader.listen(DIST_PORT)
    launch = leader.start(launch_arguments(), lws(0))
    launch.wait_for_line(WAITING if state == "no name" else str(DIST_PORT), START_S)
    launch.still_waiting(0.3)
    sent_s = launch.send(number)
    assert launch.wait_exit(5) == 128 + number, launch.account()
    assert time.monotonic() - sent_s < PROMPT_S


def test_both_roles(cluster: Cluster, leader: Node, worker: Node) -> None:
    """The whole group: worker first, leader later, DNS last; each SGLang ends as told."""
    arguments = launch_arguments("--wait-deadline", "60")
    second = worker.start(arguments, lws(1), behaviour="exit:0")
    second.wait_for_line(NOT_RESOLVED, START_S)
    first = leader.start(arguments, lws(0), behaviour=f"listen:{DIST_PORT} sigterm:7")
    first.wait_for_line(NOT_RESOLVED, START_S)

    cluster.dns.publish(LEADER_RECORD, leader.address)
    leader_record = first.wait_record(NOTICE_S)
    worker_record = second.wait_record(NOTICE_S)
    assert second.wait_exit(5) == 0
    first.send(signal.SIGTERM)
    assert first.wait_exit(5) == 7

    assert_group_arguments(leader_record, index=0)
    assert_group_arguments(worker_record, index=1)
    assert_control_interface(leader_record, "eth0", leader.address)
    assert_control_interface(worker_record, "eth0", worker.address)
    assert_clean_handover(first, leader_record)
    assert_clean_handover(second, worker_record)
    # The same manifest for both: only the rank differs.
    ranks = [option_values(each["argv"]).pop("--node-rank") for each in (leader_record, worker_record)]
    assert ranks == ["0", "1"]


def test_one_node_waits_for_nothing(cluster: Cluster, leader: Node) -> None:
    launch = leader.start(launch_arguments())
    record = launch.wait_record(START_S)
    assert launch.wait_exit(5) == 0
    assert record["argv"] == ["--host", "0.0.0.0", *SGLANG_ARGUMENTS]
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "SGLANG_HOST_IP"):
        assert name not in record["environment"]
    assert cluster.dns.queries() == []
    assert_clean_handover(launch, record)
