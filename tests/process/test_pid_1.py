"""The command as a container's PID 1, where the kernel gives no signal a default action."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.command import START_S
from tests.process.dns import Mood
from tests.process.group import (
    DIST_PORT,
    HALF_IDENTITY,
    LEADER_RECORD,
    NOTICE_S,
    PROMPT_S,
    WAITING,
    assert_group_arguments,
    launch_arguments,
    lws,
)

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Launch, Node

pytestmark = pytest.mark.netns


def assert_ends(launch: Launch, number: signal.Signals, code: int) -> None:
    """Fail unless PID 1 ends with `code` within a second of the signal."""
    first = launch.first_in_pid_namespace()
    sent_s = time.monotonic()
    os.kill(first, number)
    assert launch.wait_exit(5) == code, launch.account()
    assert time.monotonic() - sent_s < PROMPT_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mood", [Mood.ANSWER, Mood.SILENT])
def test_signal_during_the_wait(cluster: Cluster, worker: Node, mood: Mood, number: signal.Signals) -> None:
    cluster.dns.set_mood(mood)
    launch = worker.start(launch_arguments(), lws(1) | {"KUBERNETES_SERVICE_HOST": "10.77.0.1"}, pid_1=True)
    launch.wait_for_line(WAITING, START_S)
    launch.still_waiting(0.3)
    assert_ends(launch, number, 128 + number)
    launch.assert_not_started()


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (caught,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(caught >> number - 1 & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_at_any_moment_of_the_start(cluster: Cluster, worker: Node, number: signal.Signals) -> None:
    """The kernel drops a SIGTERM for which PID 1 has no handler: the program has one before it loads the rest."""
    early = 0
    for delay_ms in range(0, 300, 20):
        # A shell's & has SIGINT ignored, and so would the program until it waits.
        at_default = ("env", "--default-signal=INT")
        launch = worker.start(launch_arguments(), lws(1), pid_1=True, prefix=at_default)
        first = launch.first_in_pid_namespace()
        time.sleep(delay_ms / 1000)
        if not _catches(first, signal.SIGTERM):
            early += 1  # the interpreter itself
            while not _catches(first, signal.SIGTERM):
                time.sleep(0.001)
        assert_ends(launch, number, 128 + number)
        assert "Traceback" not in launch.text()
        launch.assert_not_started()
    assert early < 15, "no signal came during the start of the program itself"


def test_signal_after_exec_reaches_sglang(cluster: Cluster, leader: Node, worker: Node) -> None:
    cluster.dns.publish(LEADER_RECORD, leader.address)
    with leader.listen(DIST_PORT):
        launch = worker.start(launch_arguments(), lws(1), behaviour="sigterm:7", pid_1=True)
        record = launch.wait_record(START_S + NOTICE_S)
    assert record["pid"] == 1
    assert_group_arguments(record, index=1)
    assert_ends(launch, signal.SIGTERM, 7)


def test_signal_during_the_linger(cluster: Cluster, leader: Node) -> None:
    """A fatal error in Kubernetes keeps the pod for a while, but not against its deletion."""
    launch = leader.start(
        launch_arguments(),
        {"LWS_GROUP_SIZE": "2", "KUBERNETES_SERVICE_HOST": "10.77.0.1"},
        pid_1=True,
    )
    launch.wait_for_line(HALF_IDENTITY, START_S)
    launch.still_waiting(0.5)
    first = launch.first_in_pid_namespace()
    sent_s = time.monotonic()
    os.kill(first, signal.SIGTERM)
    assert launch.wait_exit(5) in {78, 143}, launch.account()
    assert time.monotonic() - sent_s < PROMPT_S


def test_bare_word_as_pid_1(cluster: Cluster, leader: Node) -> None:
    """The command is PID 1 itself, and its exit code is the container's."""
    launch = leader.start(["--rdma", "off", "sh", "-c", "echo $$; exit 9"], lws(1, size=4), pid_1=True)
    assert launch.wait_exit(START_S) == 9, launch.account()
    assert launch.text("stdout") == "1"
