"""What a meeting costs: real launchers in namespaces of their own, and up to 10,000 members played by one process.

The played members speak the real protocol over real sockets to the real leader, in a process of its own; each brings
its card, reports its part of the ring, and acknowledges. "Last arrival" is the last member's connect, or the line with
which the last launcher calls its leader.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.ring.rounds import read_neighbours, write_results
from tests.benchmarks.exec_watch import ExecWatch
from tests.benchmarks.text_table import text_table
from tests.group.meetings import of_this_meeting
from tests.group.members import group
from tests.process.command import CHECKOUT, entry_interpreter, install_standin, python_path
from tests.process.group import OPTIONS, lws, nodes_of
from tests.process.nodes import Cluster, missing_requirement

if TYPE_CHECKING:
    from tests.process.nodes import Launch

#: Seconds from the last arrival to the last exec; seconds and megabytes of the largest group.
WANTED = {"processes_s": 0.3, "largest_s": 2.0, "largest_mb": 120}

#: What is exec'd is no part of the meeting: 64 interpreters that start on two cores would be most of the time.
_NOTHING_STARTS = 'import sys\n\nsys.executable = "/bin/true"\n'

_LEADER = """
import json, resource, sys, time
from dataclasses import replace
from ipaddress import ip_address
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.comparison.conclusion import conclude
from sglang_roce_entry.group.meeting.comparison.seen import peers_of
from sglang_roce_entry.group.meeting.leader import Leader, enough_descriptors
from sglang_roce_entry.group.meeting.missing import Names
from sglang_roce_entry.group.meeting.terms import Concluded, Terms
from sglang_roce_entry.report.rehearsal import held_lines
from tests.benchmarks.meeting import cards
from tests.group.meetings import GROUP, NONCE
from tests.group.members import RULES

size = int(sys.argv[1])
(own,) = cards(size, only=0)
listener = wire.listen_on(ip_address("127.0.0.1"), 0)
print(listener.getsockname()[1], flush=True)
names = Names(lambda _index: "", lambda _name: "", lambda _names: None)
last = []

def concluded(gathered):
    verdict = conclude(gathered, RULES, size, 300.0)
    last[:] = [gathered]
    return Concluded(replace(verdict, peers=peers_of(gathered.members, gathered.edges, size)))

before = resource.getrusage(resource.RUSAGE_SELF)
with enough_descriptors(size):
    held = Leader(listener, Terms(size, GROUP, NONCE, 300.0, 1.0), own, concluded, lambda _said: None, names).hold()
