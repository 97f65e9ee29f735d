"""A launch says what it knows, also what it only learns while it waits, and whatever becomes of its streams."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.host.facts import Libibverbs
from sglang_roce_entry.launch import launch, steps
from sglang_roce_entry.launch.handover import SignalGuard
from sglang_roce_entry.launch.steps import Refused
from sglang_roce_entry.log import PREFIX, Log
from sglang_roce_entry.plan.inputs import identify, read_facts, read_request
from tests.command.conftest import clean_environment
from tests.command.test_bad_input import group
from tests.planning import plan_of
from tests.process.command import STANDIN_SOURCE, python_path, without_times
from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

WORKER = ("--rdma", "off", "--gpus", "1", "--group-size", "2", "--worker-index", "1", "--leader-address")


def with_sglang(record: Path) -> dict[str, str]:
    """Return the variables with which the stand-in of SGLang is found and leaves ``record``."""
    return {"PYTHONPATH": python_path(STANDIN_SOURCE), "STANDIN_RECORD": str(record)}


def test_what_is_wrong_with_the_leader_s_address_is_said(run: Run, tmp_path: Path) -> None:
    """It is not known before the name was looked up, which is after the decision was said."""
    environ = with_sglang(tmp_path / "record")
    ran = run(*WORKER, "127.0.0.1", "--wait-deadline", "0", "--model-path", "/m", environ=environ)
    assert ran.code == 0, ran.err
    assert "[LEADER_IS_LOOPBACK]" in ran.err


def test_the_last_line_repeats_the_warnings(run: Run, tmp_path: Path) -> None:
    """What has scrolled away is named once more before SGLang's own log begins."""
    environ = {**with_sglang(tmp_path / "record"), "SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "0"}
    ran = run(*WORKER, "127.0.0.1", "--wait-deadline", "0", "--model-path", "/m", environ=environ)
    said = [line for line in without_times(ran.err).splitlines() if line.startswith(PREFIX)]
    assert said[-1] == (
        f"{PREFIX} 2 warnings: LEADER_IS_LOOPBACK, NONZERO_RANKS_RETURN (sglang-roce-entry --explain CODE)"
    )


def test_without_a_warning_the_last_line_is_the_handover(run: Run, tmp_path: Path) -> None:
    ran = run("--rdma", "off", "--gpus", "1", "--model-path", "/m", environ=with_sglang(tmp_path / "record"))
    assert ran.code == 0, ran.err
    assert " warning" not in ran.err


def test_a_launch_that_is_refused_after_the_wait_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was right at the start may be wrong when the leader is there, and is said once."""
    host = group().host()
    words = ("--hca-wait", "0", "--wait-deadline", "0", "--model-path", "/m")
    invocation = parse_command_line(words)
    environ = group().facts["environ"]
    request = read_request(invocation, read_settings(invocation.flags, environ), environ, host)
    good = read_facts(request, identify(request), host)
    reads = [good, replace(good, memlock_bytes=65536, memlock_known=True, ipc_lock=False)]
    monkeypatch.setattr(steps, "read_facts", lambda *_, **_known: reads.pop(0))
    monkeypatch.setattr(launch, "STALE_FACTS_S", -1.0)
    said = io.StringIO()
    with pytest.raises(Refused) as refused:
        launch.launch(request, host, Log("text", said), SignalGuard())
    assert reads == []
    assert refused.value.exit_code == 69
    assert said.getvalue().count(f"error: {refused.value.message} [{refused.value.code}]") == 1
    assert said.getvalue().count(f"fix: {refused.value.hint}") == 1


def test_a_variable_that_is_withdrawn_during_the_wait_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose value has changed."""
    host = group().host()
    invocation = parse_command_line(("--rdma", "optional", "--wait-deadline", "0", "--model-path", "/m"))
    environ = group().facts["environ"]
    request = read_request(invocation, read_settings(invocation.flags, environ), environ, host)
    good = read_facts(request, identify(request), host)
    reads = [good, replace(good, hcas=())]
    monkeypatch.setattr(steps, "read_facts", lambda *_, **_known: reads.pop(0))
    monkeypatch.setattr(launch, "STALE_FACTS_S", -1.0)
    monkeypatch.setattr("sglang_roce_entry.launch.handover.raise_memlock", lambda: None)
    monkeypatch.setattr("sglang_roce_entry.launch.handover.hand_over", lambda *_: None)
    said = io.StringIO()
    launch.launch(request, host, Log("text", said), SignalGuard())
    changed = next(line for line in said.getvalue().splitlines() if "changed during the wait: " in line)
    assert "NCCL_IB_HCA" in changed
    assert "NCCL_IB_GID_INDEX" in changed


def test_the_route_to_the_leader_is_asked_for_again_with_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interface towards the leader can appear, or get another address, while a worker waits."""
    node = Node().interface("eth0", "10.0.0.2/24").set(versions={"sglang": "0.5.10", "nccl": "2.28.3"})
    host = node.host()
    words = (
        *("--rdma", "off", "--gpus", "8", "--group-size", "2", "--worker-index", "1", "--wait-deadline", "0"),
        *("--leader-address", "10.0.0.1", "--model-path", "/m"),
    )
    invocation = parse_command_line(words)
    request = read_request(invocation, read_settings(invocation.flags, {}), {}, host)
    after = read_facts(request, identify(request), host)
    reads = [replace(after, interfaces=()), after]
    monkeypatch.setattr(steps, "read_facts", lambda *_, **_known: reads.pop(0))
    monkeypatch.setattr(launch, "STALE_FACTS_S", -1.0)
    environ: dict[str, str] = {}
    monkeypatch.setattr("sglang_roce_entry.launch.handover.raise_memlock", lambda: None)
    monkeypatch.setattr("sglang_roce_entry.launch.handover.hand_over", lambda _argv, given: environ.update(given))
    launch.launch(request, host, Log("text", io.StringIO()), SignalGuard())
    assert environ["GLOO_SOCKET_IFNAME"] == "eth0"


def test_libibverbs_is_asked_again_where_the_devices_are_others() -> None:
    """A provider that hangs would hold up a meeting each time that facts are read again."""
    host, environ = group().host(), group().facts["environ"]
    invocation = parse_command_line(("--model-path", "/m"))
    request = read_request(invocation, read_settings(invocation.flags, environ), environ, host)
    good = read_facts(request, identify(request), host)
    known = replace(good, libibverbs=Libibverbs("ok", failure="hangs"))
    assert read_facts(request, identify(request), host, known=known).libibverbs == known.libibverbs
    others = replace(known, hcas=good.hcas[1:])
    assert read_facts(request, identify(request), host, known=others).libibverbs == good.libibverbs


@pytest.mark.parametrize("index", ["0", "1"])
def test_without_a_wait_a_launch_becomes_what_a_dry_run_shows(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    """A name with only IPv6 addresses is not one that SGLang can bind."""
    node = (
        Node()
        .interface("eth0", "fd00::1" if index == "0" else "fd00::2")
        .set(resolve={"sglang-0.sglang": ["fd00::1"]}, versions={"sglang": "0.5.10", "nccl": "2.28.3"})
    )
    words = (
        *("--rdma", "off", "--gpus", "8", "--group-size", "2", "--worker-index", index, "--wait-deadline", "0"),
        *("--leader-address", "sglang-0.sglang", "--model-path", "/m"),
    )
    invocation = parse_command_line(words)
    request = read_request(invocation, read_settings(invocation.flags, {}), {}, node.host())
    became: list[tuple[str, ...]] = []

    def hand_over(argv: tuple[str, ...], _environ: object) -> None:
        became.append(argv)

    monkeypatch.setattr("sglang_roce_entry.launch.handover.raise_memlock", lambda: None)
    monkeypatch.setattr("sglang_roce_entry.launch.handover.hand_over", hand_over)
    launch.launch(request, node.host(), Log("text", io.StringIO()), SignalGuard())
    assert "[fd00::1]:20000" in became[0]
    assert became[0] == plan_of(node, *words).argv


CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all three": "<&- >&- 2>&-", "full": "2>/dev/full"}


def in_shell(redirection: str, *words: str, environ: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run the command with a redirection of a shell."""
    script = f'exec "$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "sglang_roce_entry", *words],
        capture_output=True,
        env={**clean_environment(), **environ},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", CLOSED)
def test_a_stream_that_cannot_be_written_keeps_nothing_from_starting(tmp_path: Path, name: str) -> None:
    record = tmp_path / "record"
    done = in_shell(CLOSED[name], "--model-path", "/m", environ=with_sglang(record))
    assert done.returncode == 0, done.stderr
    assert json.loads(record.read_text())["argv"][-2:] == ["--model-path", "/m"]


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    "mode", [("--dry-run",), ("--print-env=json",), ("--check",), ("--save-snapshot", "-"), ("--help",)]
)
def test_output_that_cannot_be_written_is_no_defect_of_ours(mode: tuple[str, ...], redirection: str) -> None:
    done = in_shell(redirection, "--snapshot", "h20-roce", *mode, environ={})
    assert done.returncode == 2, done.stderr
    last = without_times(done.stderr.decode()).splitlines()[-2:]
    assert last[0].startswith("sglang-roce-entry: error: stdout cannot be written: "), done.stderr
    assert last[0].endswith("[OUTPUT]")
    assert last[1].startswith("sglang-roce-entry:   fix: ")


def test_a_probe_counts_although_nobody_reads_why() -> None:
    done = in_shell(">&-", "--probe", "readiness", "--", "--port", "1", environ={})
    assert done.returncode == 1, done.stderr
    assert done.stderr == b""
