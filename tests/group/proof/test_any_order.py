"""Lines of a proof in any order, late, lost or senseless: it ends in time, and no error is about a pair that passes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.proof.found import judge_proof
from sglang_roce_entry.group.meeting.proof.pairs import FAILED, PROVEN, Pair, first_waves
from sglang_roce_entry.group.meeting.proof.relay import PROOF_S, Proof
from sglang_roce_entry.launch.proving import judged
from tests.group.proof.exchanges import NOTHING, SMALL_ONLY, WHOLE, Ends
from tests.group.proof.fabric import nodes

if TYPE_CHECKING:
    from random import Random

    from sglang_roce_entry.verbs.messages import Seen

RAILS = 2
STEP_S = 0.25
#: What no member means: other numbers, other words, half of a line.
SENSELESS = (
    b"",
    b"7",
    b"7 1",
    b"7 1 {",
    b"7 999999999999 {}",
    b"7 2 \xff\x00",
    b"6 1 up",
    b"7 -1 x",
    b"7 1 " + b"x" * 5000,
)
STOPS = replace(WHOLE, cause="GID_REFUSED", step="rtr", number=22, got=(0, 0, 0))


@dataclass(frozen=True)
class Fabric:
    """``broken``: pairs of members on a rail, and what their ends see; ``own``: ends that stop by themselves."""

    broken: dict[tuple[int, frozenset[int]], Seen] = field(default_factory=dict)
    own: frozenset[tuple[int, int]] = frozenset()

    def sees(self, index: int, position: int, peer: int, _patient: int) -> Seen:
        if (index, position) in self.own:
            return STOPS
        return self.broken.get((position, frozenset((index, peer))), WHOLE)

    def passes(self, pair: Pair) -> bool:
        """Return whether there is nothing wrong with a pair."""
        whole = (pair.position, frozenset((pair.near, pair.far))) not in self.broken
        return whole and not self.own & {(pair.near, pair.position), (pair.far, pair.position)}


@st.composite
def fabrics(draw: st.DrawFn, size: int) -> Fabric:
    edges = st.tuples(
        st.integers(0, RAILS - 1), st.sets(st.integers(0, size - 1), min_size=2, max_size=2).map(frozenset)
    )
    ports = st.tuples(st.integers(0, size - 1), st.integers(0, RAILS - 1))
    broken = draw(st.dictionaries(edges, st.sampled_from([NOTHING, SMALL_ONLY]), max_size=3))
    return Fabric(broken, draw(st.frozensets(ports, max_size=2)))


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, Fabric, frozenset[int]]:
    size = draw(st.integers(2, 6))
    return size, draw(fabrics(size)), draw(st.frozensets(st.integers(0, size - 1), max_size=2))


def play(size: int, fabric: Fabric, lost: frozenset[int], senseless: float, chance: Random) -> Proof:
    """Let lines pass in any order but a member's own, which its connection keeps; ``lost`` fall silent some time."""
    proof, ends, now_s = Proof(nodes(size, RAILS), judged), Ends(fabric.sees), 0.0
    silent_from = {index: chance.uniform(0, 20) for index in lost}
    to_members: dict[int, list[bytes]] = {index: [] for index in range(size)}
    to_leader: dict[int, list[bytes]] = {index: [] for index in range(size)}

    def hand_out(lines: list[tuple[int, bytes]]) -> None:
        for index, line in lines:
            assert b"\n" not in line
            to_members[index].append(line)

    hand_out(proof.begin(7, now_s))
    while not proof.over:
        for index, line in ends.late(7, now_s):
            to_leader[index].append(line)
        busy = [(queues, index) for queues in (to_members, to_leader) for index, queue in queues.items() if queue]
        while busy and chance.random() < 0.95:
            queues, index = chance.choice(busy)
            line = queues[index].pop(0)
            if silent_from.get(index, PROOF_S) < now_s:
                pass
            elif queues is to_members:
                to_leader[index] += [answer for _, answer in ends.told(index, line, now_s)]
                if chance.random() < senseless:
                    to_leader[index].append(
                        chance.choice(sorted(wire.OF_A_PROOF)) + b" " + chance.choice(SENSELESS)
                    )
            else:
                hand_out(proof.took(index, *wire.split(line), now_s))
            busy = [
                (queues, index) for queues in (to_members, to_leader) for index, queue in queues.items() if queue
            ]
        now_s += STEP_S
        hand_out(proof.tick(now_s))
        assert now_s <= PROOF_S, "members have given it up"
    return proof


@given(groups(), st.sampled_from([0.0, 0.0, 0.2]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_any_order(group: tuple[int, Fabric, frozenset[int]], senseless: float, chance: Random) -> None:
    size, fabric, lost = group
    proof = play(size, fabric, lost, senseless, chance)
    assert proof.outcomes.keys() == {pair for wave in first_waves(nodes(size, RAILS)) for pair in wave}
    for pair, outcome in {**proof.outcomes, **proof.trials}.items():
        if fabric.passes(pair):
            assert not (outcome.status == FAILED and outcome.fatal), (pair, outcome)
        else:
            assert outcome.status != PROVEN, (pair, outcome)
        if not lost and not senseless:
            assert fabric.passes(pair) == (outcome.status == PROVEN), (pair, outcome)
    problems = judge_proof(proof.results(), {})
    faults = not all(map(fabric.passes, proof.outcomes))
    assert faults or not [one for one in problems if one.severity == "error"]
    assert all(one.message.isprintable() for one in problems)
    if not lost and not senseless:
        assert bool([one for one in problems if one.severity == "error"]) == faults
