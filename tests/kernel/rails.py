"""Scenarios in the guest: the proof of a group's rails, one node for each HCA, and a fault in the fabric between them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.group.meeting.proof.errand import Errand
from sglang_roce_entry.group.meeting.proof.found import judge_proof, status_of
from sglang_roce_entry.group.meeting.proof.pairs import Nodes
from sglang_roce_entry.verbs.messages import Rail as VerbsRail
from sglang_roce_entry.verbs.proof.prover import Running
from tests.kernel.node import INFINIBAND, OUT, add_addresses, gid_table, ip, run, set_sysctl
from tests.verbs.provers import Provers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.kernel.node import Command

Result = dict[str, Any]
NODES = 3
IN_FABRIC = ("ip", "netns", "exec", "fabric")
WITHOUT_LOCKING = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")


def rails(command: Command) -> Result:
    """Prove the rails of whole groups, and of groups with one fault each."""
    lay_segment()
    known = nodes_here()
    result: Result = {
        "healthy": prove(known),
        "two nodes": prove({index: known[index] for index in (0, 1)}),
    }
    result["foreign GID"] = prove({**known, 1: replace(known[1], gid=known[2].gid)})
    six = next(int(index) for index, row in gid_table("mlx5_1").items() if row["address"] == "fd00::2")
    result["another family"] = prove({**known, 1: replace(known[1], gid_index=six, gid="")})
    for name, (breaks, cures) in FAULTS.items():
        for line in breaks:
            run(*line)
        result[name] = prove(known)
        for line in cures:
            run(*line)
        run("ip", "neigh", "flush", "all", check=False)
    result["cured"] = prove(known)
    result["memlock"] = _apart(known, *WITHOUT_LOCKING, "prlimit", "--memlock=0:0")
    result["no providers"] = _apart(
        known, "unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /etc/libibverbs.d; exec "$@"', "sh"
    )
    return result


def _drop(port: str, *match: str) -> tuple[tuple[str, ...], ...]:
    return (
        (*IN_FABRIC, "tc", "qdisc", "add", "dev", port, "clsact"),
        (
            *IN_FABRIC,
            "tc",
            "filter",
            "add",
            "dev",
            port,
            "ingress",
            "protocol",
            "ip",
            "u32",
            *match,
            "action",
            "drop",
        ),
    )


_UDP_4791 = ("match", "ip", "protocol", "17", "0xff", "match", "ip", "dport", "4791", "0xffff")
#: Datagrams of 1024 to 4095 bytes, as a switch with a smaller MTU drops them.
_LARGE = ("match", "ip", "protocol", "17", "0xff", "match", "u16", "0x0400", "0xfc00", "at", "2")


def _undrop(port: str) -> tuple[str, ...]:
    return (*IN_FABRIC, "tc", "qdisc", "del", "dev", port, "clsact")


_FAR = ("ip", "-n", "fabric", "link", "set", "leaf1")
_Lines = tuple[tuple[str, ...], ...]
#: What breaks the fabric at node 1, and what cures it.
FAULTS: Mapping[str, tuple[_Lines, _Lines]] = {
    "filtered one way": (_drop("leaf1", *_UDP_4791), (_undrop("leaf1"),)),
    "filtered both ways": (
        (*_drop("leaf1", *_UDP_4791), *_drop("leaf0", *_UDP_4791), *_drop("leaf2", *_UDP_4791)),
        (_undrop("leaf1"), _undrop("leaf0"), _undrop("leaf2")),
    ),
    "MTU on the path": (_drop("leaf1", *_LARGE), (_undrop("leaf1"),)),
    "no neighbour": (((*_FAR, "nomaster"),), ((*_FAR, "master", "bridge"),)),
    "no route": (
        ((*_FAR, "nomaster"), ("ip", "route", "add", "unreachable", "10.0.0.2/32", "table", "100")),
        ((*_FAR, "master", "bridge"), ("ip", "route", "del", "unreachable", "10.0.0.2/32", "table", "100")),
    ),
    "link lost": (((*_FAR, "down"),), ((*_FAR, "up"),)),
}


def lay_segment() -> None:
    """Put an HCA for each node on a port of one bridge, which is in a namespace of its own.

    Soft-RoCE of 6.1 sends from the first namespace only, so all HCAs are there; by policy routing what goes from one
    to another leaves by the wire.
    """
    for name, value in (("rp_filter", "0"), ("accept_local", "1"), ("arp_ignore", "1"), ("arp_announce", "2")):
        set_sysctl(f"net/ipv4/conf/all/{name}", value)
        set_sysctl(f"net/ipv4/conf/default/{name}", value)
    ip("netns add fabric")
    ip("link add bridge type bridge", "link set bridge up", netns="fabric")
    for node in range(NODES):
        ip(f"link add rail{node} type veth peer name leaf{node} netns fabric", f"link set rail{node} up")
        ip(f"link set leaf{node} master bridge", f"link set leaf{node} up", netns="fabric")
        run("rdma", "link", "add", f"mlx5_{node}", "type", "rxe", "netdev", f"rail{node}")
        add_addresses(f"rail{node}", f"10.0.0.{node + 1}/24", f"fd00::{node + 1}/64", device=f"mlx5_{node}")
        # Without a delay an answer comes before the kernel begins to wait for it, and that wait lasts a second.
        run(*IN_FABRIC, "tc", "qdisc", "add", "dev", f"leaf{node}", "root", "netem", "delay", "1ms")
    ip("rule add pref 10 not iif lo lookup local")
    for node in range(NODES):
        ip(
            f"rule add pref 20 from 10.0.0.{node + 1} lookup {100 + node}",
            f"route add 10.0.0.0/24 dev rail{node} table {100 + node} src 10.0.0.{node + 1}",
        )
    ip("rule add pref 30 lookup local", "rule del pref 0")


def nodes_here() -> dict[int, VerbsRail]:
    """Return the one rail of each node, with the index of its IPv4 GID of RoCE v2."""
    found = {}
    for node in range(NODES):
        device, address = f"mlx5_{node}", f"10.0.0.{node + 1}"
        rows = gid_table(device).items()
        index = next(int(at) for at, row in rows if row["address"] == address and row["type"] == "RoCE v2")
        digits = f"{0xFFFF << 32 | 10 << 24 | node + 1:032x}"
        verbs = next((INFINIBAND / device / "device" / "infiniband_verbs").glob("uverbs*"), None)
        found[node] = VerbsRail(device, 1, index, digits, verbs.name if verbs is not None else "")
    return found


def prove(rails_of: Mapping[int, VerbsRail]) -> Result:
    """Prove the rails of the nodes against each other, as the leader and its members do, over pipes alone."""
    cards = {
        index: (Rail(one.device, 1, "10.0.0.0/24", f"10.0.0.{index + 1}", one.gid_index, 100.0, 1024, proof=True),)
        for index, one in rails_of.items()
    }
    memory_kib: dict[str, int] = {}
    provers = Provers(
        Nodes(cards, dict.fromkeys(cards)),
        {index: (one,) for index, one in rails_of.items()},
        {"PATH": "/usr/bin"},
        lambda errands: _weigh(errands, memory_kib),
    )
    proof = provers.run()
    outcomes = {f"{pair.near}-{pair.far}": (*status_of(one), asdict(one)) for pair, one in proof.outcomes.items()}
    problems = judge_proof(proof.results(), {})
    return {
        "outcomes": outcomes,
        "problems": [[one.severity, one.code, one.message] for one in problems],
        "seconds": provers.seconds,
        "start_s": provers.start_s,
        "said": provers.said,
        "memory_kib": memory_kib,
    }


def _weigh(errands: Iterable[Errand], most_kib: dict[str, int]) -> None:
    """Note how much of a process is in memory at most, and pinned now."""
    for prover in [one._prover for one in errands]:
        if isinstance(prover, Running) and prover._pid is not None:
            for line in Path(f"/proc/{prover._pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in {"VmHWM", "VmPin"}:
                    most_kib[name] = max(most_kib.get(name, 0), int(value.split()[0]))


def _apart(rails_of: Mapping[int, VerbsRail], *inside: str) -> Result:
    """Do the same in a process of its own, ``inside`` of what limits it."""
    asked = json.dumps({index: asdict(one) for index, one in rails_of.items()})
    done = subprocess.run(
        [*inside, sys.executable, "-m", "tests.kernel.rails", asked],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: Result = json.loads(done.stdout)
    return found


def rehearsals(command: Command) -> Result:
    """Rehearse a group of two with real launchers: whole, and with the rail filtered one way."""
    lay_segment()
    _lay_way_to_the_leader()
    result: Result = {"healthy": _rehearsed(command)}
    for line in FAULTS["filtered one way"][0]:
        run(*line)
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


def main(arguments: Sequence[str]) -> None:
    """Prove the rails that are named, and write what came of it."""
    asked = json.loads(arguments[0])
    print(json.dumps(prove({int(index): VerbsRail(**one) for index, one in asked.items()})))


if __name__ == "__main__":
    main(sys.argv[1:])
