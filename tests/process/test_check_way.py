"""--check and --probe on real nodes: the path to the leader, ports, the server that runs."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.group.meeting import wire
from tests.process.command import START_S
from tests.process.dns import Mood
from tests.process.group import (
    DIST_PORT,
    GPUS,
    HTTP_PORT,
    LEADER_RECORD,
    OPTIONS,
    SGLANG_ARGUMENTS,
    launch_arguments,
    lws,
    store,
)
from tests.process.nodes import DROPPED_ADDRESS, UNREACHABLE_ADDRESS, ip_batch, serving

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.process.nodes import Cluster, Node

pytestmark = pytest.mark.netns

#: The check's own deadline, and what a start takes on a busy machine.
IN_TIME_S = 10.0 + START_S
WORKER_RECORD = "sglang-0-1.sglang.default.svc.cluster.local"


def check(node: Node, environment: Mapping[str, str], *sglang: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code of --check on a node, and its lines by name."""
    arguments = [*OPTIONS, "--check=json", *SGLANG_ARGUMENTS, *sglang]
    launch = node.start(arguments, environment)
    code = launch.wait_exit(IN_TIME_S)
    document: dict[str, Any] = json.loads(launch.text("stdout"))
    assert document["exit_code"] == code
    assert "Traceback" not in launch.text()
    return code, items_by_name(document)


