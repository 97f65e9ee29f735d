"""A replay asks nothing of the machine it runs on: the same on a laptop without /proc, /sys, netlink and libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.conftest import clean_environment
from tests.layers import skip_or_fail

MODES = ("--dry-run", "--dry-run=json", "--print-env", "--check", "--check=json", "--save-snapshot")
GROUP = {"LWS_LEADER_ADDRESS": "sglang-0.sglang", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}

#: Ends the interpreter where it opens, lists or asks what a Mac has not, whoever catches exceptions.
WATCH = """
import os, sys
LINUX = ("/proc", "/sys", "/dev/infiniband", "/dev/nvidia", "/etc/nccl.conf", "/etc/resolv.conf", "/etc/podinfo")
def watch(event, arguments):
    first = arguments[0] if arguments else None
    if event in ("open", "os.listdir", "os.scandir") and isinstance(first, (str, bytes)):
        wrong = os.fsdecode(first).startswith(LINUX)
    elif event == "ctypes.dlopen":
        wrong = first is not None
    elif event == "import":
        wrong = first in ("psutil", "pyudev")
    else:
        wrong = event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork"))
    if wrong:
        os.write(2, f"TOUCHED {event} {first}\\n".encode())
        os._exit(99)
sys.addaudithook(watch)
"""


@pytest.mark.parametrize("node", ["cx7-pod", "h20-roce"])
@pytest.mark.parametrize("mode", MODES)
def test_a_replay_touches_nothing_of_this_machine(tmp_path: Path, mode: str, node: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    rest = ("-",) if mode == "--save-snapshot" else ("--model-path", "/m")
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", "--snapshot", node, mode, *rest],
        capture_output=True,
        env={**clean_environment(), **GROUP, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert b"TOUCHED" not in done.stderr, done.stderr.decode()
    assert done.returncode in (0, 69, 78), done.stderr.decode()


@pytest.mark.parametrize("mode", MODES[:5])
def test_a_replay_is_the_same_where_these_are_hidden(tmp_path: Path, mode: str) -> None:
    """With empty folders for /proc and /sys, in which nothing can be asked."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        skip_or_fail("netns", "hiding /proc and /sys takes root and unshare(1)")
    command = [sys.executable, "-m", "sglang_roce_entry", "--snapshot", "cx7-pod", mode, "--model-path", "/m"]
    hide = 'mount -t tmpfs none /sys && mount -t tmpfs none /proc && exec "$@"'
    ran = [
        subprocess.run(
            argv,
            capture_output=True,
            env={**clean_environment(), **GROUP, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        for argv in (command, ["unshare", "-m", "sh", "-c", hide, "sh", *command])
    ]
    assert (ran[1].returncode, ran[1].stdout) == (ran[0].returncode, ran[0].stdout), ran[1].stderr.decode()
