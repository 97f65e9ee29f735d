"""A meeting with a proof in it, under a virtual clock: members that know none, are lost in it, or are lost each time."""

from __future__ import annotations

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.proof.relay import FIRST_S, START_S, Proof
from tests.group.meetings import Attendant, Room, of_this_meeting, run
from tests.group.members import group
from tests.group.proof.fabric import judged, nodes

SIZE = 4


def gathered() -> tuple[Room, list[Attendant]]:
    own, *others = of_this_meeting(group(SIZE))
    room = Room(own, SIZE)
    room.proof = lambda: Proof(nodes(SIZE), judged)
    return room, [Attendant(room, card) for card in others]


def test_who_never_answers_stops_no_group() -> None:
    room, members = gathered()
    assert run(room, members) < START_S + FIRST_S
    assert all(member.went for member in members)
    assert room.gathered is not None
    assert room.gathered.proven is not None
    assert {one.status for one in room.gathered.proven.outcomes.values()} == {"not_tried"}


def test_who_is_lost_in_a_proof_is_waited_for_and_all_is_proven_again() -> None:
    room, members = gathered()
    members[1].dies_after = wire.PROVE
    run(room, members, 5)
    assert members[1].dead
    assert not any(member.went for member in members)
    members.append(Attendant(room, of_this_meeting(group(SIZE))[2]))
    run(room, members)
    assert sum(member.went for member in members) == SIZE - 1
    assert [line for line in room.own_orders if line.startswith(wire.PROVE)] == [b"PROVE 1", b"PROVE 2"]
    assert members[0].heard.count(wire.PROVE) == 2


def test_a_group_that_loses_a_member_in_each_proof_starts_without() -> None:
    room, members = gathered()
    for _ in range(3):
        members[-1].dies_after = wire.PROVE
        run(room, members, 5)
        assert members[-1].dead
        members.append(Attendant(room, of_this_meeting(group(SIZE))[3]))
    run(room, members, 5)
    assert sum(member.went for member in members) == SIZE - 1
    assert any("lost in each of 3 proofs" in line for line in room.log)
