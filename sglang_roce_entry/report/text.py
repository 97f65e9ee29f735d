"""A plan as shell, JSON and text. stdout is the product: nothing here depends on time or place."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.consumers.sglang import OPTION
from sglang_roce_entry.log import one_line, squeezed
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.report.fingerprint import fingerprint
from sglang_roce_entry.report.matrix import affinity_document, gpus_document, matrix_lines
from sglang_roce_entry.server.spellings import redacted

_SECRET_ENDINGS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "ACCESS_KEY", "CREDENTIALS")


def is_secret_variable(name: str) -> bool:
    """Return whether the value of an environment variable must not be shown."""
    return name.upper().endswith(_SECRET_ENDINGS) and not name.startswith("NCCL_")


def as_shell(plan: Plan) -> str:
    """Return ``export`` lines for ``eval``, sorted, each with its reason as a comment."""
    lines = []
    for variable in plan.variables:
        comment = squeezed(f"{variable.source}: {variable.reason}")
        if variable.value is None:
            lines.append(f"# {variable.name} is not set; {comment}")
        else:
            lines.append(f"export {variable.name}={shlex.quote(variable.value)} # {comment}")
    return "\n".join(lines) + "\n"


def environment_document(plan: Plan) -> dict[str, Any]:
    """Return the ``environment`` object of the JSON contract."""
    return {
        variable.name: {
            "value": variable.value,
            "source": variable.source,
            "reason": variable.reason,
        }
        for variable in plan.variables
    }


def as_document(plan: Plan) -> dict[str, Any]:
    """Return the JSON contract of ``--dry-run=json``, format 1."""
    identity = plan.identity
    return {
        "format": 1,
        "identity": {
            "leader": identity.leader,
            "size": identity.size,
            "index": identity.index,
            "source": identity.source,
        }
        if identity is not None
        else None,
        "ports": [_port_document(row) for row in plan.choice.ports],
        "environment": environment_document(plan),
        "argv": list(shown_argv(plan)) if plan.argv is not None else None,
        "wait": {
            "for": plan.wait.what,
            "host": plan.wait.host,
            "ports": list(plan.wait.ports),
            "deadline_s": plan.wait.deadline_s,
        }
        if plan.wait is not None
        else None,
        "problems": [
            {
                "severity": problem.severity,
                "code": problem.code,
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in plan.problems
        ],
        "exit_code": plan.exit_code,
        "gpus": gpus_document(plan.affinity),
        "affinity": affinity_document(plan.affinity),
        "fingerprint": fingerprint(plan),
    }


def _port_document(row: PortRow) -> dict[str, Any]:
    decision = row.decision
    return {
        "device": decision.hca.name,
        "port": decision.port.number,
        "used": decision.used,
        "reason": decision.reason,
        "detail": decision.detail,
        "gid_index": row.gid_index,
        "gid": row.gid,
        "netdev": row.netdev,
        "rate_gbps": decision.port.rate_gbps,
    }


def as_json(document: Any) -> str:
    """Return a document as JSON text; what is no UTF-8 on the node is escaped."""
    return json.dumps(document, indent=2, ensure_ascii=True) + "\n"


def shown_argv(plan: Plan) -> tuple[str, ...]:
    """Return the command with secrets hidden, also those that it sets for another (``env HF_TOKEN=...``)."""
    return tuple(_without_secret(token) for token in redacted(plan.argv or ()))


def _without_secret(token: str) -> str:
    name, equals, _ = token.partition("=")
    return f"{name}=***" if equals and name.isidentifier() and is_secret_variable(name) else token


def decision_lines(plan: Plan) -> list[str]:
    """Return the log's account of who this pod is and what it uses, one fact a line."""
    who, machine = _who(plan)
    lines = [who if plan.identity is not None else "who this pod is in its group is not known", machine]
    lines += plan.choice.notes
    for row in plan.choice.ports:
        decision = row.decision
        if decision.used:
            lines.append(f"using {decision.label} ({_rate(row)} Gb/s): {decision.detail}")
        else:
            lines.append(f"not using {decision.label}: {decision.reason}, {decision.detail}")
    if plan.transfer.told is not None:
        lines.append(f"KV transfer by {plan.transfer.told}")
    return [*lines, f"fingerprint: {fingerprint(plan)}"]


def environment_lines(plan: Plan) -> list[str]:
    """Return the log's account of the variables: one a line, and one line for all that one reason leaves unset."""
    lines = [
        f"{one.name}={one.value} ({one.source}: {squeezed(one.reason)})"
        for one in plan.variables
        if one.value is not None
    ]
    return [*lines, *(f"not set: {', '.join(names)} ({reason})" for reason, names in _withheld(plan).items())]


def _withheld(plan: Plan) -> dict[str, list[str]]:
    """Return the names of the variables that stay unset, by reason."""
    withheld: dict[str, list[str]] = {}
    for variable in plan.variables:
        if variable.value is None:
            withheld.setdefault(squeezed(variable.reason), []).append(variable.name)
    return withheld


def handover_lines(plan: Plan) -> list[str]:
    """Return the last words of the log before SGLang."""
    lines = []
    identity, command = plan.identity, plan.command
    if identity is not None and identity.in_group and identity.is_leader and command is not None:
        lines.append(
            f"from now on SGLang itself gives the workers {command.dist_timeout_s} s to join (--dist-timeout)"
        )
    return [*lines, "exec " + " ".join(shlex.quote(token) for token in shown_argv(plan))]


