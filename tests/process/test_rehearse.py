"""`--rehearse`: launchers of a group meet on port D, in nodes of their own, and all tell the same verdict."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.report.page.rehearsed import group_page
from tests.process.command import START_S, base_environment, run_entry
from tests.process.group import (
    ATTENTION_DP,
    DIST_PORT,
    HTTP_PORT,
    LEADER_ADDRESS,
    NOTICE_S,
    OPTIONS,
    PROMPT_S,
    lws,
    nodes_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.process.nodes import Cluster, Launch

pytestmark = pytest.mark.netns

MODEL = ("--model-path", "/models/none")
#: A start on a machine with two cores that starts others at the same moment.
MEETS_S = 30.0


def rehearsal(*options: str, sglang: Sequence[str] = MODEL, form: str = "--rehearse=json") -> list[str]:
    return [form, *OPTIONS, "--wait-deadline", "60", *options, *sglang]


def document(launch: Launch, timeout_s: float = MEETS_S) -> dict[str, Any]:
    """Return what a rehearsal has printed, whose exit code is in it."""
    code = launch.wait_exit(timeout_s)
    shown: dict[str, Any] = json.loads(launch.text("stdout"))
    assert code == shown["exit_code"]
    assert "Traceback" not in launch.text()
    return shown


def codes(shown: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in shown["problems"]]


@pytest.mark.parametrize("families", [(4,), (6,)], ids=["IPv4", "IPv6"])
def test_a_group_that_agrees(cluster: Cluster, families: Sequence[int]) -> None:
    """The workers come first; every member shows the same document, but for who it is."""
    leader, *workers = nodes_of(cluster, 3, families)
    launches = [worker.start(rehearsal(), lws(index, 3)) for index, worker in enumerate(workers, 1)]
    launches[0].wait_for_line("refuses connections on 20000", START_S + NOTICE_S)
    launches.insert(0, leader.start(rehearsal(), lws(0, 3)))
    documents = [document(launch) for launch in launches]
    for index, shown in enumerate(documents):
        assert shown.pop("identity") == {"leader": LEADER_ADDRESS, "size": 3, "index": index, "source": "LWS_*"}
        assert shown == documents[0]
        assert shown["format"] == 1
        assert shown["exit_code"] == 0
    assert [(node["index"], node["state"], node["gpus"]) for node in documents[0]["nodes"]] == [
        (index, "present", 8) for index in range(3)
    ]
    assert [node["address"] for node in documents[0]["nodes"]] == [node.address for node in (leader, *workers)]
    # Each has dialled the one before and the one after it.
    assert {(edge["from"], edge["to"]) for edge in documents[0]["reach"]} == {
        (one, other) for one in range(3) for other in range(3) if one != other
    }
    assert all(edge["ok"] for edge in documents[0]["reach"])
    for launch in launches:
        launch.assert_not_started()


@pytest.mark.parametrize(
    ("options", "sglang", "variables", "code"),
    [
        ((), ("--model-path", "/models/other"), {}, "ARGUMENT_DIFFERS"),
        (("--gpus", "4"), MODEL, {}, "GPUS_DIFFER"),
        ((), MODEL, {"NCCL_ALGO": "Ring"}, "VARIABLE_DIFFERS"),
    ],
    ids=["model", "gpus", "variable"],
)
def test_the_one_that_differs_is_named_everywhere(
    cluster: Cluster, options: Sequence[str], sglang: Sequence[str], variables: dict[str, str], code: str
) -> None:
    leader, *workers = nodes_of(cluster, 3)
    launches = [leader.start(rehearsal(), lws(0, 3))]
    launches.append(workers[0].start(rehearsal(*options, sglang=sglang), {**lws(1, 3), **variables}))
    launches.append(workers[1].start(rehearsal(), lws(2, 3)))
    for shown in map(document, launches):
        named = [one["message"] for one in shown["problems"] if one["code"] == code]
        assert named, codes(shown)
        assert "1 (sglang-0-1)" in named[0]
        assert any(one["odd"] == [1] for one in shown["differences"] if one["code"] == code)


def test_a_member_shows_the_group_as_a_page(cluster: Cluster) -> None:
    """It is the page of the document that another member prints, but for who shows it."""
    leader, worker = nodes_of(cluster, 2)
    launches = [leader.start(rehearsal(form="--rehearse=html"), lws(0)), worker.start(rehearsal(), lws(1))]
    shown = document(launches[1])
    assert launches[0].wait_exit(MEETS_S) == shown["exit_code"] == 0
    page = group_page({**shown, "identity": {**shown["identity"], "index": 0}})
    assert launches[0].text("stdout") == page.strip()


def test_a_refusal_is_every_pods_end(cluster: Cluster) -> None:
    """RDMA is required on one node that has none: its code and sentence, also where Kubernetes keeps them."""
    leader, worker = nodes_of(cluster, 2)
    launches = [leader.start(rehearsal(), lws(0))]
    refusing = rehearsal("--rdma", "required", "--hca-wait", "0")
    launches.append(worker.start(refusing, lws(1)))
    for launch, node in zip(launches, (leader, worker), strict=True):
        shown = document(launch)
        assert shown["exit_code"] == 69
        assert shown["problems"][0]["message"].startswith("1 (sglang-0-1) cannot start: ")
        assert [one["state"] for one in shown["nodes"]] == ["present", "refused"]
        assert b"1 (sglang-0-1) cannot start" in node.termination_log()


def test_who_is_missing_is_named_by_pod_and_what_dns_says(cluster: Cluster) -> None:
    leader, here = nodes_of(cluster, 2)
    cluster.dns.publish("sglang-0-3.sglang.default.svc.cluster.local", "10.77.0.99")
    launches = [
        leader.start(rehearsal("--wait-deadline", "6"), lws(0, 4)),
        here.start(rehearsal("--wait-deadline", "30"), lws(1, 4)),
    ]
    launches[0].wait_for_line("2 of 4 are here|1 of 4 are here", START_S + NOTICE_S)
    for shown in map(document, launches):
        assert shown["exit_code"] == 124
        message = shown["problems"][0]["message"]
        assert "2 (sglang-0-2) does not resolve" in message
        assert "3 (sglang-0-3) resolves to 10.77.0.99, but has not called" in message
        assert [node["state"] for node in shown["nodes"]] == ["present", "present", "missing", "missing"]


def test_a_worker_without_a_leader_ends_at_its_deadline(cluster: Cluster) -> None:
    _, worker = nodes_of(cluster, 2)
    launch = worker.start(rehearsal("--wait-deadline", "2"), lws(1))
    shown = document(launch)
    assert shown["exit_code"] == 124
    assert codes(shown) == ["LEADER_TIMEOUT"]
    assert "refuses connections on 20000" in shown["problems"][0]["message"]
    assert [node["index"] for node in shown["nodes"]] == [1]


def test_a_silent_port_is_not_taken_for_anything(cluster: Cluster) -> None:
    """It is asked (ten bytes), named, and called again until the launcher of the leader is there."""
    leader, worker = nodes_of(cluster, 2)
    with leader.listen(DIST_PORT) as port:
        launch = worker.start(rehearsal(), lws(1))
        launch.wait_for_line("accepts and stays silent, also when asked", START_S + NOTICE_S)
        assert port.visits(least=1)[0].received_bytes == 10
    second = leader.start(rehearsal(), lws(0))
    assert document(launch)["exit_code"] == 0
    assert document(second)["exit_code"] == 0


def test_a_taken_port_is_said_with_what_answers_there(cluster: Cluster) -> None:
    leader, _ = nodes_of(cluster, 2)
    with leader.listen(DIST_PORT):
        shown = document(leader.start(rehearsal(), lws(0)))
    assert shown["exit_code"] == 78
    assert codes(shown) == ["PORT_TAKEN"]
    assert "stays silent, also when asked" in shown["problems"][0]["message"]


@pytest.mark.parametrize(
    ("taken_on", "port", "sglang", "said"),
    [
        (1, HTTP_PORT, MODEL, ("1 (sglang-0-1) cannot start: ", "30000 (HTTP, --port) in use")),
        (0, DIST_PORT + 13, (*MODEL, *ATTENTION_DP), ("0 (sglang-0) cannot start: ", "20013 (attention DP, ")),
    ],
    ids=["HTTP of a worker", "attention DP on the leader"],
)
def test_a_port_that_sglang_could_not_bind_is_every_pods_end(
    cluster: Cluster, taken_on: int, port: int, sglang: Sequence[str], said: Sequence[str]
) -> None:
    """What a launch would find after the meeting; the group meets all the same, and says who it is."""
    nodes = nodes_of(cluster, 2)
    with nodes[taken_on].listen(port):
        launches = [node.start(rehearsal(sglang=sglang), lws(index)) for index, node in enumerate(nodes)]
        for shown in map(document, launches):
            assert shown["exit_code"] == 78
            assert codes(shown) == ["PORT_TAKEN"]
            for part in said:
                assert part in shown["problems"][0]["message"]
            assert [node["state"] == "refused" for node in shown["nodes"]] == [taken_on == 0, taken_on == 1]


def test_restarts_during_the_meeting(cluster: Cluster) -> None:
    """A worker is killed and comes again, then the leader is: the group meets all the same."""
    leader, *workers = nodes_of(cluster, 3)
    first_leader = leader.start(rehearsal(), lws(0, 3))
    first = workers[0].start(rehearsal(), lws(1, 3))
    first_leader.wait_for_line("2 of 3 are here", START_S + 35)
    first.send(signal.SIGKILL)
    again = workers[0].start(rehearsal(), lws(1, 3))
    again.wait_for_line("calling the leader", START_S)
    time.sleep(0.5)
    first_leader.send(signal.SIGKILL)
    again.wait_for_line("has gone away during the meeting|refuses connections", NOTICE_S)
    launches = [leader.start(rehearsal(), lws(0, 3)), again, workers[1].start(rehearsal(), lws(2, 3))]
    assert [document(launch)["exit_code"] for launch in launches] == [0, 0, 0]


@pytest.mark.parametrize("role", ["leader", "worker"])
def test_sigterm_ends_it_at_once_as_pid_1(cluster: Cluster, role: str) -> None:
    leader, worker = nodes_of(cluster, 2)
    node, index = (leader, 0) if role == "leader" else (worker, 1)
    launch = node.start(rehearsal(), lws(index), pid_1=True)
    launch.wait_for_line("the group of 2 meets on" if index == 0 else "refuses connections", START_S)
    pid = launch.first_in_pid_namespace()
    begin = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert launch.wait_exit(5) == 143
    assert time.monotonic() - begin < PROMPT_S + 1
    assert "ended by SIGTERM" in launch.text()


def test_eight_nodes_that_agree_are_a_few_lines(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 8)
    launches = [
        node.start(rehearsal(form="--rehearse", sglang=()), lws(index, 8)) for index, node in enumerate(nodes)
    ]
    for launch in launches:
        assert launch.wait_exit(MEETS_S) == 0
    text = launches[5].text("stdout")
    assert text == launches[0].text("stdout")
    assert "8 of 8 nodes" in text
    assert text.count("\n") < 10
    assert text.rstrip().endswith("The group would start."), text


SECRET = "s3cr3t-of-the-group"


def test_a_saved_meeting_is_compared_again_without_a_network(cluster: Cluster, tmp_path: Path) -> None:
    """The leader's file has all cards, a worker's what it was told; no file has a secret, and none is others' to read."""
    nodes = nodes_of(cluster, 3)
    launches = []
    for index, node in enumerate(nodes):
        sglang = (*MODEL, "--dtype", "half" if index == 2 else "auto", "--api-key", f"{SECRET}-{index}")
        words = rehearsal("--save-meeting", "meeting.json", sglang=sglang)
        secrets = {"SGLANG_OF_LATER_TOKEN": SECRET, "HF_TOKEN": SECRET}
        launches.append(node.start(words, {**lws(index, 3), **secrets, "MC_URL": f"https://user:{SECRET}@store/"}))
    shown = [document(launch) for launch in launches]
    assert shown[0]["exit_code"] == 78
    files = [node.directory / "meeting.json" for node in nodes]
    alone = base_environment(tmp_path, sglang=None)
    for index, file in enumerate(files):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert SECRET not in file.read_text()
        ran = run_entry(["--meeting-file", str(file), "--rehearse=json"], alone, cwd=tmp_path)
        assert (ran.code, ran.json()) == (78, shown[index])
    text = run_entry(["--meeting-file", str(files[0]), "--rehearse"], alone, cwd=tmp_path)
    assert "--dtype is half on 2 (sglang-0-2)" in text.stdout.decode()
    assert "saved by the leader with launcher 0.1.0: 3 cards compared again" in text.stderr
    assert "saved 3 cards in meeting.json" in launches[0].text()
    assert "saved what this node was told (the leader's file has the cards)" in launches[1].text()


