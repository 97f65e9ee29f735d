"""How long until both nodes serve: the launcher's meeting against two servers that were started by hand at once.

Real SGLang 0.5.23 on the CPU, tensor parallel over two network namespaces. Without a meeting the worker's imports begin
only when the leader's have ended.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.text_table import text_table
from tests.process.nodes import Cluster, missing_requirement
from tests.sglang.environment import (
    Environment,
    NotBuilt,
    build_environment,
    cache_root,
    install_checkout,
    is_complete,
)
from tests.sglang.servers import D, Group, Member

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Of two servers by hand with perfect arguments.
WANTED = 1.1
BY_HAND, MEETING, WAIT = "by hand", "launcher", "launcher, --meeting off"


class ByHand(Group):
    """The same two nodes without the launcher: what it would give is written by hand."""

    def __init__(self, cluster: Cluster, environment: Environment, entry: Path, *arguments: str) -> None:
        super().__init__(cluster, environment, entry, *arguments)
        self._sglang = self._command[3:]
        self._python = str(environment.python)

    def start(self, index: int, variables: Mapping[str, str] | None = None) -> Member:
        leader = f"{self._nodes[0].address}:{D}"
        ranks = ("--nnodes", "2", "--node-rank", str(index), "--dist-init-addr", leader, "--host", "0.0.0.0")
        self._command = [self._python, "-m", "sglang.launch_server", *self._sglang, *ranks]
        return super().start(
            index,
            {"GLOO_SOCKET_IFNAME": "eth0", "SGLANG_HOST_IP": self._nodes[index].address, **(variables or {})},
        )


def measure(short: bool) -> dict[str, Any]:
    """Return seconds of each kind of start, taken in turns."""
    missing = missing_requirement() or ("" if is_complete(cache_root()) else f"needs SGLang in {cache_root()}")
    if missing:
        return {"skipped": missing}
    took_s: dict[str, list[float]] = {BY_HAND: [], MEETING: [], WAIT: []}
    with tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory:
        try:
            environment = build_environment(cache_root())
            entry = install_checkout(environment, Path(directory) / "installed")
        except NotBuilt as failure:
            return {"skipped": str(failure)}
        for _ in range(1 if short else 3):
            for kind, took in took_s.items():
                # No words of ours: torch compiles in it, and gives g++ the path unquoted.
                folder = Path(tempfile.mkdtemp(dir=directory))
                with Cluster(folder, None) as cluster:
                    took.append(_both_serve_after_s(cluster, environment, entry, kind))
    base = median(took_s[BY_HAND])
    rows = [
        {"start": kind, "seconds": took, "median_s": median(took), "ratio": median(took) / base}
        for kind, took in took_s.items()
    ]
    return {"rows": rows, "targets": {"ratio": WANTED}}


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    rows = [
        [row["start"], ", ".join(f"{one:.1f}" for one in row["seconds"]), row["median_s"], row["ratio"]]
        for row in result["rows"]
    ]
    head = ("start", "seconds until both serve", "median", "to by hand")
    return f"{text_table(head, rows)}\nwanted: at most {result['targets']['ratio']} of by hand"


def _both_serve_after_s(cluster: Cluster, environment: Environment, entry: Path, kind: str) -> float:
    group = (ByHand if kind == BY_HAND else Group)(cluster, environment, entry)
    group.publish_leader()
    begin_s = time.monotonic()
    for index in (0, 1):
        group.start(index, {"SGLANG_ROCE_MEETING": "off"} if kind == WAIT else None)
    group.wait_healthy()
    return time.monotonic() - begin_s
