"""The proof of 1,100 nodes with four rails each, line by line under a virtual clock: what the leader says, and its costs."""

from __future__ import annotations

import time
import tracemalloc
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.holding import Proofs
from sglang_roce_entry.group.meeting.proof.pairs import PROVEN, WAVE_PAIRS
from sglang_roce_entry.group.meeting.proof.relay import FIRST_S, PROOF_S, Proof, Proven
from sglang_roce_entry.group.meeting.terms import Concluded, Gathered
from sglang_roce_entry.launch.proving import judged
from tests.group.proof.exchanges import NOTHING, SMALL_ONLY, WHOLE, Ends
from tests.group.proof.fabric import nodes

if TYPE_CHECKING:
    from sglang_roce_entry.verbs.messages import Seen

SIZE, RAILS = 1100, 4
#: Of one pair, both ends: some 1,100 bytes each way.
PAIR_BYTES = 2000
#: What 1,000 lines take to cross the leader; a wave's exchanges themselves.
LINES_S, EXCHANGE_S = 0.02, 0.1


@dataclass
class Played:
    """What came of it, and its costs."""

    proven: Proven
    seconds: float
    cpu_s: float
    read_bytes: int
    sent_bytes: int
    said: list[str]


def play(size: int, ends: Ends) -> Played:
    """Play the leader's part, from the first line to its results."""
    now_s = 0.0
    lines: deque[tuple[int, bytes]] = deque()
    said: list[str] = []

    def conclude(gathered: Gathered) -> Concluded:
        proof = Proof(nodes(size, RAILS), judged) if gathered.proven is None else None
        results.append(gathered.proven)
        return Concluded(Verdict(()), proof=proof)

    results: list[Proven | None] = []
    proofs = Proofs(conclude, lambda index, line: lines.append((index, line)), said.append, lambda: now_s)
    gathered = Gathered((), {}, (), (), overdue=False)
    read_bytes = sent_bytes = 0
    cpu_s = -time.process_time()
    assert proofs.conclude(gathered) is None
    while proofs.going_on:
        while lines:
            index, line = lines.popleft()
            sent_bytes += len(line) + 1
            for member, answer in ends.told(index, line, now_s):
                read_bytes += len(answer) + 1
                word, _, rest = answer.partition(b" ")
                proofs.took(member, word, rest)
            now_s += LINES_S / 1000
        now_s += EXCHANGE_S
        for member, answer in ends.late(1, now_s):
            proofs.took(member, *answer.split(b" ", 1))
        proofs.tick()
        assert now_s < PROOF_S, "members have given it up"
    cpu_s += time.process_time()
    proofs.conclude(gathered)
    proven = results[-1]
    assert proven is not None
    return Played(proven, now_s, cpu_s, read_bytes, sent_bytes, said)


def whole(*_args: int) -> Seen:
    return WHOLE


def faulty(index: int, position: int, peer: int, patient: int) -> Seen:
    """Nothing of 17's passes on rail 1; 500 cannot lock memory; no full packets between 900 and 901 on rail 2."""
    if position == 1 and peer == 17:
        return NOTHING
    if position == 1 and index == 17 and peer >= 0:
        return replace(WHOLE, sent=(12, 5, 5))  # the acknowledgements are lost on the same way
    if index == 500:
        return replace(WHOLE, cause="MEMLOCK", number=12, detail="ibv_reg_mr: ENOMEM", got=(0, 0, 0))
    if position == 2 and {index, peer} == {900, 901}:
        return SMALL_ONLY
    return WHOLE


def test_a_large_group_whose_rails_are_whole() -> None:
    ends = Ends(whole)
    played = play(SIZE, ends)
    assert ends.begun == 2 * SIZE * RAILS
    assert {one.status for _, one in played.proven} == {PROVEN}
    assert len(played.proven.outcomes) == SIZE * RAILS
    assert judge_proof(played.proven, {}) == ()
    assert played.seconds < FIRST_S
    assert played.read_bytes < PAIR_BYTES * SIZE * RAILS
    assert played.sent_bytes < PAIR_BYTES * SIZE * RAILS
    assert played.cpu_s < 60  # some 3 s
    assert played.said[0] == f"proving {SIZE * RAILS} pairs of rails between {SIZE} nodes"


def test_a_few_faults_in_a_large_group_have_their_nodes() -> None:
    played = play(SIZE, Ends(faulty, mute=frozenset({1050})))
    found = [(one.severity, one.code, one.message) for one in judge_proof(played.proven, {})]
    expected = [
        ("error", "RAIL_NO_WAY", "rail 1 of node 17 mlx5_1:1 10.1.0.18, tried with 16, 18: nothing arrives"),
        (
            "error",
            "RAIL_LARGE_LOST",
            "rail 2 between 900 mlx5_2:1 10.2.0.901 and 901 mlx5_2:1 10.2.0.902: 64 bytes",
        ),
        (
            "warning",
            "RAIL_MEMLOCK",
            "rails 0-3 of node 500, first mlx5_0:1 10.0.0.501, tried with 499, 501: no memory",
        ),
        (
            "warning",
            "RAIL_NOT_PROVEN",
            "rails 0-3 of node 1050, first mlx5_0:1 10.0.0.1051, tried with 1049, 1051: it could",
        ),
    ]
    assert [(severity, code) for severity, code, _ in found] == [one[:2] for one in expected]
    for (_, _, message), (_, _, beginning) in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_what_a_leader_keeps_of_a_wave_is_bounded() -> None:
    tracemalloc.start()
    try:
        play(WAVE_PAIRS // (2 * RAILS), Ends(whole))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20  # some 4 MiB for half of the largest wave, with the members' own
