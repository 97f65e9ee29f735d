"""Scenarios in the guest: launches that have to wait for hardware, or not."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from tests.kernel.node import OUT, KernelEvents, add_hca, gid_table, ip, run, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernel.node import Command

ARRIVAL_S = 3.0
Result = dict[str, Any]


def late_address(command: Command) -> Result:
    """Add the address 3 s after the launch. No kernel event tells of it."""
    add_hca("mlx5_0", "eth4")
    return _launch_and_arrive(command, lambda: ip("addr add 10.0.1.1/24 dev eth4"), "late-address")


def late_hca(command: Command) -> Result:
    """Add the HCA 3 s after the launch, over an interface that has its address."""
    ip("link set eth4 up", "addr add 10.0.1.1/24 dev eth4")
    arrive = ("rdma", "link", "add", "mlx5_0", "type", "rxe", "netdev", "eth4")
    return _launch_and_arrive(command, lambda: run(*arrive), "late-hca")


def healthy(command: Command) -> Result:
    """Launch on a node that has everything: nothing is waited for."""
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    record = OUT / "healthy.record"
    answer = command("--rdma", "required", "--model-path", "m", STANDIN_RECORD=str(record))
    return {
        "status": answer.status,
        "stderr": answer.stderr,
        "wall_s": answer.wall_s,
        "environ": json.loads(record.read_text())["environ"] if record.exists() else None,
    }


def never(command: Command) -> Result:
    """Launch where no HCA ever comes."""
    started = time.monotonic()
    record = OUT / "never.record"
    answer = command(
        "--rdma", "required", "--hca-wait", "3", "--linger", "0", "--model-path", "m", STANDIN_RECORD=str(record)
    )
    return {
        "status": answer.status,
        "stderr": answer.stderr,
        "launched": record.exists(),
        "wall_s": time.monotonic() - started,
    }


def _launch_and_arrive(command: Command, arrive: Callable[[], object], name: str) -> Result:
    record, log = OUT / f"{name}.record", OUT / f"{name}.log"
    started_s = time.monotonic()
    arguments = ("--rdma", "required", "--hca-wait", "60", "--model-path", "m")
    process = command.start(*arguments, log=log, STANDIN_RECORD=str(record))
    try:
        # At least 3 s, and not before the launcher has looked and said that it waits: a start is slow under TCG.
        until(lambda: process.poll() is not None or "wait" in log.read_text(), "the launcher waits", 60)
        time.sleep(max(ARRIVAL_S - (time.monotonic() - started_s), 0.0))
        running_before = process.poll() is None and not record.exists()
        time.sleep(1)
        running_before = running_before and process.poll() is None and not record.exists()
        arrived_s = time.monotonic()
        with contextlib.closing(KernelEvents()) as events:
            arrive()
            status = process.wait(60)
            heard = events.heard()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    launched = json.loads(record.read_text()) if record.exists() else None
    return {
        "waited": running_before,
        "status": status,
        "stderr": log.read_text(),
        "arrival after start s": arrived_s - started_s,
        "launch after arrival s": launched["at_s"] - arrived_s if launched else None,
        "environ": launched["environ"] if launched else None,
        "argv": launched["argv"] if launched else None,
        "events": heard,
        "table": gid_table("mlx5_0"),
    }
