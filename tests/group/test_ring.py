"""The ring of neighbours: who dials whom, what its gaps are called, and what a member's door lets in."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.comparison.reach import Edge, Neighbour, judge_reach, neighbours
from sglang_roce_entry.group.meeting.ring.door import Door
from sglang_roce_entry.group.meeting.ring.rounds import (
    RING_S,
    Ring,
    Round,
    read_neighbours,
    read_results,
    write_results,
)
from tests.group.meetings import Attendant, Room, of_this_meeting, run
from tests.group.members import group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sglang_roce_entry.group.meeting.comparison.compare import Member

HERE = ip_address("127.0.0.1")


def with_doors(size: int, *, without: int = -1) -> list[Card]:
    return [
        replace(
            card, own=replace(card.own, reach_address=f"10.0.0.{card.index + 1}", reach_port=40000 + card.index)
        )
        if card.index != without
        else card
        for card in of_this_meeting(group(size))
    ]


def members(size: int, *, without: int = -1) -> list[Member]:
    given_by_wire = group(size).members()
    return [
        replace(one, card=card) for one, card in zip(given_by_wire, with_doors(size, without=without), strict=True)
    ]


@pytest.mark.parametrize(
    ("size", "without", "expected"),
    [
        (1, -1, {}),
        (2, -1, {0: [1], 1: [0]}),
        (2, 1, {}),
        (3, -1, {0: [1, 2], 1: [0, 2], 2: [0, 1]}),
        (4, -1, {0: [1, 3], 1: [0, 2], 2: [1, 3], 3: [0, 2]}),
        (4, 2, {0: [1, 3], 1: [0, 3], 3: [0, 1]}),
    ],
)
def test_each_dials_the_one_before_and_the_one_after(
    size: int, without: int, expected: dict[int, list[int]]
) -> None:
    asked = neighbours(members(size, without=without))
    assert {index: sorted(one.index for one in those) for index, those in asked.items()} == expected


def edges(size: int, failing: Callable[[int, int], bool]) -> list[Edge]:
    asked = neighbours(members(size))
    return [
        Edge(
            origin, one.index, not failing(origin, one.index), "" if not failing(origin, one.index) else "refused"
        )
        for origin, those in asked.items()
        for one in those
    ]


@pytest.mark.parametrize(
    ("size", "failing", "named"),
    [
        (
            4,
            lambda _origin, target: target == 2,
            "2 (sglang-0-2) is not reached from 1 (sglang-0-1), 3 (sglang-0-3) ",
        ),
        (
            4,
            lambda origin, _target: origin == 2,
            "1 (sglang-0-1), 3 (sglang-0-3) is not reached from 2 (sglang-0-2) ",
        ),
        (4, lambda origin, target: (origin, target) == (0, 1), "1 (sglang-0-1) is not reached from 0 (sglang-0) "),
        (2, lambda origin, _target: origin == 1, "0 (sglang-0) is not reached from 1 (sglang-0-1) "),
    ],
    ids=["nobody reaches it", "it reaches nobody", "one way", "two nodes"],
)
def test_a_gap_has_the_name_of_the_one_that_it_is_about(
    size: int, failing: Callable[[int, int], bool], named: str
) -> None:
    problems = judge_reach(edges(size, failing), members(size))
    assert [problem.code for problem in problems] == ["REACH_FILTERED"]
    assert problems[0].message.startswith(named), problems[0].message
    assert problems[0].fatal


def test_a_ring_without_gaps_says_nothing() -> None:
    assert judge_reach(edges(5, lambda *_: False), members(5)) == []


def test_an_address_that_is_no_members_is_a_warning() -> None:
    found = [replace(edge, seen="127.0.0.6") for edge in edges(2, lambda *_: False)]
    (problem,) = judge_reach(found, members(2))
    assert (problem.code, problem.fatal) == ("REACH_TRANSLATED", False)
    assert "0 is seen by 1 as 127.0.0.6" in problem.message
    seen_rightly = [replace(edge, seen=f"10.0.0.{edge.origin + 1}") for edge in found]
    assert judge_reach(seen_rightly, members(2)) == []


# --------------------------------------------------------------------------- in the meeting


def meets(cards: list[Card], **cut_off: frozenset[int]) -> tuple[Room, list[Attendant], float]:
    own, *others = cards
    room = Room(own, len(cards))
    attending = [Attendant(room, card, cut_off=cut_off.get(f"of_{card.index}", frozenset())) for card in others]
    return room, attending, run(room, attending)


def test_the_ring_belongs_to_every_meeting() -> None:
    room, attending, took_s = meets(with_doors(4))
    assert took_s < 1
    assert all(one.went for one in attending)
    assert room.gathered is not None
    assert [(edge.origin, edge.target) for edge in room.gathered.edges if edge.ok] == RING_OF_4


RING_OF_4 = [(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2)]


def test_neighbours_dial_as_soon_as_both_are_here() -> None:
    """When the last one comes nothing is left but what it dials, and who dials it."""
    own, *others = with_doors(4)
    room = Room(own, 4)
    early = [Attendant(room, card) for card in others[:2]]
    run(room, early, 1)
    assert [one.heard.count(wire.REACH) for one in early] == [2, 1]
    last = Attendant(room, others[2])
    run(room, [*early, last])
    assert [one.heard.count(wire.REACH) for one in (*early, last)] == [2, 2, 1]
    assert room.gathered is not None
    assert [(edge.origin, edge.target) for edge in room.gathered.edges] == RING_OF_4


def test_over_one_without_a_port_the_ring_closes_at_the_end() -> None:
    room, attending, _ = meets(with_doors(4, without=2))
    assert all(one.went for one in attending)
    assert room.gathered is not None
    found = [(edge.origin, edge.target) for edge in room.gathered.edges]
    assert found == [(0, 1), (0, 3), (1, 0), (1, 3), (3, 0), (3, 1)]


def test_what_failed_is_tried_once_more_and_nothing_else() -> None:
    _, alike, _ = meets(with_doors(4))
    room, attending, _ = meets(with_doors(4), of_1=frozenset({2}), of_3=frozenset({2}))
    before, now = ([one.heard.count(wire.REACH) for one in those] for those in (alike, attending))
    assert [more - once for once, more in zip(before, now, strict=True)] == [1, 0, 1]
    assert [one.verdict.exit_code if one.verdict else None for one in attending] == [78, 78, 78]
    assert room.table.concluded is not None
    assert room.table.concluded.verdict.problems[0].message.startswith("2 (sglang-0-2) is not reached")


def test_one_that_never_reports_its_calls_holds_nobody_up() -> None:
    """A launcher that hangs on its neighbours: the rest is judged, and what was not tried is no gap."""
    own, *others = with_doors(3)
    room = Room(own, 3)
    mute, other = Attendant(room, others[0], dies_after=b"-"), Attendant(room, others[1])
    answers = mute._answer
    mute._answer = lambda peer, line: None if line.startswith(wire.REACH) else answers(peer, line)  # type: ignore[method-assign]
    assert RING_S < run(room, [mute, other]) < 2 * RING_S + 1
    assert mute.went
    assert other.went


def test_a_member_lost_in_the_ring_is_waited_for_and_dialled_anew() -> None:
    own, *others = with_doors(3)
    room = Room(own, 3)
    first, second = Attendant(room, others[0], dies_after=wire.REACH), Attendant(room, others[1])
    run(room, [first, second], 3)
    assert first.dead
    assert not second.went
    again = Attendant(room, others[0])
    run(room, [second, again], 10)
    assert second.went
    assert again.went
    assert room.gathered is not None
    assert all(edge.ok for edge in room.gathered.edges)
    assert len(room.gathered.edges) == 6


# --------------------------------------------------------------------------- on the wire


def test_lines_are_read_as_they_were_written() -> None:
    asked = neighbours(members(3))
    word, rest = wire.split(Round(1, 7, asked[1]).line())
    number, text = wire.split(rest)
    assert (word, number) == (wire.REACH, b"7")
    assert tuple(read_neighbours(text)) == asked[1]
    told = [Edge(1, 0, True, "", "10.0.0.2"), Edge(1, 2, False, "refused")]
    assert read_results(1, wire.split(wire.split(write_results(told, 7))[1])[1]) == told


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | ANYTHING.map(lambda value: repr(value).encode()))
def test_whatever_is_sent_is_a_neighbour_or_no_value(text: bytes) -> None:
    """Leaders and members are hostile alike."""
    for read in (read_neighbours, lambda given_text: read_results(1, given_text)):
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            assert len(read(text)) <= 2


def test_reports_of_others_and_of_older_rounds_do_not_count() -> None:
    ring = Ring()
    numbers = {one.origin: one.number for one in ring.ask(neighbours(members(3)), 0.0)}
    assert list(ring.ask(neighbours(members(3)), 0.0)) == []
    ring.took(1, numbers[2], [Edge(1, 2, False)])
    ring.took(9, numbers[1], [Edge(9, 2, False)])
    ring.took(1, numbers[1], [Edge(1, 2, True), Edge(1, 77, False)])
    ring.took(1, numbers[1], [Edge(1, 2, False)])
    assert ring.edges() == (Edge(1, 2, True),)
    assert not ring.over(1.0)
    assert ring.over(RING_S)
    ring.forget(2)
    assert ring.edges() == ()
    assert {one.origin for one in ring.ask(neighbours(members(3)), 0.0)} == {0, 1, 2}


# --------------------------------------------------------------------------- over sockets


def dialled(to: Neighbour, nonce: str, *open_here: Door) -> Edge:
    """Return what comes of member 1's call to ``to``, with these doors in the same thread."""
    own = Door(HERE, nonce, 1)
    try:
        own.dial(3, [to])
        until = time.monotonic() + 3 * wire.REACH_S
        while not (said := own.heard()):
            assert time.monotonic() < until
            select.select([own, *open_here], [], [], 0.05)
            for one in open_here:
                assert one.heard() == []
    finally:
        own.close()
    word, rest = wire.split(said[0])
    number, text = wire.split(rest)
    assert (word, number) == (wire.REACHED, b"3")
    (edge,) = read_results(1, text)
    return edge


