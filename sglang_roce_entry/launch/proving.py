"""What the proof of the rails needs of verbs: the process that sends, and the judge of what two ends saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

from sglang_roce_entry.group.meeting.proof.errand import Start
from sglang_roce_entry.group.meeting.proof.pairs import BOTH, FAILED, FAR, NEAR, NOT_TRIED, Outcome
from sglang_roce_entry.group.meeting.proof.relay import PROOF_S
from sglang_roce_entry.plan.inputs import Request
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.plan.proof import verbs_rails
from sglang_roce_entry.verbs.judgement import OURS, THEIRS, TIMED_OUT, judge
from sglang_roce_entry.verbs.layouts import PORT_ACTIVE
from sglang_roce_entry.verbs.messages import MalformedError, Seen, read
from sglang_roce_entry.verbs.proof.prover import Running

#: What NCCL fails on as well: what the kernel refuses at INIT and RTR, where NCCL makes the same calls with the
#: same values, and what does not arrive.
_REFUSED = frozenset({"NO_NEIGHBOUR", "NO_ROUTE", "GID_REFUSED", "LID_REFUSED", "PKEY_REFUSED"})
_NOT_ARRIVED = frozenset({"NO_WAY", "NO_LID", "PKEY_DIFFERS", "LARGE_LOST"})
#: What either end may have seen of the other.
_OF_EITHER = frozenset({"NO_NEIGHBOUR", "GID_REFUSED", "LID_REFUSED"})
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
        _detail(ours, theirs, verdict.cause) if verdict.cause else "",
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


def _detail(ours: Seen, theirs: Seen | None, cause: str) -> str:
    """Return what the kernel or the completions have said, as the end of a sentence."""
    views = [seen for seen in (ours, theirs) if seen is not None and not seen.cause.startswith("PEER_")]
    told = [seen.detail for seen in views if seen.detail]
    if len(set(told)) == 2 or (len(told) == 1 and cause in _OF_EITHER):
        told = [f"{_end(seen)}: {seen.detail}" if _end(seen) else seen.detail for seen in views if seen.detail]
    if not told and theirs is not None:
        told = [text for seen in views for text in _changed(seen)] or [_memories(ours, theirs)]
    return "; ".join(dict.fromkeys(told))


def _changed(seen: Seen) -> Iterator[str]:
    """Yield what has become of a port while it was tried."""
    if seen.state_after not in (PORT_ACTIVE, 0):
        yield f"it went down while it was tried (state {seen.state_after})"
    elif seen.gid_after not in (seen.gid, ""):
        yield f"while it was tried {_address(seen.gid_after)} took the place of {_address(seen.gid)}"


def _memories(ours: Seen, theirs: Seen) -> str:
    ends = [_end(seen) for seen in (ours, theirs)]
    if "" in ends or ends[0] == ends[1]:
        ends = ["one end", "the other"]
    each = [
        f"{end} has completions {_numbers(seen.sent)} and {_numbers(seen.got)} bytes"
        for end, seen in zip(ends, (ours, theirs), strict=True)
    ]
    return f"{', '.join(each)} of {_numbers(ours.want)}"


def _end(seen: Seen) -> str:
    return f"LID {seen.lid}" if seen.lid is not None else _address(seen.gid)


def _address(gid: str) -> str:
    """Return the address that a GID of 32 digits is, ``""`` where there is none."""
    one = ip_address(int(gid, 16).to_bytes(16, "big")) if gid else ""
    return str((one.ipv4_mapped or one) if isinstance(one, IPv6Address) else one)


def _numbers(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
