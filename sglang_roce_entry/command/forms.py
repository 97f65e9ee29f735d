"""The forms of the command, and that no failure of any ends in a traceback.

Each form imports its own stage: a launch loads nothing of ``--check``, a mode nothing of a launch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from sglang_roce_entry.command.command_line import DOCUMENTS, FORMATS, PAGES, parse_command_line, readable
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.log import Log
from sglang_roce_entry.output import write_stdout
from sglang_roce_entry.probe_kinds import TIMEOUT_VARIABLE, kinds_of
from sglang_roce_entry.problems import OK, Interrupted, UsageError
from sglang_roce_entry.server.redaction import masked_failure


def run(arguments: tuple[str, ...], environ: Mapping[str, str]) -> int:
    """Run the command and return its exit code."""
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
        failure = masked_failure(raised)
        log.problem(failure)
        return failure.exit_code


def _run(arguments: tuple[str, ...], environ: Mapping[str, str], log: Log) -> int:
    try:
        invocation = parse_command_line(arguments)
    except UsageError as failure:
        masked_failure(failure)
        asked = readable(arguments)
        if asked.mode is None:
            return _start(asked, environ, log, failure)
        if asked.mode_value not in DOCUMENTS or asked.mode_value not in FORMATS.get(f"--{asked.mode}", ()):
            raise
        if asked.mode == "rehearse":
            from sglang_roce_entry.command.rehearse import write_refused

            write_refused(failure, asked.mode_value)
        else:
            from sglang_roce_entry.command.modes import write_refusal

            write_refusal(asked.mode, asked.mode_value, failure, environ)
        raise
    if invocation.mode == "probe":
        from sglang_roce_entry.command.probing import give_verdict

        # Other settings do not concern a probe.
        needed = bool(invocation.flags) or invocation.policy is not None or bool(environ.get(TIMEOUT_VARIABLE))
        return give_verdict(
            kinds_of(invocation.mode_value) or (),
            invocation.rest,
            lambda: read_settings(invocation.flags, environ, invocation.policy).probe_timeout if needed else None,
        )
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


def _start(
    invocation: Invocation, environ: Mapping[str, str], log: Log, rejected: UsageError | None = None
) -> int:
    from sglang_roce_entry.launch.handover import SignalGuard

    # Before the imports of a launch, which take most of its time: as PID 1 it would miss a SIGTERM meanwhile.
    guard = SignalGuard()
    guard.install()
    try:
        if invocation.mode is not None:
            from sglang_roce_entry.command.rehearse import run_rehearsal

            return run_rehearsal(invocation, environ, log)
        from sglang_roce_entry.command.start import start

        return start(invocation, environ, log, guard, rejected)
    except Interrupted as signal:  # also while a failure is being reported
        guard.stand_down()
        log.say(f"ended by {signal.name}, exit code {signal.exit_code}")
        return signal.exit_code