@pytest.fixture
def door() -> Iterator[Door]:
    opened = Door(HERE, "nonce", 2)
    yield opened
    opened.close()


def test_neighbours_reach_each_other(door: Door) -> None:
    to = Neighbour(2, door.address, door.port)
    assert dialled(to, "nonce", door) == Edge(1, 2, True, "", "127.0.0.1")


def test_another_meeting_is_not_let_in(door: Door) -> None:
    edge = dialled(Neighbour(2, door.address, door.port), "another", door)
    assert not edge.ok
    assert "accepts and closes" in edge.detail


def test_strangers_disturb_no_neighbour(door: Door) -> None:
    strangers = []
    for _ in range(100):
        strangers.append(socket.create_connection((door.address, door.port), timeout=5))
        assert door.heard() == []
    strangers[-1].sendall(os.urandom(500))
    try:
        assert dialled(Neighbour(2, door.address, door.port), "nonce", door).ok
    finally:
        for one in strangers:
            one.close()


def drops(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for _ in range(4 * int(wire.REACH_S)):
            one.sendall(b"x")
            time.sleep(0.4)


@pytest.mark.parametrize(
    ("attend", "said"),
    [
        (lambda one: one.close(), "accepts and closes: a proxy"),
        (lambda one: one.sendall(b"HTTP/1.1 400 Bad Request\r\n"), "answered by something else"),
        (lambda one: time.sleep(wire.REACH_S + 1), "accepts and stays silent: a proxy"),
        (drops, "accepts and stays silent: a proxy"),
    ],
    ids=["closes", "HTTP", "silent", "byte by byte"],
)
def test_what_answers_for_a_neighbour_is_no_neighbour(attend: Callable[[socket.socket], None], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            one, _ = server.accept()
            with one:
                attend(one)

        thread = threading.Thread(target=serve)
        thread.start()
        begin = time.monotonic()
        edge = dialled(Neighbour(2, "127.0.0.1", int(server.getsockname()[1])), "nonce")
        assert time.monotonic() - begin < wire.REACH_S + 1
        thread.join()
    assert said in edge.detail


def test_a_port_that_refuses_is_a_firewall(door: Door) -> None:
    port = door.port
    door.close()
    edge = dialled(Neighbour(2, "127.0.0.1", port), "nonce")
    assert "is refused though the launcher listens there" in edge.detail
    door.close()  # a second time does no harm


def test_nothing_is_left_of_a_door() -> None:
    before = set(os.listdir("/proc/self/fd"))
    opened = Door(HERE, "nonce", 0)
    with socket.create_connection((opened.address, opened.port), timeout=5):
        opened.dial(1, [Neighbour(1, opened.address, opened.port)])
        assert opened.heard() == []
        opened.close()
    assert opened.fileno() == -1
    assert set(os.listdir("/proc/self/fd")) == before
