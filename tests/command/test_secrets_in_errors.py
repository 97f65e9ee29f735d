"""An error that quotes a wrong value quotes no credentials in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.command.conftest import Run

SECRET = "s3cr3tvalue"
GROUP = ("--nnodes", "2", "--node-rank", "0")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ((*GROUP, "--dist-init-addr", f"http://user:{SECRET}@h:1"), "DIST_INIT_ADDR"),
        ((*GROUP, "--dist-init-addr", f"user:{SECRET}@h:1"), "DIST_INIT_ADDR"),
        (("--nnodes", f"token={SECRET}"), "IDENTITY_NUMBER"),
        (("--disaggregation-ib-device", f'{{"password": "{SECRET}"}}'), "IB_DEVICE"),
        (("--a", SECRET), ""),
        (("--ss", SECRET), ""),
    ],
)
@pytest.mark.parametrize(
    "mode", ["--dry-run", "--dry-run=json", "--dry-run=html", "--print-env", "--check", "--check=json"]
)
def test_arguments(run: Run, mode: str, argv: tuple[str, ...], code: str) -> None:
    ran = run("--snapshot", "cx7-pod", mode, "--model-path", "/m", *argv)
    assert SECRET not in ran.out + ran.err
    assert code in ran.out + ran.err or mode.startswith("--check")


@pytest.mark.parametrize("address", [f"http://u:{SECRET}@h", f"u:{SECRET}@h", f"https://u:{SECRET}@h:20000/x"])
@pytest.mark.parametrize("mode", ["--dry-run", "--check"])
def test_settings(run: Run, mode: str, address: str) -> None:
    group = {"SGLANG_ROCE_GROUP_SIZE": "2", "SGLANG_ROCE_WORKER_INDEX": "1"}
    ran = run("--snapshot", "cx7-pod", mode, environ={"SGLANG_ROCE_LEADER_ADDRESS": address, **group})
    assert SECRET not in ran.out + ran.err
    assert "leader address" in ran.out


URL = f"https://user:{SECRET}@host/node.yaml"


@pytest.mark.parametrize(
    "words",
    [
        ("--dry-run=json", "--model-path", "/m", "--config", URL),
        ("--check", "--model-path", "/m", "--config", URL),
        ("--policy", URL, "--dry-run"),
        ("--snapshot", URL, "--check=json"),
        ("--save-snapshot", f"/nowhere/{URL}"),
        ("--meeting-file", URL, "--rehearse=json"),
        ("--hca", f"'password={SECRET} x'", "--dry-run=json"),
        ("--model-path", "/m", "--config", URL),
    ],
    ids=lambda words: words[0],
)
def test_files_and_values_that_cannot_be_read(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words)
    assert ran.code not in (0, 70)
    assert SECRET not in ran.out + ran.err
