"""The leader's table of states under a virtual clock: who dies when, who is odd, and that a right group always meets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting import terms, wire
from sglang_roce_entry.group.meeting.card import Card, Refusal, make
from sglang_roce_entry.group.meeting.terms import Peer
from sglang_roce_entry.problems import DEADLINE
from tests.group.meetings import GROUP, NONCE, Attendant, Room, of_this_meeting, run
from tests.group.members import group

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE = 9


def gathered(size: int = SIZE, deadline_s: float = 1800.0) -> tuple[Room, list[Attendant]]:
    own, *others = of_this_meeting(group(size))
    room = Room(own, size, deadline_s)
    return room, [Attendant(room, card) for card in others]


def refusing(card: Card) -> Card:
    refusal = Refusal("NO_USABLE_HCA", "no port can be used", "see --check", 69)
    return make(card.group, card.size, card.index, card.pod, card.own, card.common or {}, refusal)


def test_a_group_meets_and_all_go() -> None:
    room, members = gathered()
    assert run(room, members) < 1
    assert all(member.went for member in members)
    assert room.over
    assert room.table.concluded is not None
    assert room.table.concluded.verdict.problems == ()
    # The leader's own common text serves for all that are like it.
    assert not any(wire.WANT in member.heard for member in members)


@pytest.mark.parametrize("word", [wire.GREETING, wire.WANT, wire.VERDICT])
def test_a_member_that_dies_is_waited_for_again(word: bytes) -> None:
    """In the state in which it has just been told `word`; a new one of its index then makes the group whole."""
    room, members = gathered()
    victim = members[3]
    victim.dies_after = word
    if word == wire.WANT:
        card = victim.card
        victim.card = make(
            GROUP, SIZE, card.index, card.pod, card.own, {**(card.common or {}), "NCCL_DEBUG": "INFO"}
        )
    run(room, members, 3)
    assert victim.dead
    assert not any(member.went for member in members)
    assert [one.index for one in room.table.absent()] == [4]
    members.append(Attendant(room, of_this_meeting(group(SIZE))[4]))
    assert run(room, members) < 2
    assert sum(member.went for member in members) == SIZE - 1


def test_one_that_never_acknowledges_costs_five_seconds() -> None:
    room, members = gathered()
    *others, mute = members
    held = room.dial("10.0.0.9")
    room.table.received(held, wire.CARD + b" " + mute.card.line() + b"\n")
    run(room, others, 4.5)
    assert not any(member.went for member in others)
    assert run(room, [*others, mute], 10) < 3
    assert all(member.went for member in members)
    assert all(wire.AGAIN in member.heard for member in others)


def test_an_acknowledgement_of_an_older_round_does_not_count() -> None:
    room, members = gathered(3)
    first, second = members
    second.dies_after = wire.VERDICT
    run(room, members, 0.5)
    assert first.peer is not None
    room.table.received(first.peer, b"ACK 1\n")
    assert first.peer not in room.closed
    assert not first.went


def test_a_refusal_ends_the_group_within_two_seconds() -> None:
    """Also for who comes late; and nobody goes."""
    room, members = gathered()
    members[2].card = refusing(members[2].card)
    late = members.pop()
    run(room, members, 2.0)
    for member in members:
        assert member.verdict is not None
        assert member.verdict.exit_code == 69
        assert "3 (sglang-0-3) cannot start: no port can be used" in member.verdict.problems[0].message
    run(room, [late], 1.0)
    assert late.verdict is not None
    assert late.verdict.exit_code == 69
    assert not any(member.went for member in [*members, late])


def test_a_leader_that_refuses_tells_all() -> None:
    own, *others = of_this_meeting(group(3))
    room = Room(refusing(own), 3)
    members = [Attendant(room, card) for card in others]
    run(room, members, 10)
    assert [member.verdict.exit_code if member.verdict else None for member in members] == [69, 69]
    assert room.over


def test_the_deadline_ends_it_everywhere_with_one_sentence() -> None:
    room, members = gathered(deadline_s=40.0)
    away = {members[1].card.index, members[5].card.index}
    here = [member for member in members if member.card.index not in away]
    passed = run(room, here, 60)
    assert 40 <= passed < 45
    verdicts = {member.verdict for member in here}
    assert len(verdicts) == 1
    assert {verdict.exit_code for verdict in verdicts if verdict} == {DEADLINE}
    assert {verdict.problems[0].message for verdict in verdicts if verdict} == {"2 6"}


def test_who_is_missing_is_said_at_once_and_every_thirty_seconds() -> None:
    room, members = gathered(deadline_s=70.0)
    run(room, members[:-1], 69)
    said = [line for line in room.log if "missing" in line]
    assert len(said) == 3
    assert said[0].startswith("8 of 9 are here; missing: 8 (sglang-0-8) does not resolve (1 of 70 s)")
    assert members[0].heard.count(wire.STATUS) == 3


def test_one_that_called_and_went_away_is_known_as_such() -> None:
    room, members = gathered(3)
    members[1].dies_after = wire.GREETING
    members[1].act()
    peer = room.dial("10.0.0.3")
    room.table.received(peer, wire.CARD + b" " + members[1].card.line() + b"\n")
    room.table.left(peer)
    assert str(room.table.absent()[1]) == "2 (sglang-0-2) called from 10.0.0.3 and went away"


def test_a_dead_holder_of_an_index_makes_room() -> None:
    """The kernel of its node has never said that it is gone; the pod is there again under the same index."""
    room, members = gathered(3)
    ghost = room.dial("10.0.0.77")
    room.table.received(ghost, wire.CARD + b" " + members[1].card.line() + b"\n")
    passed = run(room, [members[1]], 4)  # parked for two seconds, then it has the index
    assert passed >= 2
    assert ghost in room.closed
    run(room, members)
    assert all(member.went for member in members)


def test_who_refuses_and_has_gone_before_the_verdict_keeps_nobody() -> None:
    """A pod that is deleted, a command that was tried: all are waited for again, and nobody goes without the rest."""
    room, members = gathered(4)
    tried = room.dial("10.0.0.4")
    room.table.received(tried, wire.CARD + b" " + refusing(members[2].card).line() + b"\n")
    room.table.left(tried)
    run(room, members[:2], 10)
    assert [member.verdict for member in members[:2]] == [None, None]
    run(room, members)
    assert all(member.went for member in members)


def test_a_pod_whose_predecessor_ends_late_takes_its_place() -> None:
    room, members = gathered(4)
    before = Attendant(room, members[1].card)
    run(room, [members[0], before, members[1]], 0.3)
    assert before.heard[-1] == wire.PING
    before.dead = True
    assert before.peer is not None
    room.table.left(before.peer)
    run(room, members[:2], 10)
    assert [member.verdict for member in members[:2]] == [None, None]
    run(room, members)
    assert all(member.went for member in members)


def test_an_index_that_two_claim_is_an_error_for_all() -> None:
    room, members = gathered(4)
    twin = Attendant(room, make(GROUP, 4, 2, "sglang-0-2x", members[1].card.own, members[1].card.common or {}))
    members.pop()
    run(room, [*members, twin], 10)
    for member in (*members, twin):
        assert member.verdict is not None
        assert member.verdict.problems[0].code == "INDEX_TWICE"
        assert "sglang-0-2x" in member.verdict.problems[0].message


def test_a_second_launcher_of_a_pod_that_cannot_start_is_no_member() -> None:
    """Somebody has tried a command in a pod that waits; the one that waits can start."""
    room, members = gathered(4)
    waiting = members.pop()
    second = Attendant(room, refusing(members[1].card))
    run(room, [*members, second], 4)
    assert second.verdict is None
    assert room.log[0].startswith("a second launcher at 10.0.0.3 cannot start; worker 2 is here")
    run(room, [*members, waiting])
    assert all(member.went for member in (*members, waiting))


def test_members_that_all_differ_cost_so_many_texts() -> None:
    size = terms.COMMONS + 40
    own, *others = of_this_meeting(group(size))
    room = Room(own, size)
    members = [
        Attendant(
            room, make(GROUP, size, one.index, one.pod, one.own, {**(one.common or {}), "MC_X": str(one.index)})
        )
        for one in others
    ]
    run(room, members)
    assert sum(wire.WANT in member.heard for member in members) == terms.COMMONS
    assert all(member.went for member in members)


def test_the_question_to_torchs_store_is_skipped() -> None:
    """A launcher asks when we were late; whatever its pieces, its card is read behind it."""
    room, members = gathered(2)
    peer = room.dial("10.0.0.2")
    for byte in wire.QUESTION + b"\x07" + wire.CARD + b" " + members[0].card.line() + b"\n":
        room.table.received(peer, bytes([byte]))
    assert 1 in room.table.members


def test_torchs_client_is_sent_away() -> None:
    room, members = gathered(2)
    peer = room.dial("10.0.0.2")
    room.table.received(peer, wire.MAGIC + b"\x0d" + (4711).to_bytes(4, "little"))
    assert peer in room.closed
    run(room, members)
    assert members[0].went


@pytest.mark.parametrize(
    "junk",
    [
        b"x" * 200_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"CARD []\n",
        b'CARD {"index": 1e999, "group": "g"}\n',
        b"CARD " + b"[" * 60_000 + b"\n",
        b"ACK 1\n",
        b"COMMON {}\n",
        b"PONG\n",
        b"\xff\x00\n",
        b"VERDICT 1 {}\n",
    ],
    ids=lambda junk: repr(junk[:12]),
)
def test_garbage_ends_its_connection_and_is_said_once(junk: bytes) -> None:
    room, members = gathered(3)
    for _ in range(5):
        peer = room.dial("10.9.9.9")
        room.table.received(peer, junk)
        assert peer in room.closed
    assert sum("10.9.9.9" in line for line in room.log) == 1
    assert all(line.isprintable() for line in room.log)
    run(room, members)
    assert all(member.went for member in members)


def test_a_thousand_silent_connections_are_bounded() -> None:
    room, members = gathered(3)
    for _ in range(1000):
        room.dial("10.9.9.9")
    room.now_s += 1.0
    room.table.tick()
    assert len(room.table.peers) <= 3 + terms.STRANGERS
    room.now_s += terms.STEP_S
    room.table.tick()
    assert not room.table.peers
    run(room, members)
    assert all(member.went for member in members)


def test_a_drop_at_a_time_is_not_waited_for_for_ever() -> None:
    room, members = gathered(2)
    slow = room.dial("10.9.9.9")
    for _ in range(400):
        if slow not in room.closed:
            room.table.received(slow, b"C")
        room.now_s += 0.1
        room.table.tick()
    assert slow in room.closed
    run(room, members)
    assert members[0].went


def test_callers_of_another_group_and_of_no_index_are_named() -> None:
    room, members = gathered(3)
    other = replace(members[0].card, group="launch:llama-0")
    outside = replace(members[0].card, index=7, size=8)
    for card in (other, outside):
        peer = room.dial("10.9.9.9")
        room.table.received(peer, wire.CARD + b" " + card.line() + b"\n")
        assert peer in room.closed
    assert any("launch:llama-0" in line for line in room.log)
    assert any("calls itself 7 of 8" in line for line in room.log)
    rehearsal = replace(members[0].card, group=GROUP.replace("launch", "rehearse"))
    peer = room.dial("10.0.0.2")
    room.table.received(peer, wire.CARD + b" " + rehearsal.line() + b"\n")
    assert peer in room.closed


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rehearse:sglang-0", "rehearse:sglang-0", True),
        ("rehearse:-", "rehearse:sglang-0", True),
        ("rehearse:sglang-0", "launch:sglang-0", False),
        ("rehearse:-", "launch:-", False),
        ("rehearse:a", "rehearse:b", False),
        ("launch:lead,sglang-0", "launch:sglang-0", True),
        ("launch:lead", "launch:lead,sglang-0", True),
        ("launch:lead,sglang-0", "launch:sglang-1", False),
        ("launch:lead,sglang-0", "rehearse:lead", False),
        ("x", "rehearse:x", False),
        ("", "rehearse:x", False),
    ],
)
def test_what_is_one_group(one: str, other: str, same: bool) -> None:
    assert wire.same_group(one, other) is same


def test_a_greeting_of_a_newer_launcher_is_understood() -> None:
    line = b"sglang-roce-entry meeting 2 rehearse:sglang-0 6e6f and=more\n"
    assert wire.read_greeting(line) == wire.Greeting(2, "rehearse:sglang-0", "6e6f")
    assert wire.read_greeting(wire.greeting("launch:a b%\n", NONCE).line()).group == "launch:a b% "
    for bad in (b"", b"sglang-roce-entry", b"sglang-roce-entry meeting x g n", b"ssh meeting 1 g n"):
        with pytest.raises(ValueError):
            wire.read_greeting(bad)


# ------------------------------------------------------------------------------------------ any bytes at all

WORDS = st.sampled_from(
    [b"CARD ", b"CARD {}\n", b"COMMON {}\n", b"ACK 1\n", b"ACK 999\n", b"PONG\n", b"GO\n", b"\n", wire.QUESTION, wire.MAGIC]
)  # fmt: skip
STRANGE_CARDS = st.builds(
    lambda index, size, name: wire.CARD
    + b" "
    + make(name, size, index, "p", group(2).cards[0].own, {}).line()
    + b"\n",
    st.integers(0, 9), st.integers(1, 9), st.sampled_from(["", "-", "launch:", "rehearse:-", "launch:other"]),
)  # fmt: skip
BYTES = st.one_of(st.binary(max_size=40), WORDS, STRANGE_CARDS, st.just(b"A" * 70_000))
EVENTS = st.one_of(
    st.just(("dial",)),
    st.tuples(st.just("send"), st.integers(0, 7), BYTES),
    st.tuples(st.just("close"), st.integers(0, 7)),
    st.tuples(st.just("pass"), st.floats(0.0, 8.0)),
    st.just(("members",)),
)


@settings(max_examples=150, deadline=None)
@given(events=st.lists(EVENTS, max_size=40))
def test_a_right_group_meets_whatever_others_send(events: list[Any]) -> None:
    room, members = gathered(4)
    strangers: list[Peer] = []
    for event in events:
        if event[0] == "dial":
            strangers.append(room.dial("10.9.9.9"))
        elif event[0] == "send" and strangers:
            room.table.received(strangers[event[1] % len(strangers)], event[2])
        elif event[0] == "close" and strangers:
            room.table.left(strangers[event[1] % len(strangers)])
        elif event[0] == "pass":
            room.now_s += event[1]
        elif event[0] == "members":
            for member in members:
                member.act()
        room.table.tick()
        assert room.held_bytes() <= len(room.table.peers) * wire.MOST_FROM_CALLER
    run(room, members)
    assert all(member.went for member in members)
    assert room.over
    assert all(line.isprintable() for line in room.log)


# --------------------------------------------------------------------------- gone ahead


def retrying(room: Room, address: str) -> None:
    """Be torch's client once: it is let go, and comes again a second later."""
    peer = room.dial(address)
    room.table.received(peer, wire.MAGIC + b"\x0d\x39\x05\x00\x00")


