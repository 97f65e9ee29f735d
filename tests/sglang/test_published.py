"""What SGLang's own publishers listen on, and what ports it refuses, is what `server/ports.py` says of a node."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.server.arguments import read_arguments
from sglang_roce_entry.server.ports import Ports, check_ports
from tests.sglang.environment import INSIDE
from tests.sglang.releases import RELEASES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sglang.environment import Environment
    from tests.sglang.judge import Judge
    from tests.sglang.releases import Release

pytestmark = pytest.mark.sglang

CONFIGS = {
    "default": ({"publisher": "zmq", "endpoint": "tcp://*:45557"}, "auto"),
    "replay in the way": ({"publisher": "zmq", "endpoint": "tcp://*:45557", "replay_endpoint": "tcp://*:45559"}, "auto"),
    "replay beside": ({"publisher": "zmq", "endpoint": "tcp://*:45557", "replay_endpoint": "tcp://127.0.0.1:45600"}, "auto"),
    "connects": ({"publisher": "zmq", "endpoint": "tcp://127.0.0.1:45557"}, "off"),
    "loads elsewhere": ({"publisher": "zmq", "endpoint": "tcp://0.0.0.0:45557"}, "tcp://*:45700"),
}  # fmt: skip
PUBLISHING = [one for one in RELEASES if one.version in ("0.5.15.post1", "0.5.23")]


@pytest.mark.parametrize("release", PUBLISHING, ids=lambda release: str(release.version))
@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_listens_where_it_is_said_to(environment: Environment, name: str, release: Release) -> None:
    config, load = CONFIGS[name]
    text = json.dumps(config)
    asked = ["--enable-dp-attention", "--dp-size", "2", "--kv-events-config", text]
    if release.version == "0.5.23":
        asked += ["--load-publish-endpoint", load]
    for rank in range(2):
        done = subprocess.run(
            [environment.python, INSIDE / "published.py", text, str(rank), "2", load],
            env={**os.environ, **environment.variables(release)}, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        node = Ports(
            read_arguments(asked), Identity("leader", 2, rank, "test"), "0.0.0.0", 20000, {}, release.version
        )
        ours = {port for _, port, why in node.bound() if "--kv-events-config" in why or "--load-publish" in why}
        assert set(json.loads(done.stdout.splitlines()[-1])) == ours


@pytest.mark.parametrize(
    "argv", [("--port", "56000"), ("--port", "55000"), ("--port", "56000", "--smg-grpc-mode")]
)
def test_a_port_that_sglang_only_counts(
    judge: Judge, environment: Environment, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    # Where --smg-grpc-mode is unknown, SGLang refuses that.
    version = judge.release.version
    node = Ports(read_arguments(argv), Identity(None, 1, 0, "test"), "0.0.0.0", None, {}, version)
    model = ("--model-path", str(environment.folders["model"]))
    real = judge.resolve([*model, "--host", "0.0.0.0", "--device", "cuda", *argv], tmp_path)
    assert bool(check_ports(node.bound(), node.unbound())) == ("refused" in real), real
