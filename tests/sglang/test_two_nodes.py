"""A real SGLang server over two nodes, started by the installed command with no more than a pod has."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.manifests.manifest_set import K8S, built, serving_templates
from tests.manifests.network_policy import Pod, chains
from tests.manifests.rules.walk import of_kind
from tests.process.group import NOT_RESOLVED
from tests.sglang.releases import SERVER
from tests.sglang.servers import HTTP_PORT, SERVES_S, D, Group, Member, listens, request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.process.nodes import Cluster, Node
    from tests.sglang.environment import Environment

pytestmark = pytest.mark.sglang

MET = r"the group of 2 has met"
EXEC = r"exec \S+ -m sglang.launch_server"
HANDOVER = r"the leader \S+ accepts on (\d+)"
PROMPT = {"text": "a few words", "sampling_params": {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}}


def generated(leader: Member) -> str:
    """Return what the leader makes of the prompt."""
    status, body = request(leader.node, "/generate", PROMPT)
    assert status == 200, body
    document = json.loads(body)
    assert document["meta_info"]["completion_tokens"] == 8
    return str(document["text"])


def test_tensor_parallel_over_two_nodes(cluster: Cluster, environment: Environment, entry: Path) -> None:
    """Worker first, the leader's name late; it serves; SIGTERM to both ends both."""
    group = Group(cluster, environment, entry)
    worker = group.start(1)
    group.wait_said(worker, NOT_RESOLVED)
    leader = group.start(0)
    group.wait_said(leader, NOT_RESOLVED)
    # Nobody has become SGLang meanwhile.
    assert not listens(leader.node) | listens(worker.node)
    group.publish_leader()
    group.wait_said(worker, MET)
    group.wait_said(leader, MET)
    # Their imports overlap: both become SGLang at once.
    begun_s = [member.launch.wait_for_line(EXEC, 5.0).at_s for member in (leader, worker)]
    assert abs(begun_s[0] - begun_s[1]) < 1.5
    group.wait_healthy()
    for member in (leader, worker):
        assert member.environment["GLOO_SOCKET_IFNAME"] == "eth0"
        assert member.environment["SGLANG_HOST_IP"] == member.node.address
    assert generated(leader) == generated(leader)
    assert request(worker.node, "/generate", PROMPT)[0] == 404
    for member in (leader, worker):
        member.send(signal.SIGTERM)
    group.wait_ended([leader, worker])
    assert leader.launch.process.returncode == 0


def test_a_rehearsal_reads_the_real_release_and_starts_nothing(
    cluster: Cluster, environment: Environment, entry: Path
) -> None:
    group = Group(cluster, environment, entry, options=("--rehearse=json",))
    group.publish_leader()
    members = [group.start(index) for index in (1, 0)]
    group.wait_ended(members)
    documents = []
    for member in members:
        assert member.launch.process.returncode == 0, member.launch.account()
        documents.append({**json.loads(member.launch.text("stdout")), "identity": None})
    assert documents[0] == documents[1]
    assert documents[0]["differences"] == []
    for node in documents[0]["nodes"]:
        assert node["versions"]["sglang"] == SERVER.version


def test_a_killed_worker_ends_the_leader(cluster: Cluster, environment: Environment, entry: Path) -> None:
    """And all of it where there is only IPv6, whose leader SGLang must be given as an address."""
    group = Group(cluster, environment, entry, family=6)
    group.publish_leader()
    worker = group.start(1)
    leader = group.start(0)
    group.wait_healthy()
    generated(leader)
    worker.send(signal.SIGKILL)
    group.wait_ended([worker, leader])


def test_a_wrong_interface_for_gloo_is_noticed(cluster: Cluster, environment: Environment, entry: Path) -> None:
    """NCCL's spelling, which the user has set: SGLang ends on it, so these servers do judge the variables."""
    group = Group(cluster, environment, entry)
    group.publish_leader()
    members = [group.start(index, {"GLOO_SOCKET_IFNAME": "=eth0"}) for index in (0, 1)]
    group.wait_ended(members, SERVES_S)
    assert any("Unable to find address for: =eth0" in member.launch.text() for member in members)


def test_a_worker_that_is_restarted_alone_says_that_the_group_must_be(
    cluster: Cluster, environment: Environment, entry: Path
) -> None:
    """Real SGLang is complete, and stays alive for a while without its worker: a second one is not let in."""
    group = Group(cluster, environment, entry)
    group.publish_leader()
    worker, leader = group.start(1), group.start(0)
    group.wait_healthy()
    worker.send(signal.SIGSTOP)  # its place is not free, and nobody knows
    again = group.another_worker()
    group.wait_said(again, "SGLang runs there without this pod: all 2 ranks have joined")
    worker.send(signal.SIGKILL)
    group.wait_ended([worker, leader])
    group.members[:] = [again]
    successor = group.start(0)
    group.wait_said(successor, MET)
    group.wait_said(again, MET)


# Tokens are not asked for: attention data parallelism does not generate on a CPU.
CHEAP_HEALTH = {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}


