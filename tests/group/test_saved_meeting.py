"""A saved meeting gives the same verdict again; and whatever a file holds, it is compared or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting.card import Refusal
from sglang_roce_entry.group.meeting.comparison.conclusion import conclude
from sglang_roce_entry.group.meeting.comparison.parts import MOST_BYTES, MeetingFileError
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.comparison.saved import Saved, read_saved, write_saved
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.proof.pairs import nodes_of
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.launch.rehearsing import replay
from sglang_roce_entry.problems import config_error
from sglang_roce_entry.report.rehearsal import as_text, document, held_lines, table_lines
from tests.group.members import NOW, RULES, Group, group, rails
from tests.group.proof.fabric import Fabric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEADLINE_S = 1800.0
REFUSAL = Refusal("NO_USABLE_HCA", "no port can be used", "look at the node", 69)
GAP = (Edge(0, 1, True, "", "10.0.0.1"), Edge(1, 2, False, "refused"), Edge(3, 2, False, "refused"))
GONE = (Absent(7, "sglang-0-7", "missing", "does not resolve"), Absent(6, "", "left", "went away"))


def saved(one: Group, absent: Sequence[Absent] = (), edges: Sequence[Edge] = (), *, strict: bool = False) -> Saved:
    """Return the meeting of ``one`` as its leader saves it."""
    gathered = Gathered(one.members(), one.commons(), absent, edges, overdue=bool(absent))
    return Saved(Identity("sglang-0.sglang", 8, 0, "LWS_*"), gathered, None, DEADLINE_S, strict)


def proven(*broken: int, cause: str = "NO_WAY") -> Saved:
    """Return the same of a group whose rails were tried: nothing arrives on rail 2 of the ``broken`` members."""
    one = group(8, of_rails=lambda index: tuple(replace(rail, proof=True) for rail in rails(index)))
    meeting = saved(one, edges=GAP[:1])
    assert meeting.gathered is not None
    fabric = Fabric(
        nodes_of(meeting.gathered.members, meeting.gathered.commons),
        lambda position, ends, _patient: cause if position == 2 and ends & set(broken) else "proven",
    )
    return replace(meeting, gathered=replace(meeting.gathered, proven=fabric.run().results()))


def shown(meeting: Saved) -> dict[str, Any]:
    """Return the document of the rehearsal itself."""
    assert meeting.gathered is not None
    assert meeting.identity is not None
    made = document(meeting.identity, meeting.gathered, conclude(meeting.gathered, RULES, 8, DEADLINE_S))
    assert held_lines(meeting.gathered) == table_lines({**made, "identity": None})
    return made


def replayed(data: bytes, *, strict: bool = False) -> dict[str, Any]:
    """Return the document of the file ``data``."""
    return dict(replay(read_saved("meeting.json", data), strict=strict)[0])


@pytest.mark.parametrize(
    "meeting",
    [
        saved(group(8)),
        saved(group(8).but(5, {"sglang": "0.5.22", "NCCL_ALGO": "Ring\x1b[0m"})),
        saved(group(8).but(3, refusal=REFUSAL)),
        saved(group(8).but(2, clock_s=NOW + 60).but(4, rails=rails(4, ("10.99.0.0/16",)))),
        saved(group(8).but(2, machine="machine0", namespace="namespace0")),
        saved(group(6), GONE, GAP),
        saved(group(1)),
        proven(),
        proven(3),
        proven(0, 1, 2, 3, 4, 5, 6, 7, cause="NO_ROUTE"),
    ],
    ids=[
        *("healthy", "releases", "refusal", "clock and rails", "one machine", "missing and filtered", "alone"),
        *("rails proven", "a rail broken", "a rail without routes"),
    ],
)
def test_a_replay_says_what_the_rehearsal_said(meeting: Saved) -> None:
    data = write_saved(meeting)
    assert replayed(data) == shown(meeting)
    assert read_saved("meeting.json", data).gathered is not None


def test_the_rails_are_judged_again() -> None:
    made = replayed(write_saved(proven(3)))
    assert made["exit_code"] == 69
    assert [one["code"] for one in made["problems"]] == ["RAIL_NO_WAY"]
    assert "rail 2 of node 3 (sglang-0-3)" in made["problems"][0]["message"]
    assert {rail["status"] for rail in made["rails"]} == {"proven", "failed"}


def test_strict_can_be_tried_on_a_saved_meeting() -> None:
    data = write_saved(saved(group(8).but(5, {"NCCL_ALGO": "Ring"})))
    assert [replayed(data, strict=strict)["exit_code"] for strict in (False, True)] == [0, 78]
    assert replayed(write_saved(saved(group(8).but(5, {"NCCL_ALGO": "Ring"}), strict=True)))["exit_code"] == 78


def test_what_came_of_no_card_is_said_again() -> None:
    left_out = config_error("PEERS_LEAVE_OUT", "leaves members out", "remove it")
    meeting = replace(saved(group(8).but(5, {"NCCL_ALGO": "Ring"})), further=(left_out,))
    made = replayed(write_saved(meeting))
    assert [(one["code"], one["severity"]) for one in made["problems"]] == [
        ("PEERS_LEAVE_OUT", "error"),
        ("VARIABLE_DIFFERS", "warning"),
    ]
    assert made["exit_code"] == 78


def test_a_value_can_be_edited_to_try_it_out() -> None:
    text = write_saved(saved(group(8).but(5, {"--dtype": "half"}))).decode()
    assert replayed(text.encode())["exit_code"] == 78
    assert replayed(text.replace('"half"', '"bfloat16"').encode())["exit_code"] == 0


def test_a_member_has_what_it_was_told() -> None:
    told = shown(saved(group(8).but(5, {"sglang": "0.5.22"})))
    identity = Identity("sglang-0.sglang", 8, 3, "LWS_*")
    data = write_saved(Saved(identity, None, told, DEADLINE_S, strict=False))
    made, said = replay(read_saved("meeting.json", data), strict=False)
    assert made == {**told, "identity": {**told["identity"], "index": 3}}
    assert "saved by worker 3" in said
    assert "no cards but its own" in said


def test_what_is_new_is_ignored_and_what_is_missing_is_not_known() -> None:
    whole = json.loads(write_saved(saved(group(3))))
    whole |= {"later": {"a": [1]}, "format": 1}
    whole["members"][0] |= {"later": 1}
    whole["members"][0]["card"] |= {"later": 1}
    assert replayed(json.dumps(whole).encode())["exit_code"] == 0
    few = {"format": 1, "members": [{"card": one["card"]} for one in whole["members"]]}
    made = replayed(json.dumps(few).encode())
    assert made["identity"] is None
    assert [node["index"] for node in made["nodes"]] == [0, 1, 2]
    assert [one["code"] for one in made["problems"]] == ["COMPARISON_INCOMPLETE"]


def edited(change: Callable[[dict[str, Any]], object], of: Saved | None = None) -> bytes:
    whole = json.loads(write_saved(of or saved(group(6).but(1, {"--dtype": "half"}), GONE, GAP)))
    change(whole)
    return json.dumps(whole).encode()


def crowded(whole: dict[str, Any]) -> None:
    """Let one node have tried its rails with far more than its neighbours."""
    whole["members"] = [
        {"card": {**whole["members"][0]["card"], "index": index, "machine": None}} for index in range(600)
    ]
    whole["rails"] = [{**whole["rails"][0], "from": 0, "to": index} for index in range(1, 600)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"format": NaN}', "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"{}", "has format None"),
        (b'{"format": true}', "has format True"),
        (b'{"format": 2}', "newer sglang-roce-entry (format 2"),
        (b'{"format": 1}', "holds neither cards nor a document"),
        (b'{"format": 1, "document": {}}', "its document is none of a rehearsal"),
        (b'{"format": 1, "document": {"nodes": 3}}', "its document is none of a rehearsal"),
        (edited(lambda whole: whole.update(members=[{}])), "the card of members[0]"),
        (edited(lambda whole: whole["members"][2]["card"].update(rails=7)), "the card of members[2]"),
        (edited(lambda whole: whole["members"][2].update(received_at_s="now")), "'received_at_s' of members[2]"),
        (edited(lambda whole: whole.update(identity=[])), "'identity' of the file"),
        (edited(lambda whole: whole["identity"].update(size=0)), "'size' of identity"),
        (edited(lambda whole: whole["reach"][1].update({"from": -1})), "'from' of reach[1]"),
        (edited(lambda whole: whole["rails"][3].update(position=8), proven()), "'position' of rails[3]"),
        (edited(lambda whole: whole["rails"][3].update(to=99), proven()), "'position' of rails[3]"),
        (edited(lambda whole: whole["rails"][3].update(status="good"), proven()), "'status' of rails[3]"),
        (edited(lambda whole: whole.update(trials=[[]]), proven()), "'trials' of the file"),
        (edited(crowded, proven()), "'rails' of the file"),
        (edited(lambda whole: whole["absent"].append(3)), "'absent' of the file"),
        (edited(lambda whole: whole.update(problems=[{"severity": "bad", "exit_code": 3}])), "'severity' of problems"),
        (edited(lambda whole: whole.update(commons={str(one): {} for one in range(70)})), "'commons' of the file"),
        (edited(lambda whole: whole.update(commons={"digest": {"--dtype": 3}})), "'commons' of the file"),
        (b'{"format": 1, "members": [' + b"{}," * 20_000 + b"{}]}", "'members' of the file"),
        (b"[{}" + b",{}" * 1_000_000 + b"]", "is larger than any meeting"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_meeting_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MeetingFileError) as refused:
        replayed(data)
    assert said in str(refused.value)
    assert refused.value.exit_code == 78


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_whatever_one_part_holds_is_compared_or_refused(data: st.DataObject) -> None:
    meeting = proven(3) if data.draw(st.booleans()) else saved(group(3).but(1, {"--dtype": "half"}), GONE, GAP)
    whole: Any = json.loads(write_saved(meeting))
    place: Any = whole
    for _ in range(data.draw(st.integers(0, 4))):
        inner = place.values() if isinstance(place, dict) else place
        deeper = [one for one in inner if isinstance(one, (dict, list)) and one]
        place = data.draw(st.sampled_from(deeper)) if deeper else place
    key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    try:
        made, said = replay(read_saved("meeting.json", json.dumps(whole).encode()), strict=False)
    except MeetingFileError as refused:
        assert str(refused).isprintable()
    else:
        assert all(line.isprintable() for line in (said, *as_text(made).splitlines()))


def test_the_largest_group_fits() -> None:
    """A card of eight rails takes less than a ten-thousandth of what is read."""
    one = len(write_saved(saved(group(2)))) - len(write_saved(saved(group(1))))
    assert one * 10_000 < MOST_BYTES / 2
