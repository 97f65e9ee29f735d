"""A worker's pod starts first: what it waits for, how it asks, and what SGLang gets in the end."""

from __future__ import annotations

import re
import signal
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.process.command import START_S, entry_interpreter, python_path
from tests.process.dns import TYPE_A, Mood
from tests.process.group import (
    DIST_PORT,
    GPUS,
    HTTP_PORT,
    LEADER_ADDRESS,
    LEADER_RECORD,
    NOT_RESOLVED,
    NOTICE_S,
    PROMPT_S,
    REFUSED,
    SGLANG_ARGUMENTS,
    TIMED_OUT,
    UNREACHABLE,
    WAITING,
    assert_clean_handover,
    assert_control_interface,
    assert_group_arguments,
    launch_arguments,
    lws,
    option_values,
)
from tests.process.nodes import DROPPED_ADDRESS, UNREACHABLE_ADDRESS, Cluster, Node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.netns

LOOKUP_INTERVAL_S = 2.0


@pytest.mark.parametrize("offset", [0, 1, 13])
def test_worker_first(cluster: Cluster, leader: Node, worker: Node, offset: int) -> None:
    """No name, then refused, then the leader's port opens: D, D+1 and D+13 are all as good."""
    launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1), behaviour="exit:3")
    launch.wait_for_line(NOT_RESOLVED, START_S)
    assert leader.refusals() == 0

    cluster.dns.publish(LEADER_RECORD, leader.address)
    leader.wait_refusal(0, NOTICE_S)
    launch.still_waiting(0.3)

    with leader.listen(DIST_PORT + offset) as port:
        record = launch.wait_record(NOTICE_S)
        assert launch.wait_exit(5) == 3
        visits = port.visits(least=1)

    assert_group_arguments(record, index=1)
    assert_control_interface(record, "eth0", worker.address)
    assert record["environment"]["NCCL_IB_DISABLE"] == "1"
    assert_clean_handover(launch, record)
    # One probe was enough, it said nothing, and it closed as a peer should.
    assert [(visit.peer, visit.orderly, visit.received_bytes) for visit in visits] == [(worker.address, True, 0)]
    assert launch.text("stdout") == ""


def test_process_is_replaced_not_wrapped(cluster: Cluster, leader: Node, worker: Node) -> None:
    """Same interpreter, same module form, same directory; the user's environment comes through."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments(), lws(1) | {"HF_HOME": "/models/hf"})
        record = launch.wait_record(START_S + NOTICE_S)
        assert launch.wait_exit(5) == 0
    command_line = record["command_line"]
    assert command_line[:3] == [entry_interpreter(), "-m", "sglang.launch_server"]
    assert record["cwd"] == str(worker.directory)
    assert record["environment"]["HF_HOME"] == "/models/hf"
    assert record["environment"]["LWS_WORKER_INDEX"] == "1"


def test_leader_that_is_there_costs_no_wait(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments(), lws(1))
        launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0


@pytest.mark.parametrize(
    ("port", "further"),
    [
        pytest.param(HTTP_PORT, (), id="HTTP"),
        pytest.param(DIST_PORT, ("--attn-dp-size", "2"), id="D-attention-DP"),
        pytest.param(DIST_PORT + 5, ("--dwdp-size", str(2 * GPUS)), id="D+5-DWDP"),
    ],
)
def test_a_port_of_its_own_is_taken_then_freed(
    cluster: Cluster, leader: Node, worker: Node, port: int, further: tuple[str, ...]
) -> None:
    """Another group on the host network of a worker: SGLang would give up after 3 s (0.5.23: 30 s)."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT), worker.listen(port):
        arguments = launch_arguments("--wait-deadline", "30", sglang=[*SGLANG_ARGUMENTS, *further])
        launch = worker.start(arguments, lws(1), behaviour=f"listen:{port} exit:0")
        launch.wait_for_line(rf"waiting for free ports: {port}\b", START_S)
        launch.still_waiting(0.5)
    launch.wait_record(NOTICE_S)
    assert launch.wait_exit(5) == 0, launch.account()


