"""SGLang's own gRPC server over two nodes, and the probes beside it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.sglang.servers import Group, Member

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.nodes import Cluster
    from tests.sglang.environment import Environment

pytestmark = pytest.mark.sglang


def probe(member: Member, entry: Path, kind: str) -> tuple[int, str]:
    """Return exit code and line of a probe in the pod, as a kubelet's exec runs it."""
    inside = (
        "nsenter",
        f"--target={member.launch.first_in_pid_namespace()}",
        "--mount",
        "--net",
        "--uts",
        "--pid",
    )
    done = subprocess.run(
        [*inside, str(entry), "--probe", kind],
        env=member.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.strip()


def test_probes_of_a_grpc_server(cluster: Cluster, environment: Environment, entry: Path) -> None:
    """Alive from the start, ready once it serves, by its own health service; the worker has one too."""
    group = Group(cluster, environment, entry, "--smg-grpc-mode", beside=("grpc",))
    group.publish_leader()
    leader, worker = members = group.start(0), group.start(1)
    for member in members:
        group.wait_said(member, r"exec \S+ -m sglang.launch_server")
        assert probe(member, entry, "liveness")[0] == 0
    assert probe(leader, entry, "readiness")[0] == 1
    # Earlier releases have nothing there, ever.
    assert "a worker of a gRPC server may listen nowhere" in probe(worker, entry, "readiness")[1]
    group.wait_said(leader, "ready to roll")
    serving = "ok: worker 1: grpc://0.0.0.0:30000 is SERVING"
    group.wait_until("ready on the worker", lambda: probe(worker, entry, "readiness") == (0, serving))
    for kind in ("startup", "readiness", "liveness"):
        assert probe(leader, entry, kind) == (0, "ok: leader: grpc://0.0.0.0:30000 is SERVING")
        assert probe(worker, entry, kind) == (0, serving)