def passes(room: Room, members: list[Attendant], for_s: float, *addresses: str) -> None:
    """Let time pass, in which SGLang of these addresses looks for its store every second."""
    for _ in range(int(for_s)):
        for address in addresses:
            retrying(room, address)
        run(room, members, 1.0)


def restarted(known: Mapping[str, tuple[str, ...]] | None) -> tuple[Room, list[Attendant]]:
    """Return a leader that has been restarted, and of four workers the two that had no GO."""
    room, members = gathered(5)
    room.addresses = known
    return room, members[:2]


def test_sglang_that_waits_already_counts_as_present() -> None:
    """The leader died while it let its members go: two of them are SGLang already."""
    names = {"sglang-0-3.sglang": ("10.0.0.4",), "sglang-0-4.sglang": ("10.0.0.5",)}
    room, members = restarted(names)
    passes(room, members, 13, "10.0.0.4", "10.0.0.5")
    assert all(member.went for member in members)
    assert room.gathered is not None
    assert [(one.index, one.state) for one in room.gathered.absent] == [(3, "ahead"), (4, "ahead")]
    assert not room.gathered.overdue


@pytest.mark.parametrize(
    ("known", "addresses"),
    [
        ({"sglang-0-3.sglang": ("10.0.0.4",), "sglang-0-4.sglang": ("10.0.0.5",)}, ("10.0.0.4",)),
        ({"sglang-0-3.sglang": ("10.0.0.4",), "sglang-0-4.sglang": ("10.0.0.5",)}, ("10.0.0.4", "10.9.9.9")),
        ({"sglang-0-3.sglang": ("10.0.0.4",)}, ("10.0.0.4", "10.0.0.5")),
        ({"sglang-0-3.sglang": ("10.0.0.2",), "sglang-0-4.sglang": ("10.0.0.3",)}, ("10.0.0.2", "10.0.0.3")),
        (None, ("10.0.0.4",)),
    ],
    ids=["one of two", "of the group before", "a name unknown", "members' own addresses", "no names, one of two"],
)
def test_who_may_be_somebody_else_does_not_count(
    known: Mapping[str, tuple[str, ...]] | None, addresses: tuple[str, ...]
) -> None:
    room, members = restarted(known)
    passes(room, members, 20, *addresses)
    assert not any(member.went for member in members)


