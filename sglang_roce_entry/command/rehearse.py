"""``--rehearse``: the whole group but SGLang, its document on stdout, and the code that the launch would have.

``--save-meeting`` leaves what was gathered in a file, ``--meeting-file`` compares that again, and meets nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BufferedWriter
from typing import Any

from sglang_roce_entry.command.command_line import DOCUMENTS
from sglang_roce_entry.command.ending import asked_or_told, end_launch
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.group.meeting.comparison.parts import MOST_BYTES, MeetingFileError
from sglang_roce_entry.group.meeting.comparison.saved import Saved, read_saved, write_saved
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.launch.rehearsing import Rehearsed, rehearse, replay
from sglang_roce_entry.launch.steps import Refused
from sglang_roce_entry.log import Log
from sglang_roce_entry.named_file import open_to_write, read_bytes, write_over
from sglang_roce_entry.output import write_stdout
from sglang_roce_entry.plan.inputs import Request, read_request
from sglang_roce_entry.problems import USAGE, EntryError
from sglang_roce_entry.report.json import as_json
from sglang_roce_entry.report.rehearsal import as_text, refusal_document
from sglang_roce_entry.server.redaction import masked_failure

#: Addresses, names of pods, arguments: whoever saves them decides who else reads them.
_FILE_MODE = 0o600


def run_rehearsal(invocation: Invocation, environ: Mapping[str, str], log: Log) -> int:
    """Rehearse the launch of the group and return its exit code. Raises ``EntryError`` or ``Interrupted``."""
    target: BufferedWriter | None = None
    try:
        if invocation.meeting_file is not None:
            return _replayed(invocation.meeting_file, invocation, environ, log)
        # Before the meeting, which may take half an hour: a place that cannot be written is said at once.
        if invocation.save_meeting is not None:
            target = _opened(invocation.save_meeting)
        done = _rehearsed(invocation, environ, log)
    except Exception as raised:  # noqa: BLE001 - no traceback reaches a user, whatever went wrong
        failure = masked_failure(raised)
        if invocation.mode_value in DOCUMENTS:
            write_refused(failure, invocation.mode_value)
        log.problem(failure)
        return failure.exit_code if invocation.meeting_file else end_launch(failure, (), 0.0, log)
    _write(done.shown, invocation.mode_value)
    saved = target is None or _saved(target, done.saved(), invocation.save_meeting or "", log)
    refused = Refused.by(done.verdict.problems)
    code = done.verdict.exit_code if refused is None else end_launch(refused, refused.others, 0.0, log)
    return code if saved else code or USAGE


def _rehearsed(invocation: Invocation, environ: Mapping[str, str], log: Log) -> Rehearsed:
    host = live_host()

    def asked() -> Request:
        settings = read_settings(invocation.flags, environ, invocation.policy)
        log.form = settings.log_format
        return read_request(invocation, settings, environ, host)

    return rehearse(asked_or_told(asked, invocation, environ, host, log), host, log)


def write_refused(failure: EntryError, form: str) -> None:
    """Write the document of a rehearsal that could not begin: nothing is known but the one problem."""
    _write(refusal_document(failure), form)


def _write(shown: Mapping[str, Any], form: str) -> None:
    if form == "html":
        from sglang_roce_entry.report.page.rehearsed import group_page

        write_stdout(group_page(shown))
    else:
        write_stdout(as_json(shown) if form == "json" else as_text(shown))


# ----------------------------------------------------------------------------------------- the file


def _replayed(name: str, invocation: Invocation, environ: Mapping[str, str], log: Log) -> int:
    settings = read_settings(invocation.flags, environ, invocation.policy)
    log.form = settings.log_format
    try:
        data = read_bytes(name, MOST_BYTES)
    except OSError as failure:
        raise MeetingFileError(name, f"cannot be read: {failure.strerror or failure}") from failure
    shown, origin = replay(read_saved(name, data), strict=settings.strict)
    log.say(origin)
    _write(shown, invocation.mode_value)
    return int(shown["exit_code"])


def _opened(name: str) -> BufferedWriter:
    try:
        return open_to_write(name, _FILE_MODE)
    except OSError as failure:
        raise _not_written(name, failure) from failure


def _saved(target: BufferedWriter, saved: Saved, name: str, log: Log) -> bool:
    """Write the file, and return whether that was possible; why not is logged."""
    data = write_saved(saved)
    try:
        write_over(target, data)
    except OSError as failure:
        log.problem(_not_written(name, failure))
        return False
    cards = saved.gathered.members if saved.gathered is not None else ()
    what = "what this node was told (the leader's file has the cards)"
    if cards:
        what = f"{len(cards)} card{'s' if len(cards) > 1 else ''}"
    log.say(
        f"saved {what} in {name}, {len(data)} bytes: addresses, GIDs, names of pods, releases, arguments and "
        "variables; secrets as digests"
    )
    return True


def _not_written(name: str, failure: OSError) -> EntryError:
    return EntryError(
        "MEETING_WRITE",
        f"the meeting cannot be written to {name!r}: {failure.strerror or failure}",
        "name a writable place",
        USAGE,
    )
