"""The rails of a meeting: each between two members as the document has it, and node by rail as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.proof.found import status_of
from sglang_roce_entry.group.meeting.proof.pairs import FAILED, LOSSY, NOT_TRIED, PROVEN, Outcome, Pair, ring_of
from sglang_roce_entry.group.meeting.proof.relay import Proven
from sglang_roce_entry.natural import runs_of

WORST_FIRST = (FAILED, LOSSY, NOT_TRIED, PROVEN)
#: A rail that passes with one neighbour and not with the other.
PARTLY = "partly"
_MOST_ROWS = 64
_COMPARED = "compared only: no packet was sent over it"


def rails_document(members: Sequence[Member], proven: Proven | None) -> list[dict[str, Any]]:
    """Return each rail between neighbours: what came of it, or that nothing was sent over it.

    ``direction`` is ``out`` from ``from`` to ``to``, ``in`` the other way, or ``both``.
    """
    return list(rail_rows(members, proven))


def rail_rows(members: Sequence[Member], proven: Proven | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of :func:`rails_document` one by one: of 10,000 nodes there are many."""
    outcomes = dict(proven or ())
    rails = {member.card.index: len(member.card.own.rails) for member in members}
    neighbours = (
        Pair(position, near, far)
        for near, far in ring_of(rails)
        for position in range(min(rails[near], rails[far]))
    )
    pairs = sorted({*outcomes, *neighbours}, key=_place) if outcomes else neighbours  # they come in this order
    for pair in pairs:
        found = outcomes.get(pair)
        yield _row_of(pair, found) if found else _row(pair, NOT_TRIED, None, None, None, _COMPARED)


def _place(pair: Pair) -> tuple[int, int, int]:
    return pair.near, pair.far, pair.position


def across_document(proven: Proven | None) -> dict[str, list[dict[str, Any]]]:
    """Return ``across``, what came of rails of other positions; nothing where none were tried."""
    tried = proven.across if proven is not None else []
    rows = [{**_row_of(pair, outcome), "to_position": pair.ports[1][1]} for pair, outcome in tried]
    return {"across": rows} if rows else {}


def _row_of(pair: Pair, outcome: Outcome) -> dict[str, Any]:
    status, cause = status_of(outcome)
    return _row(pair, status, cause or None, outcome.direction or None, outcome.seconds, outcome.detail)


def _row(
    pair: Pair, status: str, cause: str | None, direction: str | None, seconds: float | None, detail: str
) -> dict[str, Any]:
    return {
        "position": pair.position,
        "from": pair.near,
        "to": pair.far,
        "status": status,
        "cause": cause,
        "direction": direction,
        "seconds": seconds,
        "detail": detail,
    }


def rail_lines(rails: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is shown of the rails: one line where all are alike, else a table of nodes by rails.

    A cell is the worst that came of a rail of a node, ``partly`` where it passed with one neighbour and not with
    the other; nodes that are alike are one row.
    """
    statuses = {rail["status"] for rail in rails}
    if statuses <= {NOT_TRIED}:
        return ["rails: compared, not proven (nothing was sent over them)"] if rails else []
    if statuses == {PROVEN}:
        slowest_s = max(float(rail["seconds"] or 0.0) for rail in rails)
        each = f"{len(rails)} pairs" if len(rails) > 1 else "1 pair"
        return [f"rails: proven, RDMA passes both ways on {each} (the slowest took {slowest_s:.2f} s)"]
    columns = sorted({int(rail["position"]) for rail in rails})
    results = results_by_end(rails)
    rows: dict[tuple[str, ...], list[int]] = {}
    for index in sorted({index for index, _ in results}):
        rows.setdefault(tuple(_cell(results.get((index, column), ())) for column in columns), []).append(index)
    table = [("rails of", *(str(column) for column in columns))]
    table += [(",".join(runs_of(alike)), *row) for row, alike in list(rows.items())[:_MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def across_lines(across: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line on rails of other positions, none where none were tried."""
    passed = sum(one["status"] in (PROVEN, LOSSY) for one in across)
    return (
        [f"rails across, each to the next one of its neighbours: {passed} of {len(across)} pass"] if across else []
    )


def results_by_end(rails: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[Mapping[str, Any]]]:
    """Return what came of each rail of each node, by the node's index and the rail's position."""
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for rail in rails:
        for index in (rail["from"], rail["to"]):
            found.setdefault((index, rail["position"]), []).append(rail)
    return found


def _cell(rails: Sequence[Mapping[str, Any]]) -> str:
    statuses = {rail["status"] for rail in rails}
    if {FAILED, PROVEN} <= statuses:
        return PARTLY
    worst = min(rails, key=lambda rail: WORST_FIRST.index(rail["status"]), default=None)
    if worst is None:
        return "-"
    return str(worst["cause"] or worst["status"]) if worst["status"] == FAILED else str(worst["status"])
