"""`sglang-roce-entry COMMAND ...`: in the prepared environment, at once, whatever is wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from tests.process.command import (
    START_S,
    Finished,
    base_environment,
    install_standin,
    run_entry,
    without_times,
)
from tests.process.group import lws

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., Finished]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs the command in a bare environment plus the given one."""

    def bare(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Finished:
        base = base_environment(tmp_path, sglang=None)
        return run_entry(arguments, base | (environment or {}), cwd=tmp_path)

    return bare


def test_environment_is_prepared_and_nothing_is_waited_for(run: Run) -> None:
    """A worker whose leader's name does not exist, without SGLang: a shell anyway."""
    done = run(
        ["--rdma", "off", "sh", "-c", 'echo "$NCCL_IB_DISABLE|$LWS_WORKER_INDEX"'],
        lws(1, leader="leader.invalid"),
    )
    assert done.code == 0, done.stderr
    assert done.stdout == b"1|1\n"
    assert done.took_s < START_S


def test_environment_is_the_plans(run: Run) -> None:
    """What the command sees is what --print-env says, and nothing of ours else."""
    environment = {"NCCL_IB_TC": "106", "NCCL_DEBUG": "a b'c\n"}
    plan = run(["--rdma", "off", "--print-env=json"], environment)
    seen = run(["--rdma", "off", "env", "-0"], environment)
    assert seen.code == 0, seen.stderr
    pairs = [pair.partition(b"=") for pair in seen.stdout.split(b"\0")[:-1]]
    values = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    wanted = {name: entry["value"] for name, entry in plan.json().items() if entry["value"] is not None}
    assert wanted
    assert {name: values.get(name) for name in wanted} == wanted
    assert values["NCCL_IB_TC"] == "106"


def test_variables_that_stay_unset_share_a_line_for_each_reason(run: Run) -> None:
    done = run(["--rdma", "off", "true"])
    lines = [line for line in without_times(done.stderr).splitlines() if " not set: " in line]
    assert [re.sub(r": [A-Z].*, ", ": ..., ", line) for line in lines] == [
        "sglang-roce-entry: not set: ..., SGLANG_HOST_IP (one node needs no control interface)",
        "sglang-roce-entry: not set: ..., UCX_IB_GID_INDEX (RDMA is switched off)",
    ]


@pytest.mark.parametrize("code", [0, 1, 9, 124, 255])
def test_exit_code_passes_through(run: Run, code: int) -> None:
    assert run(["--rdma", "off", "sh", "-c", f"exit {code}"]).code == code


def test_death_by_signal_passes_through(run: Run) -> None:
    assert run(["--rdma", "off", "sh", "-c", "kill -KILL $$"]).code == 137


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"LWS_GROUP_SIZE": "2"}, id="half-identity"),
        pytest.param(lws(5), id="index-out-of-range"),
        pytest.param(lws(1) | {"SGLANG_ROCE_RDMA": "required"}, id="no-HCA"),
    ],
)
def test_never_refuses_for_identity_or_rdma(run: Run, environment: dict[str, str]) -> None:
    """A shell for looking around is needed most where something is wrong; it is said on stderr."""
    done = run(["--hca-wait", "0", "sh", "-c", "echo here"], environment)
    assert (done.code, done.stdout) == (0, b"here\n"), done.stderr
    assert "sglang-roce-entry:" in done.stderr


def test_arguments_arrive_untouched(run: Run) -> None:
    """Ours after the bare word are the command's own, empty and odd ones too."""
    odd = ["--help", "--version", "--", "--dry-run=json", "", "a b", "$(x)", "\n", "é", "--rdma"]
    done = run(["--rdma", "off", "sh", "-c", 'printf "%s\\0" "$@"', "sh", *odd])
    assert done.stdout.decode().split("\0")[:-1] == odd


def test_default_dispositions(run: Run) -> None:
    """No interpreter in between: SIGPIPE, which every Python ignores, is back at its default."""
    done = run(["--rdma", "off", "grep", "^Sig[BI]", "/proc/self/status"])
    lines = dict(line.split(":\t") for line in done.stdout.decode().splitlines())
    assert {name: int(value, 16) for name, value in lines.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_standard_input_is_the_commands(tmp_path: Path) -> None:
    """`kubectl exec -i` and pipes: not a byte is read before."""
    import subprocess

    from tests.process.command import entry_command

    done = subprocess.run(
        [*entry_command(), "--rdma", "off", "cat"],
        input=b"one\ntwo",
        env=base_environment(tmp_path, sglang=None),
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == b"one\ntwo", done.stderr


def test_not_found(run: Run) -> None:
    done = run(["--rdma", "off", "no-such-command-here"])
    assert done.code == 127
    assert "no-such-command-here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["plain", "directory", "bad-interpreter"])
def test_cannot_be_executed(run: Run, tmp_path: Path, kind: str) -> None:
    """126 for what is there but cannot run; 127 for a missing interpreter, as in a shell."""
    target = tmp_path / "target"
    if kind == "directory":
        target.mkdir()
    else:
        target.write_text("#!/no/such/interpreter\n", encoding="ascii")
        target.chmod(0o755 if kind == "bad-interpreter" else 0o644)
    # A path is as bare a first word as a name.
    done = run(["--rdma", "off", str(target)])
    assert done.code == (127 if kind == "bad-interpreter" else 126), done.stderr
    assert str(target) in done.stderr
    assert "Traceback" not in done.stderr


def test_sglang_is_not_installed(run: Run) -> None:
    """A launch in an interpreter without SGLang is refused before anything is waited for."""
    import importlib.util

    if importlib.util.find_spec("sglang") is not None:
        pytest.skip("SGLang is installed in this interpreter")
    done = run(["--rdma", "off", "--linger", "0", "--model-path", "/models/none"])
    assert done.code == 78, done.stderr
    assert "sglang" in done.stderr.lower()


@pytest.mark.parametrize(
    "words",
    [("python3", "-u", "-m", "sglang.launch_server"), ("sglang", "serve"), ("/a/sglang/launch_server.py",)],
    ids=" ".join,
)
def test_sglangs_own_command_is_launched(tmp_path: Path, words: tuple[str, ...]) -> None:
    """No other program: SGLang of this interpreter gets the launcher's arguments and the user's."""
    record = tmp_path / "record"
    environment = base_environment(tmp_path, sglang=install_standin(tmp_path)) | {
        "STANDIN_RECORD": str(record), "STANDIN_BEHAVIOUR": "exit:7",
    }  # fmt: skip
    done = run_entry(["--rdma", "off", *words, "--model-path", "/m"], environment, cwd=tmp_path)
    assert done.code == 7, done.stderr
    assert json.loads(record.read_text())["argv"] == ["--host", "0.0.0.0", "--model-path", "/m"]
    assert without_times(done.stderr).count(f"{' '.join(words)} starts SGLang itself: taken as a launch") == 1


def test_launch_without_arguments(run: Run) -> None:
    done = run([])
    assert done.code == 2, done.stderr
    assert done.stdout == b""
