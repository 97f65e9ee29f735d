"""Cards and verdicts on the wire: what was written is read, and whatever comes is bounded, masked or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting.card import (
    LINE_BYTES,
    MOST_RAILS,
    SENTENCE_CHARACTERS,
    BadCard,
    Own,
    Rail,
    Refusal,
    digest_of,
    keyed_digest,
    make,
    read_card,
    read_common,
)
from sglang_roce_entry.group.meeting.comparison.verdict import (
    BadVerdict,
    Verdict,
    read_verdict,
    write_verdict,
)
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.problems import Problem, config_error, warning
from tests.group.members import group

RED = "\x1b[31mred\x1b[0m\n\u202e\ud800"


def test_a_card_is_read_as_it_was_written() -> None:
    card = group().cards[2]
    read = read_card(card.line())
    assert read.common is None
    assert (read.group, read.size, read.index, read.pod, read.digest, read.own, read.refusal) == (
        *(card.group, card.size, card.index, card.pod, card.digest, card.own),
        None,
    )
    assert read_common(card.common_text(), card.digest) == card.common


def test_a_refusal_travels() -> None:
    refusal = Refusal("NO_USABLE_HCA", "no port", "look", 69)
    card = make("g", 2, 1, "pod", Own(), {}, refusal)
    assert read_card(card.line()).refusal == refusal


def test_the_longest_refusal_and_the_most_rails_travel() -> None:
    refusal = Refusal("NO_USABLE_HCA", "no port " * 1000, "look " * 1000, 69)
    rails = tuple(Rail(f"mlx5_{number}", 1, None, None, None, None, None) for number in range(100))
    read = read_card(make("g", 2, 1, "pod", Own(rails=rails), {}, refusal).line())
    assert read.own.rails == rails[:MOST_RAILS]
    assert read.refusal is not None
    assert read.refusal.message == refusal.message[:SENTENCE_CHARACTERS] + "..."
    assert read.refusal.hint == refusal.hint[:SENTENCE_CHARACTERS] + "..."


def test_the_size_of_a_card_is_bounded_whatever_the_pod_sets() -> None:
    common = {f"--option-{number}": "x" * number for number in range(0, 5000, 3)}
    card = make("g", 2, 1, "pod" * 200, Own(), {**common, "--chat-template": "y" * 100_000})
    assert len(card.line()) <= LINE_BYTES
    assert len(card.common_text()) <= LINE_BYTES
    assert read_common(card.common_text(), card.digest) == card.common
    one, other = (make("g", 2, 1, "pod", Own(), {"--chat-template": "y" * 100_000 + end}) for end in "ab")
    assert one.digest != other.digest


def test_nothing_that_came_is_printed_raw() -> None:
    document = {**json.loads(group().cards[1].line()), "pod": RED, "group": RED, "interface": RED}
    document["refusal"] = {"code": RED, "message": RED * 1000, "hint": RED, "exit_code": 78}
    card = read_card(json.dumps(document).encode())
    refusal = card.refusal
    assert refusal is not None
    for text in (card.pod, card.group, card.own.interface or "", refusal.code, refusal.message, refusal.hint):
        assert text.isprintable()
        assert len(text) < 2000
    common = json.dumps({RED: RED}).encode()
    assert all(one.isprintable() for pair in read_common(common, digest_of(common)).items() for one in pair)
    line = json.dumps(
        {"problems": [{"severity": "error", "code": RED, "message": RED, "hint": "", "exit_code": 78}], "more": 0}
    )
    assert all(
        one.isprintable()
        for one in (read_verdict(line.encode()).problems[0].code, read_verdict(line.encode()).problems[0].message)
    )


def but(**changed: Any) -> bytes:
    return json.dumps({**json.loads(group().cards[1].line()), **changed}).encode()


RAIL = json.loads(group().cards[1].line())["rails"][0]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"a":' * 30_000, b"1" * 60_000, b" " * 70_000,
        but(index="1"), but(index=True), but(index=-1), but(index=1.5), but(index=10**30), but(index=None),
        but(size=0), but(group=3), but(pod=[]), but(digest={}), but(clock_s="now"), but(clock_s=-1),
        but(rails=[RAIL] * 65), but(rails={}), but(rails=[3]), but(rails=["text"]), but(rails=[{**RAIL, "port": 256}]),
        but(rails=[{**RAIL, "rate_gbps": 1e308}]), but(refusal=[]), but(refusal={"code": "X"}), but(refusal="no"),
        but(refusal={"code": "X", "message": "", "hint": "", "exit_code": 0}),
        but(clock_s=1).replace(b'"clock_s": 1', b'"clock_s": NaN'), but(clock_s=1).replace(b'"clock_s": 1', b'"clock_s": 1e999'),
    ],
)  # fmt: skip
def test_what_is_no_card(line: bytes) -> None:
    with pytest.raises(BadCard):
        read_card(line)


def test_a_newer_card_is_read_for_what_is_known() -> None:
    card = read_card(but(protocol=9, colour="blue", rails=[{**RAIL, "shape": 3}]))
    assert (card.index, len(card.own.rails)) == (1, 1)


@pytest.mark.parametrize(
    "text", [b"[]", b'{"a": 1}', b'{"a": null}', b"x", json.dumps({str(n): "" for n in range(2001)}).encode()]
)
def test_what_is_no_text_behind_a_digest(text: bytes) -> None:
    with pytest.raises(BadCard):
        read_common(text, digest_of(text))


def test_a_text_that_is_not_behind_its_digest() -> None:
    with pytest.raises(BadCard, match="digest"):
        read_common(b'{"--dtype":"auto"}', digest_of(b"{}"))


NAMES = st.sampled_from(["index", "group", "size", "pod", "digest", "rails", "refusal", "problems", "more", "x"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
DOCUMENTS = st.dictionaries(NAMES, LEAVES | st.lists(st.dictionaries(NAMES, LEAVES, max_size=4), max_size=3))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_any_bytes(line: bytes) -> None:
    for read, refused in ((read_card, BadCard), (read_verdict, BadVerdict)):
        with suppress(refused):
            read(line)
    with suppress(BadCard):
        read_common(line, digest_of(line))


def test_a_verdict_is_read_as_it_was_written() -> None:
    verdict = Verdict((config_error("INDEX_TWICE", "twice", "fix"), warning("CLOCK_DIFFERS", "clock", "")))
    assert read_verdict(write_verdict(verdict)) == verdict
    assert read_verdict(write_verdict(verdict)).exit_code == 78


def test_a_verdict_is_bounded_and_its_errors_come_first() -> None:
    many = [warning("VARIABLE_DIFFERS", "\x1b" * 5000 + str(number), "z" * 5000) for number in range(2000)]
    line = write_verdict(Verdict((*many, Problem("error", "SGLANG_DIFFERS", "releases", "", 78))))
    assert len(line) <= 65536
    read = read_verdict(line)
    assert (read.problems[0].code, read.exit_code) == ("SGLANG_DIFFERS", 78)
    assert read.problems[-1].code == "COMPARISON_INCOMPLETE"


def test_a_keyed_digest_means_something_in_one_meeting_only() -> None:
    assert keyed_digest("a", "secret") == keyed_digest("a", "secret")
    assert keyed_digest("a", "secret") != keyed_digest("b", "secret")
    assert keyed_digest("a", "secret") != keyed_digest("a", "Secret")


def test_the_addresses_of_all_members_travel_with_the_verdict() -> None:
    peers = Peers(("10.0.0.1", "10.0.0.2", "fd00::1"))
    assert read_verdict(write_verdict(Verdict(peers=peers))).peers == peers
    without = Peers(why=f"member 1 is seen as {RED}")
    read = read_verdict(write_verdict(Verdict(peers=without))).peers
    assert not read.addresses
    assert read.why.isprintable()
    # An older launcher's verdict has none, and that is said.
    older = read_verdict(b'{"problems":[],"more":0}').peers
    assert not older.addresses
    assert older.why


@pytest.mark.parametrize(
    "peers",
    [
        '{"addresses":["10.0.0.1","sglang-0"],"why":""}',
        '{"addresses":["10.0.0.0/8"],"why":""}',
        '{"addresses":7,"why":""}',
        '{"why":""}',
        "[]",
        json.dumps({"addresses": [f"10.1.{one // 256}.{one % 256}" for one in range(4000)], "why": ""}),
    ],
)
def test_what_is_no_list_of_addresses_is_no_verdict(peers: str) -> None:
    with pytest.raises(BadVerdict):
        read_verdict(b'{"problems":[],"more":0,"peers":%s}' % peers.encode())
