"""The list of members, in SGLang's own sockets: who is in it gets through, as its kernel's library writes addresses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.meeting.card import Own, make
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.seen import peers_of
from tests.sglang.releases import SERVER

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Node
    from tests.sglang.environment import Environment

pytestmark = pytest.mark.sglang

IMPORTS_S = 240.0
PORT = 20002
#: Binds an address of each family, as the leader does with attention DP.
BINDS = """
import sys, time, zmq
from sglang.srt.utils.network import NetworkAddress, get_zmq_socket
context = zmq.Context()
sockets = [get_zmq_socket(context, zmq.PULL, NetworkAddress(host, int(sys.argv[1])).to_tcp(), True) for host in sys.argv[2:]]
print("bound", flush=True)
time.sleep(600)
"""
#: Connects once for each (source, host), and says what the handshake came to.
CALLS = """
import json, os, sys, zmq
from zmq.utils.monitor import recv_monitor_message
from sglang.srt.utils.network import NetworkAddress, is_valid_ipv6_address, zmq_connect
ends = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
context, answers = zmq.Context(), []
for source, host in json.loads(sys.argv[2]):
    os.environ["SGLANG_ZMQ_SOURCE_IP"] = source
    push = context.socket(zmq.PUSH)
    push.setsockopt(zmq.IPV6, is_valid_ipv6_address(host))
    monitor = push.get_monitor_socket(ends)
    zmq_connect(push, NetworkAddress(host, int(sys.argv[1])).to_tcp())
    answers.append(recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED)
    push.close(linger=0)
print("answers", json.dumps(answers), flush=True)
os._exit(0)
"""


def member(index: int, node: Node) -> Member:
    """Return a member as a meeting has it: known by one family, and by its own SGLANG_HOST_IP of the other."""
    own = Own(node.address, reach_address=node.address, sources=(str(node.ipv6),))
    return Member(make("g", 2, index, node.hostname, own, {}), node.address, 0.0, 0.0)


def test_who_is_in_the_list_gets_through_and_nobody_else(cluster: Cluster, environment: Environment) -> None:
    """Both families, a node with several addresses, and a pod that comes again with another one."""
    leader, worker, again = (cluster.add_node(name, (4, 6)) for name in ("sglang-0", "sglang-0-1", "again"))
    second = f"{worker.address.rpartition('.')[0]}.222"
    worker.ip(f"address add {second}/24 dev eth0")
    peers = peers_of([member(0, leader), member(1, worker)], [], 2).addresses
    variables = {
        **environment.variables(SERVER, mocked=("torchvision", "sgl_kernel")),
        "SGLANG_USE_CPU_ENGINE": "1",
    }
    python = [str(environment.python), "-c"]
    hosts = [leader.address, str(leader.ipv6)]
    bound = leader.start(
        [BINDS, str(PORT), *hosts], {**variables, "SGLANG_ZMQ_ALLOWED_PEERS": ",".join(peers)}, command=python
    )
    calls = {
        worker: {(worker.address, hosts[0]): True, (second, hosts[0]): False, ("", hosts[1]): True},
        again: {(again.address, hosts[0]): False, ("", hosts[1]): False},
        leader: {(hosts[0], hosts[0]): True, ("", hosts[1]): True},
    }
    bound.wait_for_line("bound", IMPORTS_S)
    calling = {
        node: node.start([CALLS, str(PORT), json.dumps([*wanted])], variables, command=python)
        for node, wanted in calls.items()
    }
    for node, launch in calling.items():
        answers = json.loads(launch.wait_for_line("answers", IMPORTS_S).text.partition(" ")[2])
        assert dict(zip(calls[node], answers, strict=True)) == calls[node], node.hostname
