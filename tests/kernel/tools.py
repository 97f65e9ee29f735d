"""Scenario in the guest: what the tools that people type cost beside a start of the launcher. A benchmark reads it."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Any

from tests.kernel.node import add_hca, number_of_cards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.kernel.node import Command

ROUNDS = 5


def tools(command: Command) -> dict[str, Any]:
    """Take the seconds of each tool on a node with an HCA on every card, in turns."""
    devices = [f"mlx5_{number}" for number in range(number_of_cards())]
    for number, device in enumerate(devices):
        add_hca(device, f"eth{number}", f"10.0.{number}.1/24")
    environment = command.environment()
    commands = {
        "python3 -c pass": [str(command.path.parent / "python"), "-c", "pass"],
        "sglang-roce-entry": [str(command.path), "true"],
        "rdma link": ["rdma", "link"],
        "ibv_devinfo -v": ["ibv_devinfo", "-v"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    said = {}
    for _ in range(ROUNDS):
        for name, words in commands.items():
            taken_s, said[name] = _run(words, environment)
            seconds[name].append(taken_s)
    return {
        "devices": devices,
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "found": {name: [device for device in devices if f"{device}" in text] for name, text in said.items()},
    }


def _run(words: Sequence[str], environment: dict[str, str]) -> tuple[float, str]:
    started_s = time.monotonic()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return time.monotonic() - started_s, done.stdout + done.stderr
