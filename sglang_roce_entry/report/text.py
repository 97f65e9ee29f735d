"""A plan as text for people. Nothing in it depends on time or place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.consumers.sglang import OPTION
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.host.facts import HostFacts
from sglang_roce_entry.output import one_line, squeezed
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.problems import errors_first
from sglang_roce_entry.report.fingerprint import fingerprint
from sglang_roce_entry.report.folding import folded_problems, folded_rows
from sglang_roce_entry.report.matrix import matrix_lines
from sglang_roce_entry.report.secrets import shown_argv, shown_command
from sglang_roce_entry.report.shell import as_words


def as_text(plan: Plan) -> str:
    """Return the plan for a tired person: who, what is used, what is not and why, what runs, what is wrong."""
    sections = [
        _section("Who", who(plan)),
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


def who(plan: Plan) -> list[str]:
    """Return who this pod is in its group, and what the node has: two lines."""
    identity, facts = plan.identity, plan.facts
    first = "unknown: see Problems" if identity is None else place(identity)
    gpus = f"{plan.gpus.count} ({plan.gpus.source})" if plan.gpus.count is not None else "not known"
    sglang, nccl = software(facts)
    return [first, f"GPUs {gpus}; {sglang}; {nccl}"]


def place(identity: Identity) -> str:
    """Return who a pod is in its group."""
    if not identity.in_group:
        return "one node" + (f" (group of 1, from {identity.source})" if identity.leader else "")
    if identity.is_leader:
        return f"the leader of {identity.size} nodes ({identity.leader}; from {identity.source})"
    return f"worker {identity.index} of {identity.size} nodes, leader {identity.leader} (from {identity.source})"


def software(facts: HostFacts) -> tuple[str, str]:
    """Return the versions of SGLang and NCCL, or what is known of them."""
    installed = {None: "not known", False: "not installed", True: "installed"}[facts.sglang_installed]
    nccl = "not known" if facts.nccl_versions is None else ", ".join(facts.nccl_versions) or "not found"
    return f"SGLang {facts.sglang_version or installed}", f"NCCL {nccl}"


def _rdma(plan: Plan) -> list[str]:
    fabric = plan.choice
    used = fabric.used_rows
    left = left_out(fabric.ports)
    lines = [f"{fabric.constraints.rdma}; {len(used)} of {len(fabric.ports)} ports used"]
    lines += fabric.notes
    table = [
        (
            row.decision.label,
            rate(row),
            row.netdev or "-",
            str(row.gid_index) if row.gid_index is not None else "-",
            row.gid or "-",
        )
        for row in used
    ]
    lines += _columns([("port", "Gb/s", "interface", "index", "GID"), *table]) if table else []
    if left:
        lines += ["left out:", *_columns(left)]
    return lines


def rate(row: PortRow) -> str:
    """Return the rate of a port in Gb/s, ``-`` where the kernel does not report it."""
    gbps = row.decision.port.rate_gbps
    return f"{gbps:g}" if gbps is not None else "-"


def left_out(rows: Sequence[PortRow]) -> list[tuple[str, str, str]]:
    """Return what is not used as ports, reason and detail: one entry for all ports of one cause."""
    left = [row.decision for row in rows if not row.decision.used]
    texts = [(one.label, one.reason or "", one.detail) for one in left]
    return [
        (f"{ports} ({count} ports)" if count > 1 else ports, reason, detail)
        for count, (ports, reason, detail) in folded_rows(texts)
    ]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def by_reason(plan: Plan) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what is set (``NAME=value``) and what stays unset (``NAME``), each by its reason."""
    assigned: dict[str, list[str]] = {}
    unset: dict[str, list[str]] = {}
    for one in plan.variables:
        reason = squeezed(one.reason)
        if one.value is None:
            unset.setdefault(reason, []).append(one.name)
        else:
            assigned.setdefault(f"{one.source}: {reason}", []).append(f"{one.name}={one.value}")
    return assigned, unset


def _environment(plan: Plan) -> list[str]:
    assigned, unset = by_reason(plan)
    lines = [line for reason, assignments in assigned.items() for line in (*assignments, f"    {reason}")]
    for reason, names in unset.items():
        lines += [f"not set: {', '.join(names)}", f"    {reason}"]
    return lines or ["nothing to set"]


def _wait(plan: Plan) -> list[str]:
    wait = plan.wait
    if wait is None:
        return ["nothing to wait for"]
    if wait.deadline_s == 0:
        return [f"not at all (wait-deadline 0), although there is a group ({wait.host})"]
    if wait.what == "own_name":
        then = f", then until the whole group has met on its port {wait.meets}" if wait.meets is not None else ""
        return [f"until {wait.host} resolves to this pod{then}, at most {wait.deadline_s:g} s"]
    if wait.meets is not None:
        return [f"until the whole group has met on {wait.host} port {wait.meets}, at most {wait.deadline_s:g} s"]
    ports = ", ".join(str(port) for port in wait.ports)
    return [f"until {wait.host} accepts on one of {ports}, at most {wait.deadline_s:g} s"]


def _command(plan: Plan) -> list[str]:
    if plan.argv is None:
        refused = plan.identity is None or any(problem.code == "ARGUMENT" for problem in plan.problems)
        return ["none: see Problems" if refused else "none: no SGLang arguments were given"]
    argv = shown_argv(plan)
    if plan.command is None:
        return [shown_command(plan)]
    added = len(plan.command.added)
    head, ours, user = argv[:3], argv[3 : 3 + added], argv[3 + added :]

    cut = next((place for place, token in enumerate(ours) if token == OPTION), len(ours))
    parts = [part for part in (ours[:cut], ours[cut:], user) if part]
    lines = [f"{'    ' if place else ''}{as_words(part)} \\" for place, part in enumerate((head, *parts))]
    return [*lines[:-1], lines[-1].removesuffix(" \\")]


def _problems(plan: Plan) -> list[str]:
    lines = []
    for problem in folded_problems(errors_first(plan.problems)):
        lines.append(f"{problem.severity.upper()} {problem.code}: {squeezed(problem.message)}")
        if problem.hint:
            lines.append(f"    fix: {squeezed(problem.hint)}")
    return lines or ["none"]


def go_ahead(plan: Plan) -> str:
    """Return what is said of a plan without an error: that a launch would go ahead, and on what that depends."""
    if plan.argv is None:
        return "With SGLang's arguments a launch would go ahead"
    if plan.unproven is not None:
        return f"A launch would go ahead if the recorded node has {plan.unproven!r}"
    return "A launch would go ahead"


def _verdict(plan: Plan) -> str:
    first = plan.first_error
    if first is None:
        warnings = len(folded_problems(plan.problems))
        suffix = f" ({warnings} warning{'s' if warnings != 1 else ''})" if warnings else ""
        return f"{go_ahead(plan)}{suffix}."
    return f"A launch would end with exit code {plan.exit_code} ({first.code})."
