"""A large group: what its leader and its DNS server see, and when the last worker has joined.

8, 64 and 256 workers are real processes, with a real TCPStore behind the leader and a real DNS server; the
first 64 workers of a group are torch's own clients, further ones speak its protocol
(`tests/torch/wire.py`: torch takes 55 MB in each). 1,000 and 10,000 are the real policy on a simulated
clock (:mod:`tests.benchmarks.simulation`); the processes' groups are simulated too, so that one can be held
against the other. Beside it the same groups without a wait.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.simulation import PORTS, Scenario, expected, summary, torch_alone, with_the_wait
from tests.benchmarks.text_table import text_table
from tests.process.command import entry_interpreter
from tests.process.kernel_view import tcp_counters
from tests.process.nodes import Cluster, missing_requirement
from tests.torch.environment import Recipe, Unavailable, ready, site_packages
from tests.torch.rendezvous import Group, Wanted, install_rendezvous, judge

TORCH_CLIENTS = 64
FORMULA = (
    "a group of N nodes: cap = max(0.5 s, N / 100); a pause is between half of the cap and the whole.\n"
    f"connects/s = {len(PORTS)} (N - 1) / (0.75 cap) <= 400; look-ups/s = (N - 1) / max(2 s, 0.75 cap) <= 133, each 4 queries, "
    "8 while\nthe name does not resolve (ndots 5, A and AAAA); the last worker notices at most one cap after the port opened."
)


def measure(short: bool) -> dict[str, Any]:
    """Return rows of figures for processes and simulations."""
    simulated = [
        _simulated(size, waits=waits)
        for size in ((9, 1000) if short else (9, 65, 257, 1000, 10_000))
        for waits in (True, False)
    ]
    missing = missing_requirement() or _torch()
    if isinstance(missing, str):
        return {"rows": simulated, "formula": FORMULA, "without_processes": missing}
    rows = []
    for workers in (3,) if short else (8, 64, 256):
        rows += _processes(workers, missing, watch_s=2.0 if short else 10.0)
    return {"rows": rows + simulated, "formula": FORMULA}


def _torch() -> Path | str:
    try:
        return site_packages(ready(Recipe.for_torch(entry_interpreter()), build=False))
    except Unavailable as reason:
        return str(reason)


def _processes(workers: int, torch_packages: Path, watch_s: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory:
        standin = install_rendezvous(Path(directory))
        with Cluster(Path(directory), standin) as cluster:
            group = Group(cluster, torch_packages, workers)
            return [_run(cluster, group, workers, waits=waits, watch_s=watch_s) for waits in (True, False)]


def _run(cluster: Cluster, group: Group, workers: int, *, waits: bool, watch_s: float) -> dict[str, Any]:
    seen: dict[str, float] = {}

    def watch() -> None:
        # Past the growth of the pauses.
        time.sleep(3 * expected(workers + 1)["last_s"])
        before, queries, began_s = tcp_counters(group.leader.pid), len(cluster.dns.queries()), time.monotonic()
        time.sleep(watch_s)
        took_s = time.monotonic() - began_s
        seen["connects"] = (tcp_counters(group.leader.pid)["TcpOutRsts"] - before["TcpOutRsts"]) / took_s
        seen["queries"] = (len(cluster.dns.queries()) - queries) / took_s

    wanted = Wanted(workers, waits=waits, client=lambda rank: "compiled" if rank <= TORCH_CLIENTS else "wire")
    before, asked_before = tcp_counters(group.leader.pid), len(cluster.dns.queries())
    outcome = group.run(wanted, watch)
    after = tcp_counters(group.leader.pid)
    times = judge(outcome)
    lost = ("TcpExtListenOverflows", "TcpExtListenDrops")
    asked = cluster.dns.queries()[asked_before:]
    return {
        "group": workers + 1,
        "how": "processes",
        "waits": waits,
        **seen,
        "found_last_s": times.last_started_s if waits else None,
        "joined_last_s": times.complete_s,
        "lost_connections": sum(after[name] - before[name] for name in lost),
        # The store asks for the name of each peer that it accepts.
        "reverse_queries": sum(one.name.endswith(".arpa") for one in asked),
    }


def _simulated(size: int, *, waits: bool) -> dict[str, Any]:
    scenario = Scenario(size)
    figures = summary(scenario, with_the_wait(scenario) if waits else torch_alone(scenario))
    formula = expected(size) if waits else None
    row = {"group": size, "how": "simulated", "waits": waits, **figures, "formula": formula}
    # torch alone has joined where it has found; behind the wait SGLang's start lies in between.
    return row if waits else {**row, "joined_last_s": figures["found_last_s"]}


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    head = (
        "group", "", "", "connects/s", "busiest", "queries/s", "unresolved", "busiest", "queue full, s", "started last, s",
        "joined last, s", "lost",
    )  # fmt: skip
    keys = (
        "connects", "connects_busiest", "queries", "queries_unresolved", "queries_busiest", "queue_full_s",
        "found_last_s", "joined_last_s", "lost_connections",
    )  # fmt: skip
    rows = [
        [
            f"{row['group']:,}",
            row["how"],
            "waits" if row["waits"] else "torch alone",
            *(row.get(key) for key in keys),
        ]
        for row in result["rows"]
    ]
    text = f"{text_table(head, rows)}\n{result['formula']}"
    if "without_processes" in result:
        text += f"\nno processes: {result['without_processes']}"
    return text