def test_without_names_as_many_as_are_missing_count() -> None:
    room, members = restarted(None)
    passes(room, members, 13, "10.0.0.4", "10.0.0.5")
    assert all(member.went for member in members)


def test_who_has_stopped_retrying_does_not_count() -> None:
    room, members = restarted(None)
    passes(room, members, 4, "10.0.0.4", "10.0.0.5")
    run(room, members, 30)
    assert not any(member.went for member in members)


def test_a_worker_of_attention_dp_is_heard_beside_d_and_told_nothing() -> None:
    """What is no greeting of ZeroMQ's own would make libzmq hand over what is meant for SGLang."""
    room, _ = gathered(2)
    room.addresses = {"sglang-0-1.sglang": ("10.0.0.2",)}
    for _ in range(130):
        peer = Peer("10.0.0.2", room.now_s, room.now_s)
        room.table.connected_beside(peer)
        room.table.received(peer, b"\xff\0\0\0\0\0\0\0\x01\x7f")
        assert peer not in room.table.peers | room.sent
        run(room, [], 0.1)
    assert room.gathered is not None
    assert [(one.index, one.state) for one in room.gathered.absent] == [(1, "ahead")]


@pytest.mark.parametrize("size", [40, 300])
def test_everybody_of_a_large_group_may_have_gone_ahead(size: int) -> None:
    """DNS is asked for all of them, also beyond the few that a sentence names."""
    room, members = gathered(size)
    room.addresses = {}
    room.unasked = {
        f"sglang-0-{index}.sglang": (f"10.0.{index // 200}.{index % 200 + 1}",) for index in range(size)
    }
    gone = [
        addresses[0] for name, addresses in room.unasked.items() if name[9:-7].isdigit() and int(name[9:-7]) > 2
    ]
    passes(room, members[:2], 20, *gone)
    assert all(member.went for member in members[:2])
    assert room.gathered is not None
    assert [one.index for one in room.gathered.absent] == list(range(3, size))


def test_a_verdict_that_takes_long_leaves_time_for_its_acknowledgement() -> None:
    room, members = gathered()
    room.concludes_in_s = 2 * terms.ACK_S
    for _ in range(20):
        for member in members:
            member.act()
        room.table.tick()
        room.table.tick()  # the network is slower than the leader
    assert all(member.went for member in members)
    assert room.log == []


def test_a_text_that_is_owed_does_not_hold_up_a_refusal() -> None:
    room, members = gathered()
    members[2].card = refusing(members[2].card)
    others = [member for member in members if member.card.index != 5]
    odd = of_this_meeting(group(SIZE).but(5, {"nccl": "2.21.5"}))[5]
    room.table.received(room.dial("10.0.0.6"), wire.CARD + b" " + odd.line() + b"\n")
    run(room, others, 2.0)
    assert [member.verdict.exit_code for member in others if member.verdict] == [69] * len(others)
