"""The lines of a launch's log: who this pod is, what it uses, what it sets and executes."""

from __future__ import annotations

from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.report.fingerprint import fingerprint
from sglang_roce_entry.report.secrets import shown_command
from sglang_roce_entry.report.text import by_reason, left_out, rate, who


def decision_lines(plan: Plan) -> list[str]:
    """Return the log's account of who this pod is and what it uses, one fact a line."""
    role, machine = who(plan)
    lines = [role if plan.identity is not None else "this pod's place in its group is not known", machine]
    lines += plan.choice.notes
    for row in plan.choice.used_rows:
        lines.append(f"using {row.decision.label} ({rate(row)} Gb/s): {row.decision.detail}")
    lines += [f"not using {ports}: {reason}, {detail}" for ports, reason, detail in left_out(plan.choice.ports)]
    if plan.transfer.told is not None:
        lines.append(f"KV transfer by {plan.transfer.told}")
    return [*lines, f"fingerprint: {fingerprint(plan)}"]


def environment_lines(plan: Plan) -> list[str]:
    """Return the log's account of the variables: one line for all that one reason sets or leaves unset."""
    assigned, unset = by_reason(plan)
    lines = [f"{' '.join(assignments)} ({reason})" for reason, assignments in assigned.items()]
    return [*lines, *(f"not set: {', '.join(names)} ({reason})" for reason, names in unset.items())]


def handover_lines(plan: Plan) -> list[str]:
    """Return the last lines of the log before SGLang."""
    lines = []
    identity, command = plan.identity, plan.command
    if identity is not None and identity.in_group and identity.is_leader and command is not None:
        lines.append(
            f"from now on SGLang itself gives the workers {command.dist_timeout_s} s to join (--dist-timeout)"
        )
    return [*lines, f"exec {shown_command(plan)}"]
