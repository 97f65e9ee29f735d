"""The log's lines: when, who, what; for people as SGLang writes its own, for collectors as JSON."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.log import Log, warnings_line
from sglang_roce_entry.problems import error, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOON_S = 1_795_773_600.25  # 2026-11-27 10:00:00.250 UTC


@pytest.fixture
def in_kolkata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time to UTC+05:30."""
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_kolkata")
def test_a_line_for_people_has_the_local_time() -> None:
    written = io.StringIO()
    Log("text", written, lambda: _NOON_S).say("one node")
    assert written.getvalue() == "[2026-11-27 15:30:00] sglang-roce-entry: one node\n"


@pytest.mark.usefixtures("in_kolkata")
def test_a_line_for_collectors_has_utc() -> None:
    written = io.StringIO()
    Log("json", written, lambda: _NOON_S).say("one node")
    assert json.loads(written.getvalue()) == {
        "time": "2026-11-27T10:00:00.250Z", "level": "info", "message": "one node",
    }  # fmt: skip


def test_a_problem_ends_with_its_code_and_the_next_line_is_the_remedy() -> None:
    written = io.StringIO()
    Log("text", written, lambda: _NOON_S).problem(warning("GPUS_IDLE", "two idle", "use them"))
    first, second = written.getvalue().splitlines()
    assert first.endswith(" sglang-roce-entry: warning: two idle [GPUS_IDLE]")
    assert second.endswith(" sglang-roce-entry:   fix: use them")


def test_warnings_are_counted_and_each_code_named_once() -> None:
    idle, mtu = warning("GPUS_IDLE", "", ""), warning("MTU_DIFFERS", "", "")
    assert warnings_line([error("X", "", "", 69)]) is None
    assert warnings_line([idle]) == "1 warning: GPUS_IDLE (sglang-roce-entry --explain CODE)"
    assert (
        warnings_line([mtu, idle, mtu]) == "3 warnings: MTU_DIFFERS, GPUS_IDLE (sglang-roce-entry --explain CODE)"
    )
