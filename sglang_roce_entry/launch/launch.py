"""The launch: read, decide, wait, hand over. Everything before the handover changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from time import monotonic, sleep
from typing import NoReturn

from sglang_roce_entry.command.command_line import Invocation
from sglang_roce_entry.command.settings import Settings
from sglang_roce_entry.fabric.choice import effective_policy
from sglang_roce_entry.fabric.constraints import REQUIRED
from sglang_roce_entry.fabric.nccl.plugins import external_plugin
from sglang_roce_entry.fabric.nccl.settings import decided_values
from sglang_roce_entry.group import wait as waiting
from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.identity import parse_podinfo
from sglang_roce_entry.group.names import NotResolved, Resolver
from sglang_roce_entry.group.wait import Awaited, LeaderName, Surroundings, WaitPolicy
from sglang_roce_entry.host.collect import Host, collect
from sglang_roce_entry.host.facts import Gpus, HostFacts, IpAddress, Route
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.launch import handover
from sglang_roce_entry.launch.hardware import KernelEvents, await_hardware
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.plan import (
    BARE_WORD,
    LAUNCH,
    MODE,
    LeaderLookup,
    Plan,
    PlanInputs,
    Stages,
    fabric_policy,
    identify,
    leader_address,
    make_plan,
    oldest_nccl,
    rdma_is_wanted,
)
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE, EntryError, Problem
from sglang_roce_entry.report.folding import folded_problems
from sglang_roce_entry.report.log_lines import decision_lines, environment_lines, handover_lines
from sglang_roce_entry.server.arguments import read_arguments

#: A mode may look the leader's name up, but not wait for it.
_QUICK_LOOKUP_S = 2.0
#: Facts older than this are read again before the handover: GIDs move while a worker waits.
_STALE_FACTS_S = 5.0
_PODINFO = "/etc/podinfo"


def gather(
    invocation: Invocation, settings: Settings, environ: Mapping[str, str], host: Host
) -> tuple[PlanInputs, Stages]:
    """Return what a plan rests on, but for the facts, and who this pod is. Raises ``EntryError``."""
    bare = invocation.form == BARE_WORD and bool(invocation.rest)
    user = None if bare else read_arguments(invocation.rest, _file_reader(host))
    inputs = PlanInputs(
        settings=settings,
        environ=environ,
        facts=HostFacts(),
        gpus=Gpus(),
        form=MODE if invocation.mode else invocation.form if bare else LAUNCH,
        executable=(sys.executable or "python3") if host.live else "python3",
        user=user,
        bare_word=invocation.rest if bare else (),
        labels=_podinfo(host, "labels"),
        annotations=_podinfo(host, "annotations"),
        hostname=os.uname().nodename if host.live else None,
    )
    return inputs, identify(inputs)


def _file_reader(host: Host) -> Callable[[str], str]:
    def read(path: str) -> str:
        absolute = os.path.abspath(path)
        if not host.live:
            try:
                return host.tree.text(absolute)
            except OSError:
                pass  # not recorded: the file that lies here is what the user means
        with open(absolute, encoding="utf-8") as file:
            return file.read()

    return read


def _podinfo(host: Host, name: str) -> dict[str, str]:
    try:
        return parse_podinfo(host.tree.text(f"{_PODINFO}/{name}"))
    except OSError:
        return {}


def read_facts(inputs: PlanInputs, stages: Stages, host: Host) -> HostFacts:
    """Return what the host says now."""
    size = stages.identity.size if stages.identity else 1
    policy = fabric_policy(inputs.settings, size)
    return collect(
        host,
        inputs.environ,
        rdma=rdma_is_wanted(inputs.settings, size) or inputs.form == MODE,
        need_libibverbs=policy.rdma == REQUIRED,
    )


def look_up_leader(stages: Stages, host: Host) -> LeaderLookup | None:
    """Return what one quick look-up of the leader's name gives; a recording answers from itself."""
    identity = stages.identity
    if identity is None or not identity.in_group or identity.leader is None:
        return None

    recorded = host.answers.resolve(identity.leader)
    if recorded is not None:
        addresses = tuple(recorded)
    elif not host.live:
        address = literal(identity.leader)
        if address is None:
            return LeaderLookup(failure=f"{identity.leader} was not looked up when this was recorded")
        addresses = (address,)
    else:
        try:
            addresses = Resolver().addresses(identity.leader, _QUICK_LOOKUP_S)
        except NotResolved as failure:
            return LeaderLookup(failure=str(failure))
    return LeaderLookup(addresses, None, _only_ipv6(addresses))


