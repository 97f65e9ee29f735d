"""The document of a rehearsal against its contract, and the table that is made of it."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting.card import Refusal
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.report.rehearsal import (
    as_text,
    document,
    held_lines,
    ranges,
    received_document,
    table_lines,
)
from tests.group.members import Group, group, rails

if TYPE_CHECKING:
    from collections.abc import Sequence


def keys(*names: str, **types: Any) -> dict[str, Any]:
    every = {**{name: {} for name in names}, **types}
    return {"type": "object", "required": list(every), "properties": every, "additionalProperties": False}


def of(kind: str, *more: str) -> dict[str, Any]:
    return {"type": [kind, *more]}


def listed(of_what: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of_what}


INDICES = listed(of("integer"))
RAIL = keys(
    "device", position=of("integer"), port=of("integer"), network=of("string", "null"), gid=of("string", "null"),
    gid_index=of("integer", "null"), rate_gbps=of("number", "null"), roce_mtu=of("integer", "null"), lid=of("integer", "null"),
)  # fmt: skip
NODE = keys(
    "pod", index=of("integer"), state={"enum": ["present", "refused", "missing", "left"]}, address=of("string", "null"),
    gpus=of("integer", "null"), rails=listed(RAIL), versions={"type": "object", "additionalProperties": of("string")},
    refusal={"anyOf": [of("null"), keys(code=of("string"), message=of("string"), exit_code=of("integer"))]},
)  # fmt: skip
CONTRACT = keys(
    format={"const": 1},
    identity=keys("leader", "source", size=of("integer"), index=of("integer")),
    nodes=listed(NODE),
    differences=listed(
        keys(
            "key", "code", "message", severity={"enum": ["error", "warning", "info"]},
            values={"type": "object", "additionalProperties": INDICES}, odd={"anyOf": [of("null"), INDICES]},
        )
    ),
    reach=listed(keys("detail", **{"from": of("integer"), "to": of("integer"), "ok": of("boolean")})),
    rails=listed(
        keys(
            "cause", "direction", "seconds", "detail", position=of("integer"),
            status={"enum": ["proven", "lossy", "failed", "not_tried"]}, **{"from": of("integer"), "to": of("integer")},
        )
    ),
    problems=listed(keys("code", "message", "hint", severity={"enum": ["error", "warning"]})),
    exit_code=of("integer"),
)  # fmt: skip


def rehearsed(one: Group, absent: Sequence[Absent] = (), reach: Sequence[Edge] = ()) -> dict[str, Any]:
    identity = Identity("sglang-0.sglang", len(one.cards) + len(absent), 0, "LWS_*")
    gathered = Gathered(one.members(), one.commons(), absent, reach, overdue=False)
    made = document(identity, gathered, one.verdict())
    import_module("jsonschema").validate(made, CONTRACT)  # its types are another package
    assert json.loads(json.dumps(made)) == made
    assert held_lines(gathered) == table_lines(made)
    return made


REFUSAL = Refusal("NO_USABLE_HCA", "no port can be used", "look at the node", 69)


@pytest.mark.parametrize(
    "one",
    [
        group(2), group(8), group(1), group().but(1, {"--dtype": "half"}, rails=()), group().but(1, {"gpus": "many"}),
        group().but(3, refusal=REFUSAL), group().but(2, machine="machine0", namespace="namespace0"),
        group().but(2, rails=rails(2, ("10.99.0.0/16",))), group(common={}),
    ],
)  # fmt: skip
def test_the_contract(one: Group) -> None:
    made = rehearsed(one)
    assert [node["index"] for node in made["nodes"]] == [card.index for card in one.cards]
    assert made["exit_code"] == one.verdict().exit_code
    assert as_text(made).endswith(".\n")


def test_every_rail_of_the_ring_is_not_tried_yet() -> None:
    two, eight = rehearsed(group(2)), rehearsed(group(8))
    assert [(rail["from"], rail["to"]) for rail in two["rails"]] == [(0, 1)] * 8
    assert len(eight["rails"]) == 64
    assert eight["rails"][-1] | {"detail": ""} == {
        "position": 7,
        "from": 7,
        "to": 0,
        "status": "not_tried",
        "cause": None,
        "direction": None,
        "seconds": None,
        "detail": "",
    }


def test_64_nodes_that_agree_are_a_few_lines() -> None:
    lines = table_lines(rehearsed(group(64)))
    assert len(lines) == 3
    assert lines[0] == "64 of 64 nodes: sglang-0, sglang-0-[1-63]"
    assert lines[1].startswith(
        "all of them: 8 GPUs, 8 rails, 400 Gb/s, RoCE MTU 4096, IPv4, GID index 3, SGLang 0.5.23"
    )


def test_a_worker_that_knows_itself_alone_counts_nobody() -> None:
    lines = table_lines(
        {**rehearsed(group(1)), "identity": {"leader": "sglang-0", "size": 3, "index": 1, "source": ""}}
    )
    assert lines[0] == "of 3 nodes this one: sglang-0"
    assert lines[1].startswith("it has: 8 GPUs, ")


def test_only_columns_that_differ_are_columns() -> None:
    text = as_text(rehearsed(group(8).but(5, {"sglang": "0.5.22"})))
    assert "  index    pod                           SGLang\n" in text
    assert "  0-4,6-7  sglang-0, sglang-0-[1-4,6-7]  0.5.23\n" in text
    assert "  5        sglang-0-5                    0.5.22\n" in text
    assert text.endswith("The group would end with exit code 78 (SGLANG_DIFFERS).\n")


def test_who_is_not_there_and_who_is_not_reached() -> None:
    absent = [Absent(index, f"sglang-0-{index}", "missing", "does not resolve") for index in (4, 5, 6)]
    made = rehearsed(group(4), absent, [Edge(1, 2, False, "refused")])
    assert "missing: 4-6 (sglang-0-[4-6])" in table_lines(made)
    assert "1 does not reach 2: refused" in table_lines(made)
    unnamed = [Absent(4, "", "missing", "has not called")]
    assert "missing: 4" in table_lines(rehearsed(group(4), unnamed))
    refused = rehearsed(group(4).but(2, refusal=REFUSAL))
    assert "refused: 2 (sglang-0-2)" in table_lines(refused)
    assert refused["nodes"][2]["refusal"] == {
        "code": "NO_USABLE_HCA",
        "message": "no port can be used",
        "exit_code": 69,
    }


def test_all_different_is_bounded() -> None:
    many = group(200)
    for index in range(200):
        many = many.but(index, {"driver": f"580.{index}"})
    assert len(table_lines(rehearsed(many))) < 80


NO_PART: list[Any] = [None, [1], [{}], [[]], {"a": 1}, "text"]
RED = "\x1b[31mred\x1b[0m\n\u202e\ud800"


def test_what_the_leader_sends_is_shown_with_the_own_identity() -> None:
    whole, own = rehearsed(group(8)), rehearsed(group(1))
    own["identity"] = {**own["identity"], "index": 5}
    assert received_document(json.dumps(whole).encode(), own) == {**whole, "identity": own["identity"]}


def test_what_a_newer_leader_knows_besides_is_left_out() -> None:
    whole, own = rehearsed(group(8)), rehearsed(group(1))
    assert received_document(json.dumps({**whole, "weather": []}).encode(), own) == {
        **whole,
        "identity": own["identity"],
    }


def test_nothing_that_was_sent_is_printed_raw() -> None:
    whole, own = rehearsed(group(4).but(2, {"sglang": "0.5.22"})), rehearsed(group(1))
    for node in whole["nodes"]:
        node |= {"pod": RED, "versions": {"sglang": RED + str(node["index"]), RED: RED}}
    whole["problems"][0] |= {"message": RED * 3000, "hint": RED, "code": RED}
    shown = received_document(json.dumps(whole).encode(), own)
    assert shown is not own
    text = as_text(shown)
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text) < 10_000


@pytest.mark.parametrize(
    "sent",
    [
        None, b"", b"{}", b"[]", b"null", b"3", b"[" * 90_000, b"\xff",
        *(
            json.dumps({**rehearsed(group(2)), name: value}).encode()
            for name in ("nodes", "problems", "exit_code", "reach", "rails", "across")
            for value in NO_PART
        ),
    ],
)  # fmt: skip
def test_what_is_no_document_is_not_shown(sent: bytes | None) -> None:
    own = rehearsed(group(1))
    shown = received_document(sent, own)
    assert as_text(shown).endswith(".\n")


def test_ranges() -> None:
    assert ranges([5, 1, 2, 3, 9, 10]) == "1-3,5,9-10"
    assert ranges([]) == ""
