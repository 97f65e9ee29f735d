"""The command as a process, on recorded nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.host.snapshot.variables import is_recorded
from sglang_roce_entry.host.snapshot.write import pack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.trees import Node


@dataclass(frozen=True)
class Ran:
    """What one run of the command printed and ended with."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def codes(self) -> list[str]:
        return [problem["code"] for problem in self.document["problems"]]


Run = Callable[..., Ran]


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what the command would take for a decision."""
    prefixes = (
        "LWS_", "SGLANG_", "NCCL_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "POD_", "HOST_IP", "KUBERNETES_", "UCX_",
        "MC_", "MOONCAKE_", "NVSHMEM_", "GLOO_",
    )  # fmt: skip
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) and not is_recorded(name)
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def start(*argv: str, node: Node | None = None, environ: Mapping[str, str] | None = None) -> Ran:
        words = list(argv)
        if node is not None:
            # One file instead of a folder: a node is a few hundred, and they outlive the test for a while.
            archive = tmp_path / "recorded.tar.gz"
            if not archive.exists():
                archive.write_bytes(pack(*node.content()))
            words = ["--snapshot", str(archive), *words]
        done = subprocess.run(
            [sys.executable, "-m", "sglang_roce_entry", *words],
            capture_output=True,
            env={**clean_environment(), **(environ or {})},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        out, err = done.stdout.decode(errors="surrogateescape"), done.stderr.decode()
        assert "Traceback" not in err, err
        return Ran(done.returncode, out, err)

    return start
