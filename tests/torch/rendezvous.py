"""A group of real processes around a real TCPStore, and the judge of what came of it.

The leader and every worker are the command under test; behind its `exec` the stand-in of this layer
builds torch's store with the world size, rank and address that the command has put into the
arguments. Time is CLOCK_MONOTONIC, one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import secrets
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.process.command import install_standin
from tests.process.group import DIST_PORT, LEADER_RECORD, WAITING, launch_arguments, lws
from tests.process.kernel_view import PortWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.process.nodes import Cluster, Launch, Node

#: Workers are spread over so many nodes; more would cost set-up time and judge nothing.
WORKER_NODES = 4
#: For things that only take long when something hangs: 64 interpreters start on two busy cores.
HANGS_S = 180.0


def install_rendezvous(directory: Path) -> Path:
    """Install this layer's stand-in `sglang` under `directory`; return its PYTHONPATH."""
    here = Path(__file__).resolve().parent
    installed = install_standin(directory, here / "standin")
    shutil.copy(here / "wire.py", installed / "sglang" / "wire.py")
    return installed


class NotARendezvous(Exception):
    """The group did not come together as it should; the text says what the judge saw."""


@dataclass(frozen=True)
class Wanted:
    """One group: how many workers, which back-end, and how the workers are started."""

    workers: int
    libuv: bool = True
    waits: bool = True
    #: How rank N gets at torch's client: compiled, full or wire (see the stand-in); the leader never by wire.
    client: Callable[[int], str] = lambda _rank: "compiled"
    store_timeout_s: float = HANGS_S
    worker_options: tuple[str, ...] = ()
    worker_command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """What was seen: exit codes and records by rank, and when the leader's port opened."""

    wanted: Wanted
    token: str
    closed_s: float
    opened_s: float | None
    codes: Mapping[int, int]
    records: Mapping[int, dict[str, Any]]
    accounts: Mapping[int, str]


@dataclass(frozen=True)
class Times:
    """Seconds after the leader's port opened; for the workers."""

    first_started_s: float
    last_started_s: float
    median_joined_s: float
    complete_s: float

    def line(self, name: str) -> str:
        """Return one row of a table."""
        return (
            f"{name:28} SGLang started {self.first_started_s:7.2f} .. {self.last_started_s:6.2f}   "
            f"joined (median) {self.median_joined_s:6.2f}   all joined {self.complete_s:6.2f}"
        )


class Group:
    """The nodes of one group, used for one run after another."""

    def __init__(self, cluster: Cluster, torch_packages: Path, workers: int) -> None:
        self.leader = cluster.add_node("sglang-0")
        self._packages = torch_packages
        self._nodes = [cluster.add_node(f"sglang-0-{n + 1}") for n in range(min(workers, WORKER_NODES))]
        cluster.dns.publish(LEADER_RECORD, self.leader.address)

    def start_worker(self, wanted: Wanted, index: int) -> Launch:
        """Start one worker of the group."""
        options = [] if wanted.waits else ["--wait-deadline", "0"]
        node = self._nodes[(index - 1) % len(self._nodes)]
        return self._start(node, wanted, index, [*options, *wanted.worker_options], wanted.worker_command)

    def start_leader(self, wanted: Wanted, token: str) -> Launch:
        """Start the leader; its store opens as soon as it can."""
        return self._start(self.leader, wanted, 0, [], None, {"STANDIN_TOKEN": token})

    def _start(
        self,
        node: Node,
        wanted: Wanted,
        index: int,
        options: Sequence[str],
        command: Sequence[str] | None,
        extra: Mapping[str, str] | None = None,
    ) -> Launch:
        environment = {
            **lws(index, wanted.workers + 1),
            "STANDIN_TORCH": str(self._packages),
            "STANDIN_IMPORT": wanted.client(index),
            "STANDIN_LIBUV": str(int(wanted.libuv)),
            # The leader has to reach its own store in this time, on a machine that may be busy.
            "STANDIN_TIMEOUT_S": str(wanted.store_timeout_s if index else 3 * wanted.store_timeout_s),
            **(extra or {}),
        }
        return node.start(launch_arguments(*options), environment, command=command)

    def run(self, wanted: Wanted, in_place: Callable[[], None] = lambda: None) -> Outcome:
        """Return what came of it: workers first, all in place (which is told), then the leader."""
        token = secrets.token_hex(8)
        launches = {index: self.start_worker(wanted, index) for index in range(1, wanted.workers + 1)}
        for launch in launches.values():
            wait_in_place(launch)
        in_place()
        with PortWatch(self.leader.pid, DIST_PORT) as watch:
            launches[0] = self.start_leader(wanted, token)
            codes = {rank: launch.wait_exit(HANGS_S) for rank, launch in launches.items()}
        for launch in launches.values():
            launch.close()  # a large group has hundreds of pipes
        return Outcome(
            wanted,
            token,
            watch.closed_s,
            watch.opened_s,
            codes,
            {rank: _record(launch) for rank, launch in launches.items() if launch.record_path.exists()},
            {rank: launch.account() for rank, launch in launches.items()},
        )


