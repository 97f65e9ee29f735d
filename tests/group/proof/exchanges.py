"""The members' ends of a proof: they say what real ends say, line by line, of a fabric that is told how it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.proof.relay import Proof, Proven
from sglang_roce_entry.launch.proving import judged
from sglang_roce_entry.verbs.messages import LARGEST_BYTES, READY, SENT, SMALL_BYTES, Offer, Seen, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang_roce_entry.group.meeting.proof.pairs import Nodes

_ALL = (SMALL_BYTES, LARGEST_BYTES, LARGEST_BYTES)
WHOLE = Seen("mlx5_0", step="send", sent=(0, 0, 0), got=_ALL, want=_ALL, state_after=4, seconds=0.01)
#: What an end sees of a way on which nothing passes, and of one on which no full packet does.
NOTHING = replace(WHOLE, sent=(12, 5, 5), got=(0, 0, 0))
SMALL_ONLY = replace(WHOLE, sent=(0, 12, 5), got=(SMALL_BYTES, 0, 0))
SAID = [
    written(one).rstrip()
    for one in (Offer(1 << 23, 1 << 22, "f" * 32, 5, 1 << 31, 1 << 47, LARGEST_BYTES, "e" * 32), READY, SENT)
]
_SILENT = written(replace(WHOLE, cause="PEER_SILENT", sent=(-1, -1, -1), got=(0, 0, 0))).rstrip()
#: An end gives its peer up after this.
GIVES_UP_S = {0: 8.0, 1: 20.0}

Line = tuple[int, bytes]


@dataclass(slots=True)
class _End:
    position: int
    patient: int
    began_s: float
    heard: int = 0
    done: bool = False


@dataclass
class Ends:
    """All ends of a group.

    ``sees``: the fabric, by a member, the rail's position, the peer (-1: before it is heard) and whether it is tried
    with patience; a view with a cause is that of an end that stops by itself.
    """

    sees: Callable[[int, int, int, int], Seen]
    #: Members whose process says nothing at all.
    mute: frozenset[int] = frozenset()
    begun: int = 0
    _ends: dict[tuple[int, int], _End] = field(default_factory=dict)
    _members: dict[int, list[int]] = field(default_factory=dict)

    def told(self, index: int, line: bytes, now_s: float) -> list[Line]:
        """Return what a member answers to a line of the leader's."""
        word, rest = wire.split(line)
        number, said = wire.split(rest)
        if index in self.mute:
            return []
        if word == wire.PROVE:
            return [(index, b"%s %s up" % (wire.PROVER, number))]
        if word == wire.PAIRS:
            return [one for row in json.loads(said) for one in self._begin(index, number, row, now_s)]
        key, message = wire.split(said)
        return self._hear(index, number, int(key), message)

    def _begin(self, index: int, number: bytes, row: list[int], now_s: float) -> list[Line]:
        pair, position, patient = row
        self.begun += 1
        self._ends[index, pair] = _End(position, patient, now_s)
        self._members.setdefault(pair, []).append(index)
        own = self.sees(index, position, -1, patient)
        if own.cause:
            return [self._see(index, number, pair, own)]
        return [(index, b"%s %s %d %s" % (wire.RAIL, number, pair, SAID[0]))]

    def _hear(self, index: int, number: bytes, pair: int, message: bytes) -> list[Line]:
        end = self._ends.get((index, pair))
        if end is None or end.done:
            return []
        if not message.startswith((b'{"kind":"offer"', b'{"kind":"ready"', b'{"kind":"sent"')):
            stopped = replace(WHOLE, cause="PEER_STOPPED", got=(0, 0, 0))
            return [self._see(index, number, pair, stopped)]
        end.heard += 1
        if end.heard < len(SAID):
            return [(index, b"%s %s %d %s" % (wire.RAIL, number, pair, SAID[end.heard]))]
        (peer,) = [one for one in self._members[pair] if one != index]
        return [self._see(index, number, pair, self.sees(index, end.position, peer, end.patient))]

    def _see(self, index: int, number: bytes, pair: int, seen: Seen) -> Line:
        self._ends[index, pair].done = True
        return index, b"%s %s %d %s" % (wire.SEEN, number, pair, written(seen).rstrip())

    def prove(self, known: Nodes) -> Proven:
        """Return what a proof of all rails comes to."""
        proof, now_s = Proof(known, judged), 0.0
        lines = proof.begin(1, now_s)
        while not proof.over:
            while lines:
                index, line = lines.pop(0)
                for member, answer in self.told(index, line, now_s):
                    lines += proof.took(member, *wire.split(answer), now_s)
            now_s += 0.5
            for member, answer in self.late(1, now_s):
                lines += proof.took(member, *wire.split(answer), now_s)
            lines += proof.tick(now_s)
        return proof.results()

    def late(self, number: int, now_s: float) -> list[Line]:
        """Return what ends say whose peers have said nothing for too long."""
        lines = []
        for (index, pair), end in self._ends.items():
            if not end.done and now_s >= end.began_s + GIVES_UP_S[end.patient]:
                end.done = True
                lines.append((index, b"%s %d %d %s" % (wire.SEEN, number, pair, _SILENT)))
        return lines