def test_name_moves_while_waiting(cluster: Cluster, leader: Node, worker: Node) -> None:
    """A recreated leader has another address: the new one is used, the old one no more."""
    recreated = cluster.add_node("recreated")
    cluster.dns.publish(LEADER_RECORD, leader.address)
    launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1))
    leader.wait_refusal(0, START_S + NOTICE_S)

    cluster.dns.publish(LEADER_RECORD, recreated.address)
    # An answer may be used for 2 s, and a probe begun then may still be on its way.
    time.sleep(LOOKUP_INTERVAL_S + 0.6)
    with leader.listen(DIST_PORT) as old:
        launch.still_waiting(0.8)
        assert old.visits() == []
        with recreated.listen(DIST_PORT):
            record = launch.wait_record(NOTICE_S)
            assert launch.wait_exit(5) == 0
    assert_group_arguments(record, index=1)


def test_ipv6_only(cluster: Cluster) -> None:
    """SGLang cannot bind a name that has only IPv6, so the accepted literal goes into argv."""
    leader = cluster.add_node("sglang-0", (6,))
    worker = cluster.add_node("sglang-0-1", (6,))
    launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1))
    launch.wait_for_line(NOT_RESOLVED, START_S)
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        record = launch.wait_record(NOTICE_S)
        assert launch.wait_exit(5) == 0
    assert_group_arguments(record, index=1, leader=f"[{leader.ipv6}]", host="::")
    assert_control_interface(record, "eth0", worker.address)


def test_two_families_ipv4_first(cluster: Cluster) -> None:
    """Every node of a group must come to the same family, whatever its resolver sorts first."""
    leader = cluster.add_node("sglang-0", (4, 6))
    worker = cluster.add_node("sglang-0-1", (4, 6))
    assert leader.ipv4 is not None
    assert leader.ipv6 is not None
    assert worker.ipv4 is not None
    cluster.dns.publish(LEADER_RECORD, leader.ipv6, leader.ipv4)
    with (
        leader.listen(DIST_PORT, leader.ipv6) as by_ipv6,
        leader.listen(DIST_PORT, leader.ipv4) as by_ipv4,
    ):
        launch = worker.start(launch_arguments(), lws(1))
        record = launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0
        assert len(by_ipv4.visits()) == 1
        # Both may be asked side by side, but what is asked is let go of decently.
        assert all(visit.orderly for visit in by_ipv6.visits())
    assert_group_arguments(record, index=1)
    assert_control_interface(record, "eth0", worker.ipv4)


def test_interface_with_the_route_to_the_leader(cluster: Cluster, leader: Node, worker: Node) -> None:
    """The default route is on eth0, the leader is reached by net1: net1 it is."""
    leader.add_interface("net1", "10.78.0.1/24")
    worker.add_interface("net1", "10.78.0.2/24")
    cluster.dns.publish(LEADER_RECORD, "10.78.0.1")
    with leader.listen(DIST_PORT, "10.78.0.1"):
        launch = worker.start(launch_arguments(), lws(1))
        record = launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0
    assert_control_interface(record, "net1", "10.78.0.2")


def test_group_in_sglangs_own_arguments(cluster: Cluster, leader: Node, worker: Node) -> None:
    """The user's own dist-init port is the one that is probed, and the arguments stay as given."""
    cluster.dns.publish("head.example", leader.address)
    given = [
        *SGLANG_ARGUMENTS,
        "--nnodes=2",
        "--node-rank=1",
        "--dist-init-addr=head.example:21000",
        "--tp-size=16",
    ]
    launch = worker.start(launch_arguments(sglang=given))
    leader.wait_refusal(0, START_S + NOTICE_S)
    with leader.listen(DIST_PORT):
        launch.still_waiting(1.2)
    with leader.listen(21000):
        record = launch.wait_record(NOTICE_S)
        assert launch.wait_exit(5) == 0
    assert record["argv"] == ["--host", "0.0.0.0", *given]


def test_users_variables_are_kept(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    given = {"NCCL_SOCKET_IFNAME": "eth", "GLOO_SOCKET_IFNAME": "lo", "NCCL_DEBUG": "INFO"}
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments(), lws(1) | given)
        record = launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0
    assert {name: record["environment"][name] for name in given} == given


