"""One node's part in its group's meeting: its card, its leader or its caller, the verdict of what was gathered."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from time import monotonic, sleep
from typing import Any

from sglang_roce_entry.fabric.consumers.sglang import ALLOWED_PEERS, allowed_peers
from sglang_roce_entry.group.attempts import NotYet, Surroundings, WaitPolicy
from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting import answering, wire
from sglang_roce_entry.group.meeting.caller import Called, Caller, Met, There
from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.comparison.compare import Member, Rules
from sglang_roce_entry.group.meeting.comparison.conclusion import conclude, with_proof
from sglang_roce_entry.group.meeting.comparison.seen import check_given, peers_of
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.leader import Leader as MeetingLeader
from sglang_roce_entry.group.meeting.missing import Lookups, Names, pod_names
from sglang_roce_entry.group.meeting.proof.errand import Prover
from sglang_roce_entry.group.meeting.proof.pairs import nodes_of
from sglang_roce_entry.group.meeting.proof.relay import Proof
from sglang_roce_entry.group.meeting.ring.door import Door, open_door
from sglang_roce_entry.group.meeting.terms import Concluded, Gathered, Terms
from sglang_roce_entry.group.names import Resolver
from sglang_roce_entry.group.wait import SIGNS_OF_LIFE, Awaited, LeaderName, life_ports
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.host.further.card_facts import read_card_facts
from sglang_roce_entry.launch.planned import Planned
from sglang_roce_entry.launch.proving import judged, starter
from sglang_roce_entry.launch.steps import Launch, dns_hint
from sglang_roce_entry.plan.card import CardMaker, pod_name
from sglang_roce_entry.plan.peers import has_peers
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.problems import CONFIGURATION, EntryError, Problem, errors_first
from sglang_roce_entry.report.rehearsal import document
from sglang_roce_entry.report.secrets import is_secret_variable
from sglang_roce_entry.server.compared.agreement import MUST_AGREE, SECRETS

#: Beyond this size a member shows itself and the problems only: the table of all would be 90 GB for 10,000.
_WHOLE_TABLE = 256

#: Meetings of one kind only: a launch does not meet a rehearsal.
LAUNCH, REHEARSAL = "launch", "rehearse"


class Gathering(Planned):
    """The meeting of ``identity``'s group as this node sees it.

    ``patience_s``: how long others are waited for once a member has refused.
    """

    def __init__(
        self,
        launch: Launch,
        identity: Identity,
        plan: Plan,
        facts: HostFacts,
        kind: str,
        patience_s: float,
    ) -> None:
        super().__init__(launch, plan, facts)
        self.identity = identity
        self.refusal: EntryError | None = None
        self._concluded_from: tuple[Gathered, Verdict] | None = None
        self._own_now: Member | None = None
        #: The plan that this node's card shows.
        self._shown = plan
        self._kind, self._patience_s = kind, patience_s
        self._started = monotonic()
        host = identity.leader or ""
        #: The leader's name, to be looked up.
        self.name = LeaderName(host, Resolver(), self.around, dns_hint(facts, host))

    # ------------------------------------------------------------------------------------ what it knows

    @property
    def around(self) -> Surroundings:
        """The clock and the log of this process."""
        return Surroundings(say=self.launch.log.say, clock=monotonic, pause=sleep)

    @property
    def remaining_s(self) -> float:
        """What is left of the deadline of all waits."""
        return max(0.0, self._started + self._deadline_s - monotonic())

    @property
    def _deadline_s(self) -> float:
        return float(self.launch.request.settings.wait_deadline)

    def own_card(self, nonce: str, door: Door | None = None) -> Card:
        """Return this node's card as the latest plan has it."""
        plan = self._shown = self.plan
        rails = [
            (row.netdev, ip_address(row.gid))
            for row in plan.choice.used_rows
            if row.netdev is not None and row.gid is not None
        ]
        facts = read_card_facts(self.launch.host, rails)
        request, why = self.launch.request, self.refusal
        card = CardMaker(request, plan, facts, self._group, is_secret_variable, time.time, why).make(nonce)
        self._seen_as = door.address if door is not None else card.own.address
        if door is None:
            return card
        return replace(card, own=replace(card.own, reach_address=door.address, reach_port=door.port))

    @property
    def _group(self) -> str:
        """The group as the greeting names it: by its leader, whatever domain is written behind its name.

        Where the leader is told another name than its pod has, a Service's or one of a hosts file, others may know
        it by either.
        """
        names = [self.identity.leader or "-"]
        if literal(names[0]) is not None:
            names = ["-"]
        elif self.identity.is_leader:
            names.append(pod_name(self.launch.request))
        labels = dict.fromkeys(name.partition(".")[0].lower() for name in names if name)
        return f"{self._kind}:{','.join(labels)}"

    # ------------------------------------------------------------------------------------ the two sides

    def lead(self, awaited: Awaited) -> tuple[Concluded, MeetingLeader]:
        """Hold the meeting at this node's own address; return what it came to. Raises ``EntryError``."""
        request, nonce = self.launch.request, os.urandom(8).hex()
        self.plan_at(awaited.address, only_ipv6=awaited.only_ipv6, elsewhere=awaited.elsewhere)
        # A Service or NAT hands on what comes to its address; nobody listens on that itself.
        address = self._leader.address if self._leader is not None else None
        if address is None:
            raise EntryError(
                "LEADER_TIMEOUT",
                f"this leader's address {awaited.address} is not its own, and it has no route to it",
                "correct --dist-init-addr, or remove it where the group names its leader",
                CONFIGURATION,
            )
        at = self._met_at(address)
        self.launch.log.say(f"the group of {self.identity.size} meets on {at} port {self.port}")
        door = open_door(address, nonce, 0) if at == address else None
        lookups = Lookups()
        names_of = pod_names(self.identity, pod_name(request), request.environ)
        names = Names(names_of, lookups.known, lookups.ask, lookups.addresses)
        terms = Terms(self.identity.size, self._group, nonce, self.remaining_s, self._patience_s)

        def concluded(gathered: Gathered) -> Concluded:
            return self._concluded(self._with_new_card(gathered, nonce, door))

        try:
            listener = self._listener(at)
        except EntryError:
            if door is not None:
                door.close()
            raise
        held = MeetingLeader(
            *(listener, terms, self.own_card(nonce, door), concluded, self.launch.log.say, names, door),
            *(self._prover, self._beside(at), self.stay_current),
        )
        return held.hold(), held

    def _beside(self, at: IpAddress) -> socket.socket | None:
        """Listen where SGLang's workers call with attention DP; ``None`` where nobody will, or it cannot be.

        They look for no store on D before the leader's SGLang has answered on D + 13, so that a leader which is
        restarted after its members have started would not see them, and wait for them to its deadline. It is
        one more port of the meeting's, open as long as D is: SGLang opens it a moment later, for the same callers.
        """
        command, ports = self.plan.command, life_ports(self.port)
        if self._kind != LAUNCH or command is None or not command.attention_dp or len(ports) < len(SIGNS_OF_LIFE):
            return None
        try:
            return wire.listen_on(at, ports[-1])
        except OSError:
            return None

    def _met_at(self, address: IpAddress) -> IpAddress:
        """Return where the group meets: at the leader's address, if that is one that others can call.

        Debian gives a host's own name 127.0.1.1 in its /etc/hosts, while all others get its real address by DNS:
        there everything is listened on, as SGLang does it.
        """
        if not address.is_loopback or literal(self.name.host) is not None:
            return address
        return ip_address("0.0.0.0" if address.version == 4 else "::")  # noqa: S104

    def _with_new_card(self, gathered: Gathered, nonce: str, door: Door | None) -> Gathered:
        """Return what was gathered with this node's card as it is now: the last member may come after an hour."""
        own, *others = gathered.members
        if self.current_plan() is not self._shown:
            card, now = self.own_card(nonce, door), time.time()
            self._own_now = replace(own, card=card, greeted_at_s=now, received_at_s=now)
        if self._own_now is None:
            return gathered
        card = self._own_now.card
        commons = {**gathered.commons, card.digest: card.common or {}}
        return replace(gathered, members=[self._own_now, *others], commons=commons)

    def _concluded(self, gathered: Gathered) -> Concluded:
        verdict = self.verdict(gathered)
        self._concluded_from = gathered, verdict
        proof = self._proof(gathered)
        if self._kind == LAUNCH or self.identity.size > _WHOLE_TABLE or proof is not None:
            return Concluded(verdict, proof=proof)  # nobody would show it
        text = json.dumps(self.document, separators=(",", ":")).encode()
        return Concluded(verdict, text if len(text) <= wire.MOST_OF_A_TABLE else None)

    def _proof(self, gathered: Gathered) -> Proof | None:
        """Return which rails are to be proven before this counts, if any are."""
        off = self.launch.request.settings.prove_rails == "off"
        if off or gathered.proven is not None or gathered.absent or self.remaining_s <= 0:
            return None
        proof = Proof(nodes_of(gathered.members, gathered.commons), judged)
        return proof if proof.pairs else None

    def _prover(self) -> Prover:
        # In the order of the card: by their positions in it the leader pairs the rails.
        return starter(self._shown, self.launch.request)()

    @property
    def gathered(self) -> Gathered | None:
        """What the verdict of the meeting that this node has held was made of."""
        return self._concluded_from[0] if self._concluded_from is not None else None

    @property
    def document(self) -> Mapping[str, Any] | None:
        """The document of the meeting that this node has held; of 10,000 nodes it takes seconds."""
        return document(self.identity, *self._concluded_from) if self._concluded_from is not None else None

    def say_whom_it_calls(self) -> None:
        """Log who this worker is and whom it calls."""
        who = self.identity
        self.launch.log.say(
            f"worker {who.index} of {who.size}: calling the leader {self.name.host} on {self.port}"
        )

    def call(self, within_s: float, there: There | None = None) -> Met:
        """Call the leader until it has told the verdict. Raises ``EntryError`` (124)."""

        def make_card(called: Called) -> Card:
            self.plan_at(called.address, only_ipv6=called.only_ipv6)
            return self.own_card(called.nonce, called.door)

        policy = WaitPolicy.for_group(within_s, self.identity.size)
        own = self.launch.own_addresses
        index, prover = self.identity.index, self._prover
        caller = Caller(
            self.port, self._group, index, make_card, self.around, there, own, prover, self.stay_current
        )
        return caller.attend(self.name, policy)

    # ------------------------------------------------------------------------------------ the verdict

    def verdict(self, gathered: Gathered) -> Verdict:
        """Return the verdict on what was gathered; what was compared before a proof is not compared again."""
        rules = Rules(MUST_AGREE, SECRETS, self.launch.request.settings.strict)
        before, unproven = self._concluded_from, replace(gathered, proven=None)
        compared = before[1] if before is not None and before[0] == unproven else self._compared(unproven, rules)
        return with_proof(compared, gathered, rules)

    def _compared(self, gathered: Gathered, rules: Rules) -> Verdict:
        anyway = self.launch.request.settings.on_timeout == "exec" and self._kind == LAUNCH
        verdict = conclude(gathered, rules, self.identity.size, self._deadline_s, anyway=anyway)
        problems = errors_first((*verdict.problems, *self._left_out(gathered)))
        peers = peers_of(gathered.members, gathered.edges, self.identity.size)
        return replace(verdict, problems=problems, peers=peers)

    def _left_out(self, gathered: Gathered) -> list[Problem]:
        """Return the members that this leader's own list of peers leaves out."""
        given, command = self.plan.choice.constraints.given.get(ALLOWED_PEERS), self.plan.command
        allowed = allowed_peers(given.value) if given is not None else None
        if not allowed or not has_peers(self.plan.facts.sglang_version):
            return []
        endpoint = command.dist_init if command is not None else None
        pinned = endpoint is not None and literal(endpoint.host) is not None
        in_use = command is not None and command.attention_dp
        return check_given(allowed, gathered.members, gathered.edges, pinned=pinned, in_use=in_use)

    # ------------------------------------------------------------------------------------ the port

    def _listener(self, address: IpAddress) -> Any:
        try:
            return wire.listen_on(address, self.port)
        except OSError as failure:
            raise EntryError(
                "PORT_TAKEN",
                f"the group cannot meet on {address} port {self.port}: {failure.strerror}; "
                f"{self.who_is_there(address)}",
                "end what listens there (ss -ltnp), or choose another port for the whole group: --dist-init",
                CONFIGURATION,
            ) from failure

    def who_is_there(self, address: IpAddress) -> str:
        """Return what answers on D of ``address``, as a clause."""
        try:
            one, _ = answering.connect([address], self.port, wire.CONNECT_S)
        except NotYet as failure:
            return failure.cause
        with one:
            return answering.who_answers(one).detail
