"""The command: picks its form, and makes sure that no failure ends in a traceback.

Each form imports its own stage: a probe, which runs again and again, loads nothing of a launch, and a launch
nothing of ``--check``.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence

from sglang_roce_entry.command.command_line import PAGES, asked_mode, parse_command_line
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.log import Log, write_stdout
from sglang_roce_entry.problems import OK, Interrupted, UsageError, as_failure

_GARBAGE_AFTER = 50_000  # objects; a long wait gets there in the end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (the process's own by default); return the exit code."""
    # What a start makes stays until its end: to look for garbage in it costs a twentieth and finds none.
    gc.set_threshold(_GARBAGE_AFTER)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _fill_standard_descriptors()
    arguments = tuple(sys.argv[1:] if argv is None else argv)
    environ = dict(os.environ)
    log = Log("json" if environ.get("SGLANG_ROCE_LOG_FORMAT") == "json" else "text")
    try:
        return _run(arguments, environ, log)
    except KeyboardInterrupt:
        return 128 + 2  # a mode: it installs no handlers
    except BrokenPipeError:
        # The reader of stdout is gone (| head): there is nothing left to do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except Exception as raised:  # noqa: BLE001 - no traceback reaches a user, whatever went wrong
        failure = as_failure(raised)
        log.problem(failure)
        return failure.exit_code


def _run(arguments: tuple[str, ...], environ: Mapping[str, str], log: Log) -> int:
    try:
        invocation = parse_command_line(arguments)
    except UsageError as failure:
        mode = asked_mode(arguments)
        if mode is None:
            return _start(failure, environ, log)
        if mode.endswith("=json"):
            from sglang_roce_entry.command.modes import write_refusal

            write_refusal(mode.removeprefix("--").removesuffix("=json"), "json", failure, environ)
        raise
    if invocation.mode == "probe":
        from sglang_roce_entry.command.probing import give_verdict

        return give_verdict(invocation, environ)
    if invocation.mode in PAGES:
        from sglang_roce_entry.command.manual import page

        write_stdout(page(invocation))
        return OK
    if invocation.mode == "rehearse":
        return _start(invocation, environ, log)
    if invocation.mode is not None:
        from sglang_roce_entry.command.modes import run_mode

        return run_mode(invocation, environ, log)
    return _start(invocation, environ, log)


def _start(asked: Invocation | UsageError, environ: Mapping[str, str], log: Log) -> int:
    from sglang_roce_entry.launch.handover import SignalGuard

    # Before the imports of a launch, which take most of its time: as PID 1 it would miss a SIGTERM meanwhile.
    guard = SignalGuard()
    guard.install()
    try:
        if isinstance(asked, Invocation) and asked.mode is not None:
            from sglang_roce_entry.command.rehearse import run_rehearsal

            return run_rehearsal(asked, environ, log)
        from sglang_roce_entry.command.start import refuse, start

        return refuse(asked, environ, log) if isinstance(asked, UsageError) else start(asked, environ, log, guard)
    except Interrupted as signal:  # also while a failure is being reported
        guard.stand_down()
        log.say(f"ended by {signal.name}, exit code {signal.exit_code}")
        return signal.exit_code


def _fill_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2, before a socket or a device gets that number and is written to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
