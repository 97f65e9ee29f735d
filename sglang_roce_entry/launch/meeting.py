"""The rehearsal of a group: everything that a launch does up to the verdict of all, but SGLang."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from time import monotonic, sleep
from typing import Any

from sglang_roce_entry.group import wait as waiting
from sglang_roce_entry.group.attempts import NotYet, Surroundings, WaitPolicy
from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting import caller, wire
from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.compare import Member as MeetingMember
from sglang_roce_entry.group.meeting.compare import Rules, judge
from sglang_roce_entry.group.meeting.leader import Leader as MeetingLeader
from sglang_roce_entry.group.meeting.leader import enough_descriptors
from sglang_roce_entry.group.meeting.missing import Absent, Lookups, Names, pod_names, sentence
from sglang_roce_entry.group.meeting.terms import Concluded, Terms
from sglang_roce_entry.group.meeting.verdict import Verdict
from sglang_roce_entry.group.names import Resolver
from sglang_roce_entry.group.wait import Awaited, LeaderName
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.host.further.card_facts import read_card_facts
from sglang_roce_entry.launch.launch import Launch, dns_hint
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.card import CardMaker, pod_name
from sglang_roce_entry.plan.inputs import Request, as_problem, found_leader, identify
from sglang_roce_entry.plan.plan import Plan, rendezvous_port
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE, EntryError, error, errors_first
from sglang_roce_entry.report.rehearsal import document, received_document
from sglang_roce_entry.report.secrets import is_secret_variable
from sglang_roce_entry.server.compared.agreement import MUST_AGREE, SECRETS

#: Beyond this size a member shows itself and the problems only: the table of all would be 90 GB for 10,000.
_WHOLE_TABLE = 256
#: The others are waited for this long once a member has refused: their rows belong into the table.
_PATIENCE_S = 30.0
#: Who reads the verdict late is still told.
_LINGER_S = 2.0


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal comes to: the document that it shows, and the verdict."""

    shown: Mapping[str, Any]
    verdict: Verdict


def rehearse(request: Request, host: Host, log: Log) -> Rehearsed:
    """Meet the launchers of the group's other nodes as a launch would. Raises ``Interrupted``."""
    member = identify(request)
    launch = Launch(request, member, host, log)
    plan, facts, _ = launch.settled()
    identity = member.identity
    if identity is None:
        verdict = Verdict(tuple(plan.problems))
        return Rehearsed(document(None, (), {}, (), verdict), verdict)
    one = _Rehearsal(launch, identity, plan, facts, _group_word(identity))
    try:
        if not identity.in_group:
            return one.alone()
        return one.lead() if identity.is_leader else one.call()
    except EntryError as failure:
        verdict = Verdict((as_problem(failure),))
        return one.shown_alone(one.card(plan, ""), verdict)


def _group_word(identity: Identity) -> str:
    """Return the group as the greeting names it: by its leader's pod, whatever domain is written behind it."""
    leader = identity.leader or "-"
    return f"rehearse:{'-' if literal(leader) is not None else leader.partition('.')[0]}"


