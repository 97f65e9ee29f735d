"""The steps that a launch and a rehearsal share: settled facts, planning again, waits, and how a launch ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.constraints import REQUIRED
from sglang_roce_entry.group import wait as waiting
from sglang_roce_entry.group.attempts import Surroundings, WaitPolicy
from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.group.wait import Awaited, LeaderName
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.launch.hardware import KernelEvents, await_hardware
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.inputs import Leader, Member, Request, found_leader, read_facts
from sglang_roce_entry.plan.plan import Plan, make_plan, with_peers
from sglang_roce_entry.problems import CONFIGURATION, USAGE, EntryError, Problem, deciding
from sglang_roce_entry.report.folding import folded_problems
from sglang_roce_entry.report.log_lines import decision_lines

#: A record of the pod before is corrected in this time; that of a Service or of NAT stays as it is.
ELSEWHERE_AFTER_S = 10.0
#: Facts older than this are read again before the handover: GIDs move while a worker waits.
STALE_FACTS_S = 5.0
#: Said where others will wait for this pod, and cannot hear why it does not come.
NOT_TOLD = "the group cannot be told: which one it is, or this pod's place in it, is not known"


class Refused(EntryError):
    """A launch that ends, all its problems logged: ``others`` are those besides the one that decides.

    ``pause`` is what this node does for as long as it lingers: tell its group why.
    """

    def __init__(
        self,
        first: Problem | EntryError,
        others: Iterable[Problem],
        pause: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(first.code, first.message, first.hint, first.exit_code)
        self.others = tuple(others)
        self.pause = pause

    @classmethod
    def by(cls, problems: Sequence[Problem], pause: Callable[[float], None] | None = None) -> Refused | None:
        """Return the end that these problems are, the first error deciding; ``None`` without an error."""
        first = deciding(problems)
        return cls(first, (one for one in problems if one is not first), pause) if first is not None else None


def log_problems(problems: Iterable[Problem], log: Log) -> None:
    """Log problems, those that say the same in one."""
    for problem in folded_problems(problems):
        log.problem(problem)


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of SGLang on this machine, up to the plan that is handed over."""

    request: Request
    member: Member
    host: Host
    log: Log

    def settled(self) -> tuple[Plan, HostFacts, float]:
        """Return the plan before the leader is known, its facts and when they were read; all is logged."""
        facts = self.facts()
        read_at = monotonic()
        plan = self._plan(facts, None)
        # A wrong configuration is reported at once: no hardware that appears can correct it.
        if plan.exit_code not in (CONFIGURATION, USAGE):
            settled = self.await_hardware(facts, plan.choice)
            if settled is not facts:
                facts, read_at = settled, monotonic()
                plan = self._plan(facts, None)
        if self.request.refused is None:
            self.log.say_all(decision_lines(plan))
        log_problems(plan.problems, self.log)
        return plan, facts, read_at

    def facts(self, known: HostFacts | None = None) -> HostFacts:
        """Return the facts of this node as they are now; ``known`` are those of before."""
        return read_facts(self.request, self.member, self.host, known=known)

    def planned_again(
        self, before: Plan, facts: HostFacts, leader: Leader | None, peers: Peers | None = None
    ) -> Plan:
        """Return the plan with what is now known of leader and peers; what has changed is logged."""
        final = self._plan(facts, leader)
        if peers is not None:
            final = with_peers(final, self.request, peers)
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
        log_problems((problem for problem in after.problems if problem not in before.problems), self.log)

    def await_hardware(self, facts: HostFacts, planned: Choice) -> HostFacts:
        """Return ``facts``, or others as soon as the RDMA ports that are coming up are there."""
        deadline_s = self.request.settings.hca_wait
        if planned.constraints.rdma != REQUIRED or deadline_s <= 0 or planned.plugin is not None:
            return facts
        pending = [facts]  # the facts that were read already serve as the first read

        def read() -> HostFacts:
            return pending.pop() if pending else self.facts()

        around = Surroundings(say=self.log.say, pause=KernelEvents().pause)
        return await_hardware(read, planned.constraints, deadline_s, around)

    def leader_anyway(self, name: LeaderName, failure: EntryError, facts: HostFacts) -> Leader:
        """Return what is known of a leader that did not come in time, where the launch goes on without it."""
        self.log.problem(failure)
        self.log.say("launching anyway (on-timeout exec): torch keeps retrying for 600 s")
        # Nothing is looked up again: the deadline is over, also for a resolver that hangs.
        if not name.last_known:
            return Leader(failure=failure.message)
        return found_leader(self.member, name.last_known, facts, self.host)

    def await_own_name(self, name: LeaderName, policy: WaitPolicy, around: Surroundings) -> Awaited:
        """Return this leader's own address as its name gives it. Raises ``EntryError`` (124)."""
        elsewhere_after_s = None
        if self.member.leader_given:
            elsewhere_after_s = 0.0 if literal(name.host) is not None else ELSEWHERE_AFTER_S
        awaited = waiting.await_own_name(name, self.own_addresses, policy, around, elsewhere_after_s)
        if not awaited.elsewhere:
            self.log.say(f"{name.host} is this pod ({awaited.address})")
        return awaited

    def await_ports(self, plan: Plan, within_s: float, around: Surroundings) -> None:
        """Return as soon as SGLang can bind its ports here; a worker's as well: a predecessor may still end."""
        if plan.command is not None and self.request.settings.wait_deadline:
            limit_s = max(0.0, min(waiting.PORTS_FREE_WITHIN_S, within_s))
            waiting.await_free_ports(plan.command.ports, WaitPolicy(limit_s), around)

    def own_addresses(self) -> list[IpAddress]:
        """Return the addresses that this pod has now."""
        return [address.ip for interface in self.host.answers.interfaces() for address in interface.addresses]


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
