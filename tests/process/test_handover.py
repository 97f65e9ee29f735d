"""What the launcher leaves behind in the process that becomes SGLang."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.command import START_S, entry_interpreter
from tests.process.group import (
    DIST_PORT,
    LEADER_RECORD,
    NOT_RESOLVED,
    NOTICE_S,
    assert_clean_handover,
    launch_arguments,
    lws,
)

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Node

pytestmark = pytest.mark.netns

# No interpreter between the exec and the look at it: Python ignores SIGPIPE and SIGXFSZ at start.
WITNESS = """#!/bin/sh
grep '^Sig' /proc/self/status > "$STANDIN_RECORD"
for link in /proc/$$/fd/*; do readlink "$link"; done >> "$STANDIN_RECORD"
for word in "$@"; do printf 'word:%s\\n' "$word"; done >> "$STANDIN_RECORD"
exit 7
"""


def test_signals_as_the_kernel_hands_them_over(
    cluster: Cluster, leader: Node, worker: Node, tmp_path: Path
) -> None:
    """While the launcher waits, its interpreter's file becomes a shell script, and that is run.

    So ignored SIGPIPE (every Python ignores it) cannot hide behind the interpreter of SGLang.
    """
    witness = tmp_path / "witness"
    witness.write_text(WITNESS, encoding="ascii")
    witness.chmod(0o755)
    launch = worker.start(launch_arguments("--wait-deadline", "30"), lws(1))
    launch.wait_for_line(NOT_RESOLVED, START_S)
    interpreter = os.path.realpath(entry_interpreter())
    worker.mount_over(Path(interpreter), witness)
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        assert launch.wait_exit(NOTICE_S + 5) == 7, launch.account()
    seen = launch.record_path.read_text(encoding="utf-8").splitlines()
    signals = dict(line.split(":\t") for line in seen if line.startswith("Sig"))
    assert int(signals["SigIgn"], 16) == 0
    assert int(signals["SigBlk"], 16) == 0
    assert [line for line in seen if line.startswith("word:")][:2] == [
        "word:-m",
        "word:sglang.launch_server",
    ]
    links = [line for line in seen if line.startswith(("/", "socket:", "pipe:", "anon_inode:"))]
    pipes = [link for link in links if link.startswith("pipe:")]
    # Standard input, output and error; the rest are the shell's: its script, and where it writes.
    assert len(pipes) == 2, seen
    assert set(links) - set(pipes) == {"/dev/null", interpreter, str(launch.record_path)}, seen


def test_odd_inheritance_is_put_right(cluster: Cluster, leader: Node, worker: Node) -> None:
    """A parent that ignores SIGHUP, blocks SIGUSR1 and leaks a socket: SGLang sees none of it."""
    cluster.dns.publish(LEADER_RECORD, leader.address)
    ours, leaked = socket.socketpair()
    with ours, leaked, leader.listen(DIST_PORT):
        launch = worker.start(
            launch_arguments(),
            lws(1),
            prefix=("env", "--ignore-signal=HUP", "--ignore-signal=INT", "--block-signal=USR1"),
            pass_descriptors=(leaked.fileno(),),
        )
        record = launch.wait_record(START_S + NOTICE_S)
        assert launch.wait_exit(5) == 0
    assert_clean_handover(launch, record)
    # Python takes SIGINT over only where it is not ignored.
    assert record["signals"]["SigCgt"] & (1 << 1)


def test_exit_code_of_sglang_is_ours(cluster: Cluster, leader: Node) -> None:
    launch = leader.start(launch_arguments(), behaviour="exit:75")
    launch.wait_record(START_S)
    assert launch.wait_exit(5) == 75
