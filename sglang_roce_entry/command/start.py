"""Start SGLang, or another program in the prepared environment; and what happens if that fails."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.command.ending import asked_or_told, end_launch, linger_s, linger_without_settings_s
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.host.answers import Host, live_host
from sglang_roce_entry.invocation import BARE_WORD, LAUNCH, Invocation
from sglang_roce_entry.launch.handover import SignalGuard
from sglang_roce_entry.launch.launch import launch
from sglang_roce_entry.launch.steps import Refused
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.bare_word import taken_as_launch
from sglang_roce_entry.plan.inputs import Request, read_request
from sglang_roce_entry.problems import EntryError, Problem, UsageError
from sglang_roce_entry.server.redaction import masked_failure


def start(
    invocation: Invocation,
    environ: Mapping[str, str],
    log: Log,
    guard: SignalGuard,
    rejected: UsageError | None = None,
) -> int:
    """Exec what ``invocation`` names. Returns an exit code only if that fails. Raises ``Interrupted``.

    ``rejected``: why its command line cannot be read, which would have been a launch.
    """
    form = invocation.form if rejected is None else LAUNCH
    pause_s = linger_without_settings_s(invocation.flags, environ)
    try:
        host = live_host()
        request = asked_or_told(
            lambda: _asked(invocation, environ, host, log, rejected), invocation, environ, host, log
        )
        pause_s = linger_s(request.settings.linger, environ)
        launch(request, host, log, guard)
    except Exception as raised:  # noqa: BLE001 - no traceback reaches a user, whatever went wrong
        return _failed(masked_failure(raised), form, pause_s, log)


def _asked(
    invocation: Invocation, environ: Mapping[str, str], host: Host, log: Log, rejected: UsageError | None
) -> Request:
    if rejected is not None:
        raise rejected
    settings = read_settings(invocation.flags, environ, invocation.policy)
    log.form = settings.log_format
    if invocation.replaced:
        log.say(taken_as_launch(invocation.replaced))
    return read_request(invocation, settings, environ, host)


def _failed(failure: EntryError, form: str, pause_s: float, log: Log) -> int:
    """Report a start that failed; that of SGLang also where Kubernetes keeps it. Raises ``Interrupted``."""
    others: tuple[Problem, ...] = ()
    pause = None
    if isinstance(failure, Refused):  # its problems have been logged
        others, pause = failure.others, failure.pause
    else:
        log.problem(failure)
    if form == BARE_WORD:
        return failure.exit_code
    return end_launch(failure, others, pause_s, log, pause)
