"""The verdict on everything that a meeting has gathered: cards, who is absent, the ring of neighbours. Pure."""

from __future__ import annotations

from dataclasses import replace

from sglang_roce_entry.group.attempts import within
from sglang_roce_entry.group.meeting.comparison.compare import Rules, judge
from sglang_roce_entry.group.meeting.comparison.reach import judge_reach
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.missing import AHEAD, sentence
from sglang_roce_entry.group.meeting.proof.across import judge_across
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.problems import DEADLINE, Problem, error, errors_first, hardened, warning


def conclude(gathered: Gathered, rules: Rules, size: int, deadline_s: float, *, anyway: bool = False) -> Verdict:
    """Return the verdict on a group of ``size`` that was given ``deadline_s`` to come.

    ``anyway``: those who are there start without the others.
    """
    verdict = judge(gathered.members, gathered.commons, rules)
    problems = [*verdict.problems, *judge_reach(gathered.edges, gathered.members)]
    ahead = [one for one in gathered.absent if one.state == AHEAD]
    if ahead:
        problems.append(_went_ahead("; ".join(map(str, ahead))))
    if gathered.overdue:
        problems.append(_incomplete(gathered, size, deadline_s, anyway=anyway))
    return with_proof(replace(verdict, problems=errors_first(problems)), gathered, rules)


def with_proof(verdict: Verdict, gathered: Gathered, rules: Rules) -> Verdict:
    """Return ``verdict`` with what the proof of the rails has found, if they were proven."""
    if gathered.proven is None:
        return verdict
    pods = {member.card.index: member.card.pod for member in gathered.members}
    found = (*judge_proof(gathered.proven, pods), *judge_across(gathered.proven, pods))
    return replace(verdict, problems=errors_first((*verdict.problems, *hardened(found, strict=rules.strict))))


def _incomplete(gathered: Gathered, size: int, deadline_s: float, *, anyway: bool) -> Problem:
    message = f"the group did not meet{within(deadline_s)}: {sentence(gathered.absent, size)}"
    hint = "look at the missing pods: kubectl get pods -o wide, kubectl describe pod; longer: --wait-deadline"
    if anyway:
        return warning("MEETING_INCOMPLETE", message, f"{hint}; launching anyway (on-timeout exec)")
    return error("MEETING_INCOMPLETE", message, hint, DEADLINE)


def _went_ahead(who: str) -> Problem:
    return warning(
        "MEMBER_AHEAD",
        f"started SGLang before this leader's launcher was restarted, and were not compared: {who}",
        "nothing, if the group serves; else delete the leader's pod, so that all start again",
    )
