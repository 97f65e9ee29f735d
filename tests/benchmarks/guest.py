"""Beside the tools of the verbs stack, on a real kernel with soft-RoCE HCAs: the guest of `tests/kernel`.

Its clock counts instructions, so the ratios hold whatever else the machine does; emulated seconds say nothing.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.rails import Unavailable, workplace
from tests.benchmarks.text_table import text_table
from tests.kernel.archive import KernelUnavailableError
from tests.kernel.guest import boot, missing_part
from tests.kernel.image import bootable_kernel
from tests.process.command import CHECKOUT

OURS, BARE = "sglang-roce-entry", "python3 -c pass"
LIFETIME_S, BOOT_DEADLINE_S = 300.0, 1200.0


def measure(short: bool) -> dict[str, Any]:
    """Return the guest's seconds of each tool on a node with seven HCAs."""
    if short:
        return {"skipped": "the short form boots no guest"}
    missing = missing_part()
    if missing:
        return {"skipped": missing}
    try:
        kernel = bootable_kernel()
        with workplace() as (_, command, _), tempfile.TemporaryDirectory() as folder:
            job = [str(command.parent / "python"), "-m", "tests.kernel.scenarios", str(command), "tools"]
            out = Path(folder)
            run = boot(kernel, job, directory=CHECKOUT, out=out, deadline_s=BOOT_DEADLINE_S, lifetime_s=LIFETIME_S)
            answer = out / "tools.json"
            if not answer.exists():
                return {"skipped": f"the guest ended without an answer: {run.log[-500:]}"}
            outcome: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    except (Unavailable, KernelUnavailableError) as sentence:
        return {"skipped": str(sentence)}
    if "error" in outcome:
        return {"skipped": f"it failed in the guest: {outcome['error'][-500:]}"}
    result: dict[str, Any] = outcome["result"]
    return result


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    seconds = result["seconds"]
    rows = [
        [
            name,
            f"{taken_s:.2f}",
            f"{taken_s / seconds[BARE]:.2f}",
            f"{seconds[OURS] / taken_s:.1f}",
            _found(result, name),
        ]
        for name, taken_s in seconds.items()
    ]
    head = ("tool", "guest's s", "in interpreter starts", "ours / this", "HCAs named")
    return f"{text_table(head, rows)}\n{len(result['devices'])} soft-RoCE HCAs; an emulated processor, only the ratios mean something"


def _found(result: dict[str, Any], name: str) -> str:
    return f"{len(result['found'][name])} of {len(result['devices'])}"
