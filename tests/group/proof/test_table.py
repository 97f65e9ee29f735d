"""What is shown of the rails: one line where all are alike, else node by rail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_roce_entry.group.meeting.proof.pairs import nodes_of
from sglang_roce_entry.report.rail_table import rail_lines, rails_document
from tests.group.members import Group, group
from tests.group.proof.fabric import Fabric, rail

if TYPE_CHECKING:
    from collections.abc import Callable


def rows(size: int, fault: Callable[[int, frozenset[int], bool], str], *, proves: int | None = None) -> list[Any]:
    """Return the rails of a group of which the first ``proves`` prove theirs."""
    many: Group = group(size, of_rails=lambda index: tuple(
        rail(index, position, needed=True if proves is None or index < proves else None) for position in range(3)
    ))  # fmt: skip
    members = many.members()
    return rails_document(members, Fabric(nodes_of(members, {}), fault).run().results())


def test_whole_rails_are_one_line() -> None:
    assert rail_lines(rows(8, lambda *_: "proven")) == [
        "rails: proven, RDMA passes both ways on 24 pairs (the slowest took 0.01 s)"
    ]


def test_a_node_that_differs_has_a_row() -> None:
    found = rows(8, lambda position, ends, _patient: "NO_WAY" if position == 1 and 5 in ends else "proven")
    assert rail_lines(found) == [
        "rails of  0       1       2",
        "0-3,7     proven  proven  proven",
        "4,6       proven  partly  proven",
        "5         proven  NO_WAY  proven",
    ]
    failed = [one for one in found if one["status"] == "failed"]
    assert [(one["from"], one["to"], one["cause"], one["direction"]) for one in failed] == [
        (4, 5, "NO_WAY", "both"),
        (5, 6, "NO_WAY", "both"),
    ]


def test_who_proves_nothing_is_not_tried() -> None:
    found = rows(4, lambda *_: "proven", proves=3)
    assert {one["status"] for one in found if 3 in (one["from"], one["to"])} == {"not_tried"}
    assert {one["status"] for one in found if 3 not in (one["from"], one["to"])} == {"proven"}


def test_nothing_was_sent() -> None:
    assert rail_lines(rails_document(group(3).members(), None)) == [
        "rails: compared, not proven (nothing was sent over them)"
    ]
    assert rail_lines([]) == []