def _record(launch: Launch) -> dict[str, Any]:
    loaded = json.loads(launch.record_path.read_text(encoding="ascii"))
    assert isinstance(loaded, dict)
    return loaded


def wait_in_place(launch: Launch) -> None:
    """Wait until the launcher says that it waits, or the stand-in is about to build its store."""
    begun = launch.record_path.with_name(launch.record_path.name + ".begun")
    end_s = time.monotonic() + HANGS_S
    while not begun.exists() and WAITING not in launch.text():
        assert launch.process.poll() is None, launch.account()
        assert time.monotonic() < end_s, launch.account()
        time.sleep(0.02)


def judge(outcome: Outcome) -> Times:
    """Return the times of a rendezvous that is one.

    Every rank of the world, once, in the leader's store, on the back-end that was asked for; the
    workers' SGLang started after the leader's port had opened if they were to wait, before it if not.
    Raises NotARendezvous.
    """
    complaints: list[str] = []
    world = outcome.wanted.workers + 1
    for rank in range(world):
        complaints += _complaints(outcome, rank, world)
    joined_as = sorted(record.get("rank_joined_as", 0) for record in outcome.records.values())
    if not complaints and joined_as != list(range(1, world + 1)):
        complaints.append(f"the store counted {joined_as}, not each of {world} ranks once")
    if outcome.opened_s is None:
        complaints.append(f"the leader never listened on {DIST_PORT}")
    if complaints or outcome.opened_s is None:
        account = "".join(outcome.accounts[rank] for rank in sorted(outcome.accounts)[:2])
        raise NotARendezvous("\n".join(complaints[:20]) + account)
    workers = [record for rank, record in outcome.records.items() if rank]
    started = [record["begun_s"] - outcome.opened_s for record in workers]
    joined = [record["joined_s"] - outcome.opened_s for record in workers]
    done_s = max(record["done_s"] for record in outcome.records.values())
    return Times(min(started), max(started), statistics.median(joined), done_s - outcome.opened_s)


def _complaints(outcome: Outcome, rank: int, world: int) -> list[str]:
    name = f"rank {rank}" if rank else "the leader"
    code, record = outcome.codes.get(rank), outcome.records.get(rank)
    if record is None:
        return [f"{name} ended with {code} and never became SGLang"]
    found = []
    if "failure" in record:
        found.append(f"{name}: {record['failure']}")
    elif code != 0:
        found.append(f"{name} ended with {code}")
    elif (record["rank"], record["world"]) != (rank, world):
        found.append(f"{name} was told rank {record['rank']} of {record['world']}")
    elif record["token"] != outcome.token:
        found.append(f"{name} joined another store")
    elif record["libuv"] not in (outcome.wanted.libuv, None):
        found.append(f"{name}: libuv is {record['libuv']}")
    if rank and outcome.opened_s is not None:
        if outcome.wanted.waits and record["begun_s"] < outcome.closed_s:
            early_s = outcome.opened_s - record["begun_s"]
            found.append(f"{name} did not wait: SGLang began {early_s:.2f} s before the leader's port opened")
        if not outcome.wanted.waits and record["begun_s"] > outcome.opened_s:
            found.append(f"{name} waited, and should not have")
    return found
