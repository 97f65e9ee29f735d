"""``--rehearse``: the whole group but SGLang, its document on stdout, and the code that the launch would have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_roce_entry.command.command_line import DOCUMENTS
from sglang_roce_entry.command.ending import end_launch
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.launch.rehearsing import Rehearsed, rehearse
from sglang_roce_entry.launch.steps import Refused
from sglang_roce_entry.log import Log
from sglang_roce_entry.output import write_stdout
from sglang_roce_entry.plan.inputs import read_request
from sglang_roce_entry.problems import EntryError, as_failure
from sglang_roce_entry.report.json import as_json
from sglang_roce_entry.report.rehearsal import as_text, refusal_document


def run_rehearsal(invocation: Invocation, environ: Mapping[str, str], log: Log) -> int:
    """Rehearse the launch of the group and return its exit code. Raises ``EntryError`` or ``Interrupted``."""
    try:
        done = _rehearsed(invocation, environ, log)
    except Exception as raised:  # noqa: BLE001 - no traceback reaches a user, whatever went wrong
        failure = as_failure(raised)
        if invocation.mode_value in DOCUMENTS:
            write_refused(failure, invocation.mode_value)
        log.problem(failure)
        return end_launch(failure, (), 0.0, log)
    _write(done.shown, invocation.mode_value)
    refused = Refused.by(done.verdict.problems)
    return done.verdict.exit_code if refused is None else end_launch(refused, refused.others, 0.0, log)


def _rehearsed(invocation: Invocation, environ: Mapping[str, str], log: Log) -> Rehearsed:
    settings = read_settings(invocation.flags, environ, invocation.policy)
    log.form = settings.log_format
    host = live_host()
    return rehearse(read_request(invocation, settings, environ, host), host, log)


def write_refused(failure: EntryError, form: str) -> None:
    """Write the document of a rehearsal that could not begin: nothing is known but the one problem."""
    _write(refusal_document(failure), form)


def _write(shown: Mapping[str, Any], form: str) -> None:
    if form == "html":
        from sglang_roce_entry.report.page.rehearsed import group_page

        write_stdout(group_page(shown))
    else:
        write_stdout(as_json(shown) if form == "json" else as_text(shown))
