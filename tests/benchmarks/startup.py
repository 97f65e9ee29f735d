"""From the start of the process to the `execve` of a leader that need not wait, in starts of a bare interpreter.

The installed command by turns with `python3 -c pass` of the same interpreter, on nodes of 1 to 32 HCAs.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.instructions import BUDGET
from tests.benchmarks.rails import ARGUMENTS, PRINT_PEAK_KIB, Leader, Unavailable, environment, workplace
from tests.benchmarks.text_table import text_table
from tests.process.command import interpreter_of

NODES = ((1, 256), (4, 256), (8, 256), (16, 256), (32, 256), (8, 1024))
TARGETS = {"starts_8x256": BUDGET, "memory": 2, "empty_slot_us": 10}
OURS, BY_MODULE, BARE, PSUTIL = "sglang-roce-entry", "sglang-roce-entry by python -m", "bare", "import psutil"


def measure(short: bool) -> dict[str, Any]:
    """Return, for each node, starts in milliseconds and in starts of the bare interpreter."""
    try:
        with workplace() as (folder, command, path):
            rows = [
                _row(Leader(folder / f"{hcas}x{slots}", hcas, slots), command, path, 3 if short else 40)
                for hcas, slots in (NODES[:1] if short else NODES)
            ]
    except Unavailable as sentence:
        return {"skipped": str(sentence)}
    result: dict[str, Any] = {"rows": rows, "targets": TARGETS}
    by_size = {(row["hcas"], row["slots"]): row for row in rows}
    if (8, 1024) in by_size:
        more, less = by_size[8, 1024], by_size[8, 256]
        slots = 8 * (1024 - 256)
        result["empty_slot_us"] = {
            kind: (more[key] - less[key]) * 1000 / slots
            for kind, key in (("start", "least_ms"), ("scan", "scan_least_ms"))
        }
    return result


def _row(leader: Leader, command: Path, path: Path, rounds: int) -> dict[str, Any]:
    python = interpreter_of(command)
    commands = {
        BARE: [python, "-c", "pass"],
        OURS: [str(command), *ARGUMENTS],
        BY_MODULE: [python, "-m", "sglang_roce_entry", *ARGUMENTS],
        PSUTIL: [python, "-c", "import psutil"],
        "scan": [python, str(Path(__file__).with_name("scan.py"))],
    }
    told = {
        "commands": commands,
        "rounds": dict.fromkeys(commands, rounds),
        "memory": {OURS: commands[OURS], BARE: [python, "-c", PRINT_PEAK_KIB]},
    }
    around = environment(path)
    runner = [sys.executable, str(Path(__file__).with_name("interleaved.py"))]
    said = json.loads(leader.run(runner, around, json.dumps(told)))
    taken, peak = said["seconds"], said["peak_kib"]
    unit = statistics.median(taken[BARE])
    return {
        "hcas": leader.hcas,
        "slots": leader.slots,
        "gids": leader.gids,
        "bare_ms": unit * 1000,
        "start_ms": statistics.median(taken[OURS]) * 1000,
        "least_ms": min(taken[OURS]) * 1000,
        "starts": statistics.median(taken[OURS]) / unit,
        "starts_least": min(taken[OURS]) / min(taken[BARE]),
        "starts_by_module": statistics.median(taken[BY_MODULE]) / unit,
        "starts_psutil": statistics.median(taken[PSUTIL]) / unit,
        "memory": peak[OURS] / peak[BARE],
        "scan_ms": statistics.median(taken["scan"]) * 1000,
        "scan_least_ms": min(taken["scan"]) * 1000,
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    head = (
        *("HCAs", "slots", "start ms", "bare ms", "starts", "of the least", "python -m", "import psutil"),
        *("memory", "scan ms"),
    )
    keys = (
        *("hcas", "slots", "start_ms", "bare_ms", "starts", "starts_least", "starts_by_module", "starts_psutil"),
        *("memory", "scan_ms"),
    )
    lines = [text_table(head, [[row[key] for key in keys] for row in result["rows"]])]
    slot = result.get("empty_slot_us")
    if slot:
        lines.append(f"an empty slot: {slot['start']:.1f} us of the start, {slot['scan']:.1f} us of the scan")
    lines.append(
        "starts and memory: in those of `python3 -c pass` of the same run, medians; wanted at 8 x 256 at most "
        f"{TARGETS['starts_8x256']}, memory at most\n{TARGETS['memory']}, an empty slot under {TARGETS['empty_slot_us']} us"
    )
    return "\n".join(lines)
