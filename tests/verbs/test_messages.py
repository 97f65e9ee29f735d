"""What an end is told is hostile: it becomes a message, or is refused, and never anything else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sglang_roce_entry.verbs.messages import (
    LINE_BYTES,
    READY,
    SENT,
    MalformedError,
    Message,
    Offer,
    Seen,
    read,
    written,
)
from tests.verbs.hostile import LINES, OFFER, OFFERS, SEEN

WRONG: tuple[object, ...] = (None, [], {}, 1.0, True, "", -1)


@pytest.mark.parametrize("message", [OFFER, SEEN, Seen("mlx5_0"), READY, SENT])
def test_what_is_written_is_read(message: Message) -> None:
    line = written(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) < LINE_BYTES // 2
    assert read(line) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, wrong) for name in asdict(OFFER) for wrong in WRONG if (name, wrong) != ("lid", None)),
        ("lid", 1 << 16),
        *(("qp_number", 1 << 24), ("mtu", 0), ("mtu", 6), ("address", 0), ("address", 1 << 64), ("rkey", 1 << 32)),
        *(("large_bytes", 63), ("large_bytes", 8257), ("gid", "F" * 32), ("gid", "0" * 31), ("nonce", "é" * 32)),
    ],
)
def test_an_offer_with_one_wrong_value_is_refused(name: str, value: object) -> None:
    document = {"kind": "offer", **asdict(OFFER), name: value}
    with pytest.raises(MalformedError):
        read(json.dumps(document).encode())


def test_what_an_older_launcher_writes_is_read() -> None:
    older = {"kind": "offer", **asdict(OFFER)}
    del older["lid"]
    assert read(json.dumps(older).encode()) == replace(OFFER, lid=None)
    seen = {name: value for name, value in asdict(SEEN).items() if name not in ("lid", "pkey")}
    assert read(json.dumps({"kind": "seen", **seen}).encode()) == SEEN


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sent", (0, 0)), ("sent", (0, 0, 0, 0)), ("sent", (0, 0, "0")), ("sent", (-2, 0, 0)), ("sent", None)),
        *(("detail", "d" * 401), ("detail", "\x1b[2J"), ("cause", "a\nb"), ("device", "n" * 65), ("number", -1)),
        *(("seconds", float("nan")), ("seconds", float("inf")), ("seconds", -1), ("seconds", True), ("got", {})),
    ],
)
def test_a_view_with_one_wrong_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedError):
        read(json.dumps({"kind": "seen", **asdict(SEEN), name: value}).encode())


def _only_a_message(line: bytes) -> None:
    try:
        message = read(line)
    except MalformedError:
        return
    assert isinstance(message, (Offer, Seen)) or message in (READY, SENT)
    assert read(written(message)) == message


@given(st.binary(max_size=200))
@example(b"[" * LINE_BYTES)
@example(b"9" * LINE_BYTES)
@example(b"{" * (LINE_BYTES + 1))
@example(b'{"kind": "offer"}')
@example(b'{"kind": ["offer"]}')
def test_any_bytes(line: bytes) -> None:
    _only_a_message(line)


@given(LINES)
def test_anything_like_a_message(line: bytes) -> None:
    _only_a_message(line)


@given(OFFERS)
def test_an_offer_that_is_well_formed_is_read(offer: Offer) -> None:
    assert read(written(offer)) == offer
