"""What libibverbs lists, asked in a process of its own: whatever that does, the answer is a value, in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sglang_roce_entry.verbs.listed import Listing, list_devices, read_listing
from sglang_roce_entry.verbs.supervise import run_apart
from tests.verbs.stubs import stub_library


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_library(tmp_path_factory.mktemp("verbs"))


def ask(stub: Path, told: str, deadline_s: float = 20.0) -> Listing:
    return list_devices({**os.environ, "LD_LIBRARY_PATH": str(stub), "STUB_VERBS": told}, deadline_s)


@pytest.mark.parametrize(
    ("told", "listing"),
    [
        ("mlx5_0,mlx5_1", ("ok", ("mlx5_0", "mlx5_1"), None)),
        ("", ("ok", (), None)),
        ("none", ("ok", None, None)),  # the kernel shows no verbs: nothing is known of providers
        ("refuse", ("ok", None, "ibv_get_device_list: EIO")),
        ("mlx5_0,\x1b[2J", ("ok", None, "ibv_get_device_name: no errno (no name of a device)")),
        ("n" * 70, ("ok", None, "ibv_get_device_name: no errno (no name of a device)")),
        ("crash", ("ok", None, "the process that lists its devices was ended by signal 6 (Aborted)")),
        ("leave", ("ok", None, "the process that lists its devices ended with exit code 3")),
    ],
)
def test_whatever_libibverbs_does_is_an_answer(stub: Path, told: str, listing: Listing) -> None:
    assert ask(stub, told) == listing


def test_a_provider_that_hangs_is_left_at_the_deadline(stub: Path) -> None:
    started = time.monotonic()
    listing = ask(stub, "hang", 1.5)
    assert 1.5 <= time.monotonic() - started < 6
    assert listing == ("ok", None, "the process that lists its devices did not end within 1.5 s")


def test_the_loaders_message(tmp_path: Path) -> None:
    (tmp_path / "libibverbs.so").write_text("no library")
    (tmp_path / "libibverbs.so.1").write_text("no library")
    listing = list_devices({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert listing[0] is not None
    assert "libibverbs.so.1: file too short" in listing[0]
    assert listing[1:] == (None, None)


def test_another_library_of_that_name(tmp_path: Path) -> None:
    empty = tmp_path / "empty.c"
    empty.write_text("int nothing;\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "libibverbs.so", empty], check=True)
    listing = list_devices({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert listing[0] == "ok"
    assert "libibverbs has no ibv_get_device_list of version IBVERBS_1.1" in (listing[2] or "")


@pytest.mark.parametrize("answer", [b"", b"\xff\xfe", b"device mlx5_0\n", b"ok\ndevice mlx5_0\n", b"end of it\n"])
def test_half_an_answer_is_none(answer: bytes) -> None:
    listing = read_listing((answer, None))
    assert listing[1:] == (None, "gave no answer")


def test_an_interpreter_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    ended = run_apart("listing", ["1"], {}, 1.0)
    assert ended == (b"", "could not be started: No such file or directory")


def test_nothing_is_left_open_and_no_child_either(stub: Path) -> None:
    def held() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    def children() -> set[int]:
        return {child.pid for child in psutil.Process().children()}

    before, others = held(), children()  # a browser, where the tests of the page have run
    for told in ("mlx5_0", "crash", "hang"):
        ask(stub, told, 1.0)
    assert held() == before
    assert children() <= others
