"""A leader whose launcher is restarted after its members have started SGLang: it sees them, and goes on."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.process.group import ATTENTION_DP, DIST_PORT, OPTIONS, SGLANG_ARGUMENTS, lws, nodes_of
from tests.process.nodes import in_network_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process.nodes import Cluster, Node

pytestmark = pytest.mark.netns

#: Ten seconds without a card, the start of a process, and a busy machine.
NOTICED_S = 45.0
ZEROMQ = b"\xff\0\0\0\0\0\0\0\x01\x7f"


@contextmanager
def calling(node: Node, leader: Node, port: int, heard: bytearray) -> Iterator[None]:
    """Call the leader as libzmq does, from a node, again and again; what it hears is kept."""
    over = threading.Event()

    def connect() -> socket.socket:
        return socket.create_connection((leader.address, port), timeout=5)

    def run() -> None:
        while not over.wait(0.2):
            with suppress(OSError), in_network_of(node.pid, connect) as one:
                one.sendall(ZEROMQ)
                while data := one.recv(4096):
                    heard.extend(data)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_with_attention_dp_the_workers_call_beside_d(cluster: Cluster) -> None:
    """They look for no store before the leader's SGLang has answered there."""
    nodes = nodes_of(cluster, 2)
    cluster.dns.publish("sglang-0-1.sglang.default.svc.cluster.local", nodes[1].address)
    heard = bytearray()
    arguments = [*OPTIONS, "--wait-deadline", "60", *SGLANG_ARGUMENTS, *ATTENTION_DP]
    with calling(nodes[1], nodes[0], DIST_PORT + 13, heard):
        launch = nodes[0].start(arguments, lws(0))
        launch.wait_record(NOTICED_S)
    assert launch.wait_exit(10) == 0, launch.account()
    assert f"SGLang of {nodes[1].address} waits" in launch.text()
    assert "[MEMBER_AHEAD]" in launch.text()
    assert heard == b""
