"""The modes: they show, they never wait, and they change nothing but the file they are told to write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sglang_roce_entry.check.outcome import rendered
from sglang_roce_entry.check.run import on_a_terminal, own_name_addresses, refusal, run_check
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.host.answers import Host, live_host
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.host.snapshot.read import load
from sglang_roce_entry.host.snapshot.variables import is_recorded
from sglang_roce_entry.host.snapshot.write import pack, record
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.log import Log
from sglang_roce_entry.named_file import open_to_write, write_over
from sglang_roce_entry.output import write_stdout
from sglang_roce_entry.plan.bare_word import taken_as_launch
from sglang_roce_entry.plan.inputs import identify, libibverbs_of, look_up_leader, read_request
from sglang_roce_entry.plan.plan import Plan, look_and_plan
from sglang_roce_entry.problems import OK, USAGE, EntryError
from sglang_roce_entry.report.folding import folded_problems
from sglang_roce_entry.report.json import as_document, as_json, environment_document, refusal_document
from sglang_roce_entry.report.secrets import is_secret_variable
from sglang_roce_entry.report.shell import as_shell
from sglang_roce_entry.report.text import as_text
from sglang_roce_entry.server.redaction import masked, masked_failure


def run_mode(invocation: Invocation, environ: Mapping[str, str], log: Log) -> int:
    """Run the mode of ``invocation`` and return its exit code. Raises ``EntryError``."""
    try:
        return _shown(invocation, environ, log)
    except Exception as raised:
        failure = masked_failure(raised)
        if failure.code == "OUTPUT" or isinstance(raised, BrokenPipeError):
            raise
        write_refusal(invocation.mode or "", invocation.mode_value, failure, environ)
        if invocation.mode != "check":
            raise
        return failure.exit_code


def write_refusal(mode: str, form: str, failure: EntryError, environ: Mapping[str, str]) -> None:
    """Write what a mode that cannot make a plan still has to say: its document, with the failure in it."""
    if mode == "check":
        write_stdout(rendered(refusal(failure), form, colour=on_a_terminal(environ)))
    elif mode == "dry-run" and form != "text":
        write_stdout(_rendered(refusal_document(failure), form))
    elif mode == "print-env" and form == "json":
        write_stdout(as_json({}))


def _shown(invocation: Invocation, environ: Mapping[str, str], log: Log) -> int:
    shell: frozenset[str] = frozenset()
    if invocation.snapshot is not None:
        host, recorded = load(invocation.snapshot)
        shell = frozenset(
            name for name, value in environ.items() if is_recorded(name) and recorded.get(name) != value
        )
        environ = {**recorded, **environ}
    else:
        host = live_host()
    settings = read_settings(invocation.flags, environ, invocation.policy)
    log.form = settings.log_format
    if shell and invocation.mode_value != "json":
        log.say(f"set in this shell, over the recording: {', '.join(sorted(shell))}")
    if invocation.replaced and invocation.mode_value != "json":
        log.say(taken_as_launch(invocation.replaced))
    if invocation.mode == "check":
        outcome = run_check(invocation, settings, environ, host, shell)
        write_stdout(rendered(outcome, invocation.mode_value, colour=on_a_terminal(environ)))
        return outcome.exit_code
    request = read_request(invocation, settings, environ, host, shell)
    member = identify(request)
    if invocation.mode == "save-snapshot":
        leader = look_up_leader(member, HostFacts(), host)
        addresses = leader.addresses if leader is not None else ()
        name = member.identity.leader if member.identity is not None else None
        resolved = {name: addresses} if name and addresses else {}
        return _save(invocation, host, environ, resolved, log)
    plan, _ = look_and_plan(request, member, host)
    if invocation.mode == "print-env":
        _print_environment(plan, invocation.mode_value, log)
    elif invocation.mode_value == "text":
        write_stdout(as_text(plan))
    else:
        write_stdout(_rendered(as_document(plan), invocation.mode_value))
    return plan.exit_code


def _rendered(document: Mapping[str, Any], form: str) -> str:
    """Return the document of a dry run in the form that a program or a person reads."""
    if form == "json":
        return as_json(document)
    from sglang_roce_entry.report.page.node import node_page

    return node_page(document)


def _print_environment(plan: Plan, form: str, log: Log) -> None:
    for problem in folded_problems(plan.problems):
        log.problem(problem)
    if form == "json":
        write_stdout(as_json(environment_document(plan)))
    else:
        write_stdout(as_shell(plan))


def _save(
    invocation: Invocation,
    host: Host,
    environ: Mapping[str, str],
    resolved: Mapping[str, tuple[IpAddress, ...]],
    log: Log,
) -> int:
    target, kept = invocation.mode_value, invocation.keep_identifiers
    own_name = own_name_addresses(host)
    files, links, facts = record(
        host,
        environ,
        is_secret=is_secret_variable,
        masked=masked,
        resolved=resolved,
        libibverbs=libibverbs_of(host, environ),
        own_name=own_name,
        keep_identifiers=kept,
    )
    archive = pack(files, links, facts)
    if target == "-":
        if os.isatty(1):
            raise EntryError("USAGE", "the archive would go to a terminal", "add > node.tar.gz", USAGE)
        write_stdout(archive)
    else:
        try:
            write_over(open_to_write(target, 0o666), archive)
        except OSError as failure:
            raise EntryError(
                "SNAPSHOT_WRITE",
                f"{target!r} cannot be written: {failure.strerror or failure}",
                "name a writable place, or - for stdout",
                USAGE,
            ) from failure
    count = sum(not name.endswith("/") for name in files)
    log.say(
        f"recorded {count} files, {len(facts['interfaces'])} interfaces, {len(facts['verbs'])} verbs "
        f"devices, {len(facts['environ'])} variables (only those that decide something here); "
        f"{len(archive)} bytes"
    )
    log.say(
        "it contains GIDs and addresses, interface names, PCI paths, versions, names of the group's pods; "
        + ("MACs, GUIDs and GPU UUIDs as they are" if kept else "no host name, no MAC, GUID or GPU UUID")
    )
    return OK
