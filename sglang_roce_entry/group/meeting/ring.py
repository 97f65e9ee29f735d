"""One round of the ring as the leader holds it: whom each member is told to dial, and what all have reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sglang_roce_entry.group.endpoint import MAX_PORT, literal
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import shown
from sglang_roce_entry.group.meeting.comparison.reach import Edge, Neighbour

#: What a member may take for dialling its neighbours, with a margin for its way.
RING_S = wire.REACH_S + 2.0
_MOST = 2
_DETAIL_CHARACTERS = 200


class Ring:
    """A round of dialling. A connection that failed is tried once more: one lost packet must refuse no group."""

    def __init__(self, asked: Mapping[int, tuple[Neighbour, ...]], number: int, now: float) -> None:
        self.asked, self.number, self.since = dict(asked), number, now
        self.second = False
        self._waiting = set(asked)
        self._edges: dict[tuple[int, int], Edge] = {}

    def line(self, index: int) -> bytes:
        """Return what member ``index`` is told, ``b""`` if it has nobody to dial."""
        asked = self.asked.get(index)
        if not asked:
            return b""
        rows = [[one.index, one.address, one.port] for one in asked]
        return b"%s %d %s\n" % (wire.REACH, self.number, json.dumps(rows, separators=(",", ":")).encode())

    def took(self, index: int, number: int, edges: Iterable[Edge]) -> None:
        """Take what ``index`` reports of this round; what it was not asked is left out."""
        if number != self.number or index not in self._waiting:
            return
        self._waiting.discard(index)
        expected = {one.index for one in self.asked[index]}
        for edge in edges:
            if edge.target in expected:
                self._edges[index, edge.target] = edge

    def over(self, now: float) -> bool:
        """Return whether all have reported, or had the time for it."""
        return not self._waiting or now >= self.since + RING_S

    def again(self, number: int, now: float) -> bool:
        """Ask once more for what failed; return whether there is anything to ask."""
        failed = {pair for pair, edge in self._edges.items() if not edge.ok}
        if self.second or not failed:
            return False
        self.asked = {
            index: kept
            for index, those in self.asked.items()
            if (kept := tuple(one for one in those if (index, one.index) in failed))
        }
        self.second, self.number, self.since, self._waiting = True, number, now, set(self.asked)
        return True

    def edges(self) -> tuple[Edge, ...]:
        """Return what has been reported; of a connection tried twice the second time."""
        return tuple(self._edges[pair] for pair in sorted(self._edges))


def read_neighbours(text: bytes) -> list[Neighbour]:
    """Return whom a leader tells this member to dial, two at most. Raises ``ValueError``."""
    found = []
    for row in _rows(text):
        index, address, port = row
        if not _whole(index) or not _whole(port) or not 0 < port <= MAX_PORT or literal(str(address)) is None:
            raise ValueError("not a neighbour")
        found.append(Neighbour(index, str(address), port))
    return found


def write_results(edges: Sequence[Edge], number: int) -> bytes:
    """Return what a member reports of the round ``number``."""
    rows = [[edge.target, edge.ok, edge.detail, edge.seen] for edge in edges]
    return b"%s %d %s" % (wire.REACHED, number, json.dumps(rows, separators=(",", ":")).encode())


def read_results(origin: int, text: bytes) -> list[Edge]:
    """Return what member ``origin`` reports. Raises ``ValueError``."""
    edges = []
    for row in _rows(text):
        target, ok, detail, seen = row
        if not _whole(target) or not isinstance(ok, bool):
            raise ValueError("not a result")
        told = shown(str(detail), _DETAIL_CHARACTERS)
        edges.append(Edge(origin, target, ok, told, None if seen is None else shown(str(seen), 64)))
    return edges


def _rows(text: bytes) -> list[list[Any]]:
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("no rows")
    return rows[:_MOST]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
