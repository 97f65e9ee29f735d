"""What two ends saw, and its name: the table of `judgement.py`, each row as a kernel with soft-RoCE gave it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sglang_roce_entry.verbs.judgement import Verdict, judge
from sglang_roce_entry.verbs.messages import Seen

GID, OTHER = f"{1:032x}", f"{2:032x}"
ALL = (64, 2112, 2112)
GOOD = Seen("mlx5_0", 1, GID, 1024, sent=(0, 0, 0), got=ALL, want=ALL, state_after=4, gid_after=GID)
NOTHING = {"sent": (12, 5, 5), "got": (0, 0, 0)}

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], Verdict]] = {
    "all passes": ({}, {}, Verdict("proven")),
    "nothing passes": (NOTHING, NOTHING, Verdict("failed", "NO_WAY", direction="both")),
    "nothing of ours arrives": ({"sent": (12, 5, 5)}, NOTHING, Verdict("failed", "NO_WAY", direction="out")),
    "large packets are lost, out": (
        {"sent": (0, 12, 5)},
        {"got": (64, 0, 0)},
        Verdict("failed", "LARGE_LOST", direction="out"),
    ),
    "large packets are lost, both ways": (
        {"sent": (0, 12, 5), "got": (64, 0, 0)},
        {"sent": (0, 12, 5), "got": (64, 0, 0)},
        Verdict("failed", "LARGE_LOST", direction="both"),
    ),
    "an acknowledgement is lost too often": (
        {"sent": (0, 12, 5)},
        {},
        Verdict("lossy", "LOSSY", direction="both"),
    ),
    "part of it is lost": (
        {"sent": (0, 12, 5)},
        {"got": (64, 1024, 0)},
        Verdict("lossy", "LOSSY", direction="out"),
    ),
    "a wrong key of theirs": (
        {"sent": (0, 0, 10)},
        {"got": (64, 2112, 0)},
        Verdict("failed", "REFUSED_KEY", "theirs"),
    ),
    "a refusal of what landed": ({"sent": (0, 0, 9)}, {}, Verdict("lossy", "LOSSY", direction="both")),
    "our link is down": (
        {**NOTHING, "sent": (2, 5, 5), "state_after": 1},
        {"got": (0, 0, 0)},
        Verdict("failed", "LINK_DOWN", "ours"),
    ),
    "their port has no LID": (
        {**NOTHING, "lid": 3, "pkey": 0xFFFF},
        {**NOTHING, "lid": 0, "pkey": 0xFFFF},
        Verdict("failed", "NO_LID", "theirs"),
    ),
    "neither port has a LID": (
        {**NOTHING, "lid": 0},
        {**NOTHING, "lid": 0},
        Verdict("failed", "NO_LID", "both"),
    ),
    "a port without a LID that carries all": ({"lid": 0}, {"lid": 3}, Verdict("proven")),
    "two limited members of a partition": (
        {**NOTHING, "lid": 3, "pkey": 0x0005},
        {**NOTHING, "lid": 4, "pkey": 0x0005},
        Verdict("failed", "PKEY_DIFFERS", direction="both"),
    ),
    "one partition, or one that is not known": (
        {**NOTHING, "lid": 3, "pkey": 0x8005},
        {**NOTHING, "lid": 4},
        Verdict("failed", "NO_WAY", direction="both"),
    ),
    "another partition that lets large packets alone not pass": (
        {"sent": (0, 12, 5), "lid": 3, "pkey": 0x8005},
        {"got": (64, 0, 0), "lid": 4, "pkey": 0x8006},
        Verdict("failed", "LARGE_LOST", direction="out"),
    ),
    "their address is gone": (NOTHING, {**NOTHING, "gid_after": OTHER}, Verdict("failed", "GID_MOVED", "theirs")),
    "other bytes": ({}, {"got": (64, 7, 2112)}, Verdict("failed", "WRONG_DATA", direction="out")),
    "no neighbour": (
        {"cause": "NO_NEIGHBOUR", "number": 110},
        {"cause": "PEER_STOPPED"},
        Verdict("failed", "NO_NEIGHBOUR", "ours"),
    ),
    "both are refused": (
        {"cause": "GID_REFUSED"},
        {"cause": "GID_REFUSED"},
        Verdict("failed", "GID_REFUSED", "both"),
    ),
    "it cannot be tried there": (
        {"cause": "PEER_STOPPED"},
        {"cause": "QP_REFUSED"},
        Verdict("not_tried", "QP_REFUSED", "theirs"),
    ),
    "the peer talks nonsense": ({"cause": "PEER_MALFORMED"}, {}, Verdict("not_tried", "PEER_MALFORMED", "theirs")),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_name_of_what_two_ends_saw(row: str) -> None:
    ours, theirs, verdict = ROWS[row]
    assert judge(replace(GOOD, **ours), replace(GOOD, **theirs)) == verdict


@pytest.mark.parametrize("row", ROWS)
def test_the_other_end_says_the_same_the_other_way_round(row: str) -> None:
    ours, theirs, verdict = ROWS[row]
    turned = {"out": "in", "in": "out", "ours": "theirs", "theirs": "ours"}
    expected = replace(
        verdict,
        end=turned.get(verdict.end, verdict.end),
        direction=turned.get(verdict.direction, verdict.direction),
    )
    assert judge(replace(GOOD, **theirs), replace(GOOD, **ours)) == expected


def test_a_peer_that_never_said_what_it_saw() -> None:
    assert judge(GOOD, None) == Verdict("not_tried", "PEER_SILENT", "theirs")
    assert judge(replace(GOOD, cause="PEER_SILENT"), None) == Verdict("not_tried", "PEER_SILENT", "theirs")
    assert judge(replace(GOOD, cause="MEMLOCK"), None) == Verdict("failed", "MEMLOCK", "ours")