def _only_ipv6(addresses: tuple[IpAddress, ...]) -> bool:
    return bool(addresses) and all(address.version == 6 for address in addresses)


def plan_only(inputs: PlanInputs, stages: Stages, host: Host) -> Plan:
    """Return the plan of a mode, or of a bare word: no waiting, one quick look-up."""
    return look_and_plan(inputs, stages, host)[0]


def look_and_plan(inputs: PlanInputs, stages: Stages, host: Host) -> tuple[Plan, LeaderLookup | None]:
    """Return the plan of a mode, and what its one quick look-up of the leader's name gave."""
    inputs = replace(inputs, facts=read_facts(inputs, stages, host), gpus=read_gpus(host))
    lookup = _with_literal(look_up_leader(stages, host), stages, inputs.facts)
    return make_plan(inputs, stages, lookup, _route(host, inputs.facts)), lookup


def _with_literal(lookup: LeaderLookup | None, stages: Stages, facts: HostFacts) -> LeaderLookup | None:
    """Return a look-up that nothing has accepted yet with the address to put for a name with IPv6 alone."""
    if lookup is None or not lookup.only_ipv6 or lookup.accepted is not None or stages.identity is None:
        return lookup
    return replace(lookup, accepted=leader_address(stages.identity, lookup, facts))


def _route(host: Host, facts: HostFacts) -> Callable[[IpAddress], Route | None]:
    return lambda address: host.answers.route(address, facts.interfaces)


