"""As whom members see each other: a complete list that is the same everywhere, or none and why."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting.card import Own
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.comparison.seen import check_given, peers_of
from sglang_roce_entry.group.meeting.comparison.verdict import MOST_PEERS_BYTES
from tests.group.members import NOW, group

if TYPE_CHECKING:
    from collections.abc import Sequence


LOOPBACK = {"127.0.0.1", "::1"}


def changed(members: Sequence[Member], index: int, seen_as: str | None = None, **own: Any) -> list[Member]:
    """Return the members, one of them with other own values, or seen by the leader at another address."""
    return [
        replace(
            one,
            card=replace(one.card, own=replace(one.card.own, **own)),
            address=one.address if seen_as is None else seen_as,
        )
        if one.card.index == index
        else one
        for one in members
    ]


def test_all_members_are_in_it_once() -> None:
    peers = peers_of(group(4).members(), [], 4)
    assert set(peers.addresses) == LOOPBACK | {f"10.0.0.{one}" for one in (1, 2, 3, 4)}
    assert len(set(peers.addresses)) == len(peers.addresses)
    assert not peers.why


def test_the_order_in_which_members_came_does_not_matter() -> None:
    members = group(4).members()
    assert peers_of(members, [], 4) == peers_of(members[::-1], [], 4)


@pytest.mark.parametrize(
    ("address", "own", "added"),
    [
        # --interface or a SGLANG_HOST_IP of its own beside the way to the leader.
        ("10.0.0.3", {"address": "10.9.0.3", "reach_address": "10.0.0.3"}, {"10.9.0.3"}),
        ("10.0.0.3", {"sources": ("10.8.0.3", "fd00::3")}, {"10.8.0.3", "fd00::3"}),
        # It calls from a rail.
        ("10.1.0.3", {}, {"10.1.0.3"}),
        ("fd00:0::0:3", {"address": "FD00::3", "reach_address": None}, {"fd00::3"}),
        # What no other node can have is left out.
        ("10.0.0.3", {"sources": ("0.0.0.0", "fe80::1", "169.254.1.1")}, {"169.254.1.1"}),
    ],
)
def test_every_address_of_a_member_is_in_it(address: str, own: dict[str, Any], added: set[str]) -> None:
    members = changed(group(4).members(), 2, address, **own)
    if not address.startswith("10.0."):
        members = changed(members, 2, rails=group(4, of_rails=lambda index: rails_at(address)).cards[2].own.rails)
    found = set(peers_of(members, [], 4).addresses)
    assert added <= found
    assert found <= added | LOOPBACK | {f"10.0.0.{one}" for one in (1, 2, 3, 4)}


def rails_at(address: str) -> tuple[Any, ...]:
    first, *rest = group(2).cards[0].own.rails
    return (replace(first, gid=address), *rest)


def test_what_neighbours_see_is_in_it() -> None:
    members = changed(group(2).members(), 1, reach_address="10.0.0.9")
    assert "10.0.0.9" in peers_of(members, [Edge(1, 0, True, seen="10.0.0.9")], 2).addresses


@pytest.mark.parametrize("by_edge", [False, True], ids=["the leader sees it", "a neighbour sees it"])
def test_behind_a_proxy_there_is_none(by_edge: bool) -> None:
    """Istio's sidecar makes all calls arrive from 127.0.0.6: a list with that would admit everybody."""
    members = group(4).members()
    edges = [Edge(2, 1, True, seen="127.0.0.6")] if by_edge else []
    peers = peers_of(members if by_edge else changed(members, 2, "127.0.0.6"), edges, 4)
    assert not peers.addresses
    assert peers.why.startswith("member 2 is seen as 127.0.0.6")


def test_without_a_member_there_is_none() -> None:
    assert not peers_of(group(4).members()[:-1], [], 4).addresses


def test_a_group_that_no_variable_could_hold_has_none() -> None:
    size = 3000
    addresses = [f"10.{index >> 8}.{index & 255}.1" for index in range(size)]
    cards = group(size, of_rails=lambda _: ()).cards
    members = [
        Member(replace(card, own=Own(address)), address, NOW, NOW)
        for card, address in zip(cards, addresses, strict=True)
    ]
    assert peers_of(members[:1000], [], 1000).addresses
    peers = peers_of(members, [], size)
    assert not peers.addresses
    assert f"{MOST_PEERS_BYTES >> 10} KiB" in peers.why


@given(st.lists(st.ip_addresses(), min_size=1, max_size=30))
def test_addresses_are_written_as_the_kernel_s_library_writes_them(found: list[Any]) -> None:
    """Libzmq asks getnameinfo for the text (NI_NUMERICHOST), which SGLang compares."""
    for address in found:
        if address.version == 6 and address.packed[:10] == bytes(10):
            continue  # an IPv4 address in it: glibc writes it with dots
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        assert address.compressed == socket.inet_ntop(family, address.packed)


def allowed(*texts: str) -> frozenset[str]:
    return frozenset(ip_address(text).compressed for text in texts)


ALL = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")


@pytest.mark.parametrize(
    ("listed", "pinned", "in_use", "left_out"),
    [
        (ALL, False, True, None),
        (ALL[:2], False, True, "2 (sglang-0-2) is 10.0.0.3; 3 (sglang-0-3) is 10.0.0.4"),
        (ALL[1:], False, True, "0 (sglang-0) is 10.0.0.1"),
        # Only a source that SGLang is told, and heeds, is another than the one that the leader sees.
        ((*ALL[:3], "10.9.0.4"), False, True, "3 (sglang-0-3) is 10.0.0.4"),
        ((*ALL[:3], "10.9.0.4"), True, True, None),
        (ALL[:3], False, False, "3 (sglang-0-3) is 10.0.0.4"),
    ],
)
def test_whom_a_list_of_the_user_leaves_out(
    listed: tuple[str, ...], pinned: bool, in_use: bool, left_out: str | None
) -> None:
    members = changed(group(4).members(), 3, sources=("10.9.0.4",))
    problems = check_given(allowed(*listed), members, [], pinned=pinned, in_use=in_use)
    assert [one.message.partition("out: ")[2] for one in problems] == ([left_out] if left_out else [])
    assert all(one.fatal == in_use for one in problems)
