"""A signal ends a run with its own code and without a traceback, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command import cli
from sglang_roce_entry.launch import handover
from tests.command.conftest import clean_environment
from tests.process.command import STANDIN_SOURCE, python_path

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def dispositions() -> Iterator[None]:
    """Set the signals back that a launch handles."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("dispositions")
def test_a_signal_while_a_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pod of a launch that failed is deleted while its last words are written."""
    monkeypatch.setattr(handover, "write_termination_log", lambda _text: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["--no-such-sglang"]) == 143
    assert "ended by SIGTERM" in capsys.readouterr().err


@pytest.mark.usefixtures("dispositions")
def test_a_second_signal_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C twice, or SIGTERM to the group and again to the process."""

    def twice(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("sglang_roce_entry.command.start.read_request", twice)
    monkeypatch.setattr("sglang_roce_entry.log.Log.say", twice)
    assert cli.main(["--model-path", "/m"]) == 130


def test_ctrl_c_in_a_mode_leaves_no_traceback() -> None:
    """A mode installs no handlers: a look-up can take two seconds."""
    code = (
        "import signal, sys, time\n"
        "from sglang_roce_entry.command import cli; from sglang_roce_entry.plan import plan\n"
        # As a terminal has it, also where what runs the tests ignores it (nohup, a background job).
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def slow(*_): print('slow', flush=True); time.sleep(60)\n"
        "plan.look_up_leader = slow\n"
        "sys.exit(cli.main(['--dry-run']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline() == b"slow\n"
        time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        error = run.stderr.read()
    assert run.returncode == 130
    assert error == b""


def test_a_mask_that_was_inherited_does_not_keep_a_signal_out() -> None:
    """Whatever starts containers or subreapers may block signals, and the mask outlives an exec."""
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'sglang_roce_entry', *sys.argv[1:]])"
    )
    worker = ("--rdma", "off", "--gpus", "1", "--leader-address", "127.0.0.1", "--group-size", "2")
    words = (*worker, "--worker-index", "1", "--dist-init", "64940", "--wait-deadline", "30", "--model-path", "/m")
    environ = {**clean_environment(), "PYTHONPATH": python_path(STANDIN_SOURCE)}
    with subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, env=environ) as run:
        assert run.stderr is not None
        assert any(b"waiting for the leader" in line for line in run.stderr)
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        run.stderr.read()
    assert run.returncode == 143
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("words", [("--model-path", "/m"), ("--no-such-flag-of-ours=1", "--hca-wait")])
def test_a_signal_during_the_imports_of_a_launch_ends_it(words: tuple[str, ...]) -> None:
    """They take most of a start; as PID 1 the program would miss a SIGTERM that comes before its handler."""
    code = (
        "import os, signal, sys\n"
        "class Terminated:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sglang_roce_entry.plan.plan': os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Terminated())\n"
        "from sglang_roce_entry.command import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words]
    ran = subprocess.run(command, capture_output=True, env=clean_environment(), timeout=30, check=False)
    assert ran.returncode == 143
    assert b"ended by SIGTERM, exit code 143" in ran.stderr
    assert b"Traceback" not in ran.stderr


#: Starts the command, which sends itself a signal as it imports its N-th module.
SIGNALLED_AT = """
import os, signal, sys
number, at = int(sys.argv[1]), int(sys.argv[2])
sys.argv[1:] = sys.argv[3:]
class Signalled:
    count = 0
    def find_spec(self, name, *_):
        self.count += 1
        if self.count == at:
            print("sent at", name, flush=True)
            os.kill(os.getpid(), number)
signal.signal(signal.SIGINT, signal.default_int_handler)
from sglang_roce_entry.__main__ import main
sys.meta_path.insert(0, Signalled())
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [("--model-path", "/m"), ("--check=json",)], ids=["launch", "mode"])
def test_a_signal_at_any_import_ends_the_command(number: signal.Signals, words: tuple[str, ...]) -> None:
    """From the first that is not in the file that the interpreter starts with."""
    for at in (1, 2, 3, *range(5, 400, 15)):
        ran = subprocess.run(
            [sys.executable, "-c", SIGNALLED_AT, str(int(number)), str(at), *words],
            capture_output=True, text=True, env=clean_environment(), timeout=30, check=False,
        )  # fmt: skip
        assert "Traceback" not in ran.stderr, ran.stderr
        if "sent at" not in ran.stdout:
            assert at > 50, "it imports more than that"
            return
        assert ran.returncode == 128 + number, (at, ran.stdout, ran.stderr)
