"""What peers say in a proof is hostile: an end, its process, the judge and a member take it for nothing, and go on."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.proof.errand import Errand
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.pairs import (
    BOTH,
    FAILED,
    FAR,
    LOSSY,
    NEAR,
    NOT_TRIED,
    PROVEN,
    Pair,
)
from sglang_roce_entry.group.meeting.proof.relay import Proven
from sglang_roce_entry.launch.proving import judged
from sglang_roce_entry.report.rail_table import rail_lines, rails_document
from sglang_roce_entry.verbs.messages import LINE_BYTES, READY, SENT, Seen, read, written
from tests.group.proof.exchanges import WHOLE
from tests.group.proof.fabric import nodes
from tests.verbs.hostile import ANY, LINES, OFFERS, SEEN, line_of
from tests.verbs.test_exchange import OFFER, THEIRS, StandIn, against

if TYPE_CHECKING:
    from collections.abc import Sequence

#: An end reports; it may have nothing to say.
REPORTS = st.one_of(
    st.none(),
    LINES,
    st.builds(
        lambda changed: line_of({"kind": "seen", **asdict(WHOLE), **changed}),
        st.dictionaries(st.sampled_from([*asdict(SEEN)]), ANY, max_size=3),
    ),
    st.builds(
        lambda **changed: written(replace(WHOLE, **changed)).rstrip(),
        cause=st.sampled_from(["", "NO_WAY", "NO_NEIGHBOUR", "PEER_SILENT", "PEER_", "NEW_ONE", "MEMLOCK"]),
        sent=st.tuples(*[st.sampled_from([-1, 0, 2, 5, 9, 10, 12, (1 << 32) - 1])] * 3),
        got=st.tuples(*[st.sampled_from([0, 1, 64, 8256])] * 3),
        state_after=st.sampled_from([0, 1, 4, 255]),
        gid_after=st.sampled_from(["", "0" * 32, "f" * 32]),
    ),
)


@given(REPORTS, REPORTS)
@settings(deadline=None)
def test_whatever_two_ends_report_is_one_outcome(near: bytes | None, far: bytes | None) -> None:
    outcome = judged(near, far)
    assert outcome.status in (PROVEN, LOSSY, FAILED, NOT_TRIED)
    assert outcome.end in ("", NEAR, FAR, BOTH)
    assert outcome.direction in ("", "in", "out", BOTH)
    assert set(outcome.cause) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    assert outcome.fatal <= (outcome.status == FAILED)
    if outcome.status == PROVEN:
        assert near is not None
        assert far is not None
        assert all(isinstance(one := read(line), Seen) and one.complete for line in (near, far))
    proven = Proven({Pair(0, 0, 1): outcome}, {}, nodes(2))
    rows = rails_document([], proven)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    shown = [*rail_lines(rows), *(one.message for one in judge_proof(proven, {}))]
    assert all(line.isprintable() and len(line) < 1500 for line in shown)


GOOD = [written(OFFER), written(READY), written(SENT), written(THEIRS)]


@given(st.integers(0, len(GOOD)), st.lists(LINES | st.sampled_from(GOOD) | OFFERS.map(written), max_size=4))
@settings(deadline=None)
def test_an_end_reports_whatever_its_peer_says(before: int, lines: list[bytes]) -> None:
    end = StandIn()
    ours, theirs, said = against([*GOOD[:before], *lines], end)
    assert read(said[-1]) == ours
    assert ours.cause in ("", "PEER_SILENT", "PEER_MALFORMED", "PEER_STOPPED")
    assert theirs is None or isinstance(theirs, Seen)
    # Nothing is sent to a peer that has not said where, and that it may be sent to.
    assert end.done.index("connect") < end.done.index("send") if "send" in end.done else True
    assert judged(written(ours), written(theirs) if theirs is not None else None).fatal in (False, True)


class Listener:
    """In the place of the process that proves: what it is told."""

    failed: str | None = None

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def fileno(self) -> int:
        return -1

    def tell(self, line: bytes) -> None:
        self.told.append(line)

    def heard(self) -> list[bytes]:
        return []

    def end(self) -> str | None:
        return None


ROWS = st.lists(st.lists(st.integers(-2, 99) | ANY, min_size=2, max_size=4), max_size=5).map(line_of)
ORDERS = st.builds(
    lambda number, rest: number + b" " + rest, st.sampled_from([b"7", b"8", b"", b"x"]), LINES | ROWS
)


@given(st.lists(st.tuples(st.sampled_from(sorted(wire.TO_A_PROVER)), ORDERS), max_size=8))
@example([(wire.PAIRS, b"7 " + b"[" * 100_000)])
@example([(wire.PAIRS, b"7 [[%s,0,0]]" % (b"9" * 4000))])
@example([(wire.RAIL, b"7 \xff {}"), (wire.RAIL, b"7"), (wire.RAIL, b"7 1 " + b"x" * 100_000)])
@settings(deadline=None)
def test_a_process_is_told_only_what_it_can_read(orders: Sequence[tuple[bytes, bytes]]) -> None:
    listener = Listener()
    errand = Errand(lambda: listener, lambda _: None)
    errand.told(wire.PROVE, b"7")
    for word, rest in orders:
        if word == wire.PROVE and rest.split(b" ")[0] != b"7":
            continue  # another proof begins
        with suppress(ValueError, RecursionError):  # the leader is left
            errand.told(word, rest)
    for line in listener.told:
        word, pair, said = line.split(b" ", 2)
        assert word in (b"to", b"begin")
        assert pair.isdigit()
        assert len(line) < 2 * LINE_BYTES
        if word == b"begin":
            number, times = said.split(b" ")
            assert int(number) >= 0
            assert times in (b"first", b"patient")
