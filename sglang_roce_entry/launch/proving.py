"""What the proof of the rails needs of verbs: the process that sends, and the judge of what two ends saw."""

from __future__ import annotations

from dataclasses import replace

from sglang_roce_entry.group.meeting.proof.errand import Start
from sglang_roce_entry.group.meeting.proof.pairs import BOTH, FAILED, FAR, NEAR, NOT_TRIED, Outcome
from sglang_roce_entry.group.meeting.proof.relay import PROOF_S
from sglang_roce_entry.plan.inputs import Request
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.plan.proof import verbs_rails
from sglang_roce_entry.verbs.judgement import OURS, THEIRS, TIMED_OUT, judge
from sglang_roce_entry.verbs.messages import MalformedError, Seen, read
from sglang_roce_entry.verbs.proof.prover import Running

#: What NCCL fails on as well: what the kernel refuses at INIT and RTR, where NCCL makes the same calls with the
#: same values, and what does not arrive.
_REFUSED = frozenset({"NO_NEIGHBOUR", "NO_ROUTE", "GID_REFUSED", "LID_REFUSED", "PKEY_REFUSED"})
_NOT_ARRIVED = frozenset({"NO_WAY", "NO_LID", "PKEY_DIFFERS", "LARGE_LOST"})
_ENDS = {OURS: NEAR, THEIRS: FAR, BOTH: BOTH}
_OTHER = {NEAR: FAR, FAR: NEAR}
_OTHER_WAY = {"out": "in", "in": "out"}


def starter(plan: Plan, request: Request) -> Start:
    """Return what starts the process that proves the rails of ``plan``."""
    rails = verbs_rails(plan)
    return lambda: Running(rails, request.environ, PROOF_S)


def judged(near: bytes | None, far: bytes | None) -> Outcome:
    """Return what both ends of a pair saw as one outcome; ``None`` of an end that said nothing."""
    ours, theirs = _seen(near), _seen(far)
    if ours is None:
        if theirs is None:
            return Outcome(NOT_TRIED, "PEER_SILENT", BOTH, detail="neither end has reported in time")
        mirrored = judged(far, None)
        return replace(
            mirrored,
            end=_OTHER.get(mirrored.end, mirrored.end),
            direction=_OTHER_WAY.get(mirrored.direction, mirrored.direction),
        )
    verdict = judge(ours, theirs)
    views = [ours] if theirs is None else [ours, theirs]
    timed_out = all(set(seen.sent) <= TIMED_OUT for seen in views)
    fatal = verdict.cause in _REFUSED or (verdict.cause in _NOT_ARRIVED and timed_out)
    return Outcome(
        verdict.status,
        verdict.cause,
        _ENDS.get(verdict.end, ""),
        verdict.direction,
        _detail(ours, theirs) if verdict.cause else "",
        max(seen.seconds for seen in views),
        fatal=fatal and verdict.status == FAILED,
    )


def _seen(line: bytes | None) -> Seen | None:
    if line is None:
        return None
    try:
        message = read(line)
    except MalformedError:
        return None
    return message if isinstance(message, Seen) else None


def _detail(ours: Seen, theirs: Seen | None) -> str:
    """Return what the kernel or the completions have said, as the end of a sentence."""
    views = [seen for seen in (ours, theirs) if seen is not None and not seen.cause.startswith("PEER_")]
    told = [seen.detail for seen in views if seen.detail]
    if not told and theirs is not None:
        completions = f"completions {_numbers(ours.sent)} and {_numbers(theirs.sent)}"
        arrived = f"{_numbers(ours.got)} and {_numbers(theirs.got)} of {_numbers(ours.want)}"
        told = [f"{completions}, bytes arrived {arrived}"]
    return "; ".join(dict.fromkeys(told))


def _numbers(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
