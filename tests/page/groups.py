"""Documents of rehearsals as a large fabric gives them: proven rails, and what went wrong with some."""

from __future__ import annotations

from typing import Any

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting.card import Refusal
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.report.rehearsal import document
from tests.group.members import Group, group

REFUSAL = Refusal("NO_USABLE_HCA", "no port can be used: 8 of 8 are DOWN", "look at the node", 69)
#: What became of a rail between two nodes, by the position of the rail in a group that is not well.
UNWELL: dict[int, dict[str, Any]] = {
    1: {"status": "lossy", "cause": "LOSSY", "direction": "in", "seconds": 9.4, "detail": "3 of 64 messages were lost"},
    3: {
        "status": "failed", "cause": "LARGE_LOST", "direction": "out", "seconds": 12.0,
        "detail": "small packets arrive, packets of the RoCE MTU 4096 do not: is an MTU on the way smaller?",
    },
    6: {"status": "not_tried", "cause": "NO_LIBRARY", "direction": None, "seconds": None, "detail": "libibverbs is missing"},
}  # fmt: skip


def rehearsed(one: Group, absent: tuple[Absent, ...] = (), reach: tuple[Edge, ...] = ()) -> dict[str, Any]:
    """Return the document of a group that has met."""
    identity = Identity("sglang-0.sglang.default", len(one.cards) + len(absent), 0, "LWS_*")
    gathered = Gathered(one.members(), one.commons(), absent, reach, overdue=False)
    return document(identity, gathered, one.verdict())


def proven(shown: dict[str, Any], *unwell: int) -> dict[str, Any]:
    """Return the document with every rail proven, but for some of these nodes to their next."""
    for rail in shown["rails"]:
        well = {"status": "proven", "cause": None, "direction": None, "seconds": 0.12, "detail": ""}
        rail.update(UNWELL.get(rail["position"], well) if rail["from"] in unwell else well)
    return shown


def well(size: int) -> dict[str, Any]:
    """Return a group where all agree."""
    return proven(rehearsed(group(size)))


def unwell(size: int = 16) -> dict[str, Any]:
    """Return a group where one refuses, one does not come, two do not reach each other, and rails fail."""
    one = group(size - 1).but(2, refusal=REFUSAL, rails=())
    absent = (Absent(size - 1, f"sglang-0-{size - 1}", "missing", "its name does not resolve"),)
    return proven(rehearsed(one, absent, (Edge(3, 4, ok=False, detail="connection refused"),)), 8)


def unlike(size: int = 16) -> dict[str, Any]:
    """Return a group where a node has another release, one another driver, and one an argument of its own."""
    one = group(size).but(5, {"sglang": "0.5.22", "driver": "570.86"}).but(7, {"--dtype": "half"})
    return proven(rehearsed(one))
