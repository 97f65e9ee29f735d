"""A fabric in memory, and members that prove their rails over it as a launcher's process does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.group.meeting.proof.pairs import FAILED, NOT_TRIED, PROVEN, Judge, Nodes, Outcome
from sglang_roce_entry.group.meeting.proof.relay import Proof

if TYPE_CHECKING:
    from collections.abc import Callable

#: Judges what two ends have said: an end says what happened to it.
UNSEEN = Outcome(NOT_TRIED, "PEER_SILENT", "both")


def rail(index: int, position: int = 0, *, network: str | None = None, needed: bool | None = True) -> Rail:
    place = network or f"10.{position}.0.0/16"
    return Rail(f"mlx5_{position}", 1, place, f"10.{position}.0.{index + 1}", 3, 400.0, 4096, False, needed)


def nodes(size: int, rails: int = 1) -> Nodes:
    return Nodes(
        {index: tuple(rail(index, position) for position in range(rails)) for index in range(size)},
        {index: f"machine{index}" for index in range(size)},
    )


def judged(near: bytes | None, far: bytes | None) -> Outcome:
    said = near or far
    if said is None:
        return UNSEEN
    text = said.decode()
    if text == "proven":
        return Outcome(PROVEN, seconds=0.01)
    if text.startswith("PEER_"):
        return Outcome(NOT_TRIED, text, "both")
    if text in ("NO_NEIGHBOUR", "GID_REFUSED"):  # the kernel of one end says so, or those of both
        return Outcome(FAILED, text, "both" if near == far else "near", fatal=True, seconds=0.5)
    return Outcome(FAILED, text, direction="both", fatal=True, seconds=0.5)


@dataclass
class Fabric:
    """``fault`` gives what happens to a pair: by rail, its two members, and whether it is tried with patience.

    Of two different rails it is asked with -1.
    """

    nodes: Nodes
    fault: Callable[[int, frozenset[int], bool], str] = lambda *_: "proven"
    #: Members whose process never comes up; ends at its first pair; says what makes no sense.
    mute: frozenset[int] = frozenset()
    crash: frozenset[int] = frozenset()
    garbage: frozenset[int] = frozenset()
    #: All processes end as soon as something is tried again.
    late_crash: bool = False
    judge: Judge = judged
    now_s: float = 0.0
    #: What has been begun: rail, members, and whether with patience.
    begun: list[tuple[int, frozenset[int], bool]] = field(default_factory=list)
    _waiting: dict[int, tuple[int, int]] = field(default_factory=dict)
    _begun_s: float = 0.0

    def run(self) -> Proof:
        """Prove all rails, and return the proof when it is over."""
        proof = Proof(self.nodes, self.judge)
        lines = proof.begin(7, self.now_s)
        while not proof.over:
            while lines:
                for member, answer in self._answers(*lines.pop(0)):
                    lines += proof.took(member, *wire.split(answer), self.now_s)
            self.now_s += 0.5
            late = [] if self.now_s < self._begun_s + 8 else list(self._waiting.items())
            for pair, (index, _) in late:
                del self._waiting[pair]
                lines += proof.took(index, wire.SEEN, b"7 %d PEER_SILENT" % pair, self.now_s)
            assert self.now_s < 200, "it does not end"
            lines += proof.tick(self.now_s)
        return proof

    def _answers(self, index: int, line: bytes) -> list[tuple[int, bytes]]:
        word, rest = wire.split(line)
        number, said = wire.split(rest)
        if word == wire.PROVE and index not in self.mute:
            return [(index, b"PROVER %s up" % number)]
        if word == wire.RAIL and said.endswith(b" {}"):  # its peer is gone
            return [(index, b"SEEN %s %s PEER_MALFORMED" % (number, said.split()[0]))]
        if word != wire.PAIRS:
            return []
        rows = [] if index in self.garbage else json.loads(said)
        if index in self.crash or (self.late_crash and any(patient for _, _, patient in rows)):
            return [(index, b"PROVER %s no the process that proves them was ended by signal 11" % number)]
        if index in self.garbage:
            return [(index, b"RAIL %s \xff\x00" % number), (index, b"RAIL"), (index, b"SEEN 7 x y")]
        later = any(patient for _, _, patient in rows)
        assert later or len({position for _, position, _ in rows}) == len(rows), "a port holds one pair at a time"
        answers = []
        for pair, position, patient in rows:
            self._begun_s = self.now_s
            waiting = self._waiting.pop(pair, None)
            if waiting is None:
                self._waiting[pair] = index, position
                continue
            other, its_position = waiting
            ends, of_rail = frozenset((index, other)), position if position == its_position else -1
            self.begun.append((of_rail, ends, bool(patient)))
            what = self.fault(of_rail, ends, bool(patient)).encode()
            answers += [(end, b"SEEN %s %d %s" % (number, pair, what)) for end in ends]
        return answers
