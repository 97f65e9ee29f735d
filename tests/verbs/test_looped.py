"""Ports proven against themselves where libibverbs is broken: every outcome is a value, in time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sglang_roce_entry.verbs.judgement import Verdict
from sglang_roce_entry.verbs.messages import Rail, Seen, written
from sglang_roce_entry.verbs.proof.looped import Loop, prove_loops, read_loops
from tests.verbs.stubs import stub_library

RAILS = (Rail("mlx5_0", 1, 3), Rail("mlx5_1", 1, 3))
FAILED = Verdict("not_tried", "CHILD_FAILED")


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_library(tmp_path_factory.mktemp("verbs"))


def prove(stub: Path, listed: str, opened: str, deadline_s: float = 30.0) -> list[Loop]:
    told = {"LD_LIBRARY_PATH": str(stub), "STUB_VERBS": listed, "STUB_OPEN": opened}
    return prove_loops(RAILS, {**os.environ, **told}, deadline_s)


def test_a_provider_that_crashes(stub: Path) -> None:
    first, second = prove(stub, "mlx5_0,mlx5_1", "crash")
    assert first.verdict == second.verdict == FAILED
    assert first.seen.detail == "the process that tried it was ended by signal 11 (Segmentation fault)"
    assert second.seen.detail == "its turn did not come"


def test_a_provider_that_hangs(stub: Path) -> None:
    started = time.monotonic()
    first, second = prove(stub, "mlx5_0,mlx5_1", "hang", 2.0)
    assert time.monotonic() - started < 8
    assert first.seen.detail == "the process that tried it did not end within 2 s"
    assert second.seen.detail == "its turn did not come"


def test_a_provider_that_lies(stub: Path) -> None:
    for loop in prove(stub, "mlx5_0,mlx5_1", "lie"):
        assert loop.verdict == Verdict("failed", "PORT_DOWN", "both")
        assert loop.seen.detail == "state 77, MTU 99"


@pytest.mark.parametrize(
    ("listed", "detail"),
    [("refuse", "ibv_get_device_list: EIO"), ("none", "ibv_get_device_list: ENOSYS"), ("leave", "exit code 3")],
)
def test_a_list_that_fails(stub: Path, listed: str, detail: str) -> None:
    first, second = prove(stub, listed, "")
    assert first.verdict == second.verdict == FAILED
    assert detail in first.seen.detail


def test_a_device_that_is_not_listed(stub: Path) -> None:
    first, second = prove(stub, "mlx5_1", "lie")
    assert first.verdict == Verdict("not_tried", "NO_PROVIDER", "both")
    assert first.seen.detail == "list: ENODEV (listed: mlx5_1)"
    assert second.verdict.cause == "PORT_DOWN"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\x00\n",
        b"seen {}\nseen []\n",
        b"at 0\nseen " + written(Seen("mlx5_0")) + b"at 1\n",
        b"at 0\n" + 3 * (b"seen " + written(Seen("mlx5_0"))),
    ],
)
def test_an_answer_that_makes_no_sense(answer: bytes) -> None:
    for loop in read_loops(RAILS, (answer, None)):
        assert loop.verdict == FAILED