def test_attention_data_parallel_does_not_deadlock(
    cluster: Cluster, environment: Environment, entry: Path
) -> None:
    """The leader opens D only after the worker's SGLang has called: a worker must not wait for D."""
    cheap_health = {**CHEAP_HEALTH, "SGLANG_ROCE_MEETING": "off"}
    group = Group(cluster, environment, entry, "--enable-dp-attention", "--dp-size", "2")
    group.publish_leader()
    leader = group.start(0, cheap_health)
    # The rule itself, shown: without a worker the other two ports open, and D does not.
    group.wait_until("calling", lambda: {D + 1, D + 13} <= listens(leader.node))
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        assert D not in listens(leader.node)
        time.sleep(0.2)
    worker = group.start(1, cheap_health)
    assert int(group.wait_said(worker, HANDOVER).group(1)) in (D + 1, D + 13)
    group.wait_until("open", lambda: D in listens(leader.node))
    group.wait_healthy()
    for member in (leader, worker):
        member.send(signal.SIGTERM)
    group.wait_ended([leader, worker])


def test_a_leader_restarted_after_the_worker_has_gone_finds_it(
    cluster: Cluster, environment: Environment, entry: Path
) -> None:
    """With attention DP the worker's SGLang calls beside D only; what it has to say it keeps for the leader's."""
    group = Group(cluster, environment, entry, "--enable-dp-attention", "--dp-size", "2")
    group.publish_leader()
    group.publish_worker()
    leader, worker = (group.start(index, CHEAP_HEALTH) for index in (0, 1))
    for member in (leader, worker):
        group.wait_said(member, EXEC)
    leader.send(signal.SIGKILL)
    group.wait_ended([leader])
    group.members.remove(leader)
    again = group.start(0, CHEAP_HEALTH)
    group.wait_said(again, rf"SGLang of {worker.node.address} waits.*MEMBER_AHEAD")
    group.wait_healthy()
    for member in (again, worker):
        member.send(signal.SIGKILL)
    group.wait_ended([again, worker])


# Pushes a pickle that makes a folder where it is read; says what libzmq's handshake came to.
PUSH = """
import os, pickle, sys, zmq
from zmq.utils.monitor import recv_monitor_message

class Payload:
    def __reduce__(self):
        return os.mkdir, (sys.argv[2],)

context = zmq.Context()
push = context.socket(zmq.PUSH)
ends = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
monitor = push.get_monitor_socket(ends)
push.connect(sys.argv[1])
event = recv_monitor_message(monitor)["event"]
print("accepted" if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else "refused", flush=True)
push.send(pickle.dumps(Payload()))
context.destroy(linger=5000)
"""
DETOKENIZER = D + 2  # listens as soon as the leader's processes are there


def pushed(group: Group, outsider: Node, environment: Environment, mark: Path) -> str:
    """Return what the leader's socket makes of somebody who is no member."""
    endpoint = f"tcp://{group.members[0].node.address}:{DETOKENIZER}"
    launch = outsider.start(["-c", PUSH, endpoint, str(mark)], command=[str(environment.python)])
    return launch.wait_for_line("accepted|refused", SERVES_S).text


def left_open(members: Sequence[Member], outsider: Node) -> set[tuple[str, int]]:
    """Return what an outsider reaches of all that listens while the pod network's policy is in force."""
    manifests = built(K8S / "roce-sriov/ipc-lock")
    (template,) = serving_templates(manifests)
    pods = [Pod(template.labels, {"http": HTTP_PORT}, member.node.address) for member in members]
    for member, pod in zip(members, pods, strict=True):
        for rule in chains(of_kind(manifests, "NetworkPolicy"), pod, pods):
            member.node.filter(*rule)
    reached = {
        (member.node.hostname, port)
        for member in members
        for port in listens(member.node)
        if outsider.reaches(member.node, port)
    }
    for member in members:
        member.node.filter("-F")
    return reached


def test_only_members_reach_the_queues_of_attention_dp(
    cluster: Cluster, environment: Environment, entry: Path, tmp_path: Path
) -> None:
    """With our variables the group serves and an outsider is refused; without, its pickle is read.

    Of what really listens the policy of ``k8s/`` leaves HTTP to others, and nothing else.
    """
    outsider = cluster.add_node("outsider")
    group = Group(cluster, environment, entry, "--enable-dp-attention", "--dp-size", "2")
    group.publish_leader()
    members = [group.start(index, CHEAP_HEALTH) for index in (0, 1)]
    group.wait_healthy()
    lists = {member.environment["SGLANG_ZMQ_ALLOWED_PEERS"] for member in members}
    assert len(lists) == 1
    assert {member.node.address for member in members} <= set(lists.pop().split(","))
    assert "refused" in pushed(group, outsider, environment, tmp_path / "closed")
    assert [member.health for member in members] == [200, 200]
    assert {D, DETOKENIZER} <= listens(members[0].node)
    assert left_open(members, outsider) == {(member.node.hostname, HTTP_PORT) for member in members}
    for member in members:
        member.send(signal.SIGTERM)
    group.wait_ended(members)
    assert not (tmp_path / "closed").exists()

    group.members.clear()
    open_variables = {**CHEAP_HEALTH, "SGLANG_ROCE_ZMQ_PEERS": "off"}
    members = [group.start(index, open_variables) for index in (0, 1)]
    group.wait_until("open", lambda: DETOKENIZER in listens(members[0].node))
    assert "accepted" in pushed(group, outsider, environment, tmp_path / "open")
    group.wait_until("read", (tmp_path / "open").exists, 60.0)
    for member in members:
        member.send(signal.SIGKILL)
    group.wait_ended(members)