def as_text(plan: Plan) -> str:
    """Return the plan for a tired person: who, what is used, what is not and why, what runs, what is wrong."""
    sections = [
        _section("Who", _who(plan)),
        _section("RDMA", _rdma(plan)),
        *([_section("GPUs and HCAs", near)] if (near := matrix_lines(plan)) else []),
        _section("Environment", _environment(plan)),
        _section("Wait", _wait(plan)),
        _section("Command", _command(plan)),
        _section("Problems", _problems(plan)),
        _section("Fingerprint", [fingerprint(plan)]),
        _verdict(plan),
    ]
    return "\n".join(sections) + "\n"


def _section(title: str, lines: Iterable[str]) -> str:
    return f"{title}\n" + "\n".join(f"  {one_line(line)}".rstrip() for line in lines) + "\n"


def _who(plan: Plan) -> list[str]:
    identity, facts = plan.identity, plan.facts
    if identity is None:
        first = "unknown: see Problems"
    elif not identity.in_group:
        first = "one node" + (f" (group of 1, from {identity.source})" if identity.leader else "")
    elif identity.is_leader:
        first = f"the leader of {identity.size} nodes ({identity.leader}; from {identity.source})"
    else:
        first = (
            f"worker {identity.index} of {identity.size} nodes, leader {identity.leader} (from {identity.source})"
        )
    gpus = f"{plan.gpus.count} ({plan.gpus.source})" if plan.gpus.count is not None else "not known"
    sglang = (
        facts.sglang_version
        or {None: "not known", False: "not installed", True: "installed"}[facts.sglang_installed]
    )
    nccl = "not known" if facts.nccl_versions is None else ", ".join(facts.nccl_versions) or "not found"
    return [first, f"GPUs {gpus}; SGLang {sglang}; NCCL {nccl}"]


def _rdma(plan: Plan) -> list[str]:
    fabric = plan.choice
    used = [row for row in fabric.ports if row.decision.used]
    left = [row for row in fabric.ports if not row.decision.used]
    lines = [f"{fabric.constraints.rdma}; {len(used)} of {len(fabric.ports)} ports used"]
    lines += fabric.notes
    lines += _table(
        ("port", "Gb/s", "interface", "index", "GID"),
        [
            (
                row.decision.label,
                _rate(row),
                row.netdev or "-",
                str(row.gid_index) if row.gid_index is not None else "-",
                row.gid or "-",
            )
            for row in used
        ],
    )
    if left:
        lines += ["left out:", *_left_out(left)]
    return lines


def _rate(row: PortRow) -> str:
    rate = row.decision.port.rate_gbps
    return f"{rate:g}" if rate is not None else "-"


def _left_out(rows: Sequence[PortRow]) -> list[str]:
    width = max(len(row.decision.label) for row in rows)
    reasons = max(len(row.decision.reason or "") for row in rows)
    return [
        f"  {row.decision.label:<{width}}  {row.decision.reason or '':<{reasons}}  {row.decision.detail}"
        for row in rows
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()  # noqa: B905
        for row in (head, *rows)
    ]


def _environment(plan: Plan) -> list[str]:
    lines = []
    for variable in plan.variables:
        if variable.value is not None:
            lines.append(f"{variable.name}={variable.value}")
            lines.append(f"    {variable.source}: {squeezed(variable.reason)}")
    for reason, names in _withheld(plan).items():
        lines.append(f"not set: {', '.join(names)}")
        lines.append(f"    {reason}")
    return lines or ["nothing to set"]


def _wait(plan: Plan) -> list[str]:
    wait = plan.wait
    if wait is None:
        return ["for nothing"]
    if wait.deadline_s == 0:
        return [f"not at all (wait-deadline 0), although there is a group ({wait.host})"]
    if wait.what == "own_name":
        return [f"until {wait.host} resolves to this pod, at most {wait.deadline_s:g} s"]
    ports = ", ".join(str(port) for port in wait.ports)
    return [f"until {wait.host} accepts on one of {ports}, at most {wait.deadline_s:g} s"]


def _command(plan: Plan) -> list[str]:

    if plan.argv is None:
        refused = plan.identity is None or any(problem.code == "ARGUMENT" for problem in plan.problems)
        return ["none: see Problems" if refused else "none: no SGLang arguments were given"]
    argv = shown_argv(plan)
    if plan.command is None:
        return [" ".join(shlex.quote(token) for token in argv)]
    added = len(plan.command.added)
    head, ours, user = argv[:3], argv[3 : 3 + added], argv[3 + added :]

    cut = next((place for place, token in enumerate(ours) if token == OPTION), len(ours))
    parts = [part for part in (ours[:cut], ours[cut:], user) if part]
    quoted = [" ".join(shlex.quote(token) for token in part) for part in (head, *parts)]
    lines = [f"{'    ' if position else ''}{text} \\" for position, text in enumerate(quoted)]
    return [*lines[:-1], lines[-1].removesuffix(" \\")]


def _problems(plan: Plan) -> list[str]:
    lines = []
    for problem in sorted(plan.problems, key=lambda one: not one.fatal):
        lines.append(f"{problem.severity.upper()} {problem.code}: {squeezed(problem.message)}")
        if problem.hint:
            lines.append(f"    fix: {squeezed(problem.hint)}")
    return lines or ["none"]


def _verdict(plan: Plan) -> str:
    first = plan.first_error
    if first is None:
        warnings = len(plan.problems)
        suffix = f" ({warnings} warning{'s' if warnings != 1 else ''})" if warnings else ""
        if plan.argv is None:
            return f"With SGLang's arguments a launch would go ahead{suffix}."
        return f"A launch would go ahead{suffix}."
    return f"A launch would end with exit code {plan.exit_code} ({first.code})."
