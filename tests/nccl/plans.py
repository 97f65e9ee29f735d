"""What our command plans, and whether a released NCCL does just that with the plan's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.nccl.nodes import build_node, environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.nccl.judge import Judge
    from tests.nccl.nodes import NodePort

CHECKOUT = Path(__file__).resolve().parents[2]

Plan = dict[str, Any]


def entry_command() -> list[str]:
    """Return the command under test: ``SGLANG_ROCE_ENTRY``, or the package of this checkout."""
    installed = os.environ.get("SGLANG_ROCE_ENTRY")
    return [installed] if installed else [sys.executable, "-m", "sglang_roce_entry"]


def bare_environment() -> dict[str, str]:
    """Return an environment in which nobody has decided anything for NCCL."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "" if os.environ.get("SGLANG_ROCE_ENTRY") else str(CHECKOUT),
    }


def plan_of(snapshot: Path, environment: Mapping[str, str] | None = None) -> Plan:
    """Return the plan for a recorded node; ``environment`` is what the pod has set itself."""
    return run_plan(["--snapshot", str(snapshot)], environment=environment)


def run_plan(
    options: Sequence[str], *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Plan:
    """Return what the command's ``--dry-run=json`` prints; ``prefix`` may enter a network namespace first."""
    done = subprocess.run(
        [*prefix, *entry_command(), *options, "--dry-run=json"],
        env={**bare_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if not done.stdout:
        raise AssertionError(f"no plan, exit {done.returncode}: {done.stderr}")
    plan: Plan = json.loads(done.stdout)
    return plan


def planned_ports(plan: Plan) -> dict[tuple[str, int], int | None]:
    """Return the used ports and the GID index that the plan says for each."""
    return {(port["device"], port["port"]): port["gid_index"] for port in plan["ports"] if port["used"]}


def fabric_environment(plan: Plan) -> dict[str, str]:
    """Return what the plan sets but for the sockets: a recorded node's interfaces do not exist here."""
    return {name: value for name, value in environment_of(plan).items() if "SOCK" not in name}


def assert_nccl_follows(judge: Judge, tree: Path, plan: Plan, tables: Sequence[NodePort] = ()) -> int:
    """Connect NCCL with the plan's environment on ``tree``; return the number of connections.

    Fails unless NCCL's device table holds exactly the used ports and each takes the planned index.
    """
    planned = planned_ports(plan)
    if not planned:
        raise AssertionError(f"the plan uses no port: {plan['ports']}")
    taken = judge.connections(tree, fabric_environment(plan), tables)
    if taken != planned:
        steering = {k: v for k, v in fabric_environment(plan).items() if k.startswith("NCCL_IB_")}
        raise AssertionError(f"NCCL takes {taken}, planned was {planned}, with {steering}")
    return len(taken)


def planned_nodes(
    judge: Judge, folder: Path, nodes: Sequence[list[NodePort]], environments: Sequence[Mapping[str, str]]
) -> Iterator[tuple[Path, Plan]]:
    """Yield nodes and their plans; as many at once as there are processors, because a plan is a process."""

    def prepare(number: int) -> tuple[Path, Plan]:
        node = build_node(folder / str(number), nodes[number], nccl=judge.release.version)
        return node, plan_of(node, environments[number])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(prepare, range(len(nodes)))
