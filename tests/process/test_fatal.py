"""A fatal error: exit code, termination log, linger; nothing is executed or waited for."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.process.command import START_S
from tests.process.group import (
    HALF_IDENTITY,
    LEADER_ADDRESS,
    PROMPT_S,
    SGLANG_ARGUMENTS,
    WAITING,
    launch_arguments,
    lws,
)

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Node

pytestmark = pytest.mark.netns

TERMINATION_LOG_BYTES = 4096


class Refusal(NamedTuple):
    """A launch that must be refused with `code` and a line that contains `named`."""

    options: tuple[str, ...]
    environment: dict[str, str]
    code: int
    named: str


OFF = ("--rdma", "off")
REFUSALS = {
    "half-identity": Refusal(OFF, {"LWS_GROUP_SIZE": "2"}, 78, HALF_IDENTITY),
    "index-range": Refusal(OFF, lws(2), 78, "2"),
    "index-text": Refusal(OFF, lws(1) | {"LWS_WORKER_INDEX": "abc"}, 78, "abc"),
    "index-unexpanded": Refusal(OFF, lws(1) | {"LWS_WORKER_INDEX": "$(X)"}, 78, "was not expanded"),
    "unknown-setting": Refusal(OFF, lws(1) | {"SGLANG_ROCE_WAIT_DEADLIN": "5"}, 78, "SGLANG_ROCE_WAIT_DEADLIN"),
    "policy-missing": Refusal(("--policy", "/none.yaml"), lws(1), 78, "/none.yaml"),
    "rdma-required": Refusal(("--rdma", "required", "--hca-wait", "0"), lws(1), 69, "HCA"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_one_line_names_it(cluster: Cluster, refusal: Refusal) -> None:
    """The first line of the termination log is the most important one, and stderr has it too.

    The node's name says nothing about the group, as with hostNetwork.
    """
    node = cluster.add_node("gpu-node-7")
    launch = node.start([*refusal.options, "--gpus", "8", "--linger", "0", *SGLANG_ARGUMENTS], refusal.environment)
    assert launch.wait_exit(START_S) == refusal.code, launch.account()
    launch.assert_not_started()
    logged = node.termination_log()
    assert 0 < len(logged) <= TERMINATION_LOG_BYTES
    assert refusal.named in logged.decode().splitlines()[0]
    assert refusal.named in launch.text()
    # As the log has them, and nothing more: the code is at the end, and the remedy below.
    told = logged.decode().splitlines()
    assert all(line in launch.text() for line in told[:2])
    assert re.fullmatch(r"error: .* \[[A-Z_]+\]", told[0])
    assert told[1].startswith("fix: ")
    assert "Traceback" not in launch.text()
    assert launch.text("stdout") == ""
    assert cluster.dns.queries() == []


def test_success_leaves_no_termination_message(cluster: Cluster, leader: Node) -> None:
    """What is not ours is SGLang's own: a flag that only it can judge is passed on."""
    launch = leader.start(launch_arguments(sglang=["--no-such-flag", *SGLANG_ARGUMENTS]))
    record = launch.wait_record(START_S)
    assert launch.wait_exit(5) == 0
    assert "--no-such-flag" in record["argv"]
    assert leader.termination_log() == b""


@pytest.mark.parametrize("filler", ["x", "xé", "é"])
def test_termination_log_keeps_its_limit(cluster: Cluster, leader: Node, filler: str) -> None:
    """A value of many bytes pushes neither the cure out, nor is a character cut in two."""
    launch = leader.start(launch_arguments("--linger", "0"), lws(1) | {"LWS_WORKER_INDEX": filler + "é" * 9000})
    assert launch.wait_exit(START_S) == 78, launch.account()
    logged = leader.termination_log()
    assert 0 < len(logged) <= TERMINATION_LOG_BYTES
    text = logged.decode("utf-8")
    assert "worker index" in text.splitlines()[0]
    assert "fix: " in text


