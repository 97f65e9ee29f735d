"""The ring as the leader holds it: whom each member is told to dial, and what all have reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_roce_entry.group.endpoint import MAX_PORT, literal
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import shown
from sglang_roce_entry.group.meeting.comparison.reach import Edge, Neighbour

#: What a member may take for dialling its neighbours, with a margin for its way.
RING_S = wire.REACH_S + 2.0
_MOST = 2
_DETAIL_CHARACTERS = 200

#: Who dials, and whom.
_Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Round:
    """What one member is told to dial."""

    origin: int
    number: int
    those: Sequence[Neighbour]

    def line(self) -> bytes:
        """Return it as it is sent."""
        rows = [[one.index, one.address, one.port] for one in self.those]
        return b"%s %d %s\n" % (wire.REACH, self.number, json.dumps(rows, separators=(",", ":")).encode())


class Ring:
    """Who has been told to dial whom, and what has come of it.

    A connection that failed is tried once more when all are here: one lost packet must refuse no group.
    """

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[_Pair, tuple[int, float]] = {}
        self._tries: dict[_Pair, int] = {}
        self._edges: dict[_Pair, Edge] = {}
        self._partners: dict[int, set[int]] = {}

    def ask(self, wanted: Mapping[int, Sequence[Neighbour]], now: float) -> Iterator[Round]:
        """Yield what is still to be dialled of ``wanted``: what was not yet, and once more what failed."""
        for origin, those in wanted.items():
            due = [one for one in those if self._due((origin, one.index))]
            if not due:
                continue
            self._number += 1
            for one in due:
                pair = origin, one.index
                self._tries[pair] = self._tries.get(pair, 0) + 1
                self._waiting[pair] = self._number, now
                self._partners.setdefault(origin, set()).add(one.index)
                self._partners.setdefault(one.index, set()).add(origin)
            yield Round(origin, self._number, due)

    def _due(self, pair: _Pair) -> bool:
        edge, tries = self._edges.get(pair), self._tries.get(pair, 0)
        return tries == 0 or (tries == 1 and edge is not None and not edge.ok)

    def took(self, index: int, number: int, edges: Iterable[Edge]) -> None:
        """Take what ``index`` reports of a round; what it was not asked is left out."""
        for edge in edges:
            pair = index, edge.target
            if self._waiting.get(pair, (0,))[0] == number:
                del self._waiting[pair]
                self._edges[pair] = edge

    def forget(self, index: int) -> None:
        """Forget what concerns a member that is gone: who comes in its place listens elsewhere."""
        for other in self._partners.pop(index, ()):
            for pair in ((index, other), (other, index)):
                for kept in (self._waiting, self._tries, self._edges):
                    kept.pop(pair, None)

    def over(self, now: float) -> bool:
        """Return whether all who were asked have reported, or had the time for it."""
        return all(now >= since + RING_S for _, since in self._waiting.values())

    def edges(self) -> tuple[Edge, ...]:
        """Return what has been reported; a connection that is tried once more has not failed yet."""
        return tuple(edge for pair, edge in sorted(self._edges.items()) if edge.ok or self._tries[pair] > 1)


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
