"""Every guest ends: by itself, at its deadline, and with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.guest import QEMU, boot

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernel.image import BootableKernel

pytestmark = pytest.mark.kernel

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT = Path("/")
HANGS = ("sleep", "100000")
WAIT_S = 60.0

STARTER = """\
import sys
from pathlib import Path
from tests.kernel.guest import boot
from tests.kernel.image import BootableKernel
image, initramfs, out = map(Path, sys.argv[1:])
kernel = BootableKernel(image, initramfs, "")
boot(kernel, ["sleep", "100000"], directory=Path("/"), out=out, deadline_s=600, lifetime_s=600)
"""


def guests_that_share(out: Path) -> list[int]:
    """Return the QEMU processes of whose guests `out` is a share."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        shares = f"local,id=out,path={out},".encode()
        if arguments[0].endswith(QEMU.encode()) and any(argument.startswith(shares) for argument in arguments):
            found.append(int(process.name))
    return found


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_job_that_hangs_is_ended_by_the_guest_itself(kernel: BootableKernel, tmp_path: Path) -> None:
    run = boot(kernel, HANGS, directory=ROOT, out=tmp_path, deadline_s=600, lifetime_s=8)
    assert run.status is None
    assert "guest: lifetime over" in run.console
    assert guests_that_share(tmp_path) == []


def test_a_guest_that_hangs_is_ended_at_the_deadline(kernel: BootableKernel, tmp_path: Path) -> None:
    run = boot(kernel, HANGS, directory=ROOT, out=tmp_path, deadline_s=2, lifetime_s=600)
    assert run.status is None
    assert "ended after 2 s" in run.console
    assert run.wall_s >= 2
    assert guests_that_share(tmp_path) == []


def test_no_guest_outlives_the_process_that_started_it(kernel: BootableKernel, tmp_path: Path) -> None:
    starting = (sys.executable, "-c", STARTER, str(kernel.kernel), str(kernel.initramfs), str(tmp_path))
    with subprocess.Popen(starting, cwd=CHECKOUT) as starter:
        try:
            assert until(lambda: guests_that_share(tmp_path) != [])
        finally:
            starter.kill()
    try:
        assert until(lambda: guests_that_share(tmp_path) == [])
    finally:
        for left in guests_that_share(tmp_path):
            os.kill(left, signal.SIGKILL)
