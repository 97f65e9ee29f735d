"""The launch: read, decide, wait, hand over. Everything before the handover changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import NoReturn

from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.constraints import REQUIRED
from sglang_roce_entry.group import wait as waiting
from sglang_roce_entry.group.attempts import Surroundings, WaitPolicy
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.names import Resolver
from sglang_roce_entry.group.wait import Awaited, LeaderName
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.invocation import BARE_WORD
from sglang_roce_entry.launch import handover
from sglang_roce_entry.launch.hardware import KernelEvents, await_hardware
from sglang_roce_entry.log import Log, warnings_line
from sglang_roce_entry.plan.inputs import (
    Leader,
    Member,
    Request,
    found_leader,
    identify,
    look_up_leader,
    read_facts,
    with_route,
)
from sglang_roce_entry.plan.plan import Plan, look_and_plan, make_plan
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE, EntryError, Problem
from sglang_roce_entry.report.folding import folded_problems
from sglang_roce_entry.report.log_lines import decision_lines, environment_lines, handover_lines

#: Facts older than this are read again before the handover: GIDs move while a worker waits.
_STALE_FACTS_S = 5.0


class PlanRefused(EntryError):
    """A plan with errors: the first in the order of the stages decides; all have been logged."""

    def __init__(self, plan: Plan, first: Problem) -> None:
        super().__init__(first.code, first.message, first.hint, first.exit_code)
        self.plan = plan


def launch(request: Request, host: Host, log: Log, guard: handover.SignalGuard) -> NoReturn:
    """Exec SGLang, or the bare word. Raises ``EntryError`` or ``Interrupted``."""
    member = identify(request)
    if request.form == BARE_WORD:
        plan, _ = look_and_plan(request, member, host)
        _log_problems(plan.problems, log)
    else:
        plan = Launch(request, member, host, log).plan()
    for line in (*environment_lines(plan), *handover_lines(plan), warnings_line(plan.problems)):
        if line is not None:
            log.say(line)
    handover.raise_memlock()
    guard.check()
    handover.hand_over(plan.argv or (), {**request.environ, **plan.environment()})


def _log_problems(problems: Iterable[Problem], log: Log) -> None:
    for problem in folded_problems(problems):
        log.problem(problem)


def _refuse(plan: Plan) -> None:
    if plan.first_error is not None:
        raise PlanRefused(plan, plan.first_error)


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of SGLang on this machine, up to the plan that is handed over."""

    request: Request
    member: Member
    host: Host
    log: Log

    def settled(self) -> tuple[Plan, HostFacts, float]:
        """Return the plan before the leader is known, its facts and when they were read; all is logged."""
        facts = read_facts(self.request, self.member, self.host)
        read_at = monotonic()
        plan = self._plan(facts, None)
        # A wrong configuration is reported at once: no hardware that appears can correct it.
        if plan.exit_code != CONFIGURATION:
            settled = self._await_hardware(facts, plan.choice)
            if settled is not facts:
                facts, read_at = settled, monotonic()
                plan = self._plan(facts, None)
        for line in decision_lines(plan):
            self.log.say(line)
        _log_problems(plan.problems, self.log)
        return plan, facts, read_at

    def plan(self) -> Plan:
        """Return the plan after all waits. Raises ``EntryError`` or ``Interrupted``."""
        plan, facts, read_at = self.settled()
        _refuse(plan)
        leader = self._await_group(plan, facts)
        if monotonic() - read_at > _STALE_FACTS_S:
            facts = self._await_hardware(read_facts(self.request, self.member, self.host), plan.choice)
            leader = with_route(leader, facts, self.host) if leader is not None else None
        final = self.planned_again(plan, facts, leader)
        _refuse(final)
        return final

    def planned_again(self, before: Plan, facts: HostFacts, leader: Leader | None) -> Plan:
        """Return the plan with what is now known of the leader; what has changed since ``before`` is logged."""
        final = self._plan(facts, leader)
        self._log_changes(before, final)
        return final

    def _plan(self, facts: HostFacts, leader: Leader | None) -> Plan:
        return make_plan(self.request, self.member, facts, leader)

    def _log_changes(self, before: Plan, after: Plan) -> None:
        """Log what moved during the wait: the leader's address can bring new problems as well."""
        now = after.environment()
        moved = [name for name, value in before.environment().items() if now.get(name) != value]
        if moved:
            self.log.say(f"changed during the wait: {', '.join(sorted(moved))}")
        _log_problems((problem for problem in after.problems if problem not in before.problems), self.log)

    def _await_hardware(self, facts: HostFacts, planned: Choice) -> HostFacts:
        """Return ``facts``, or others as soon as the RDMA ports that are coming up are there."""
        request, deadline_s = self.request, self.request.settings.hca_wait
        if planned.constraints.rdma != REQUIRED or deadline_s <= 0 or planned.plugin is not None:
            return facts
        pending = [facts]  # the facts that were read already serve as the first read

        def read() -> HostFacts:
            return pending.pop() if pending else read_facts(request, self.member, self.host)

        around = Surroundings(say=self.log.say, pause=KernelEvents().pause)
        return await_hardware(read, planned.constraints, deadline_s, around)

    def _await_group(self, plan: Plan, facts: HostFacts) -> Leader | None:
        wait, identity = plan.wait, plan.identity
        around = Surroundings(say=self.log.say, clock=monotonic, pause=sleep)
        if wait is None or identity is None:
            self._await_ports(plan, float(self.request.settings.wait_deadline), around)
            return look_up_leader(self.member, facts, self.host)
        if wait.deadline_s == 0:
            return look_up_leader(self.member, facts, self.host)
        # There is only one leader, so its pauses need not grow with the group.
        policy = WaitPolicy.for_group(wait.deadline_s, 1 if identity.is_leader else identity.size)
        name = LeaderName(wait.host, Resolver(), around, dns_hint(facts, wait.host))
        try:
            if identity.is_leader:
                awaited = self._await_own_name(plan, name, policy, around)
            else:
                awaited = self._await_leader(identity, wait.ports, name, policy, around)
                self._await_ports(plan, policy.deadline_s - awaited.elapsed_s, around)
        except EntryError as failure:
            if self.request.settings.on_timeout != "exec" or failure.exit_code != DEADLINE:
                raise
            self.log.problem(failure)
            self.log.say("launching anyway (on-timeout exec): torch keeps retrying for 600 s")
            # Nothing is looked up again: the deadline is over, also for a resolver that hangs.
            if not name.last_known:
                return Leader(failure=failure.message)
            return found_leader(identity, name.last_known, facts, self.host)
        return found_leader(identity, (awaited.address,), facts, self.host, awaited)

    def _await_own_name(self, plan: Plan, name: LeaderName, policy: WaitPolicy, around: Surroundings) -> Awaited:
        awaited = waiting.await_own_name(name, self.own_addresses, policy, around)
        self._await_ports(plan, policy.deadline_s - awaited.elapsed_s, around)
        self.log.say(f"{name.host} is this pod ({awaited.address})")
        return awaited

    def _await_ports(self, plan: Plan, within_s: float, around: Surroundings) -> None:
        """Return as soon as SGLang can bind its ports here; a worker's as well: a predecessor may still end."""
        if plan.command is not None and self.request.settings.wait_deadline:
            limit_s = max(0.0, min(waiting.PORTS_FREE_WITHIN_S, within_s))
            waiting.await_free_ports(plan.command.ports, WaitPolicy(limit_s), around)

    def own_addresses(self) -> list[IpAddress]:
        """Return the addresses that this pod has now."""
        return [address.ip for interface in self.host.answers.interfaces() for address in interface.addresses]

    def _await_leader(
        self, who: Identity, ports: tuple[int, ...], name: LeaderName, policy: WaitPolicy, around: Surroundings
    ) -> Awaited:
        listed = ", ".join(str(port) for port in ports)
        self.log.say(f"worker {who.index} of {who.size}: looking for the leader {name.host} on {listed}")
        awaited = waiting.await_leader(name, ports, policy, around)
        self.log.say(f"the leader {awaited.address} accepts on {awaited.port} after {awaited.elapsed_s:.1f} s")
        return awaited


def dns_hint(facts: HostFacts, host: str) -> str:
    """Return what to look at while the leader's name does not resolve."""
    domains = facts.search_domains
    if domains is not None and not any(domain.startswith("svc.") for domain in domains):
        return (
            "this pod has no cluster search domain (/etc/resolv.conf): with hostNetwork set "
            "dnsPolicy: ClusterFirstWithHostNet"
        )
    pod = host.partition(".")[0]
    return f"check that the leader is scheduled and its headless Service exists: kubectl get pod {pod} -o wide"
