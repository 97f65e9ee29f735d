"""Ports proven against themselves, in a process of its own: provider, memlock, GID and queue pairs without a peer.

The process answers line by line: ``at <number>`` when a port's turn comes, and behind it two lines
``seen <what an end saw>``; or, for all of them, ``unknown <why>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from sglang_roce_entry.verbs.child import Answers
from sglang_roce_entry.verbs.device import Device, Verbs
from sglang_roce_entry.verbs.end import stopped
from sglang_roce_entry.verbs.exchange import loop_back
from sglang_roce_entry.verbs.judgement import NOT_TRIED, Verdict, judge
from sglang_roce_entry.verbs.loading import NotLoadedError, VerbsError
from sglang_roce_entry.verbs.messages import MalformedError, Rail, Seen, read, written
from sglang_roce_entry.verbs.supervise import Ended, run_apart

#: For all ports. One takes some 0.01 s, 0.3 s under emulation; one on which packets vanish 2 s.
DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Loop:
    """What became of one port; ``seen`` by the end that has more to tell."""

    rail: Rail
    verdict: Verdict
    seen: Seen


def prove_loops(rails: Sequence[Rail], environ: Mapping[str, str], deadline_s: float = DEADLINE_S) -> list[Loop]:
    """Return the outcome of each rail. A provider that crashes or hangs is one, never an exception."""
    work = json.dumps([asdict(rail) for rail in rails])
    return read_loops(rails, run_apart("proof.looped", [str(deadline_s), work], environ, deadline_s))


def read_loops(rails: Sequence[Rail], ended: Ended) -> list[Loop]:
    """Return what the process has answered."""
    reached, seen, unknown = -1, dict[int, list[Seen]](), ""
    for line in ended[0].splitlines():
        kind, _, rest = line.partition(b" ")
        if kind == b"unknown":
            unknown = rest.decode("utf-8", "replace")
        elif kind == b"at":
            reached += 1
        elif kind == b"seen":
            seen.setdefault(reached, []).extend(_read(rest))
    return [
        _loop(rail, number, reached, seen.get(number, []), unknown, ended) for number, rail in enumerate(rails)
    ]


def _read(line: bytes) -> Iterator[Seen]:
    try:
        message = read(line)
    except MalformedError:
        return
    if isinstance(message, Seen):
        yield message


def _loop(rail: Rail, number: int, reached: int, seen: Sequence[Seen], unknown: str, ended: Ended) -> Loop:
    if len(seen) == 2:
        near, far = seen
        return Loop(rail, judge(near, far), far if far.cause and not near.cause else near)
    broke = f"the process that tried it {ended[1]}" if ended[1] else "gave no answer"
    why = unknown or (broke if number == reached or reached < 0 else "its turn did not come")
    return Loop(rail, Verdict(NOT_TRIED, "CHILD_FAILED"), replace(Seen(rail.device, rail.port), detail=why))


def main(arguments: list[str]) -> None:
    """Be that process: prove the rails of ``arguments[1]``, a JSON list, within ``arguments[0]`` seconds."""
    answers = Answers(float(arguments[0]))
    try:
        verbs = Verbs.unlocked()
    except (NotLoadedError, VerbsError) as error:
        answers.say(f"unknown {error}")
        return
    devices: dict[str, Device] = {}
    for number, values in enumerate(json.loads(arguments[1])):
        rail = Rail(**values)
        answers.say(f"at {number}")
        for seen in _proven(verbs, devices, rail):
            answers.say(f"seen {written(seen).decode().rstrip()}")


def _proven(verbs: Verbs, devices: dict[str, Device], rail: Rail) -> tuple[Seen, Seen]:
    try:
        if rail.device not in devices:
            devices[rail.device] = Device(verbs, rail.device, rail.node)
        return loop_back(devices[rail.device], rail)
    except VerbsError as failure:
        seen = stopped(Seen(rail.device, rail.port), failure)
        return seen, seen
