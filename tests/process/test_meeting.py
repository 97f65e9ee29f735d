"""A launch in a group: the launchers meet on port D, and all go on together, or none does and each says why."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.command import START_S
from tests.process.group import (
    ATTENTION_DP,
    DIST_PORT,
    GPUS,
    HTTP_PORT,
    LEADER_ADDRESS,
    LEADER_RECORD,
    NOTICE_S,
    OPTIONS,
    PROMPT_S,
    SGLANG_ARGUMENTS,
    assert_clean_handover,
    assert_control_interface,
    assert_group_arguments,
    lws,
    nodes_of,
    store,
)
from tests.process.nodes import serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.process.nodes import Cluster, Launch, Node

pytestmark = pytest.mark.netns

#: The verdict is on every pod within two seconds of the last arrival; the start of a process comes on top.
VERDICT_S = 2.0
MEETS_S = 30.0


def meeting(*options: str, sglang: Sequence[str] = SGLANG_ARGUMENTS) -> list[str]:
    return [*OPTIONS, "--wait-deadline", "60", *options, *sglang]


def started(
    nodes: Sequence[Node], *, deviant: int = -1, deviation: Sequence[str] = (), **kept: str
) -> list[Launch]:
    """Start a launch on each node, the last one first; one of them with further words."""
    launches = {}
    for index in reversed(range(len(nodes))):
        words = deviation if index == deviant else ()
        launches[index] = nodes[index].start(meeting(*words), lws(index, len(nodes)) | kept)
    return [launches[index] for index in range(len(nodes))]


def begun_s(launch: Launch) -> float:
    """Return when the launch executed SGLang."""
    launch.wait_record(MEETS_S)
    return launch.record_path.stat().st_mtime


def test_a_hosts_file_that_gives_the_leader_a_loopback_address(cluster: Cluster, tmp_path: Path) -> None:
    """As Debian's does: the others know its real address, and find it there."""
    nodes = nodes_of(cluster, 2)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {LEADER_ADDRESS} sglang-0\n")
    nodes[0].mount_over(Path("/etc/hosts"), hosts)
    for launch in started(nodes):
        launch.wait_record(MEETS_S)
        assert "the group of 2 has met" in launch.text()


@pytest.mark.parametrize("families", [(4,), (6,)], ids=["IPv4", "IPv6"])
def test_all_go_together(cluster: Cluster, families: Sequence[int]) -> None:
    """The workers come first and wait; nothing of the meeting is left in what SGLang gets."""
    nodes = nodes_of(cluster, 2, families)
    worker = nodes[1].start(meeting(), lws(1))
    worker.wait_for_line("refuses connections on 20000", START_S + NOTICE_S)
    worker.still_waiting(0.5)
    # The stand-in binds D without SO_REUSEADDR: the launcher has left nothing there.
    leader = nodes[0].start(meeting(), lws(0), behaviour=f"listen:{DIST_PORT} exit:0")
    records = [leader.wait_record(MEETS_S), worker.wait_record(MEETS_S)]
    assert abs(begun_s(leader) - begun_s(worker)) < 1.0
    address = LEADER_ADDRESS if families == (4,) else f"[{nodes[0].ipv6}]"
    for index, (launch, record) in enumerate(zip((leader, worker), records, strict=True)):
        assert launch.wait_exit(5) == 0, launch.account()
        host = "0.0.0.0" if families == (4,) else "::"
        assert_group_arguments(record, index=index, leader=address, host=host)
        assert_control_interface(record, "eth0", nodes[index].address)
        assert_clean_handover(launch, record)
        # Of one machine all nodes of these tests are; that is all that is said.
        assert "the group of 2 has met: 1 warning" in launch.text()
        assert "MACHINE_SHARED" in launch.text()
        assert nodes[index].termination_log() == b""
    assert "2 of 2 nodes: sglang-0, sglang-0-1" in leader.text()


def test_eight_nodes(cluster: Cluster) -> None:
    launches = started(nodes_of(cluster, 8))
    times = [begun_s(launch) for launch in launches]
    assert max(times) - min(times) < 1.5
    assert all(launch.wait_exit(5) == 0 for launch in launches)
    # All agree: a few lines, not a row for each.
    assert "8 of 8 nodes" in launches[0].text()
    assert len(launches[0].lines) < 20, launches[0].account()


