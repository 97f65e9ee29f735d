"""One call from a node and a command line to the whole plan, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.plan.inputs import identify, read_request
from sglang_roce_entry.plan.plan import look_and_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sglang_roce_entry.plan.plan import Plan
    from tests.trees import Node


def _no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def plan_of(node: Node, *argv: str, environ: Mapping[str, str] | None = None) -> Plan:
    """Return the plan of a dry run with ``argv`` on ``node``; ``environ`` is added to the recorded one."""
    invocation = parse_command_line(("--dry-run", *argv))
    variables = {**node.facts.get("environ", {}), **(environ or {})}
    settings = read_settings(invocation.flags, variables, invocation.policy, _no_file)
    host = node.host()
    request = read_request(invocation, settings, variables, host)
    return look_and_plan(request, identify(request), host)[0]


def value(plan: Plan, name: str) -> str | None:
    """Return what ``name`` is set to; fails where the plan says nothing of it."""
    return next(one for one in plan.variables if one.name == name).value


def names(plan: Plan) -> set[str]:
    """Return the variables that the plan speaks of."""
    return {one.name for one in plan.variables}


def codes(plan: Plan) -> list[str]:
    """Return the codes of the problems."""
    return [problem.code for problem in plan.problems]


def message(plan: Plan, code: str) -> str:
    """Return the sentence of the first problem with ``code``."""
    return next(problem.message for problem in plan.problems if problem.code == code)
