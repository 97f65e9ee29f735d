"""The rehearsal of a group: everything that a launch does up to the verdict of all, but SGLang."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_roce_entry.group.attempts import WaitPolicy
from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.leader import enough_descriptors
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.launch.gathering import REHEARSAL, Gathering
from sglang_roce_entry.launch.steps import Launch
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.inputs import Request, as_problem, identify
from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.report.rehearsal import document, received_document

#: The others are waited for this long once a member has refused: their rows belong into the table.
_PATIENCE_S = 30.0
#: Who reads the verdict late is still told.
_LINGER_S = 2.0
#: A launch gives a predecessor a minute to end; a rehearsal asks who is there now.
_PORTS_FREE_WITHIN_S = 2.0


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
        return Rehearsed(document(None, Gathered((), {}, (), (), overdue=False), verdict), verdict)
    one = Gathering(launch, identity, plan, facts, REHEARSAL, _PATIENCE_S)
    try:
        if not identity.in_group:
            return _alone(one)
        return _lead(one) if identity.is_leader else _call(one)
    except EntryError as failure:
        return _shown_alone(one, Verdict((as_problem(failure),)))


def _alone(one: Gathering) -> Rehearsed:
    """Return the rehearsal of one node."""
    _test_ports(one)
    return _shown_alone(one, one.verdict(_own(one, os.urandom(8).hex())))


def _lead(one: Gathering) -> Rehearsed:
    awaited = one.launch.await_own_name(one.name, WaitPolicy(one.remaining_s), one.around)
    _test_ports(one)
    with enough_descriptors(one.identity.size):
        concluded, held = one.lead(awaited)
        held.stay(_LINGER_S)
    return Rehearsed(one.document or {}, concluded.verdict)


def _call(one: Gathering) -> Rehearsed:
    _test_ports(one)
    one.say_whom_it_calls()
    met = one.call(one.remaining_s)
    alone = _shown_alone(one, met.verdict)
    return Rehearsed(received_document(met.document, alone.shown), met.verdict)


def _test_ports(one: Gathering) -> None:
    """Let this node refuse, and its group be told, where SGLang could not bind its ports here."""
    try:
        one.launch.await_ports(one.plan, min(_PORTS_FREE_WITHIN_S, one.remaining_s), one.around)
    except EntryError as failure:
        one.refusal = failure


def _shown_alone(one: Gathering, verdict: Verdict) -> Rehearsed:
    """Return ``verdict`` with the row of this node only."""
    return Rehearsed(document(one.identity, _own(one, ""), verdict), verdict)


def _own(one: Gathering, nonce: str) -> Gathered:
    card: Card = one.own_card(nonce)
    now_s = card.own.clock_s or time.time()
    members = [Member(card, card.own.address or "", now_s, now_s)]
    return Gathered(members, {card.digest: card.common or {}}, (), (), overdue=False)
