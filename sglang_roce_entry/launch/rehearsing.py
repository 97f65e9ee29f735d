"""The rehearsal of a group: everything that a launch does up to the verdict of all, but SGLang; and its replay."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sglang_roce_entry.group.attempts import WaitPolicy
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.comparison.compare import Member, Rules
from sglang_roce_entry.group.meeting.comparison.conclusion import conclude
from sglang_roce_entry.group.meeting.comparison.saved import Saved
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.leader import enough_descriptors
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.launch.gathering import REHEARSAL, Gathering
from sglang_roce_entry.launch.steps import Launch
from sglang_roce_entry.log import Log
from sglang_roce_entry.plan.inputs import Request, as_problem, identify
from sglang_roce_entry.problems import EntryError, errors_first
from sglang_roce_entry.report.rehearsal import document, received_document, replayed_document
from sglang_roce_entry.server.compared.agreement import MUST_AGREE, SECRETS

#: The others are waited for this long once a member has refused: their rows belong into the table.
_PATIENCE_S = 30.0
#: Who reads the verdict late is still told.
_LINGER_S = 2.0
#: A launch gives a predecessor a minute to end; a rehearsal asks who is there now.
_PORTS_FREE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal comes to: the document that it shows, the verdict, and on a leader what it was made of."""

    request: Request
    identity: Identity | None
    shown: Mapping[str, Any]
    verdict: Verdict
    gathered: Gathered | None = None

    def saved(self) -> Saved:
        """Return what of it is worth a file."""
        who, gathered, settings = self.identity, self.gathered, self.request.settings
        saved = Saved(who, gathered, self.shown, settings.wait_deadline, settings.strict)
        if gathered is None:
            return saved
        again = _compared(saved, gathered, strict=settings.strict)
        return replace(saved, further=tuple(one for one in self.verdict.problems if one not in again.problems))


def rehearse(request: Request, host: Host, log: Log) -> Rehearsed:
    """Meet the launchers of the group's other nodes as a launch would. Raises ``Interrupted``."""
    member = identify(request)
    launch = Launch(request, member, host, log)
    plan, facts, _ = launch.settled()
    identity = member.identity
    if identity is None:
        verdict = Verdict(tuple(plan.problems))
        shown = document(None, Gathered((), {}, (), (), overdue=False), verdict)
        return Rehearsed(request, None, shown, verdict)
    one = Gathering(launch, identity, plan, facts, REHEARSAL, _PATIENCE_S)
    try:
        if not identity.in_group:
            return _alone(one)
        return _lead(one) if identity.is_leader else _call(one)
    except EntryError as failure:
        verdict = Verdict((as_problem(failure),))
        return Rehearsed(request, identity, _shown_alone(one, verdict), verdict)


def replay(saved: Saved, *, strict: bool) -> tuple[Mapping[str, Any], str]:
    """Return the document of a saved meeting, compared again where it has the cards, and where it is from.

    ``strict``: also where the rehearsal was not. Raises ``MeetingFileError``.
    """
    who, gathered = saved.identity, saved.gathered
    by = "a pod" if who is None else "the leader" if who.is_leader else f"worker {who.index}"
    said = f"saved by {by} with launcher {saved.launcher or '?'}"
    if gathered is None:
        return replayed_document(saved), f"{said}: it had no cards but its own, this is what it was told"
    verdict = _compared(saved, gathered, strict=strict or saved.strict)
    verdict = replace(verdict, problems=errors_first((*verdict.problems, *saved.further)))
    return document(who, gathered, verdict), f"{said}: {len(gathered.members)} cards compared again"


def _compared(saved: Saved, gathered: Gathered, *, strict: bool) -> Verdict:
    size = saved.identity.size if saved.identity is not None else gathered.members[0].card.size
    return conclude(gathered, Rules(MUST_AGREE, SECRETS, strict), size, saved.deadline_s)


def _alone(one: Gathering) -> Rehearsed:
    """Return the rehearsal of one node."""
    _test_ports(one)
    gathered = _own(one)
    verdict = one.verdict(gathered)
    shown = document(one.identity, gathered, verdict)
    return Rehearsed(one.launch.request, one.identity, shown, verdict, gathered)


def _lead(one: Gathering) -> Rehearsed:
    awaited = one.launch.await_own_name(one.name, WaitPolicy(one.remaining_s), one.around)
    _test_ports(one)
    with enough_descriptors(one.identity.size):
        concluded, held = one.lead(awaited)
        held.stay(_LINGER_S)
    return Rehearsed(one.launch.request, one.identity, one.document or {}, concluded.verdict, one.gathered)


def _call(one: Gathering) -> Rehearsed:
    _test_ports(one)
    one.say_whom_it_calls()
    met = one.call(one.remaining_s)
    shown = received_document(met.document, _shown_alone(one, met.verdict))
    return Rehearsed(one.launch.request, one.identity, shown, met.verdict)


def _test_ports(one: Gathering) -> None:
    """Let this node refuse, and its group be told, where SGLang could not bind its ports here."""
    try:
        one.launch.await_ports(one.plan, min(_PORTS_FREE_WITHIN_S, one.remaining_s), one.around)
    except EntryError as failure:
        one.refusal = failure


def _shown_alone(one: Gathering, verdict: Verdict) -> Mapping[str, Any]:
    """Return the document of ``verdict`` with the row of this node only."""
    return document(one.identity, _own(one), verdict)


def _own(one: Gathering) -> Gathered:
    card: Card = one.own_card(os.urandom(8).hex())
    now_s = card.own.clock_s or time.time()
    members = [Member(card, card.own.address or "", now_s, now_s)]
    return Gathered(members, {card.digest: card.common or {}}, (), (), overdue=False)