began = time.monotonic()
held_lines(last[0])
table_s = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_SELF)
cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
said = {"exit_code": held.verdict.exit_code, "cpu_s": cpu_s, "table_s": table_s, "mb": used.ru_maxrss / 1024}
print(json.dumps(said), flush=True)
"""


def cards(size: int, only: int | None = None) -> list[Any]:
    """Return the cards of a healthy group, each with a port for the ring; the leader has none to dial for it."""
    made = of_this_meeting(group(size))
    chosen = made if only is None else [made[only]]
    return [
        replace(card, own=replace(card.own, reach_address="127.0.0.1", reach_port=9))
        if card.index
        else replace(card, own=replace(card.own, clock_s=time.time()))
        for card in chosen
    ]


def measure(short: bool) -> dict[str, Any]:
    """Return figures of processes and of played members."""
    missing = missing_requirement()
    rows = [] if missing else [_processes(size) for size in ((3,) if short else (2, 8, 64))]
    played = [_played(size) for size in ((100,) if short else (64, 1000, 10_000))]
    return {
        "rows": rows,
        "played": played,
        "targets": WANTED,
        **({"without_processes": missing} if missing else {}),
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    head = ("launchers", "last arrival to last exec, s", "spread of exec, s")
    launchers = text_table(head, [[row["size"], row["last_s"], row["spread_s"]] for row in result["rows"]])
    columns = ("played", "last arrival to last GO, s", "leader's CPU, s", "leader's memory, MB")
    played = text_table(
        columns, [[row["size"], row["last_s"], row["cpu_s"], row["mb"]] for row in result["played"]]
    )
    return f"{launchers}\n{played}\nwanted: {WANTED}"


def _processes(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory:
        folder = Path(directory)
        standin = install_standin(folder)
        (standin / "sitecustomize.py").write_text(_NOTHING_STARTS, encoding="utf-8")
        with Cluster(folder, standin) as cluster:
            nodes = nodes_of(cluster, size)
            words = [*OPTIONS, "--wait-deadline", "120", "--model-path", "/models/none"]
            launches: list[Launch] = []

            with ExecWatch() as watch:
                for index, node in enumerate(nodes):
                    with watch.descriptor(index) as descriptor:
                        launches.append(node.start(words, lws(index, size), pass_descriptors=(descriptor,)))
                watch.wait(size, 120)
                begun = list(watch.at_s.values())
            came = [
                launch.wait_for_line("calling the leader|the group of .* meets on", 5).at_s for launch in launches
            ]
            for launch in launches:
                if launch.wait_exit(30) != 0:
                    raise RuntimeError(launch.account())
                launch.close()
    return {"size": size, "last_s": max(begun) - max(came), "spread_s": max(begun) - min(begun)}


def _played(size: int) -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, size + 256) if hard > 0 else size + 256, hard))
    command = [entry_interpreter(), "-c", _LEADER, str(size)]
    environment = {"PYTHONPATH": python_path(CHECKOUT)}
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as leader:
            assert leader.stdout is not None
            port = int(leader.stdout.readline())
            last_s = _Players(port, cards(size)[1:]).play()
            said = json.loads(leader.stdout.readline())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if said["exit_code"] != 0:
        raise RuntimeError(f"the group of {size} was refused")
    return {"size": size, "last_s": last_s, "cpu_s": said["cpu_s"], "mb": said["mb"]}


class _Players:
    """All members but the leader, in one loop; the last one comes when the others are there."""

    def __init__(self, port: int, those: list[Any]) -> None:
        self._port, self._cards = port, those
        self._select = selectors.DefaultSelector()
        self._greeted = self._went = 0

    def play(self) -> float:
        """Return the seconds from the last one's connect to the last GO."""
        *early, last = self._cards
        for place, card in enumerate(early):
            self._dial(card)
            if place % 64 == 0:
                self._round(0)
        while self._greeted < len(early):
            self._round(1)
        time.sleep(0.5)
        begin_s = time.monotonic()
        self._dial(last)
        while self._went < len(self._cards):
            self._round(1)
        return time.monotonic() - begin_s

    def _dial(self, card: Any) -> None:
        one = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        one.setblocking(False)
        self._select.register(one, selectors.EVENT_READ, (card, bytearray()))

    def _round(self, timeout_s: float) -> None:
        for key, _ in self._select.select(timeout_s):
            one, (card, inbox) = key.fileobj, key.data
            assert isinstance(one, socket.socket)
            inbox += one.recv(1 << 16)
            while (end := inbox.find(b"\n")) >= 0:
                line = bytes(inbox[:end])
                del inbox[: end + 1]
                if not self._answer(one, card, line):
                    self._select.unregister(one)
                    one.close()
                    break

    def _answer(self, one: socket.socket, card: Any, line: bytes) -> bool:
        word, rest = wire.split(line)
        if word == wire.GREETING:
            self._greeted += 1
            one.sendall(wire.CARD + b" " + card.line() + b"\n")
        elif word == wire.REACH:
            number, text = wire.split(rest)
            edges = [Edge(card.index, other.index, True) for other in read_neighbours(text)]
            one.sendall(write_results(edges, int(number)) + b"\n")
        elif word == wire.VERDICT:
            one.sendall(wire.ACK + b" " + wire.split(rest)[0] + b"\n")
        elif word == wire.GO:
            self._went += 1
            return False
        return True
