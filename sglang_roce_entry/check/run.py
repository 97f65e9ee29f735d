"""``--check`` as a whole: facts and plan once, all lines, one text or document."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from sglang_roce_entry import problems as errors
from sglang_roce_entry.check import command as launch
from sglang_roce_entry.check import environment as variables
from sglang_roce_entry.check import leader_path as way
from sglang_roce_entry.check import memory, names, rdma, versions
from sglang_roce_entry.check.items import FAIL, WARN, CheckItem, Examined, exit_code, fail
from sglang_roce_entry.command.command_line import Invocation
from sglang_roce_entry.command.settings import Settings
from sglang_roce_entry.group.connect import connect_any, port_is_free
from sglang_roce_entry.group.names import NotResolved, Resolver
from sglang_roce_entry.group.path_mtu import path_mtu
from sglang_roce_entry.host.check_facts import inspect
from sglang_roce_entry.host.collect import Host
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.launch.launch import gather, look_and_plan
from sglang_roce_entry.log import squeezed
from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.report.json import as_json
from sglang_roce_entry.server.running import running_here

#: For all look-ups and connections together.
DEADLINE_S = 10.0
_OWN_NAME_S = 1.5


def run_check(
    invocation: Invocation, settings: Settings, environ: Mapping[str, str], host: Host
) -> tuple[tuple[CheckItem, ...], int]:
    """Return the lines and the exit code. Raises ``EntryError`` where not even a plan can be made."""
    started = monotonic()
    inputs, stages = gather(invocation, settings, environ, host)
    plan, lookup = look_and_plan(inputs, stages, host)
    own_name = own_name_addresses(host)
    inspection = inspect(host, plan.facts.hcas, environ, own_name)
    examined = Examined(plan, environ, inspection, host.live)
    problems = launch.by_item(examined)
    lines = [
        *launch.items(examined, problems),
        *rdma.items(examined, problems),
        *memory.items(examined, problems),
        *names.items(examined, problems),
        *variables.items(examined, problems),
        *versions.items(examined, problems),
    ]
    said = {line.name for line in lines} | {launch.LEADER}
    about_leader = problems.get(launch.LEADER, [])
    if host.live:
        lines += way.items(
            examined,
            lookup.addresses if lookup is not None else (),
            lookup.failure if lookup is not None else None,
            about_leader,
            _outside(host, plan.facts, started),
        )
    else:
        lines += way.not_tried(examined, about_leader)
    lines += launch.rest(problems, said)
    return tuple(lines), exit_code(lines, plan)


def own_name_addresses(host: Host) -> tuple[IpAddress, ...] | None:
    """Return what the own host name resolves to, ``None`` in a replay or while no resolver answers."""
    if not host.live:
        return None

    try:
        return Resolver().addresses(os.uname().nodename, _OWN_NAME_S)
    except NotResolved as failure:
        return None if failure.silent else ()


def _outside(host: Host, facts: HostFacts, started: float) -> way.Outside:

    def mtu_towards(address: IpAddress) -> int | None:
        route = host.answers.route(address, facts.interfaces)
        mtus = {interface.name: interface.mtu for interface in facts.interfaces}
        return mtus.get(route.interface) if route is not None else None

    return way.Outside(
        remaining_s=lambda: DEADLINE_S - (monotonic() - started),
        resolve=Resolver().addresses,
        connect=connect_any,
        path_mtu=path_mtu,
        mtu_towards=mtu_towards,
        is_free=port_is_free,
        server_runs=_server_runs,
    )


def _server_runs() -> int | None:

    servers = running_here().servers
    return servers[0][0].pid if servers else None


def refusal(failure: EntryError, form: str) -> str:
    """Return the check of a node for which not even a plan can be made: the one line that is wrong."""
    name = failure.code.lower().replace("_", " ")
    items = (fail(name, failure.message, failure.hint, failure.exit_code),)
    return rendered(items, failure.exit_code, form)


def rendered(items: Sequence[CheckItem], code: int, form: str) -> str:
    """Return the lines as ``text`` or ``json``."""
    return as_json(as_document(items, code)) if form == "json" else as_text(items, code)


def as_document(items: Sequence[CheckItem], code: int) -> dict[str, Any]:
    """Return the JSON contract of ``--check=json``, format 1."""
    return {
        "format": 1,
        "items": [
            {"name": one.name, "status": one.status, "evidence": one.evidence, "remedy": one.remedy}
            for one in items
        ],
        "exit_code": code,
    }


def as_text(items: Sequence[CheckItem], code: int) -> str:
    """Return a line for each item, under it what to do, and the verdict at the end."""
    width = max((len(one.name) for one in items), default=0)
    lines = []
    for one in items:
        lines.append(f"{one.status:<4}  {one.name:<{width}}  {squeezed(one.evidence)}".rstrip())
        if one.remedy:
            lines.append(f"{'':4}  {'':{width}}  fix: {squeezed(one.remedy)}")
    return "\n".join([*lines, "", _verdict(items, code)]) + "\n"


def _verdict(items: Sequence[CheckItem], code: int) -> str:
    warnings = sum(one.status == WARN for one in items)
    counted = f"{warnings or 'no'} warning{'s' if warnings != 1 else ''}"
    if code == errors.OK:
        return f"A launch would go ahead; {counted}."
    failures = [one.name for one in items if one.status == FAIL]
    return f"A launch would end with exit code {code} ({', '.join(failures)}; {counted})."
