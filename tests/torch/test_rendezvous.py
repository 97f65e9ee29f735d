"""A real TCPStore behind the wait: everybody comes, nobody early, no probe is taken for a worker."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.connect import ACCEPTED, connect_any
from tests.process.command import entry_interpreter
from tests.process.group import DIST_PORT
from tests.process.kernel_view import is_listening, tcp_counters
from tests.process.nodes import in_network_of
from tests.torch.rendezvous import HANGS_S, Group, NotARendezvous, Outcome, Wanted, judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process.nodes import Cluster

pytestmark = pytest.mark.torch

BACK_ENDS = pytest.mark.parametrize("libuv", [True, False], ids=["libuv", "legacy"])

# A launcher with one fault: its workers wait for SGLang's HTTP port, which opens after the rendezvous.
WAITS_FOR_HTTP = """
import sys
from sglang_roce_entry.group import wait
wait.SIGNS_OF_LIFE = (10000,)
from sglang_roce_entry.command.cli import main
sys.exit(main())
"""


@BACK_ENDS
@pytest.mark.parametrize("workers", [1, 8, 64])
def test_rendezvous(
    cluster: Cluster,
    torch_packages: Path,
    workers: int,
    libuv: bool,
    record_property: Callable[[str, object], None],
) -> None:
    """The same group twice, side by side: workers that wait, and workers that torch keeps waiting."""
    group = Group(cluster, torch_packages, workers)
    # One worker can afford torch's front door; it proves that the short cut leads to the same class.
    waited = group.run(Wanted(workers, libuv, client=lambda _rank: "full" if workers == 1 else "compiled"))
    counters = tcp_counters(group.leader.pid)
    direct = group.run(Wanted(workers, libuv, waits=False))
    waited_times, direct_times = judge(waited), judge(direct)
    for name, times in (("with the wait", waited_times), ("torch alone", direct_times)):
        print(times.line(f"{workers} workers, {name}:"))
        record_property(f"{name}, all joined, s", round(times.complete_s, 3))
    # That with the wait nobody came before the leader, and without it everybody, the judge has seen.
    assert classes(waited) == classes(direct) == {"torch._C._distributed_c10d.TCPStore"}
    assert counters["TcpExtListenOverflows"] == counters["TcpExtListenDrops"] == 0


@BACK_ENDS
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "direct"])
def test_client_by_wire_is_taken_for_torchs(
    cluster: Cluster, torch_packages: Path, libuv: bool, waits: bool
) -> None:
    """What the large groups of the benchmarks use: the real server counts it beside torch's own client."""
    group = Group(cluster, torch_packages, 3)
    outcome = group.run(Wanted(3, libuv, waits, client=lambda rank: "wire" if rank > 1 else "compiled"))
    judge(outcome)
    assert classes(outcome) == {"torch._C._distributed_c10d.TCPStore", "sglang.wire.WireStore"}


def classes(outcome: Outcome) -> set[str]:
    return {record["class"] for record in outcome.records.values()}


@BACK_ENDS
def test_many_probes_are_nobody(cluster: Cluster, torch_packages: Path, libuv: bool) -> None:
    """300 probes of ours against an open store: then one worker comes, and is the first and only one."""
    group = Group(cluster, torch_packages, 1)
    wanted = Wanted(1, libuv)
    leader = group.start_leader(wanted, "only the leader's")
    end_s = time.monotonic() + HANGS_S
    while not is_listening(group.leader.pid, DIST_PORT):
        assert time.monotonic() < end_s, leader.account()
        time.sleep(0.01)
    addresses = [ip_address(group.leader.address)]
    ports = [DIST_PORT, DIST_PORT + 1, DIST_PORT + 13]
    probes = in_network_of(group.leader.pid, lambda: [connect_any(addresses, ports, 10.0) for _ in range(300)])
    assert {probe.cause for probe in probes} == {ACCEPTED}

    worker = group.start_worker(wanted, 1)
    assert worker.wait_exit(HANGS_S) == 0, worker.account()
    assert leader.wait_exit(HANGS_S) == 0, leader.account()
    record, leaders = worker.wait_record(1), leader.wait_record(1)
    assert record["token"] == leaders["token"] == "only the leader's"
    assert sorted([record["rank_joined_as"], leaders["rank_joined_as"]]) == [1, 2]


def test_judge_notices_a_wait_for_the_http_port(cluster: Cluster, torch_packages: Path) -> None:
    """The deadlock that such a wait is: the leader waits for its worker, and the worker for the leader."""
    group = Group(cluster, torch_packages, 1)
    faulty = Wanted(
        1,
        store_timeout_s=2,
        worker_options=("--wait-deadline", "10", "--linger", "0"),
        worker_command=(entry_interpreter(), "-c", WAITS_FOR_HTTP),
    )
    with pytest.raises(NotARendezvous) as noticed:
        judge(group.run(faulty))
    assert "rank 1 ended with 124 and never became SGLang" in str(noticed.value)
    assert "1/2 clients joined" in str(noticed.value)


def test_judge_notices_a_wait_for_another_port(cluster: Cluster, torch_packages: Path) -> None:
    """Something else accepts there: SGLang starts too early, and calls where no store is."""
    group = Group(cluster, torch_packages, 1)
    with group.leader.listen(21000), pytest.raises(NotARendezvous) as noticed:
        judge(group.run(Wanted(1, store_timeout_s=2, worker_options=("--dist-init", "21000"))))
    assert "rank 1 did not wait" in str(noticed.value)
    assert "1/2 clients joined" in str(noticed.value)


def test_judge_notices_a_sign_of_life_that_is_none(cluster: Cluster, torch_packages: Path) -> None:
    """A stranger on D+1: torch's own patience brings everybody together, but nobody has waited."""
    group = Group(cluster, torch_packages, 1)
    with group.leader.listen(DIST_PORT + 1):
        outcome = group.run(Wanted(1))
    with pytest.raises(NotARendezvous, match="rank 1 did not wait"):
        judge(outcome)
    # Nothing else was wrong with it.
    judge(replace(outcome, wanted=Wanted(1, waits=False)))