class Launcher:
    """One launch on this machine."""

    def __init__(
        self, inputs: PlanInputs, stages: Stages, host: Host, log: Log, guard: handover.SignalGuard | None
    ) -> None:
        self._inputs = replace(inputs, gpus=read_gpus(host))
        self._stages = stages
        self._host = host
        self._log = log
        self._guard = guard
        self._read_at = 0.0

    def run(self) -> NoReturn:
        """Become SGLang, or the bare word. Raises ``EntryError`` or ``Interrupted``."""
        if self._inputs.form == BARE_WORD:
            plan = plan_only(self._inputs, self._stages, self._host)
        else:
            plan = self._launch_plan()
        self._become(plan)

    def _launch_plan(self) -> Plan:
        self._read()
        plan = self._plan(None)
        # What is wrong before RDMA comes into it is said at once: no hardware that appears cures it.
        if plan.exit_code != CONFIGURATION and self._await_hardware():
            plan = self._plan(None)
        self._say_decision(plan)
        self._refuse(plan)
        said = plan.problems
        lookup = _with_literal(self._await_group(plan), self._stages, self._inputs.facts)
        if monotonic() - self._read_at > _STALE_FACTS_S:
            before = plan.environment()
            self._read()
            self._await_hardware()
            plan = self._plan(lookup)
            now = plan.environment()
            moved = [name for name, value in before.items() if now.get(name) != value]
            if moved:
                self._log.say(f"changed during the wait: {', '.join(sorted(moved))}")
        else:
            plan = self._plan(lookup)
        # The leader's address, and what has changed meanwhile, can bring problems of their own.
        self._say_problems(problem for problem in plan.problems if problem not in said)
        self._refuse(plan)
        return plan

    def _plan(self, lookup: LeaderLookup | None) -> Plan:
        return make_plan(self._inputs, self._stages, lookup, _route(self._host, self._inputs.facts))

    def _read(self) -> None:
        self._inputs = replace(self._inputs, facts=read_facts(self._inputs, self._stages, self._host))
        self._read_at = monotonic()

    def _await_hardware(self) -> bool:
        """Wait for RDMA ports that are coming up; return whether the facts are others now."""
        inputs, stages = self._inputs, self._stages
        size = stages.identity.size if stages.identity else 1
        decided = decided_values(inputs.environ, inputs.facts.nccl_files)
        policy = effective_policy(fabric_policy(inputs.settings, size), decided, oldest_nccl(inputs.facts))
        if policy.rdma != REQUIRED or inputs.settings.hca_wait <= 0:
            return False

        if external_plugin(decided, inputs.facts.net_plugin_paths):
            return False

        pending = [inputs.facts]  # the read that was made already serves as the first one

        def read() -> HostFacts:
            return pending.pop() if pending else read_facts(inputs, stages, self._host)

        around = Surroundings(say=self._log.say, pause=KernelEvents().pause)
        facts = await_hardware(read, inputs.gpus, policy, inputs.settings.hca_wait, around)
        changed = facts is not inputs.facts
        if changed:
            self._inputs = replace(inputs, facts=facts)
            self._read_at = monotonic()
        return changed

    def _await_group(self, plan: Plan) -> LeaderLookup | None:
        wait = plan.wait
        if wait is None or plan.identity is None:
            return None
        if wait.deadline_s == 0:
            return look_up_leader(self._stages, self._host)

        around = Surroundings(say=self._log.say, clock=monotonic, pause=sleep)
        # There is one leader, however many workers: alone it need not hold back.
        workers = 1 if plan.identity.is_leader else plan.identity.size
        policy = WaitPolicy.for_group(wait.deadline_s, workers)
        name = LeaderName(wait.host, Resolver(), around, _dns_hint(plan))
        try:
            awaited = self._await_leader(plan, name, policy, around)
        except EntryError as failure:
            if self._inputs.settings.on_timeout != "exec" or failure.exit_code != DEADLINE:
                raise
            self._log.problem(failure)
            self._log.say("launching all the same (on-timeout exec): torch tries on for 600 s")
            # Nothing is looked up again: the deadline is over, also for a resolver that hangs.
            known = name.last_known
            return LeaderLookup(known, None, _only_ipv6(known), None if known else failure.message)
        return LeaderLookup((awaited.address,), awaited.address, awaited.only_ipv6)

    def _await_leader(self, plan: Plan, name: LeaderName, policy: WaitPolicy, around: Surroundings) -> Awaited:

        if plan.wait is None or plan.identity is None:
            raise ValueError("nothing to wait for")
        if plan.identity.is_leader:
            awaited = waiting.await_own_name(name, self._own_addresses, policy, around)
            self._await_free_ports(plan, policy.deadline_s - awaited.elapsed_s, around)
            self._log.say(f"{plan.wait.host} is this pod ({awaited.address})")
            return awaited
        ports = ", ".join(str(port) for port in plan.wait.ports)
        self._log.say(
            f"worker {plan.identity.index} of {plan.identity.size}: looking for the leader "
            f"{plan.wait.host} on {ports}"
        )
        awaited = waiting.await_leader(name, plan.wait.ports, policy, around)
        self._log.say(f"the leader {awaited.address} accepts on {awaited.port} after {awaited.elapsed_s:.1f} s")
        return awaited

    def _own_addresses(self) -> list[IpAddress]:
        return [address.ip for interface in self._host.answers.interfaces() for address in interface.addresses]

    def _await_free_ports(self, plan: Plan, remaining_s: float, around: Surroundings) -> None:

        command = plan.command
        if command is None or command.dist_init is None:
            return
        wanted = command.leader_ports()
        limit = max(0.0, min(waiting.PORTS_FREE_WITHIN_S, remaining_s))
        waiting.await_free_ports(wanted, waiting.WaitPolicy(limit), around)

    def _say_decision(self, plan: Plan) -> None:

        for line in decision_lines(plan):
            self._log.say(line)
        self._say_problems(plan.problems)

    def _say_problems(self, problems: Iterable[Problem]) -> None:
        for problem in folded_problems(problems):
            self._log.problem(problem)

    @staticmethod
    def _refuse(plan: Plan) -> None:
        if plan.first_error is not None:
            raise PlanRefused(plan)

    def _become(self, plan: Plan) -> NoReturn:

        if self._inputs.form == BARE_WORD:
            self._say_problems(plan.problems)
        for line in (*environment_lines(plan), *handover_lines(plan)):
            self._log.say(line)
        handover.raise_memlock()
        if self._guard is not None:
            self._guard.check()
        handover.hand_over(plan.argv or (), {**self._inputs.environ, **plan.environment()})


class PlanRefused(EntryError):
    """A plan with errors: the first in the order of the stages decides, all have been said."""

    def __init__(self, plan: Plan) -> None:
        first = plan.first_error
        if first is None:
            raise ValueError("a plan without an error")
        super().__init__(first.code, first.message, first.hint, first.exit_code)
        self.plan = plan


def _dns_hint(plan: Plan) -> str:
    domains = plan.facts.search_domains
    if domains is not None and not any(domain.startswith("svc.") for domain in domains):
        return (
            "this pod has no cluster search domain (/etc/resolv.conf): with hostNetwork set "
            "dnsPolicy: ClusterFirstWithHostNet"
        )
    host = plan.wait.host if plan.wait else ""
    pod = host.partition(".")[0]
    return f"is the leader scheduled, and its headless Service there? kubectl get pod {pod} -o wide"
