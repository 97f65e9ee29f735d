"""Scenarios in the guest: the proof of a group's rails, one node for each HCA, and a fault in the fabric between them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel.group_proof import prove, prove_apart
from tests.kernel.node import OUT, ip
from tests.kernel.segments import drop, lay_segments
from tests.kernel.situations import LARGE, UDP_4791, cut, mend, no_route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.kernel.node import Command
    from tests.kernel.segments import Port

Result = dict[str, Any]
NODES = 3
WITHOUT_LOCKING = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")


def rails(command: Command) -> Result:
    """Prove the rails of whole groups, and of groups with one fault each."""
    ports = [port for (port,) in lay_segments(NODES, 1)]
    known = {port.node: [port.verbs_rail()] for port in ports}
    result: Result = {
        "healthy": prove(known),
        "two nodes": prove({node: known[node] for node in (0, 1)}),
    }
    result["foreign GID"] = prove({**known, 1: [replace(known[1][0], gid=known[2][0].gid)]})
    result["another family"] = prove({**known, 1: [ports[1].verbs_rail(ports[1].index_of(ports[1].ipv6))]})
    for name, breaks in FAULTS.items():
        breaks(ports)
        result[name] = prove(known)
        mend(ports)
    result["cured"] = prove(known)
    result["memlock"] = prove_apart(known, *WITHOUT_LOCKING, "prlimit", "--memlock=0:0")
    result["no providers"] = prove_apart(
        known, "unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /etc/libibverbs.d; exec "$@"', "sh"
    )
    return result


def _filtered_both_ways(ports: Sequence[Port]) -> None:
    for port in ports:
        drop(port, *UDP_4791)


#: What breaks the fabric at node 1.
FAULTS: Mapping[str, Callable[[Sequence[Port]], None]] = {
    "filtered one way": lambda ports: drop(ports[1], *UDP_4791),
    "filtered both ways": _filtered_both_ways,
    "MTU on the path": lambda ports: drop(ports[1], *LARGE),
    "no neighbour": lambda ports: cut(*ports[:2]),
    "no route": lambda ports: no_route(*ports[:2]),
    "link lost": lambda ports: ip(f"link set {ports[1].leaf} down", netns="fabric"),
}


def rehearsals(command: Command) -> Result:
    """Rehearse a group of two with real launchers: whole, and with the rail filtered one way."""
    ports = [port for (port,) in lay_segments(2, 1)]
    _lay_way_to_the_leader()
    result: Result = {"healthy": _rehearsed(command)}
    FAULTS["filtered one way"](ports)
    result["filtered one way"] = _rehearsed(command)
    result["proof off"] = _rehearsed(command, "--prove-rails", "off")
    return result


#: Hands connections on: to the worker the leader is elsewhere, though all launchers are in one namespace.
_RELAY = """
import socket, threading

def hand_on(one, other):
    while data := one.recv(65536):
        other.sendall(data)
    other.shutdown(socket.SHUT_WR)

listener = socket.create_server(("10.8.0.1", 20000))
while True:
    near, _ = listener.accept()
    try:
        far = socket.create_connection(("10.9.0.1", 20000))
    except OSError:
        near.close()
        continue
    for pair in ((near, far), (far, near)):
        threading.Thread(target=hand_on, args=pair, daemon=True).start()
"""


def _lay_way_to_the_leader() -> None:
    ip("netns add elsewhere", "link set eth4 up", "addr add 10.9.0.1/24 dev eth4")
    ip("link add way type veth peer name yaw netns elsewhere", "link set way up", "addr add 10.8.0.2/24 dev way")
    ip("link set lo up", "link set yaw up", "addr add 10.8.0.1/24 dev yaw", netns="elsewhere")
    ip("route add 10.9.0.0/24 via 10.8.0.2", netns="elsewhere")
    subprocess.Popen(["ip", "netns", "exec", "elsewhere", sys.executable, "-S", "-c", _RELAY])


def _rehearsed(command: Command, *options: str) -> list[Result]:
    """Return the documents of both members; each is a machine of its own by its boot id."""
    launches = []
    for index in (0, 1):
        boot_id = OUT / f"boot_id{index}"
        boot_id.write_text(f"0000000{index}-0000-4000-8000-000000000000\n")
        apart = f'mount --bind {boot_id} /proc/sys/kernel/random/boot_id; exec "$@"'
        identity = ("--leader-address", f"10.{9 - index}.0.1", "--group-size", "2", "--worker-index", str(index))
        line = [
            *("unshare", "--mount", "sh", "-ec", apart, "sh", str(command.path), "--rehearse=json", "--gpus", "1"),
            *("--rdma", "required", "--hca", f"=mlx5_{index}:1", "--wait-deadline", "60", *identity, *options),
            *("--model-path", "m"),
        ]
        with (OUT / f"rehearsal{index}.log").open("wb") as log:
            launches.append(
                subprocess.Popen(
                    line, env=command.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
                )
            )
    documents = []
    for index, launch in enumerate(launches):
        output, _ = launch.communicate(timeout=90)
        log_text = Path(OUT / f"rehearsal{index}.log").read_text()
        documents.append({"status": launch.returncode, "log": log_text, **json.loads(output or "{}")})
    return documents
