"""Beside what people use instead, on the same node in the same run: shell loops that start a process for each file.

`show-gids.sh` lists the GIDs in use, as a vendor's script does; `entrypoint-block.sh` finds active HCAs and
the index that most of them share, as shell blocks in manifests do. Both are written for this benchmark, in
the shape of what they stand for. They only look; the launcher's whole start is set against them.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.rails import ARGUMENTS, Leader, Unavailable, environment, workplace
from tests.benchmarks.text_table import text_table
from tests.process.command import interpreter_of

HERE = Path(__file__).parent
NODES = ((1, 256), (4, 256), (8, 256), (16, 256), (32, 256))
TARGETS = {"start": 30, "scan": 200}
OURS, BARE = "sglang-roce-entry", "python3 -c pass"
SHELL = {"show_gids": HERE / "shell" / "show-gids.sh", "block": HERE / "shell" / "entrypoint-block.sh"}


def measure(short: bool) -> dict[str, Any]:
    """Return milliseconds of a whole start, of its scan and of each shell form, for each node."""
    if shutil.which("bash") is None:
        return {"skipped": "needs the program `bash`"}
    rows = []
    try:
        with workplace() as (folder, command, path):
            for hcas, slots in [(1, 32)] if short else NODES:
                leader = Leader(folder / f"{hcas}x{slots}", hcas, slots)
                often = (2, 1) if short else (30, 3 if hcas <= 8 else 1)
                rows.append(_row(leader, command, path, *often))
    except Unavailable as sentence:
        return {"skipped": str(sentence)}
    return {"rows": rows, "targets": TARGETS}


def _row(leader: Leader, command: Path, path: Path, starts: int, scripts: int) -> dict[str, Any]:
    python, around = interpreter_of(command), environment(path)
    shells = {name: ["bash", str(script)] for name, script in SHELL.items()}
    ours = {OURS: [str(command), *ARGUMENTS], "scan": [python, str(HERE / "scan.py")]}
    commands = {BARE: [python, "-c", "pass"], **ours, **shells}
    rounds = {**dict.fromkeys(commands, starts), **dict.fromkeys(shells, scripts)}
    if leader.hcas <= 8:  # a minute each beyond
        _check_agreement(leader, command, around)
    told = json.dumps({"commands": commands, "rounds": rounds, "memory": {}})
    said = json.loads(leader.run([sys.executable, str(HERE / "interleaved.py")], around, told))
    taken = {name: statistics.median(seconds) * 1000 for name, seconds in said["seconds"].items()}
    return {
        "hcas": leader.hcas,
        "slots": leader.slots,
        "gids": leader.gids,
        "bare_ms": taken[BARE],
        "start_ms": taken[OURS],
        "scan_ms": taken["scan"],
        **{f"{name}_ms": taken[name] for name in SHELL},
        **{f"{name}_of_start": taken[name] / taken[OURS] for name in SHELL},
        **{f"{name}_of_scan": taken[name] / taken["scan"] for name in SHELL},
    }


def _check_agreement(leader: Leader, command: Path, around: dict[str, str]) -> None:
    """All three must find the same: a script that fails at once would be fast."""
    block = leader.run(["bash", str(SHELL["block"])], around)
    listed = leader.run(["bash", str(SHELL["show_gids"])], around).splitlines()
    ours = json.loads(leader.run([str(command), "--print-env=json"], around))
    index, devices = ours["NCCL_IB_GID_INDEX"]["value"], [f"mlx5_{number}" for number in range(leader.hcas)]
    assert ours["NCCL_IB_HCA"]["value"] == "=" + ",".join(f"{device}:1" for device in devices)
    found = dict(word.split("=") for word in block.split())
    assert sorted(found["NCCL_IB_HCA"].split(",")) == sorted(devices), block
    assert found["NCCL_IB_GID_INDEX"] == index, block
    assert len(listed) == 1 + 4 * leader.hcas, listed
    own = [line.split("\t") for line in listed if "\t10.77." in line and "\tv2\t" in line]
    assert {fields[2] for fields in own} == {index}
    assert len(own) == leader.hcas


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    head = (
        *("HCAs", "GIDs", "our start ms", "our scan ms", "show_gids ms", "block ms"),
        *("show_gids/start", "block/start", "show_gids/scan", "block/scan"),
    )
    keys = (
        *("hcas", "gids", "start_ms", "scan_ms", "show_gids_ms", "block_ms"),
        *("show_gids_of_start", "block_of_start", "show_gids_of_scan", "block_of_scan"),
    )
    return (
        text_table(head, [[row[key] for key in keys] for row in result["rows"]])
        + f"\nwanted at 8 x 256: the whole start {TARGETS['start']} times faster than either, the scan alone "
        f"{TARGETS['scan']} times"
    )
