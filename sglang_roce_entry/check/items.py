"""One line of a check, and how the problems of a plan become lines.

``ok``, ``warn``, ``fail``; and ``skip`` for what could not be checked, since that is not ok. Only what
ends a launch is a failure, and it carries the code that the launch would end with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sglang_roce_entry.host.check_facts import CheckFacts
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.problems import OK as EXIT_OK
from sglang_roce_entry.problems import Problem
from sglang_roce_entry.verbs.proof.looped import Loop

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One line: what was checked, its status, what shows it, what to do about it."""

    name: str
    status: str
    evidence: str
    remedy: str = ""
    exit_code: int = EXIT_OK  # of a failure: what the launch would end with


@dataclass(frozen=True, slots=True)
class Examined:
    """All that the items rest on."""

    plan: Plan
    environ: Mapping[str, str]
    inspection: CheckFacts = field(default_factory=CheckFacts)
    live: bool = True
    problems: Mapping[str, Sequence[Problem]] = field(default_factory=dict)  # of the plan, by item
    loops: Sequence[Loop] = ()  # what became of each used port that was proven against itself

    def of(self, name: str) -> Sequence[Problem]:
        """Return the plan's problems that the item ``name`` reports."""
        return self.problems.get(name, ())

    def lines(self, name: str, fine: CheckItem, found: Sequence[CheckItem] = ()) -> tuple[CheckItem, ...]:
        """Return one line for each problem of an item, then those ``found`` besides; ``fine`` without any."""
        return (*(of_problem(name, problem) for problem in self.of(name)), *found) or (fine,)

    @property
    def in_group(self) -> bool:
        """Whether this pod belongs to a group of more than one node."""
        return self.plan.identity is not None and self.plan.identity.in_group


def ok(name: str, evidence: str) -> CheckItem:
    """Return that all is well."""
    return CheckItem(name, OK, evidence)


def skip(name: str, why: str) -> CheckItem:
    """Return that something could not be checked."""
    return CheckItem(name, SKIP, why)


def warn(name: str, evidence: str, remedy: str) -> CheckItem:
    """Return something wrong that does not end a launch."""
    return CheckItem(name, WARN, evidence, remedy)


def fail(name: str, evidence: str, remedy: str, exit_code: int) -> CheckItem:
    """Return something that ends a launch with ``exit_code``."""
    return CheckItem(name, FAIL, evidence, remedy, exit_code)


def of_problem(name: str, problem: Problem) -> CheckItem:
    """Return a problem of the plan as a line."""
    if problem.fatal:
        return fail(name, problem.message, problem.hint, problem.exit_code)
    return warn(name, problem.message, problem.hint)


def exit_code(items: Sequence[CheckItem], plan: Plan) -> int:
    """Return what a launch would end with: the plan's code, else that of the first failure."""
    if plan.exit_code != EXIT_OK:
        return plan.exit_code
    return next((item.exit_code for item in items if item.status == FAIL), EXIT_OK)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names in one text, the first ``most`` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
