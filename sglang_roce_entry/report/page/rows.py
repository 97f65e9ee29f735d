"""The rows of a group's page: nodes that agree are one, and a node's rails are its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_roce_entry.group.meeting.proof.pairs import FAILED, NOT_TRIED, PROVEN
from sglang_roce_entry.report.rail_table import PARTLY, WORST_FIRST, results_by_end

#: A key with more values than this tells nodes apart that are meant to differ.
_MOST_VALUES = 8
#: So many nodes are a row each, although they agree.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One rail of one node: the worst that came of it, and all that did, each a rail of the document."""

    rail: Mapping[str, Any]
    status: str
    results: tuple[Mapping[str, Any], ...]

    @property
    def cause(self) -> str:
        """Why the rail failed, in a word, ``partly`` where it passed with a neighbour; empty if it did not."""
        if {FAILED, PROVEN} <= {one["status"] for one in self.results}:
            return PARTLY
        worst = next((one for one in self.results if one["status"] == self.status), None)
        return str(worst["cause"] or "") if worst is not None and self.status == FAILED else ""


@dataclass(frozen=True, slots=True)
class Row:
    """One node, or many that agree: in their state, in what came of their rails, in all that tells nodes apart."""

    nodes: tuple[Mapping[str, Any], ...]
    cells: tuple[tuple[Cell, ...], ...]  # of each node
    odd: tuple[str, ...]  # the keys in which these nodes are not as the others


def rows_of(shown: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a rehearsal's document, in the order of their first nodes."""
    results = results_by_end(shown["rails"])
    groups = _groups(shown["differences"])
    kinds: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], tuple[Cell, ...]]]] = {}
    for node in shown["nodes"]:
        index, refusal = node["index"], node["refusal"]
        cells = tuple(_cell(rail, results.get((index, rail["position"]), ())) for rail in node["rails"])
        kind = (
            node["state"],
            (refusal["code"], refusal["message"]) if refusal is not None else None,
            tuple((cell.status, cell.cause) for cell in cells),
            groups.get(index, ()),
        )
        kinds.setdefault(kind, []).append((node, cells))
    odd = _odd(shown["differences"])
    rows = []
    for alike in kinds.values():
        for those in [alike] if len(alike) > _FEW else [[one] for one in alike]:
            nodes, cells = zip(*those, strict=True)
            rows.append(Row(nodes, cells, odd.get(nodes[0]["index"], ())))
    return sorted(rows, key=lambda row: int(row.nodes[0]["index"]))


def _cell(rail: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Cell:
    found = {one["status"] for one in results}
    return Cell(rail, next((one for one in WORST_FIRST if one in found), NOT_TRIED), tuple(results))


def _groups(differences: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, ...]]:
    """Return for each node what it says where nodes differ: its value, or that it is the odd one."""
    said: dict[int, tuple[str, ...]] = {}
    for one in differences:
        odd = frozenset(one["odd"] or ())
        for value, indices in one["values"].items():
            for index in indices:
                told = value if len(one["values"]) <= _MOST_VALUES else "odd" if index in odd else ""
                said[index] = (*said.get(index, ()), f"{one['key']} {told}")
    return said


def _odd(differences: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for one in differences:
        for index in one["odd"] or ():
            found[index] = (*found.get(index, ()), one["key"])
    return found
