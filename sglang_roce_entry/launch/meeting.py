"""The meeting of a launch: all launchers of a group come together, and all go on, or none does."""

from __future__ import annotations

from functools import partial
from time import monotonic, sleep

from sglang_roce_entry.group import wait as waiting
from sglang_roce_entry.group.attempts import WaitPolicy
from sglang_roce_entry.group.meeting.caller import There
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.leader import Leader as MeetingLeader
from sglang_roce_entry.group.meeting.leader import enough_descriptors
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.group.wait import Awaited, life_ports
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.launch.gathering import LAUNCH, Gathering
from sglang_roce_entry.launch.steps import Launch, Refused, log_problems
from sglang_roce_entry.plan.peers import has_peers
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.problems import DEADLINE, EntryError
from sglang_roce_entry.report.rehearsal import held_lines

#: A refusal is every pod's end within two seconds: so long others may still come and be told with the rest.
_PATIENCE_S = 1.0
#: A member that cannot start tells its group for as long as it lingers: by default at least so long.
_TELL_S = 2.0
#: SGLang can bind D within milliseconds of our close; whoever else has taken it meanwhile is named.
_FREE_AGAIN_S = 1.0


def meet(launch: Launch, plan: Plan, facts: HostFacts) -> Plan:
    """Return the plan with which this node goes on, as all of its group do.

    Raises ``EntryError``, ``Interrupted``.
    """
    if plan.identity is None:
        raise ValueError("nobody meets without an identity")
    gathering = Gathering(launch, plan.identity, plan, facts, LAUNCH, _PATIENCE_S)
    one = _Meeting(gathering)
    refused = Refused.by(plan.problems, one.tell)
    if refused is not None:
        gathering.refusal = refused  # also where a later plan would find nothing to refuse for
        raise refused
    try:
        one.lead() if plan.identity.is_leader else one.call()
    except Refused:
        raise
    except EntryError as failure:
        if failure.exit_code == DEADLINE and launch.request.settings.on_timeout == "exec":
            leader = launch.leader_anyway(gathering.name, failure, facts)
            return launch.planned_again(plan, facts, leader)
        launch.log.problem(failure)
        gathering.refusal = failure
        raise Refused(failure, (), None if failure.exit_code == DEADLINE else one.tell) from failure
    return gathering.current_plan()


class _Meeting:
    """A launch's part in the meeting of its group."""

    def __init__(self, gathering: Gathering) -> None:
        self.gathering = gathering
        self._launch, self._identity = gathering.launch, gathering.identity

    def lead(self) -> None:
        """Hold the meeting, and return with nothing of it left on D."""
        one, launch = self.gathering, self._launch
        awaited = self._own_name(one.remaining_s)
        self._ports(awaited.address)
        with enough_descriptors(self._identity.size):
            concluded, held = one.lead(awaited)
        launch.log.say_all(held_lines(one.gathered) if one.gathered is not None else ())
        self._heed(concluded.verdict, held)
        rendezvous = ("*", one.port, "rendezvous, --dist-init-addr")
        waiting.await_free_ports([rendezvous], WaitPolicy(_FREE_AGAIN_S, 0.1, 0.01), one.around)

    def call(self) -> None:
        """Call the leader, and return when all may go."""
        one, launch = self.gathering, self._launch
        self._ports(None)
        command = one.plan.command
        one.say_whom_it_calls()
        beside = life_ports(one.port)[1:] if command is not None and command.attention_dp else ()
        met = one.call(one.remaining_s, There(command.ranks if command is not None else None, beside))
        if met.ahead is None:
            self._heed(met.verdict, None)
        elif met.address is not None:
            launch.log.say(f"{met.ahead}: no meeting is held, this pod alone was restarted and starts by itself")
            one.plan_at(met.address, only_ipv6=met.only_ipv6)
            one.accept(Peers(why="no meeting was held: this pod alone was restarted"))
            if beside and has_peers(one.plan.facts.sglang_version):
                launch.log.say(
                    "the leader's SGLang accepts the addresses that have met: if this pod's is a new one, nothing "
                    "of it arrives, and SGLang gives up after 600 s: delete the leader's pod, for a new group"
                )

    def tell(self, linger_s: float) -> None:
        """Bring what keeps this node from starting to the meeting, for as long as it lingers anyway."""
        until = monotonic() + linger_s
        within_s = linger_s if self._launch.request.settings.linger is not None else max(linger_s, _TELL_S)
        if within_s <= 0:
            return
        try:
            if self._identity.is_leader:
                self._tell_as_leader(within_s)
            else:
                self.gathering.call(within_s)
                self._launch.log.say(f"the group of {self.gathering.name.host} was told")
        except EntryError as failure:
            self._launch.log.say(f"the group was not told: {failure.message}")
        sleep(max(0.0, until - monotonic()))

    def _tell_as_leader(self, within_s: float) -> None:
        one, until = self.gathering, monotonic() + within_s
        awaited = self._own_name(within_s)
        with enough_descriptors(self._identity.size):
            _, held = one.lead(awaited)
        self._stay(held, until - monotonic())

    def _stay(self, held: MeetingLeader, linger_s: float) -> None:
        """Tell late callers why the group does not start; they may be many."""
        with enough_descriptors(self._identity.size):
            held.stay(linger_s)

    def _own_name(self, within_s: float) -> Awaited:
        return self._launch.await_own_name(self.gathering.name, WaitPolicy(within_s), self.gathering.around)

    def _ports(self, own: IpAddress | None) -> None:
        """Wait until SGLang can bind its ports here; of a D that stays taken it is said what answers there."""
        one = self.gathering
        try:
            self._launch.await_ports(one.plan, one.remaining_s, one.around)
        except EntryError as failure:
            if own is None or f"{one.port} (" not in failure.message:
                raise
            said = f"{failure.message}; on {one.port}: {one.who_is_there(own)}"
            raise EntryError(failure.code, said, failure.hint, failure.exit_code) from failure

    def _heed(self, verdict: Verdict, held: MeetingLeader | None) -> None:
        """Log the verdict, and raise it where it is one against the group."""
        log_problems(verdict.problems, self._launch.log)
        refused = Refused.by(verdict.problems, partial(self._stay, held) if held is not None else None)
        if refused is not None:
            raise refused
        self.gathering.accept(verdict.peers)
        warnings = len(verdict.problems)
        said = f"{warnings} warning{'s' if warnings != 1 else ''}" if warnings else "all nodes agree"
        self._launch.log.say(f"the group of {self._identity.size} has met: {said}")
