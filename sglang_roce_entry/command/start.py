"""Start SGLang, or another program in the prepared environment; and what happens if that fails."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.command.ending import end_launch, linger_s, linger_without_settings_s
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.invocation import BARE_WORD, Invocation
from sglang_roce_entry.launch.handover import SignalGuard
from sglang_roce_entry.launch.launch import launch
from sglang_roce_entry.launch.steps import Refused
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.bare_word import taken_as_launch
from sglang_roce_entry.plan.inputs import read_request
from sglang_roce_entry.problems import EntryError, Problem, as_failure


def start(invocation: Invocation, environ: Mapping[str, str], log: Log, guard: SignalGuard) -> int:
    """Exec what ``invocation`` names. Returns an exit code only if that fails. Raises ``Interrupted``."""
    try:
        settings = read_settings(invocation.flags, environ, invocation.policy)
    except Exception as raised:  # noqa: BLE001 - no traceback reaches a user, whatever went wrong
        pause_s = linger_without_settings_s(invocation.flags, environ)
        return _failed(as_failure(raised), invocation, pause_s, log)
    log.form = settings.log_format
    try:
        if invocation.replaced:
            log.say(taken_as_launch(invocation.replaced))
        host = live_host()
        launch(read_request(invocation, settings, environ, host), host, log, guard)
    except Exception as raised:  # noqa: BLE001
        return _failed(as_failure(raised), invocation, linger_s(settings.linger, environ), log)


def refuse(failure: EntryError, environ: Mapping[str, str], log: Log) -> int:
    """Report a command line that cannot be read and would have been a launch; return its exit code."""
    return _failed(failure, Invocation(), linger_without_settings_s({}, environ), log)


def _failed(failure: EntryError, invocation: Invocation, pause_s: float, log: Log) -> int:
    """Report a start that failed; that of SGLang also where Kubernetes keeps it. Raises ``Interrupted``."""
    others: tuple[Problem, ...] = ()
    pause = None
    if isinstance(failure, Refused):  # its problems have been logged
        others, pause = failure.others, failure.pause
    else:
        log.problem(failure)
    if invocation.form == BARE_WORD:
        return failure.exit_code
    return end_launch(failure, others, pause_s, log, pause)