def items_by_name(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {item["name"]: item for item in document["items"]}


def test_worker_whose_leader_is_there(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with serving(leader, DIST_PORT, store(GPUS)):
        code, lines = check(worker, lws(1))
    assert code == 0, lines
    assert lines["leader name"]["status"] == "ok"
    assert leader.address in lines["leader name"]["evidence"]
    assert lines["leader port"]["status"] == "ok"
    assert (
        f"on {DIST_PORT}: SGLang runs there already (torch's store answers, {GPUS} ranks joined)"
        in (lines["leader port"]["evidence"])
    )
    assert lines["path mtu"] == {
        "name": "path mtu", "status": "ok", "remedy": "", "evidence": f"packets of 1500 bytes reach {leader.address}",
    }  # fmt: skip
    assert lines["hostname"]["status"] == "ok"
    assert worker.address in lines["hostname"]["evidence"]


def test_ipv6(cluster: Cluster) -> None:
    leader, worker = cluster.add_node("sglang-0", (6,)), cluster.add_node("sglang-0-1", (6,))
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with serving(leader, DIST_PORT, store(GPUS)):
        code, lines = check(worker, lws(1))
    assert code == 0, lines
    assert (lines["leader port"]["status"], lines["path mtu"]["status"]) == ("ok", "ok"), lines


def test_leader_that_has_not_opened_its_port(cluster: Cluster, leader: Node, worker: Node) -> None:
    """The ordinary state at start: reported, no failure, and the path is tried anyway."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    code, lines = check(worker, lws(1))
    assert code == 0, lines
    assert lines["leader port"]["status"] == "warn"
    assert "refuses" in lines["leader port"]["evidence"]
    assert lines["path mtu"]["status"] == "ok"


@pytest.mark.parametrize(
    ("address", "evidence", "remedy"),
    [
        (DROPPED_ADDRESS, "does not answer", "NetworkPolicy"),
        (UNREACHABLE_ADDRESS, "unreachable", "pod network"),
    ],
)
def test_filtered_and_unreachable(
    cluster: Cluster, leader: Node, worker: Node, address: str, evidence: str, remedy: str
) -> None:
    cluster.dns.publish(LEADER_RECORD, address)
    code, lines = check(worker, lws(1))
    assert code == 124, lines
    assert lines["leader port"]["status"] == "fail"
    assert evidence in lines["leader port"]["evidence"]
    assert remedy in lines["leader port"]["remedy"]
    assert "path mtu" not in lines


def test_black_hole_for_large_packets(cluster: Cluster, leader: Node, worker: Node) -> None:
    """A switch that drops what is too large, as the bridge does here: TCP would connect and hang."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    leader.ip("link set eth0 mtu 1400")
    with serving(leader, DIST_PORT, store(GPUS)):
        code, lines = check(worker, lws(1))
    assert code == 0
    assert lines["leader port"]["status"] == "ok"
    assert lines["path mtu"]["status"] == "warn", lines
    assert "1500 bytes to" in lines["path mtu"]["evidence"]
    assert "1400 bytes pass" in lines["path mtu"]["evidence"]
    assert "1400" in lines["path mtu"]["remedy"]


def test_router_with_a_smaller_mtu(cluster: Cluster, leader: Node, worker: Node) -> None:
    """A router that says "fragmentation needed": TCP adapts, the difference is worth a word."""
    address = "10.88.0.1"
    leader.ip(f"addr add {address}/32 dev eth0")
    ip_batch(cluster._fabric_pid, f"route add {address}/32 via {leader.ipv4} mtu 1300")
    cluster.dns.publish(LEADER_RECORD, address)
    with leader.listen(DIST_PORT, address):
        code, lines = check(worker, lws(1))
    assert code == 0
    assert lines["path mtu"]["status"] == "warn", lines
    assert "1300 bytes pass" in lines["path mtu"]["evidence"]


def test_name_that_does_not_resolve(cluster: Cluster, leader: Node, worker: Node) -> None:
    code, lines = check(worker, lws(1))
    assert code == 0, lines
    assert lines["leader name"]["status"] == "warn"
    assert "kubectl get pod sglang-0" in lines["leader name"]["remedy"]
    assert "leader port" not in lines


def test_nodes_resolver_on_the_host_network(cluster: Cluster, leader: Node, worker: Node) -> None:
    """Without the cluster's search domains the name never comes: that is how a launch would end."""
    (worker.directory / "resolv.conf").write_text("nameserver 10.77.0.53\n", encoding="utf-8")
    code, lines = check(worker, lws(1))
    assert code == 124, lines
    assert lines["leader name"]["status"] == "fail"
    assert "ClusterFirstWithHostNet" in lines["leader name"]["remedy"]
    assert lines["dns"]["status"] == "warn"


def test_resolver_that_hangs(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.set_mood(Mood.SILENT)
    begun = time.monotonic()
    code, lines = check(worker, lws(1))
    assert time.monotonic() - begun < IN_TIME_S
    assert code == 0
    assert "has not answered" in lines["leader name"]["evidence"]


def test_leader_with_its_worker(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    cluster.dns.publish(WORKER_RECORD, worker.address)
    code, lines = check(leader, lws(0))
    assert code == 0, lines
    assert lines["leader name"]["status"] == "ok"
    assert lines["workers"]["status"] == "ok"
    assert worker.address in lines["workers"]["evidence"]
    assert lines["ports"]["evidence"] == f"free: {DIST_PORT}, {HTTP_PORT}"


def test_leader_without_workers(cluster: Cluster, leader: Node) -> None:
    """What startupPolicy LeaderReady looks like from within."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    code, lines = check(leader, lws(0))
    assert code == 0
    assert lines["workers"]["status"] == "warn"
    assert "LeaderCreated" in lines["workers"]["remedy"]


def test_leader_whose_name_is_another_nodes(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, worker.address)
    code, lines = check(leader, lws(0))
    assert code == 0
    assert lines["leader name"]["status"] == "warn"
    assert worker.address in lines["leader name"]["evidence"]


def test_port_is_taken(cluster: Cluster, leader: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        code, lines = check(leader, lws(0))
    assert code == 78, lines
    assert lines["ports"]["status"] == "fail"
    assert f"taken: {DIST_PORT}" in lines["ports"]["evidence"]
    assert "ss -ltnp" in lines["ports"]["remedy"]


def test_ports_of_the_server_that_runs_here(cluster: Cluster, leader: Node) -> None:
    """A look into a pod that works must not call its own server an intruder."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    launch = leader.start(launch_arguments(), lws(0), behaviour=f"listen:{DIST_PORT} sigterm:0")
    launch.wait_record(START_S)
    code, lines = check(leader, lws(0))
    assert code == 0, lines
    assert lines["ports"]["status"] == "ok"
    assert f"process {launch.process.pid}" in lines["ports"]["evidence"]
    launch.send(signal.SIGTERM)
    assert launch.wait_exit(5) == 0


def test_arguments_of_the_server_that_runs_here(cluster: Cluster, leader: Node) -> None:
    """By kubectl exec in a pod that works nobody types SGLang's arguments again."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    document = check_without_arguments(leader)
    assert document["head"]["server_pid"] is None
    assert "in use" not in items_by_name(document)
    command = items_by_name(document)["command"]
    assert (command["status"], command["evidence"]) == ("skip", "no SGLang arguments were given")

    behaviour = f"listen:{DIST_PORT} sigterm:0"
    launch = leader.start(
        launch_arguments(sglang=[*SGLANG_ARGUMENTS, "--api-key", "s3cr3t"]), lws(0), behaviour=behaviour
    )
    argv = launch.wait_record(START_S)["argv"]
    document = check_without_arguments(leader)
    assert document["head"]["server_pid"] == launch.process.pid
    lines = items_by_name(document)
    # Two nodes of which one is here, and no queue pair; where the kernel has no RDMA it cannot tell.
    assert lines["in use"]["status"] in ("warn", "skip")
    shown = shlex.split(lines["command"]["evidence"])
    assert shown[3:] == [*argv[:-1], "***"]
    assert lines["identity"]["evidence"].startswith("the leader of 2 nodes")
    assert lines["ports"]["status"] == "ok"
    assert document["exit_code"] == 0, document

    text = leader.start([*OPTIONS, "--check"], lws(0))
    assert text.wait_exit(IN_TIME_S) == 0
    line = f"SGLang's arguments are those of the server that runs here (process {launch.process.pid})\n"
    assert line in text.text("stdout")
    assert "s3cr3t" not in text.text("stdout")

    # What is given counts, and nothing is taken from a server that is one of several.
    code, lines = check(leader, lws(0))
    assert (code, "api-key" in lines["command"]["evidence"]) == (0, False)
    second = leader.start(launch_arguments("--wait-deadline", "0"), {}, behaviour="sigterm:0")
    second.wait_record(START_S)
    assert check_without_arguments(leader)["head"]["server_pid"] is None
    for server in (launch, second):
        server.send(signal.SIGTERM)
        assert server.wait_exit(5) == 0


def test_a_relative_config_is_the_running_servers(cluster: Cluster, leader: Node, tmp_path: Path) -> None:
    """``kubectl exec`` starts in the image's working directory, which need not be the server's."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    (leader.directory / "serve.yaml").write_text("port: 31007\n")
    (tmp_path / "serve.yaml").write_text("port: [\n")
    elsewhere = ("env", f"--chdir={tmp_path}")
    arguments = launch_arguments(sglang=[*SGLANG_ARGUMENTS, "--config", "serve.yaml"])
    launch = leader.start(arguments, lws(0), behaviour=f"listen:{DIST_PORT} sigterm:0")
    launch.wait_record(START_S)
    looked = leader.start([*OPTIONS, "--check=json"], lws(0), prefix=elsewhere)
    assert looked.wait_exit(IN_TIME_S) == 0, looked.account()
    assert "serve.yaml" in items_by_name(json.loads(looked.text("stdout")))["command"]["evidence"]
    asked = leader.start(["--probe", "readiness"], prefix=elsewhere)
    assert asked.wait_exit(START_S) == 1
    assert "31007" in asked.text("stdout")
    launch.send(signal.SIGTERM)
    assert launch.wait_exit(5) == 0


def check_without_arguments(node: Node) -> dict[str, Any]:
    """Return the document of --check on the leader without SGLang's arguments."""
    launch = node.start([*OPTIONS, "--check=json"], lws(0))
    code = launch.wait_exit(IN_TIME_S)
    document: dict[str, Any] = json.loads(launch.text("stdout"))
    assert document["exit_code"] == code
    return document


def probe(node: Node, kind: str, *arguments: str) -> tuple[int, str]:
    """Return the exit code and the line of a probe on a node."""
    launch = node.start(["--probe-timeout", "2", "--probe", kind, *arguments])
    code = launch.wait_exit(START_S + 2)
    said = launch.text("stdout")
    assert said.count("\n") == 0
    assert said
    assert launch.text() == ""
    return code, said


def test_probe_of_a_launch_from_its_wait_to_its_server(cluster: Cluster, leader: Node, worker: Node) -> None:
    """Nothing runs; the launcher waits; the model loads; the server listens and hangs."""
    code, said = probe(worker, "liveness")
    assert code == 1
    assert "no SGLang server is running here" in said

    arguments = launch_arguments("--wait-deadline", "60", sglang=[*SGLANG_ARGUMENTS, "--port", "31000"])
    launch = worker.start(arguments, lws(1), behaviour="sigterm:0")
    launch.wait_for_line("waiting for", START_S)
    assert probe(worker, "liveness")[0] == 0
    code, said = probe(worker, "readiness")
    assert code == 1
    assert "has not started SGLang yet" in said

    cluster.dns.publish(LEADER_RECORD, leader.address)
    leader.listen(DIST_PORT)
    launch.wait_record(START_S)
    code, said = probe(worker, "startup")
    assert (code, "worker 1" in said, "0.0.0.0:31000" in said) == (1, True, True), said
    assert probe(worker, "liveness")[0] == 0, "a node that loads its model is alive"

    worker.listen(31000, "127.0.0.1")
    for kind in ("startup", "readiness", "liveness"):
        code, said = probe(worker, kind)
        assert code == 1
        assert "does not answer" in said
    # Another container's server, or none: what is given after -- counts.
    assert probe(worker, "liveness", "--", "--port", "1")[0] == 0
    launch.send(signal.SIGTERM)
    assert launch.wait_exit(5) == 0


HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def test_probe_of_a_healthy_worker(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    leader.listen(DIST_PORT)
    launch = worker.start(launch_arguments(), lws(1), behaviour="sigterm:0")
    launch.wait_record(START_S)
    server = worker.start(["-c", HEALTHY, "127.0.0.1", str(HTTP_PORT)], command=[sys.executable])
    end = time.monotonic() + START_S
    while probe(worker, "readiness")[0] != 0:
        assert time.monotonic() < end, server.account()
    for kind in ("startup", "readiness", "liveness"):
        code, said = probe(worker, kind)
        assert (code, said.startswith("ok: worker 1: ")) == (0, True), said
    launch.send(signal.SIGTERM)
    assert launch.wait_exit(5) == 0


@pytest.mark.parametrize(
    ("said", "status", "evidence"),
    [
        (wire.greeting("launch:sglang-0", "00").line(), "ok", "its launcher holds the group's meeting"),
        (b"\xff\0\0\0\0\0\0\0\x01\x7f", "ok", "SGLang runs there already"),
        (b"HTTP/1.1 400 Bad Request\r\n", "warn", "something else answers there"),
        (b"", "warn", "stays silent, also when asked: neither a launcher nor SGLang"),
        (None, "warn", "accepts and closes at once: a proxy"),
    ],
    ids=["meeting", "ZeroMQ", "HTTP", "silent", "proxy"],
)
def test_who_is_on_the_leaders_port(
    cluster: Cluster, leader: Node, worker: Node, said: bytes | None, status: str, evidence: str
) -> None:
    """Whether a meeting could be held there; what is silent is asked as a launch asks it."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with serving(leader, DIST_PORT, lambda one: one.sendall(said) if said is not None else one.close()):
        code, lines = check(worker, lws(1))
    assert code == 0, lines
    assert lines["leader port"]["status"] == status
    assert evidence in lines["leader port"]["evidence"]


def test_a_firewall_that_lets_d_alone_through(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    leader.reject_ephemeral_ports()
    with serving(leader, DIST_PORT, store(GPUS)):
        _, lines = check(worker, lws(1))
    assert lines["leader port"]["status"] == "ok"
    assert lines["other ports"]["status"] == "warn", lines
    assert "filtered" in lines["other ports"]["evidence"]


def test_a_sidecar_of_a_service_mesh(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with worker.listen(15001, "127.0.0.1"), worker.listen(15006):
        _, lines = check(worker, lws(1))
    assert "Istio's sidecar" in lines["service mesh"]["evidence"]
    _, lines = check(worker, lws(1))
    assert "service mesh" not in lines