def test_a_group_that_did_not_meet_is_saved_as_well(cluster: Cluster, tmp_path: Path) -> None:
    leader, _ = nodes_of(cluster, 2)
    launch = leader.start(rehearsal("--wait-deadline", "2", "--save-meeting", "meeting.json"), lws(0))
    shown = document(launch)
    assert codes(shown) == ["MEETING_INCOMPLETE"]
    file = str(leader.directory / "meeting.json")
    ran = run_entry(
        ["--meeting-file", file, "--rehearse=json"], base_environment(tmp_path, sglang=None), cwd=tmp_path
    )
    assert (ran.code, ran.json()) == (124, shown)


def test_a_meeting_that_cannot_be_saved_in_the_end_is_shown_all_the_same(cluster: Cluster) -> None:
    launch = cluster.add_node("alone").start(rehearsal("--save-meeting", "/dev/full"))
    assert launch.wait_exit(MEETS_S) == 2
    assert json.loads(launch.text("stdout"))["exit_code"] == 0
    assert "[MEETING_WRITE]" in launch.text()


def test_one_node_rehearses_alone(cluster: Cluster) -> None:
    alone = cluster.add_node("alone")
    shown = document(alone.start(rehearsal()))
    assert shown["exit_code"] == 0
    assert [node["index"] for node in shown["nodes"]] == [0]
    with alone.listen(HTTP_PORT):
        assert codes(document(alone.start(rehearsal()))) == ["PORT_TAKEN"]


def test_without_an_identity_there_is_a_document(cluster: Cluster) -> None:
    shown = document(cluster.add_node("half").start(rehearsal(), {"LWS_GROUP_SIZE": "2"}))
    assert shown["identity"] is None
    assert shown["exit_code"] == 78
    assert codes(shown) == ["HALF_IDENTITY"]