@dataclass(frozen=True, slots=True)
class _Rehearsal:
    launch: Launch
    identity: Identity
    plan: Plan
    facts: HostFacts
    group: str
    started: float = field(default_factory=monotonic)

    def alone(self) -> Rehearsed:
        """Return the rehearsal of one node."""
        card = self.card(self.plan, os.urandom(8).hex())
        verdict = self._verdict([_own(card)], {card.digest: card.common or {}}, (), overdue=False)
        return self.shown_alone(card, verdict)

    def lead(self) -> Rehearsed:
        """Return what the group's meeting, held here, came to. Raises ``EntryError``."""
        identity, around = self.identity, self._around
        name = self._leader_name()
        awaited = waiting.await_own_name(name, self.launch.own_addresses, WaitPolicy(self._remaining_s()), around)
        nonce = os.urandom(8).hex()
        card = self.card(self._plan_at(awaited.address, only_ipv6=awaited.only_ipv6), nonce)
        own_name = pod_name(self.launch.request)
        lookups = Lookups()
        names = Names(pod_names(identity, own_name, self.launch.request.environ), lookups.known, lookups.ask)
        terms = Terms(identity.size, self.group, nonce, self._remaining_s(), _PATIENCE_S, _LINGER_S)
        documents: list[Mapping[str, Any]] = []

        def conclude(
            members: Sequence[MeetingMember],
            commons: Mapping[str, Mapping[str, str]],
            absent: Sequence[Absent],
            overdue: bool,
        ) -> Concluded:
            verdict = self._verdict(members, commons, absent, overdue=overdue)
            documents[:] = [document(identity, members, commons, absent, verdict)]
            if identity.size > _WHOLE_TABLE:
                return Concluded(verdict)
            return Concluded(verdict, json.dumps(documents[0], separators=(",", ":")).encode())

        with enough_descriptors(identity.size):
            listener = self._listener(awaited.address)
            self.launch.log.say(f"{name.host} is this pod: the group meets on {awaited.address} port {self._port}")
            concluded = MeetingLeader(listener, terms, card, conclude, self.launch.log.say, names).hold()
        return Rehearsed(documents[0], concluded.verdict)

    def call(self) -> Rehearsed:
        """Return what the leader has told of the meeting. Raises ``EntryError``."""
        identity, cards = self.identity, list[Card]()

        def make_card(nonce: str, address: IpAddress, only_ipv6: bool) -> Card:
            cards[:] = [self.card(self._plan_at(address, only_ipv6=only_ipv6), nonce)]
            return cards[0]

        name = self._leader_name()
        self.launch.log.say(
            f"worker {identity.index} of {identity.size}: calling the leader {name.host} on {self._port}"
        )
        policy = WaitPolicy.for_group(self._remaining_s(), identity.size)
        met = caller.Caller(self._port, self.group, make_card, self._around).attend(name, policy)
        alone = self.shown_alone(cards[0], met.verdict)
        return replace(alone, shown=received_document(met.document, alone.shown))

    def shown_alone(self, card: Card, verdict: Verdict) -> Rehearsed:
        """Return ``verdict`` with the row of this node only."""
        commons = {card.digest: card.common or {}}
        return Rehearsed(document(self.identity, [_own(card)], commons, (), verdict), verdict)

    def card(self, plan: Plan, nonce: str) -> Card:
        """Return this node's card as ``plan`` has it."""
        request, host = self.launch.request, self.launch.host
        rails = [
            (row.netdev, ip_address(row.gid))
            for row in plan.choice.used_rows
            if row.netdev is not None and row.gid is not None
        ]
        facts = read_card_facts(host, rails)
        return CardMaker(request, plan, facts, self.group, is_secret_variable, time.time).make(nonce)

    def _verdict(
        self,
        members: Sequence[MeetingMember],
        commons: Mapping[str, Mapping[str, str]],
        absent: Sequence[Absent],
        *,
        overdue: bool,
    ) -> Verdict:
        rules = Rules(MUST_AGREE, SECRETS, self.launch.request.settings.strict)
        verdict = judge(members, commons, rules)
        if not overdue:
            return verdict
        missing = error(
            "MEETING_INCOMPLETE",
            f"the group did not meet within {self._deadline_s:.0f} s: {sentence(absent, self.identity.size)}",
            "look at the missing pods: kubectl get pods -o wide, kubectl describe pod; longer: --wait-deadline",
            DEADLINE,
        )
        return replace(verdict, problems=errors_first((*verdict.problems, missing)))

    def _plan_at(self, address: IpAddress, *, only_ipv6: bool) -> Plan:
        awaited = Awaited(address, self._port, 0.0, only_ipv6)
        leader = found_leader(self.identity, (address,), self.facts, self.launch.host, awaited)
        return self.launch.planned_again(self.plan, self.facts, leader)

    def _listener(self, address: IpAddress) -> Any:
        try:
            return wire.listen_on(address, self._port)
        except OSError as failure:
            raise EntryError(
                "PORT_TAKEN",
                f"the group cannot meet on {address} port {self._port}: {failure.strerror}; "
                f"{self._who_is_there(address)}",
                "rehearse in pods in which SGLang does not run, or choose another port: --dist-init",
                CONFIGURATION,
            ) from failure

    def _who_is_there(self, address: IpAddress) -> str:
        try:
            one, _ = caller.connect([address], self._port, wire.CONNECT_S)
        except NotYet as failure:
            return failure.cause
        with one:
            return caller.who_answers(one).detail

    def _leader_name(self) -> LeaderName:
        host = self.identity.leader or ""
        return LeaderName(host, Resolver(), self._around, dns_hint(self.facts, host))

    @property
    def _port(self) -> int:
        return rendezvous_port(self.launch.member, self.plan.command)

    @property
    def _around(self) -> Surroundings:
        return Surroundings(say=self.launch.log.say, clock=monotonic, pause=sleep)

    @property
    def _deadline_s(self) -> float:
        return float(self.launch.request.settings.wait_deadline)

    def _remaining_s(self) -> float:
        return max(0.0, self.started + self._deadline_s - monotonic())


def _own(card: Card) -> MeetingMember:
    now_s = card.own.clock_s or 0.0
    return MeetingMember(card, card.own.address or "", now_s, now_s)