@pytest.mark.parametrize("size", [2, 3])
def test_a_model_that_differs_is_everybodys_end(cluster: Cluster, size: int) -> None:
    nodes = nodes_of(cluster, size)
    others = [nodes[index].start(meeting(), lws(index, size)) for index in range(size - 1)]
    others[0].wait_for_line("the group of|are here", START_S + 2)
    arguments = meeting(sglang=("--model-path", "/models/other", "--trust-remote-code"))
    last = nodes[-1].start(arguments, lws(size - 1, size))
    arrived = last.wait_for_line("calling the leader", START_S)
    for index, launch in enumerate([*others, last]):
        assert launch.wait_exit(VERDICT_S + PROMPT_S + START_S) == 78, launch.account()
        launch.assert_not_started()
        line = launch.wait_for_line(r"ARGUMENT_DIFFERS", 1)
        assert line.at_s - arrived.at_s < VERDICT_S, launch.account()
        assert f"/models/other on {size - 1} (sglang-0-{size - 1})" in line.text
        logged = nodes[index].termination_log().decode()
        assert "/models/other" in logged.splitlines()[0]
        assert "[ARGUMENT_DIFFERS]" in logged.splitlines()[0]


@pytest.mark.parametrize("deviant", [0, 1])
def test_a_refusal_is_everybodys_end(cluster: Cluster, deviant: int) -> None:
    """RDMA is required where there is none; outside Kubernetes nobody lingers, and the group is told all the same."""
    nodes = nodes_of(cluster, 3)
    launches = started(nodes, deviant=deviant, deviation=("--rdma", "required", "--hca-wait", "0"))
    named = ("0 (sglang-0)", "1 (sglang-0-1)")[deviant]
    for index, launch in enumerate(launches):
        assert launch.wait_exit(MEETS_S) == 69, launch.account()
        launch.assert_not_started()
        first = nodes[index].termination_log().decode().splitlines()[0]
        if index != deviant:
            assert f"{named} cannot start: " in first, launch.account()
        assert "NO_USABLE_HCA" in first


def test_a_taken_port_of_one_worker_is_everybodys_end(cluster: Cluster) -> None:
    """What the plan cannot know comes to the meeting as well."""
    nodes = nodes_of(cluster, 2)
    with nodes[1].listen(HTTP_PORT):
        worker = nodes[1].start(meeting("--wait-deadline", "3"), lws(1))
        leader = nodes[0].start(meeting(), lws(0))
        for launch in (worker, leader):
            assert launch.wait_exit(MEETS_S) == 78, launch.account()
    assert f"{HTTP_PORT} (HTTP, --port)" in nodes[0].termination_log().decode().splitlines()[0]


def test_a_taken_d_is_said_with_who_answers_there(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 2)
    with nodes[0].listen(DIST_PORT):
        launch = nodes[0].start(meeting("--wait-deadline", "2"), lws(0))
        assert launch.wait_exit(MEETS_S) == 78, launch.account()
    assert "stays silent, also when asked" in launch.text()


