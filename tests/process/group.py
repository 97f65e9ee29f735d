"""What the command gets as a pod of a LeaderWorkerSet group, and what SGLang must get from it."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.group.meeting import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.process.nodes import Cluster, Launch, Node

LEADER_ADDRESS = "sglang-0.sglang.default"
LEADER_RECORD = f"{LEADER_ADDRESS}.svc.cluster.local"
DIST_PORT = 20000
HTTP_PORT = 30000
GPUS = 8

# The nodes have no HCA and no GPU; what is tested is the group and the handover.
OPTIONS = ("--rdma", "off", "--gpus", str(GPUS))
# The other members are stand-ins for SGLang, which no launcher meets.
PLAIN_WAIT = ("--meeting", "off")
SGLANG_ARGUMENTS = ("--model-path", "/models/none", "--trust-remote-code")

ATTENTION_DP = ("--enable-dp-attention", "--dp-size", "2")

# Causes of a wait, as its lines name them.
NOT_RESOLVED = r"not resolv"
REFUSED = r"refuse"
TIMED_OUT = r"timed out|does not answer"
UNREACHABLE = r"unreachable"
WAITING = r"waiting for"
HALF_IDENTITY = r"incomplete identity"

# A pass of back-off (0.5 s), a new lookup (2 s) and the start of SGLang, on a busy machine.
NOTICE_S = 6.0
# "Within a second", plus what the end of an interpreter and of a PID namespace takes.
PROMPT_S = 1.0


def lws(index: int, size: int = 2, leader: str = LEADER_ADDRESS) -> dict[str, str]:
    """Return the variables that LeaderWorkerSet 0.6 and later inject."""
    return {
        "LWS_LEADER_ADDRESS": leader,
        "LWS_GROUP_SIZE": str(size),
        "LWS_WORKER_INDEX": str(index),
    }


def nodes_of(cluster: Cluster, size: int, families: Sequence[int] = (4,)) -> list[Node]:
    """Return the nodes of a group, the leader's first, in DNS as far as they are told apart there."""
    nodes = [cluster.add_node("sglang-0", families)]
    nodes += [cluster.add_node(f"sglang-0-{index}", families) for index in range(1, size)]
    cluster.dns.publish(LEADER_RECORD, nodes[0].address)
    return nodes


def launch_arguments(*options: str, sglang: Sequence[str] = SGLANG_ARGUMENTS) -> list[str]:
    """Return a launch with these further options of ours."""
    return [*OPTIONS, *PLAIN_WAIT, *options, *sglang]


def store(joined: int) -> Callable[[socket.socket], None]:
    """Return what answers as torch's store does, with so many ranks that have joined."""

    def attend(one: socket.socket) -> None:
        start = one.recv(10, socket.MSG_WAITALL)
        if start[:6] == wire.MAGIC + b"\x0d":
            one.sendall(start[6:])
            one.recv(1 + 8 + 8 + 5, socket.MSG_WAITALL)
            one.sendall(b"\0")
            one.recv(1 + 8 + 5, socket.MSG_WAITALL)
            text = str(joined).encode()
            one.sendall(struct.pack("<Q", len(text)) + text)

    return attend


def option_values(argv: Sequence[str]) -> dict[str, str | None]:
    """Return `--x v`, `--x=v` and bare `--x` as a mapping; fails on a repeated option."""
    values: dict[str, str | None] = {}
    at = 0
    while at < len(argv):
        name, equals, value = argv[at].partition("=")
        assert name.startswith("--"), f"{argv[at]!r} is no option in {argv}"
        assert name not in values, f"{name} twice in {argv}"
        at += 1
        if equals:
            values[name] = value
        elif at < len(argv) and not argv[at].startswith("--"):
            values[name] = argv[at]
            at += 1
        else:
            values[name] = None
    return values


def assert_group_arguments(
    record: dict[str, Any], *, index: int, leader: str = LEADER_ADDRESS, host: str = "0.0.0.0"
) -> None:
    """Fail unless SGLang got exactly the group's arguments, ours before the user's."""
    argv = record["argv"]
    assert argv[-len(SGLANG_ARGUMENTS) :] == list(SGLANG_ARGUMENTS)
    assert option_values(argv) == {
        "--tp-size": str(2 * GPUS),
        "--nnodes": "2",
        "--node-rank": str(index),
        "--dist-init-addr": f"{leader}:{DIST_PORT}",
        "--host": host,
        "--model-path": "/models/none",
        "--trust-remote-code": None,
    }


def assert_control_interface(record: dict[str, Any], interface: str, address: str) -> None:
    """Fail unless every consumer is told this interface, in its own grammar."""
    environment = record["environment"]
    assert environment.get("NCCL_SOCKET_IFNAME") == f"={interface}"
    assert environment.get("GLOO_SOCKET_IFNAME") == interface
    assert environment.get("SGLANG_HOST_IP") == address


def assert_clean_handover(launch: Launch, record: dict[str, Any]) -> None:
    """Fail unless SGLang is the very process that was started, with nothing left over from before.

    SIGPIPE (13) and SIGXFSZ (25) are ignored by the stand-in's own interpreter.
    """
    assert record["pid"] == launch.process.pid
    assert set(record["descriptors"]) == {"0", "1", "2"}, record["descriptors"]
    signals = record["signals"]
    assert signals["SigBlk"] == 0
    assert signals["SigPnd"] == 0
    assert signals["SigIgn"] & ~(1 << 12 | 1 << 24) == 0, hex(signals["SigIgn"])
    assert record["threads"] == 1