def test_lookups_and_probes_are_few(cluster: Cluster, leader: Node, worker: Node) -> None:
    """Names at most every 2 s; ports with back-off; one status line, the next is due after 30 s."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1))
    leader.wait_refusal(0, START_S + NOTICE_S)
    before = leader.refusals()
    watched_s = 5.0
    launch.still_waiting(watched_s)
    refused = leader.refusals() - before
    lookups = cluster.dns.queries(LEADER_RECORD, TYPE_A)

    gaps_s = [later.at_s - earlier.at_s for earlier, later in pairwise(lookups)]
    assert len(lookups) >= 3
    assert min(gaps_s) > LOOKUP_INTERVAL_S - 0.15, gaps_s
    # Three ports a pass; passes 0.5 s apart once the back-off is at its cap, less with jitter.
    assert 3 * 5 <= refused <= 3 * 25
    reports = [line.text for line in launch.lines if re.search(REFUSED, line.text)]
    assert len(reports) == 1, launch.account()
    launch.send(signal.SIGTERM)
    assert launch.wait_exit(5) == 143


# --------------------------------------------------------------------------- the deadline


def assert_ends_at_deadline(cluster: Cluster, worker: Node, leader: str, cause: str) -> None:
    """Fail unless the launch ends with 124 at its deadline of 2 s (+1 s) and says why."""
    deadline_s = 2.0
    launch = worker.start(launch_arguments("--wait-deadline", "2", "--linger", "0"), lws(1, leader=leader))
    first = launch.wait_for_line(WAITING, START_S)
    code = launch.wait_exit(START_S + deadline_s)
    ended_s = time.monotonic()
    assert code == 124, launch.account()
    launch.assert_not_started()
    assert ended_s - launch.started_s > deadline_s, launch.account()
    assert ended_s - first.at_s < deadline_s + 1.0, launch.account()
    logged = worker.termination_log()
    assert 0 < len(logged) <= 4096
    top = logged.decode().splitlines()[0]
    assert leader in top
    assert re.search(cause, top), top


def test_deadline_name_never_resolves(cluster: Cluster, worker: Node) -> None:
    assert_ends_at_deadline(cluster, worker, LEADER_ADDRESS, NOT_RESOLVED)


def test_deadline_resolver_never_answers(cluster: Cluster, worker: Node) -> None:
    """The resolver blocks for 10 s and more; the deadline and the exit do not."""
    cluster.dns.set_mood(Mood.SILENT)
    assert_ends_at_deadline(cluster, worker, LEADER_ADDRESS, NOT_RESOLVED)
    assert cluster.dns.queries()


def test_deadline_resolver_fails(cluster: Cluster, worker: Node) -> None:
    cluster.dns.set_mood(Mood.SERVFAIL)
    assert_ends_at_deadline(cluster, worker, LEADER_ADDRESS, NOT_RESOLVED)


def test_deadline_refused(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    assert_ends_at_deadline(cluster, worker, LEADER_ADDRESS, REFUSED)


def test_deadline_packets_dropped(cluster: Cluster, worker: Node) -> None:
    """An address behind a firewall that drops, given as a literal: no DNS is asked."""
    assert_ends_at_deadline(cluster, worker, DROPPED_ADDRESS, TIMED_OUT)
    assert cluster.dns.queries() == []


def test_deadline_unreachable(cluster: Cluster, worker: Node) -> None:
    assert_ends_at_deadline(cluster, worker, UNREACHABLE_ADDRESS, UNREACHABLE)


def test_resolver_comes_back(cluster: Cluster, leader: Node, worker: Node) -> None:
    """A lookup that hangs is not the last word (the resolver itself asks again after 5 s)."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    cluster.dns.set_mood(Mood.SILENT)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1))
        launch.wait_for_line(WAITING, START_S)
        launch.still_waiting(1.5)
        cluster.dns.set_mood(Mood.ANSWER)
        record = launch.wait_record(5.0 + NOTICE_S)
        assert launch.wait_exit(5) == 0
    assert_clean_handover(launch, record)


def test_firewall_opens(cluster: Cluster, leader: Node, worker: Node) -> None:
    leader.drop_from(worker.address)
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1))
        launch.wait_for_line(WAITING, START_S)
        launch.still_waiting(2.5)
        leader.admit(worker.address)
        record = launch.wait_record(NOTICE_S)
        assert launch.wait_exit(5) == 0
    assert_group_arguments(record, index=1)


