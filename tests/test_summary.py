"""The summary of a test run: a newcomer reads a few sentences, not a line for each place that skips."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.layers import LAYERS, MARKED, VARIABLE

CHECKOUT = Path(__file__).parent.parent


def _pytest(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=CHECKOUT, capture_output=True, text=True, env={**os.environ, **variables}, check=False,
    )  # fmt: skip


def test_each_reason_for_skipping_is_said_once(tmp_path: Path) -> None:
    for layer in ("kernel", "nccl"):
        folder = tmp_path / "tests" / layer
        folder.mkdir(parents=True)
        (folder / f"test_{layer}.py").write_text(
            "import pytest\n\n"
            "@pytest.mark.parametrize('n', range(3))\n"
            "def test_one(n): pytest.skip('needs a part')\n\n"
            "@pytest.mark.skip(reason='needs another part')\n"
            "def test_two(): ...\n"
        )
    done = _pytest("-p", "tests.conftest", "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path))
    said = done.stdout.partition("not run here")[2].splitlines()
    assert said[1:5] == [
        "kernel     3  needs a part",
        "kernel     1  needs another part",
        "nccl       3  needs a part",
        "nccl       1  needs another part",
    ]


@pytest.mark.parametrize(
    ("given", "unknown"), [("kernal", ["kernal"]), ("nccl, torhc,netns,x", ["torhc", "x"]), ("all,nccl", ["all"])]
)
def test_a_required_layer_that_does_not_exist_is_a_usage_error(given: str, unknown: Sequence[str]) -> None:
    done = _pytest("--collect-only", "tests/test_summary.py", **{VARIABLE: given})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{VARIABLE}: no layer {', '.join(unknown)}; all, or of {', '.join(LAYERS)}" in done.stderr


@pytest.mark.parametrize("given", ["", "all", "nccl", " nccl, torch ", ",".join(LAYERS)])
def test_a_layer_that_exists_may_be_required(given: str) -> None:
    assert _pytest("--collect-only", "tests/test_summary.py", **{VARIABLE: given}).returncode == 0


def test_every_marker_is_a_layer() -> None:
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    markers = re.findall(r'^  "(\w+): ', project.partition("\nmarkers = [")[2].partition("\n]")[0], re.MULTILINE)
    assert sorted(markers) == sorted(MARKED)