def test_who_is_missing_ends_all_at_the_deadline(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    launches = [
        nodes[index].start(meeting("--wait-deadline", str(5 + 9 * index)), lws(index, 3)) for index in (0, 1)
    ]
    launches[1].wait_for_line(r"the leader says: 2 of 3 are here; missing: 2 \(sglang-0-2\)", START_S + NOTICE_S)
    for index, launch in enumerate(launches):
        assert launch.wait_exit(MEETS_S) == 124, launch.account()
        assert "2 (sglang-0-2) does not resolve" in nodes[index].termination_log().decode().splitlines()[0]


def test_on_timeout_exec_starts_those_who_are_there(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    arguments = meeting("--wait-deadline", "4", "--on-timeout", "exec")
    launches = [nodes[index].start(arguments, lws(index, 3)) for index in (0, 1)]
    for launch in launches:
        launch.wait_record(MEETS_S)
        assert launch.wait_exit(5) == 0, launch.account()


@pytest.mark.parametrize("role", ["leader", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_meeting_as_pid_1(cluster: Cluster, role: str, number: signal.Signals) -> None:
    nodes = nodes_of(cluster, 3)
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.77.0.1"}
    launches = [
        nodes[index].start(meeting(), lws(index, 3) | kubernetes, pid_1=(index == 0) == (role == "leader"))
        for index in (0, 1)
    ]
    launches[0].wait_for_line("2 of 3 are here", START_S + 35)
    ended = launches[0 if role == "leader" else 1]
    pid = ended.first_in_pid_namespace()
    sent_s = time.monotonic()
    ended.send_to(pid, number)
    assert ended.wait_exit(5) == 128 + number, ended.account()
    assert time.monotonic() - sent_s < PROMPT_S + 1


def test_restarts_of_all_during_the_meeting(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    launches = [nodes[index].start(meeting(), lws(index, 3)) for index in (0, 1)]
    launches[0].wait_for_line("2 of 3 are here", START_S + 35)
    for index in (1, 0):
        launches[index].send(signal.SIGKILL)
        launches[index] = nodes[index].start(meeting(), lws(index, 3))
    launches.append(nodes[2].start(meeting(), lws(2, 3)))
    assert [launch.wait_exit(MEETS_S) for launch in launches] == [0, 0, 0], launches[0].account()


# --------------------------------------------------------------------------- SGLang is there already


@pytest.fixture
def pair(cluster: Cluster) -> list[Node]:
    return nodes_of(cluster, 2)


def test_a_worker_that_was_restarted_joins_a_rendezvous_that_waits(pair: list[Node]) -> None:
    with serving(pair[0], DIST_PORT, store(GPUS)):
        launch = pair[1].start(meeting(), lws(1))
        record = launch.wait_record(START_S + NOTICE_S)
    assert f"SGLang of the leader waits already, {GPUS} of {2 * GPUS} ranks have joined" in launch.text()
    assert_group_arguments(record, index=1)
    assert_control_interface(record, "eth0", pair[1].address)


def test_a_worker_does_not_join_a_server_that_is_complete(pair: list[Node]) -> None:
    """It waits for that server to end, and then meets its successor."""
    with serving(pair[0], DIST_PORT, store(2 * GPUS)):
        launch = pair[1].start(meeting(), lws(1))
        launch.wait_for_line("all 16 ranks have joined.*the whole group must be recreated", START_S + NOTICE_S)
        launch.still_waiting(1.0)
    leader = pair[0].start(meeting(), lws(0))
    assert leader.wait_exit(MEETS_S) == 0, leader.account()
    assert launch.wait_exit(MEETS_S) == 0, launch.account()


def test_with_attention_dp_the_sockets_beside_d_tell(pair: list[Node]) -> None:
    with serving(pair[0], DIST_PORT + 13, lambda one: one.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f")):
        launch = pair[1].start(meeting(sglang=(*SGLANG_ARGUMENTS, *ATTENTION_DP)), lws(1))
        launch.wait_record(START_S + NOTICE_S)
    assert "SGLang waits for its workers" in launch.text()


@pytest.mark.parametrize("closes", [True, False], ids=["closes", "silent"])
def test_a_proxy_is_no_sign_of_life(pair: list[Node], closes: bool) -> None:
    with serving(pair[0], DIST_PORT, socket.socket.close if closes else lambda _: None):
        launch = pair[1].start(meeting(), lws(1))
        launch.wait_for_line(
            "accepts and closes at once: a proxy" if closes else "stays silent", START_S + NOTICE_S
        )
        launch.still_waiting(1.0)


# --------------------------------------------------------------------------- the ring


def test_a_firewall_that_lets_d_alone_through_is_named(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    nodes[2].reject_ephemeral_ports()
    launches = started(nodes)
    for index, launch in enumerate(launches):
        assert launch.wait_exit(MEETS_S) == 78, launch.account()
        first = nodes[index].termination_log().decode().splitlines()[0]
        assert "2 (sglang-0-2) is not reached from 0 (sglang-0), 1 (sglang-0-1) on other ports" in first
        assert "REACH_FILTERED" in first


def test_the_worker_of_a_group_without_a_meeting_waits_for_sglang(pair: list[Node]) -> None:
    """`--meeting off`: a port that is open and silent is SGLang's."""
    with pair[0].listen(DIST_PORT):
        launch = pair[1].start(meeting("--meeting", "off"), lws(1))
        launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0


# --------------------------------------------------------------------------- addresses of other kinds

SERVICE = "10.96.12.7"


def by_arguments(index: int, address: str, *further: str) -> list[str]:
    """Return a launch whose group stands in SGLang's own arguments."""
    group = ("--dist-init-addr", address, "--nnodes", "2", "--node-rank", str(index))
    return meeting(sglang=("--model-path", "/m", *group, *further))


def behind_a_service(worker: Node, leader: Node) -> None:
    """Let a worker's connections to the Service's address reach the leader, as kube-proxy does."""
    worker.filter("-t", "nat", "-A", "OUTPUT", "-d", SERVICE, "-p", "tcp", "-j", "DNAT", "--to", leader.address)


def test_a_group_meets_by_way_of_a_service(pair: list[Node]) -> None:
    behind_a_service(pair[1], pair[0])
    launches = [node.start(by_arguments(index, f"{SERVICE}:21000")) for index, node in enumerate(pair)]
    for index, launch in enumerate(launches):
        record = launch.wait_record(MEETS_S)
        assert launch.wait_exit(5) == 0
        assert_control_interface(record, "eth0", pair[index].address)
    assert f"--dist-init-addr {SERVICE} is no address of this leader" in launches[0].text()


def test_a_leader_that_is_told_another_name_is_met_by_its_pods(pair: list[Node], cluster: Cluster) -> None:
    """A Service's, or one of a hosts file, in another spelling; a third one might be another group's leader."""
    for name in ("lead", "third"):
        cluster.dns.publish(f"{name}.default.svc.cluster.local", pair[0].address)
    leader = pair[0].start(by_arguments(0, "Lead:21000"))
    leader.wait_for_line("the group of 2 meets", MEETS_S)
    stranger = pair[1].start(by_arguments(1, "third:21000"))
    stranger.wait_for_line(
        r"another meeting is held there \(launch:lead,sglang-0; this is launch:third\)", MEETS_S
    )
    worker = pair[1].start(by_arguments(1, f"{LEADER_ADDRESS}:21000"))
    for launch in (worker, leader):
        launch.wait_record(MEETS_S)
        assert launch.wait_exit(5) == 0, launch.account()
        assert "the group of 2 has met" in launch.text()


def test_with_attention_dp_a_service_is_everybodys_end(pair: list[Node]) -> None:
    """SGLang binds that very address."""
    behind_a_service(pair[1], pair[0])
    arguments = [by_arguments(index, f"{SERVICE}:21000", *ATTENTION_DP) for index in (0, 1)]
    launches = [node.start(arguments[index]) for index, node in enumerate(pair)]
    for launch, node in zip(launches, pair, strict=True):
        assert launch.wait_exit(MEETS_S) == 78, launch.account()
        assert "[DIST_INIT_ELSEWHERE]" in node.termination_log().decode().splitlines()[0]


def test_a_worker_that_is_its_own_leader_says_so_at_once(pair: list[Node]) -> None:
    launch = pair[1].start(by_arguments(1, f"{pair[1].address}:21000"))
    assert launch.wait_exit(START_S + 3) == 78, launch.account()
    assert f"the leader's address {pair[1].address} is this pod's own, but this is worker 1" in launch.text()


def test_a_name_that_leads_a_worker_to_itself_is_said_and_may_change(pair: list[Node], cluster: Cluster) -> None:
    cluster.dns.publish(LEADER_RECORD, pair[1].address)
    launch = pair[1].start(meeting(), lws(1))
    launch.wait_for_line(f"gives {pair[1].address}, which is this pod's own address", START_S + NOTICE_S)
    cluster.dns.publish(LEADER_RECORD, pair[0].address)
    leader = pair[0].start(meeting(), lws(0))
    assert [one.wait_exit(MEETS_S) for one in (launch, leader)] == [0, 0]