@pytest.mark.parametrize("read", [False, True], ids=["nobody reads", "full"])
def test_a_fifo_as_termination_log_does_not_hold_up_the_end(
    cluster: Cluster, leader: Node, tmp_path: Path, *, read: bool
) -> None:
    """With terminationMessagePath on a volume, or another pod's leftover in it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    leader.mount_over(Path("/dev/termination-log"), fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK) if read else None
    if reader is not None:
        with contextlib.suppress(BlockingIOError):
            while os.write(reader, b"x" * 4096):
                pass
    launch = leader.start(launch_arguments("--linger", "0"), {"LWS_GROUP_SIZE": "2"})
    assert launch.wait_exit(START_S) == 78, launch.account()
    assert "Traceback" not in launch.text()
    if reader is not None:
        os.close(reader)


#: root's limit of processes does not hold for root, and another user may not be able to read where this is installed.
SOMEBODY = (
    "setpriv", "--reuid", "61234", "--clear-groups", "--inh-caps", "-all,+dac_read_search",
    "--ambient-caps", "-all,+dac_read_search", "--bounding-set", "-all,+dac_read_search",
)  # fmt: skip
LIMITS: dict[str, tuple[list[tuple[str, ...]], str]] = {
    "threads": ([("prlimit", "--nproc=1:1", *SOMEBODY)], "no further process or thread may be started"),
    "memory": ([("prlimit", f"--as={mib << 20}") for mib in range(20, 44, 2)], "no memory is left"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_the_container_is_no_defect(cluster: Cluster, worker: Node, name: str) -> None:
    """From what the interpreter itself needs to what this program does: nowhere an internal error."""
    prefixes, words = LIMITS[name]
    reached = 0
    for prefix in prefixes:
        launch = worker.start(launch_arguments("--linger", "0", "--wait-deadline", "0.5"), lws(1), prefix=prefix)
        code = launch.wait_exit(START_S)
        assert "INTERNAL" not in launch.text()
        if "[LIMIT_REACHED]" in launch.text():
            reached += 1
            assert code == 78
            assert words in launch.text()
            assert "Traceback" not in launch.text()
    assert reached, "no limit was met"


def test_linger_lasts_as_told(cluster: Cluster, leader: Node) -> None:
    launch = leader.start(launch_arguments("--linger", "1.5"), {"LWS_GROUP_SIZE": "2"})
    said = launch.wait_for_line(HALF_IDENTITY, START_S)
    assert launch.wait_exit(START_S) == 78
    assert 1.2 < time.monotonic() - said.at_s < 4.0, launch.account()


def test_no_linger_outside_kubernetes(cluster: Cluster, leader: Node) -> None:
    launch = leader.start(launch_arguments(), {"LWS_GROUP_SIZE": "2"})
    said = launch.wait_for_line(HALF_IDENTITY, START_S)
    assert launch.wait_exit(START_S) == 78
    assert time.monotonic() - said.at_s < 1.0, launch.account()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_linger_in_kubernetes_is_interruptible(cluster: Cluster, leader: Node, number: signal.Signals) -> None:
    launch = leader.start(launch_arguments(), {"LWS_GROUP_SIZE": "2", "KUBERNETES_SERVICE_HOST": "10.77.0.1"})
    launch.wait_for_line(HALF_IDENTITY, START_S)
    launch.still_waiting(1.0)
    # The termination log is there before the pause, not after it.
    assert HALF_IDENTITY in leader.termination_log().decode()
    sent_s = launch.send(number)
    assert launch.wait_exit(5) in {78, 128 + number}, launch.account()
    assert time.monotonic() - sent_s < PROMPT_S


def test_linger_after_the_deadline(cluster: Cluster, leader: Node) -> None:
    """The linger comes on top of the wait, for its exit code too."""
    launch = leader.start(launch_arguments("--wait-deadline", "1", "--linger", "1"), lws(1))
    first = launch.wait_for_line(WAITING, START_S)
    assert launch.wait_exit(START_S + 2) == 124, launch.account()
    assert 1.7 < time.monotonic() - first.at_s < 4.5
    assert LEADER_ADDRESS in leader.termination_log().decode().splitlines()[0]
