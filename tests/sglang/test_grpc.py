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
    leader, worker = group.start(0), group.start(1)

    def ready() -> bool:
        alive = [probe(member, entry, "liveness") for member in (leader, worker)]
        assert [code for code, _ in alive] == [0, 0], alive
        return all(probe(member, entry, "readiness")[0] == 0 for member in (leader, worker))

    group.wait_until("ready", ready)
    assert probe(leader, entry, "startup") == (0, "ok: leader: grpc://0.0.0.0:30000 is SERVING")
    assert probe(worker, entry, "startup") == (0, "ok: worker 1: grpc://0.0.0.0:30000 is SERVING")
