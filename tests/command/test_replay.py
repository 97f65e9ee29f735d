"""A replay is the recorded node, and says what of it the caller's shell overrides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command import modes
from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.log import Log
from tests.healthy import healthy

if TYPE_CHECKING:
    from tests.command.conftest import Run

SHELL = {"NCCL_IB_GID_INDEX": "3", "NCCL_DEBUG": "WARN", "LWS_WORKER_INDEX": "0", "EDITOR": "vi"}
LINE = (
    "sglang-roce-entry: set in this shell, over the recording: LWS_WORKER_INDEX, NCCL_DEBUG, NCCL_IB_GID_INDEX\n"
)


@pytest.mark.parametrize("mode", ["--dry-run", "--print-env", "--check"])
def test_what_the_shell_sets_is_named(run: Run, mode: str) -> None:
    assert LINE in run(mode, node=healthy(), environ=SHELL).err


@pytest.mark.parametrize("mode", ["--dry-run=json", "--print-env=json", "--check=json"])
def test_a_document_is_all_that_a_program_gets(run: Run, mode: str) -> None:
    ran = run(mode, node=healthy(), environ=SHELL)
    assert "set in this shell" not in ran.err
    assert json.loads(ran.out)


def test_what_the_recording_has_too_is_no_change(run: Run) -> None:
    node = healthy()
    ran = run("--dry-run", node=node.set(environ={"NCCL_DEBUG": "WARN"}), environ={"NCCL_DEBUG": "WARN"})
    assert "set in this shell" not in ran.err


def test_on_this_host_the_environment_is_the_pod_s(run: Run) -> None:
    assert "set in this shell" not in run("--dry-run", environ={"NCCL_DEBUG": "WARN"}).err


def test_the_plan_is_told_which_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[frozenset[str]] = []
    monkeypatch.setattr(modes, "plan_only", lambda inputs, *_: told.append(inputs.shell))
    with pytest.raises(AttributeError):  # there is no plan to show
        modes.run_mode(parse_command_line(("--snapshot", "h20-roce", "--dry-run")), SHELL, Log())
    assert told == [frozenset({"NCCL_IB_GID_INDEX", "NCCL_DEBUG"})]
