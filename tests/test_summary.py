"""The summary of a test run: a newcomer reads a few sentences, not a line for each place that skips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
         "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout.partition("not run here")[2].splitlines()
    assert said[1:5] == [
        "kernel     3  needs a part",
        "kernel     1  needs another part",
        "nccl       3  needs a part",
        "nccl       1  needs another part",
    ]
