"""From the moment that the leader's port accepts to the moment that a waiting worker becomes SGLang.

Real processes in network namespaces, one node for each worker, one real DNS server. The moment of
`listen` is ours, the moment of `execve` is seen by the kernel's closing of a descriptor
(:mod:`tests.benchmarks.exec_watch`); what was exec'd is ended at once, so that it takes no processor time
from those that still wait. Beside it, in the same run, loops with a fixed pause as people write them.
"""

from __future__ import annotations

import random
import signal
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.exec_watch import ExecWatch
from tests.benchmarks.text_table import text_table
from tests.process.command import entry_interpreter, install_standin
from tests.process.dns import TYPE_A
from tests.process.group import DIST_PORT, LEADER_ADDRESS, LEADER_RECORD, WAITING, launch_arguments, lws
from tests.process.nodes import Cluster, bound_socket, in_network_of, missing_requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.process.nodes import Launch, Node

POLLER = Path(__file__).with_name("poller.py")
HANGS_S = 180.0
#: Back-off at its cap by then, and the facts stale, so that they are read again: the dear case.
SETTLE_S = 6.0
LOOKUP_EVERY_S = 2.0


@dataclass(frozen=True)
class Way:
    """One way to wait: its name, and how one worker of a group of a size is started."""

    name: str
    arguments: Callable[[int, int], tuple[Sequence[str], Sequence[str] | None]]
    looks_up_name: bool = True


def _ours(_index: int, _workers: int) -> tuple[Sequence[str], Sequence[str] | None]:
    return launch_arguments("--wait-deadline", "600"), None


def _fixed(pause_s: float) -> Way:
    def arguments(index: int, workers: int) -> tuple[Sequence[str], Sequence[str] | None]:
        first_s = pause_s * index / workers
        target = [LEADER_ADDRESS, str(DIST_PORT), "/bin/sleep", "60"]
        return target, (entry_interpreter(), str(POLLER), f"{first_s:.3f}", f"{pause_s:g}")

    return Way(f"every {pause_s:g} s", arguments)


OURS = Way("sglang-roce-entry", _ours)


def measure(short: bool) -> dict[str, Any]:
    """Return latencies in seconds by way and group size, and the look-ups of each worker."""
    missing = missing_requirement()
    if missing:
        return {"skipped": missing}
    plan = (
        [(OURS, 3, 1), (_fixed(1), 3, 1)]
        if short
        else [
            (OURS, 2, 8),
            (OURS, 10, 4),
            (OURS, 50, 4),
            (_fixed(1), 50, 1),
            (_fixed(2), 50, 1),
            (_fixed(5), 50, 1),
        ]
    )
    settle_s = 2.0 if short else SETTLE_S
    with tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory:
        standin = install_standin(Path(directory))
        with Cluster(Path(directory), standin) as cluster:
            leader = cluster.add_node("sglang-0")
            cluster.dns.publish(LEADER_RECORD, leader.address)
            most = max(size for _, size, _ in plan)
            workers = [cluster.add_node(f"sglang-0-{index}") for index in range(1, most)]
            rows = [
                _summary(
                    way, size, [_round(cluster, leader, workers[: size - 1], way, settle_s) for _ in range(rounds)]
                )
                for way, size, rounds in plan
            ]
    return {
        "rows": rows,
        "targets": {"group": 50, "median_s": 0.4, "p99_s": 0.8, "seconds_between_lookups": LOOKUP_EVERY_S},
    }


@dataclass(frozen=True)
class _Round:
    latencies_s: list[float]
    lookups: list[int]  # of each worker
    waited_s: float

    @property
    def lookups_of_allowed(self) -> float:
        """The worker that asked most, against one look-up at its start and one for every two seconds."""
        return max(self.lookups) / (1 + self.waited_s / LOOKUP_EVERY_S)


def _round(cluster: Cluster, leader: Node, workers: Sequence[Node], way: Way, settle_s: float) -> _Round:
    launches: dict[int, Launch] = {}

    def end(key: int) -> None:
        launches[key].process.send_signal(signal.SIGKILL)

    port = in_network_of(leader.pid, lambda: bound_socket(socket.SOCK_STREAM, leader.address, DIST_PORT))
    began_s = time.monotonic()
    with port, ExecWatch(end) as watch:
        for index, node in enumerate(workers, start=1):
            arguments, command = way.arguments(index, len(workers))
            with watch.descriptor(index) as descriptor:
                launches[index] = node.start(
                    arguments, lws(index, len(workers) + 1), command=command, pass_descriptors=(descriptor,)
                )
        if way is OURS:
            for launch in launches.values():
                launch.wait_for_line(WAITING, HANGS_S)
        time.sleep(settle_s + random.random())
        opened_s = time.monotonic()
        port.listen(4096)
        watch.wait(len(workers), HANGS_S)
        latencies = [at - opened_s for at in watch.at_s.values()]
    for launch in launches.values():
        code = launch.wait_exit(HANGS_S)
        # Killed after its exec; anything else ended before it.
        assert code == 128 + signal.SIGKILL, launch.account()
        assert way is not OURS or "accepts on" in launch.text(), launch.account()
        launch.close()
    assert min(latencies) > 0, "a worker went before the port was open"
    return _Round(latencies, _lookups(cluster, workers, began_s, opened_s), opened_s - began_s)


def _lookups(cluster: Cluster, workers: Sequence[Node], began_s: float, until_s: float) -> list[int]:
    asked = [one for one in cluster.dns.queries(LEADER_RECORD, TYPE_A) if began_s <= one.at_s <= until_s]
    return [sum(one.peer == node.address for one in asked) for node in workers]


def _summary(way: Way, size: int, rounds: Sequence[_Round]) -> dict[str, Any]:
    latencies = sorted(latency for one in rounds for latency in one.latencies_s)
    return {
        "way": way.name,
        "group": size,
        "samples": len(latencies),
        "median_s": statistics.median(latencies),
        "p99_s": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
        "most_s": latencies[-1],
        "lookups_of_allowed": max(one.lookups_of_allowed for one in rounds),
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    head = ("seconds from accept to exec", "group", "samples", "median", "p99", "most", "look-ups of allowed")
    keys = ("way", "group", "samples", "median_s", "p99_s", "most_s", "lookups_of_allowed")
    rows = [[row[key] for key in keys] for row in result["rows"]]
    wanted = result["targets"]
    return (
        text_table(head, rows)
        + f"\nwanted in groups of up to {wanted['group']}: median under {wanted['median_s']} s, 99th percentile under "
        f"{wanted['p99_s']} s;\nallowed is one look-up of a worker at its start and one every {wanted['seconds_between_lookups']:g} s"
    )