@pytest.mark.parametrize("mood", [Mood.ANSWER, Mood.SILENT])
def test_on_timeout_exec(cluster: Cluster, worker: Node, mood: Mood) -> None:
    """SGLang is started anyway; a lookup that still hangs leaves no descriptor behind."""
    cluster.dns.set_mood(mood)
    launch = worker.start(
        launch_arguments("--wait-deadline", "1.5", "--on-timeout", "exec"),
        lws(1),
        behaviour="exit:5",
    )
    first = launch.wait_for_line(WAITING, START_S)
    record = launch.wait_record(NOTICE_S)
    begun_s = launch.record_path.stat().st_mtime - time.time() + time.monotonic()
    assert begun_s - launch.started_s > 1.5
    # At the deadline, that is: a resolver that hangs gets no further chance.
    assert begun_s - first.at_s < 1.5 + 0.7, launch.account()
    assert launch.wait_exit(5) == 5
    assert_group_arguments(record, index=1)
    assert_clean_handover(launch, record)


def test_deadline_zero_does_not_wait(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    launch = worker.start(launch_arguments("--wait-deadline", "0"), lws(1))
    record = launch.wait_record(START_S)
    assert launch.wait_exit(5) == 0
    assert leader.refusals() == 0
    assert_group_arguments(record, index=1)
    assert_control_interface(record, "eth0", worker.address)


# --------------------------------------------------------------------------- interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["no name", "silent resolver", "refused", "dropped"])
def test_signal_ends_the_wait(
    cluster: Cluster, leader: Node, worker: Node, state: str, number: signal.Signals
) -> None:
    """At once, whatever the wait is busy with."""
    address = DROPPED_ADDRESS if state == "dropped" else leader.address
    if state != "no name":
        cluster.dns.publish(LEADER_RECORD, address)
    if state == "silent resolver":
        cluster.dns.set_mood(Mood.SILENT)
    # Kubernetes is recognised, and its default linger must not hold up a termination either.
    launch = worker.start(launch_arguments(), lws(1) | {"KUBERNETES_SERVICE_HOST": "10.77.0.1"})
    launch.wait_for_line(WAITING, START_S)
    launch.still_waiting(0.5)
    sent_s = launch.send(number)
    assert launch.wait_exit(5) == 128 + number, launch.account()
    assert time.monotonic() - sent_s < PROMPT_S, launch.account()
    launch.assert_not_started()


def test_larger_group(cluster: Cluster, leader: Node, worker: Node) -> None:
    """The third of four nodes: the sizes follow the group."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments(), lws(2, size=4))
        record = launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0
    values = option_values(record["argv"])
    assert (values["--tp-size"], values["--nnodes"], values["--node-rank"]) == ("32", "4", "2")


def test_index_from_the_pods_name(cluster: Cluster, leader: Node, worker: Node) -> None:
    """An empty variable is unset; on the pod network the host name fills the gap."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments(), lws(1) | {"LWS_WORKER_INDEX": ""})
        record = launch.wait_record(START_S)
        assert launch.wait_exit(5) == 0
    assert_group_arguments(record, index=1)


# An exception cannot leave __del__ or a weak reference's callback; Python prints and drops it. Import
# runs such callbacks: this signals the process from within one, when the wait loads its library.
SIGNAL_FROM_DEL = """
import os, signal, sys

class Cargo:
    def __del__(self):
        os.write(2, b"signal from __del__\\n")
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tenacity":
            sys.meta_path.remove(self)
            Cargo()
        return None

sys.meta_path.insert(0, Finder())
"""


def test_signal_where_exceptions_are_dropped(
    cluster: Cluster, worker: Node, standin: Path, tmp_path: Path
) -> None:
    """A handler that only raises can lose its signal; the pod would then wait for its SIGKILL."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SIGNAL_FROM_DEL, encoding="ascii")
    environment = lws(1) | {"PYTHONPATH": python_path(hook, standin)}
    launch = worker.start(launch_arguments(), environment)
    sent = launch.wait_for_line("signal from __del__", START_S)
    assert launch.wait_exit(5) == 143, launch.account()
    assert time.monotonic() - sent.at_s < PROMPT_S
