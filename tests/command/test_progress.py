"""A wait shows itself: a line for people, fields for collectors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.command.conftest import clean_environment
from tests.process.command import STANDIN_SOURCE, python_path, without_times
from tests.symptoms import WORKER

if TYPE_CHECKING:
    from tests.command.conftest import Run

#: A port of this machine where nobody listens; a refusal needs no network.
WAITING = ("--dist-init", "64900", *WORKER, "--leader-address", "127.0.0.1")
ENVIRON = {"PYTHONPATH": python_path(STANDIN_SOURCE)}


def test_for_people(run: Run) -> None:
    ran = run(*WAITING, "--model-path", "/m", environ=ENVIRON)
    assert ran.code == 124, ran.err
    assert re.search(
        r"^sglang-roce-entry: waiting for the leader's launcher 127\.0\.0\.1: 127\.0\.0\.1 refuses connections on "
        r"64900 \(0(\.\d)? of (1|0\.\d) s, next try in 0\.\d s\); the leader's launcher is not there yet, or has gone: see its log",
        without_times(ran.err),
        re.MULTILINE,
    ), ran.err


def test_for_machines(run: Run) -> None:
    ran = run("--log-format", "json", *WAITING, "--model-path", "/m", environ=ENVIRON)
    assert ran.code == 124, ran.err
    lines = [json.loads(line) for line in ran.err.splitlines()]
    for line in lines:
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    waits = [line for line in lines if "cause" in line]
    assert waits, lines
    assert waits[0]["waiting_for"] == "the leader's launcher 127.0.0.1"
    assert "refuses connections" in waits[0]["cause"]
    assert 0 < waits[0]["deadline_s"] <= 1  # what a busy machine has left of it
    assert 0 <= waits[0]["elapsed_s"] < 1
    assert 0 < waits[0]["next_try_s"] <= 1
    assert lines[-1]["code"] == "LEADER_TIMEOUT"
    assert lines[-1]["hint"]


@pytest.mark.parametrize(("number", "name", "code"), [(2, "SIGINT", 130), (15, "SIGTERM", 143)])
def test_an_interrupted_wait_names_the_signal(number: int, name: str, code: int) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-m", "sglang_roce_entry", *WAITING, "--wait-deadline", "300", "--model-path", "/m"],
        env={**clean_environment(), **ENVIRON}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stderr is not None
    with waiting, waiting.stderr as said:
        for line in said:
            if ": waiting for the leader" in line:
                waiting.send_signal(number)
                break
        rest = without_times(said.read()).splitlines()
    assert waiting.returncode == code
    assert rest[-1:] == [f"sglang-roce-entry: ended by {name}, exit code {code}"]
