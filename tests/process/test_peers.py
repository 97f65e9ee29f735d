"""Closed by default: after the meeting SGLang is told whom its sockets may accept, the same on every node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.command import START_S
from tests.process.group import ATTENTION_DP, DIST_PORT, NOTICE_S, OPTIONS, SGLANG_ARGUMENTS, lws, nodes_of
from tests.process.nodes import serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from tests.process.nodes import Cluster, Launch, Node

pytestmark = pytest.mark.netns

PEERS, SOURCE = "SGLANG_ZMQ_ALLOWED_PEERS", "SGLANG_ZMQ_SOURCE_IP"
LOOPBACK = {"127.0.0.1", "::1"}
MEETS_S = 30.0
ARGUMENTS = [*OPTIONS, "--wait-deadline", "60", *SGLANG_ARGUMENTS, *ATTENTION_DP]


def start_all(nodes: Sequence[Node], *variables: Mapping[str, str]) -> list[Launch]:
    """Start the group, each node with these variables of its own."""
    own = [*variables, *({} for _ in nodes)]
    return [node.start(ARGUMENTS, {**lws(index, len(nodes)), **own[index]}) for index, node in enumerate(nodes)]


def environments(launches: Sequence[Launch]) -> list[dict[str, Any]]:
    return [dict(launch.wait_record(MEETS_S)["environment"]) for launch in launches]


@pytest.mark.parametrize(("families", "size"), [((4,), 3), ((6,), 2), ((4, 6), 2)], ids=["IPv4", "IPv6", "both"])
def test_all_members_and_nobody_else(cluster: Cluster, families: Sequence[int], size: int) -> None:
    nodes = nodes_of(cluster, size, families)
    given = environments(start_all(nodes))
    for node, environment in zip(nodes, given, strict=True):
        assert set(environment[PEERS].split(",")) == LOOPBACK | {one.address for one in nodes}
        assert environment[SOURCE] == node.address
    assert len({environment[PEERS] for environment in given}) == 1


def test_a_node_with_an_address_of_its_own_choice(cluster: Cluster) -> None:
    """Its SGLANG_HOST_IP is not the one with the route to the leader: it is known by both."""
    nodes = nodes_of(cluster, 2)
    nodes[1].add_interface("eth9", "10.99.0.2/24")
    given = environments(start_all(nodes, {}, {"SGLANG_HOST_IP": "10.99.0.2"}))
    assert {environment[PEERS] for environment in given} == {given[0][PEERS]}
    assert set(given[0][PEERS].split(",")) == LOOPBACK | {nodes[0].address, nodes[1].address, "10.99.0.2"}
    assert given[1][SOURCE] == nodes[1].address
    assert given[1]["SGLANG_HOST_IP"] == "10.99.0.2"


def test_a_list_of_the_user_wins(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 2)
    own = ",".join([*(node.address for node in nodes), "10.77.0.1"])
    given = environments(start_all(nodes, {PEERS: own}, {PEERS: own, "SGLANG_ROCE_ZMQ_PEERS": "off"}))
    assert [environment[PEERS] for environment in given] == [own, own]
    assert given[0][SOURCE] == nodes[0].address
    assert SOURCE not in given[1]


def test_a_list_that_leaves_a_member_out_is_everybodys_end(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    own = {PEERS: f"{nodes[0].address}, {nodes[2].address}"}
    for launch, node in zip(start_all(nodes, own, own, own), nodes, strict=True):
        assert launch.wait_exit(MEETS_S) == 78, launch.account()
        first = node.termination_log().decode().splitlines()[0]
        assert f"leaves members of this group out: 1 (sglang-0-1) is {nodes[1].address}" in first
        assert "[PEERS_LEAVE_OUT]" in first


def test_switched_off(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 2)
    launches = start_all(nodes, *({"SGLANG_ROCE_ZMQ_PEERS": "off"},) * 2)
    assert not {PEERS, SOURCE} & set().union(*environments(launches))
    assert f"not set: {PEERS}, {SOURCE} (zmq-peers off (SGLANG_ROCE_ZMQ_PEERS))" in launches[0].text()


def test_behind_nat_there_is_none(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 2)
    nodes[1].add_interface("eth9", "10.99.0.2/24")
    nodes[1].filter("-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-p", "tcp", "-j", "SNAT", "--to", "10.99.0.2")
    nodes[0].ip(f"route add 10.99.0.2/32 via {nodes[1].address}")
    launches = start_all(nodes)
    assert not {PEERS, SOURCE} & set().union(*environments(launches))
    assert "is seen as 10.99.0.2, which is no address of its own" in launches[1].text()


def test_a_worker_that_was_restarted_alone_says_what_its_new_address_means(cluster: Cluster) -> None:
    """SGLang of the leader has the addresses of those who met; it is not told to accept another."""

    def handshake(one: socket.socket) -> None:
        one.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f")

    nodes = nodes_of(cluster, 2)
    with serving(nodes[0], DIST_PORT + 13, handshake):
        launch = nodes[1].start(ARGUMENTS, lws(1))
        environment = launch.wait_record(START_S + NOTICE_S)["environment"]
    assert not {PEERS, SOURCE} & set(environment)
    assert "if this pod's is a new one, nothing of it arrives" in launch.text()
    assert "no meeting was held: this pod alone was restarted" in launch.text()


def test_the_check_of_a_running_server_shows_whom_its_sockets_accept(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 2)
    behaviour = f"listen:{DIST_PORT} listen:{DIST_PORT + 2} listen:30000 sigterm:0"
    launches = [node.start(ARGUMENTS, lws(index), behaviour=behaviour) for index, node in enumerate(nodes)]
    environments(launches)
    checked = nodes[0].start(["--check=json"], lws(0))
    checked.wait_exit(MEETS_S)
    items = json.loads(checked.text("stdout"))["items"]
    (line,) = [item for item in items if item["name"] == "open ports"]
    assert line["status"] == "ok"
    for said in (
        "30000 for clients",
        f"{DIST_PORT} for the group",
        f"{DIST_PORT + 2} for the group, take pickles from 4 ",
    ):
        assert said in line["evidence"]
