"""Scenario in the guest: rails in all kinds of situations, proven, and connected by NCCL over the same verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel.group_proof import prove
from tests.kernel.node import OUT
from tests.kernel.segments import lay_segments
from tests.kernel.situations import FAULTS, HEALTHY, RAILS, Situation, mend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sglang_roce_entry.verbs.messages import Rail
    from tests.kernel.node import Command
    from tests.kernel.segments import Port

Result = dict[str, Any]
NCCL_LIMIT_S = 90
#: NCCL's own 20 and 7 are half a minute, and 7 retries are without end on soft-RoCE. What vanishes here vanishes always.
PATIENCE = {"NCCL_IB_TIMEOUT": "16", "NCCL_IB_RETRY_CNT": "6", "NCCL_IB_MQP_RETRY_CNT": "3"}


def beside_nccl(command: Command) -> Result:
    """Prove eight rails in a situation each, and let NCCL send over the same; batch after batch."""
    release = json.loads((OUT / "nccl-releases.json").read_text())[-1]
    nodes = lay_segments(2, RAILS)
    result: Result = {}
    for batch in (*HEALTHY, *FAULTS):
        result |= _tried(batch, nodes, release)
        mend([port for ports in nodes for port in ports])
    return result


def _tried(batch: Sequence[Situation], nodes: Sequence[Sequence[Port]], release: Result) -> Result:
    pairs = []
    for situation, near, far in zip(batch, *nodes, strict=True):
        situation.does(near, far)
        pairs.append(situation.ends(near, far))
    proven = prove({node: [pair[node] for pair in pairs] for node in (0, 1)})
    sent = _sent_by_nccl(batch, pairs, release)
    return {
        situation.name: {
            "proof": proven["outcomes"][f"{at}:0-1"],
            "nccl": sent[at],
            "indices": [rail.gid_index for rail in pairs[at]],
            "seconds": proven["seconds"],
        }
        for at, situation in enumerate(batch)
    }


def _sent_by_nccl(batch: Sequence[Situation], pairs: Sequence[tuple[Rail, Rail]], release: Result) -> list[Result]:
    def environment(situation: Situation, rail: Rail) -> dict[str, str]:
        log = OUT / f"nccl-{situation.name.replace(' ', '-').replace('%', '')}-{rail.device}.log"
        log.write_text("")
        return {
            "NCCL_IB_HCA": f"={rail.device}:{rail.port}",
            "NCCL_IB_GID_INDEX": str(rail.gid_index),
            "NCCL_DEBUG_FILE": str(log),
            "NCCL_IB_TC": str(rail.traffic_class),
            "NCCL_IB_SL": str(rail.service_level),
        }

    asked = [[environment(one, rail) for rail in pair] for one, pair in zip(batch, pairs, strict=True)]
    common = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG")},
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "NCCL_CONF_FILE": os.devnull,
        "NCCL_SOCKET_IFNAME": "=lo",
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
        **PATIENCE,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernel.nccl_ends", json.dumps(release)],
        input=json.dumps(asked),
        env=common,
        capture_output=True,
        text=True,
        timeout=NCCL_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"NCCL ended with {done.returncode}: {done.stderr}")
    seen: list[Result] = json.loads(done.stdout)
    return seen
