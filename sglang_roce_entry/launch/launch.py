"""The launch: read, decide, wait or meet, hand over. Everything before the handover changes nothing."""

from __future__ import annotations

from time import monotonic, sleep
from typing import NoReturn

from sglang_roce_entry.group import wait as waiting
from sglang_roce_entry.group.attempts import Surroundings, WaitPolicy
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.names import Resolver
from sglang_roce_entry.group.wait import Awaited, LeaderName
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import HostFacts
from sglang_roce_entry.invocation import BARE_WORD
from sglang_roce_entry.launch import handover
from sglang_roce_entry.launch.steps import NOT_TOLD, STALE_FACTS_S, Launch, Refused, dns_hint, log_problems
from sglang_roce_entry.log import Log, warnings_line
from sglang_roce_entry.plan.inputs import (
    Leader,
    Request,
    found_leader,
    identify,
    look_up_leader,
    with_route,
)
from sglang_roce_entry.plan.plan import Plan, look_and_plan
from sglang_roce_entry.problems import DEADLINE, EntryError
from sglang_roce_entry.report.log_lines import environment_lines, handover_lines


def launch(request: Request, host: Host, log: Log, guard: handover.SignalGuard) -> NoReturn:
    """Exec SGLang, or the bare word. Raises ``EntryError`` or ``Interrupted``."""
    member = identify(request)
    if request.form == BARE_WORD:
        plan, _ = look_and_plan(request, member, host)
        log_problems(plan.problems, log)
    else:
        plan = final_plan(Launch(request, member, host, log))
    lines = (*environment_lines(plan), *handover_lines(plan), warnings_line(plan.problems))
    log.say_all(line for line in lines if line is not None)
    handover.raise_memlock()
    guard.check()
    handover.hand_over(plan.argv or (), {**request.environ, **plan.environment()})


def _refuse(plan: Plan) -> None:
    refused = Refused.by(plan.problems)
    if refused is not None:
        raise refused


def final_plan(launch: Launch) -> Plan:
    """Return the plan after all waits. Raises ``EntryError`` or ``Interrupted``."""
    plan, facts, read_at = launch.settled()
    if plan.wait is not None and plan.wait.meets is not None:
        from sglang_roce_entry.launch.meeting import meet

        final = meet(launch, plan, facts)
    else:
        if plan.identity is None and launch.request.settings.meeting != "off":
            launch.log.say(NOT_TOLD)
        _refuse(plan)
        leader = _await_group(launch, plan, facts)
        if monotonic() - read_at > STALE_FACTS_S:
            facts = launch.await_hardware(launch.facts(), plan.choice)
            leader = with_route(leader, facts, launch.host) if leader is not None else None
        final = launch.planned_again(plan, facts, leader)
    _refuse(final)
    return final


def _await_group(launch: Launch, plan: Plan, facts: HostFacts) -> Leader | None:
    wait, identity = plan.wait, plan.identity
    around = Surroundings(say=launch.log.say, clock=monotonic, pause=sleep)
    if wait is None or identity is None:
        launch.await_ports(plan, float(launch.request.settings.wait_deadline), around)
        return look_up_leader(launch.member, facts, launch.host)
    if wait.deadline_s == 0:
        return look_up_leader(launch.member, facts, launch.host)
    # There is only one leader, so its pauses need not grow with the group.
    policy = WaitPolicy.for_group(wait.deadline_s, 1 if identity.is_leader else identity.size)
    name = LeaderName(wait.host, Resolver(), around, dns_hint(facts, wait.host))
    try:
        if identity.is_leader:
            awaited = launch.await_own_name(name, policy, around)
        else:
            awaited = _await_leader(launch, identity, wait.ports, name, policy, around)
        launch.await_ports(plan, policy.deadline_s - awaited.elapsed_s, around)
    except EntryError as failure:
        if launch.request.settings.on_timeout != "exec" or failure.exit_code != DEADLINE:
            raise
        return launch.leader_anyway(name, failure, facts)
    return found_leader(launch.member, (awaited.address,), facts, launch.host, awaited)


def _await_leader(
    launch: Launch,
    who: Identity,
    ports: tuple[int, ...],
    name: LeaderName,
    policy: WaitPolicy,
    around: Surroundings,
) -> Awaited:
    listed = ", ".join(str(port) for port in ports)
    launch.log.say(f"worker {who.index} of {who.size}: looking for the leader {name.host} on {listed}")
    awaited = waiting.await_leader(name, ports, policy, around)
    launch.log.say(f"the leader {awaited.address} accepts on {awaited.port} after {awaited.elapsed_s:.1f} s")
    return awaited
