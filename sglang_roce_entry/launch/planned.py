"""The plan of one node while its group gathers, and the facts that it rests on: both get old."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic

from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.group.wait import Awaited
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.launch.steps import STALE_FACTS_S, Launch
from sglang_roce_entry.plan.inputs import Leader, found_leader, with_route
from sglang_roce_entry.plan.plan import Plan, rendezvous_port, with_peers

#: While others are waited for the facts are read again before they are too old.
_RENEWED_AFTER_S = 3.0


class Planned:
    """``plan`` is the latest one: with the leader's address as soon as that is known, and with the peers."""

    def __init__(self, launch: Launch, plan: Plan, facts: HostFacts) -> None:
        self.launch, self.plan = launch, plan
        self._facts, self._read_at = facts, monotonic()
        self._leader: Leader | None = None
        self._peers: Peers | None = None
        #: As whom the others see this node.
        self._seen_as: str | None = None

    @property
    def port(self) -> int:
        """D, on which the group meets."""
        return rendezvous_port(self.launch.member, self.plan.command)

    def plan_at(self, address: IpAddress, *, only_ipv6: bool, elsewhere: bool = False) -> None:
        """Plan again with the leader at ``address``, and with new facts where those at hand are old."""
        awaited = Awaited(address, self.port, 0.0, only_ipv6, elsewhere)
        self._facts = self._facts_not_older(STALE_FACTS_S)
        self._leader = found_leader(self.launch.member, (address,), self._facts, self.launch.host, awaited)
        self._plan_again()

    def accept(self, peers: Peers) -> None:
        """Take the members that SGLang's sockets may accept into the plan, where its release asks."""
        self._peers = replace(peers, source=self._seen_as)
        self.plan = with_peers(self.plan, self.launch.request, self._peers)

    def current_plan(self, older_than_s: float = STALE_FACTS_S) -> Plan:
        """Return the plan as all is known now, of facts not older than this: GIDs move while others come."""
        facts = self._facts_not_older(older_than_s)
        if facts is not self._facts:
            leader = with_route(self._leader, facts, self.launch.host) if self._leader is not None else None
            changed = (facts, leader) != (self._facts, self._leader)
            self._facts, self._leader = facts, leader
            if changed:
                self._plan_again()
        return self.plan

    def _facts_not_older(self, older_than_s: float) -> HostFacts:
        if monotonic() - self._read_at <= older_than_s:
            return self._facts
        self._read_at = monotonic()
        return self.launch.facts(self._facts)

    def stay_current(self) -> None:
        """Read the facts while others are waited for: when the last one comes, nobody has to."""
        self.current_plan(_RENEWED_AFTER_S)

    def _plan_again(self) -> None:
        self.plan = self.launch.planned_again(self.plan, self._facts, self._leader, self._peers)
