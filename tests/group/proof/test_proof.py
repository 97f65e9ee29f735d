"""The proof of rails as a machine of states: who tries what with whom, whatever becomes of the members."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.proof import relay
from sglang_roce_entry.group.meeting.proof.found import judge_proof, status_of
from sglang_roce_entry.group.meeting.proof.pairs import (
    FAILED,
    NOT_TRIED,
    PROVEN,
    WAVE_PAIRS,
    Nodes,
    Outcome,
    Pair,
    first_waves,
    ring_of,
)
from sglang_roce_entry.group.meeting.proof.relay import FIRST_S, LONGEST_S, PATIENT_S, START_S, Proof
from tests.group.proof.fabric import Fabric, judged, nodes, rail

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang_roce_entry.group.meeting.card import Rail

PODS = {index: f"pod-{index}" for index in range(16)}


def broken(*members: int, cause: str = "NO_WAY", rails: tuple[int, ...] = (0,)) -> Callable[..., str]:
    return lambda position, ends, _patient: cause if position in rails and ends & set(members) else "proven"


def told(proof: Proof) -> list[tuple[str, str, str]]:
    return [(one.severity, one.code, one.message) for one in judge_proof(proof.results(), PODS)]


# ----------------------------------------------------------------------------------------- pairs


@given(st.integers(1, 40), st.integers(1, 9))
@settings(deadline=None)
def test_each_rail_of_each_node_is_in_the_ring_twice_and_never_at_once(size: int, rails: int) -> None:
    waves = first_waves(nodes(size, rails))
    for wave in waves:
        ports = [port for pair in wave for port in pair.ports]
        assert len(ports) == len(set(ports))
    times = Counter(port for wave in waves for pair in wave for port in pair.ports)
    assert set(times.values()) == ({2} if size > 2 else {1} if size == 2 else set())
    assert len(times) == (size * rails if size > 1 else 0)
    assert len(waves) <= (2 if size % 2 == 0 else 3)


def test_a_wave_is_bounded_whatever_the_size() -> None:
    waves = first_waves(nodes(1200, 8))
    assert max(map(len, waves)) == WAVE_PAIRS
    assert sum(map(len, waves)) == 1200 * 8


def test_ring() -> None:
    assert ring_of([]) == ring_of([3]) == []
    assert ring_of([5, 2]) == [(2, 5)]
    assert ring_of([5, 2, 9]) == [(2, 5), (5, 9), (9, 2)]


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (rail(1), True),
        (rail(1, needed=None), False),
        (rail(1, network="10.9.0.0/16"), False),
        (replace(rail(1, network="10.9.0.0/16"), routed=True), True),
        (replace(rail(1), gid=None), False),
        (replace(rail(1), network=None), False),
    ],
)
def test_what_is_compared_elsewhere_is_not_tried(other: Rail, *, fits: bool) -> None:
    first = replace(rail(0), routed=True)
    here = Nodes({0: (first,), 1: (other,)}, {0: None, 1: None})
    assert here.fit(Pair(0, 0, 1)) is fits


def test_two_pods_of_one_machine_are_not_tried() -> None:
    here = Nodes(nodes(2).rails, {0: "same", 1: "same"})
    assert first_waves(here) == []


# ----------------------------------------------------------------------------------------- the proof


@pytest.mark.parametrize("size", [2, 3, 4, 5, 16])
def test_a_group_whose_rails_are_whole(size: int) -> None:
    fabric = Fabric(nodes(size, 8))
    proof = fabric.run()
    assert {status_of(one) for one in proof.outcomes.values()} == {(PROVEN, "")}
    assert len(fabric.begun) == len(proof.outcomes) == 8 * (size if size > 2 else 1)
    assert not any(patient for _, _, patient in fabric.begun)
    assert fabric.now_s <= 0.5
    assert told(proof) == []


def test_what_passes_with_patience_is_a_warning() -> None:
    proof = Fabric(
        nodes(4), lambda _rail, ends, patient: "NO_WAY" if 2 in ends and not patient else "proven"
    ).run()
    (warned,) = {(severity, code) for severity, code, _ in told(proof)}
    assert warned == ("warning", "RAIL_LOSSY")
    assert status_of(proof.outcomes[Pair(0, 1, 2)]) == ("lossy", "LATE")


@pytest.mark.parametrize("cause", ["NO_WAY", "LARGE_LOST", "NO_NEIGHBOUR", "GID_REFUSED"])
@pytest.mark.parametrize("size", [3, 4, 5, 16])
def test_from_three_nodes_on_the_fault_has_a_node(size: int, cause: str) -> None:
    ((severity, code, message),) = told(Fabric(nodes(size), broken(2, cause=cause)).run())
    assert (severity, code) == ("error", f"RAIL_{cause}")
    assert message.startswith("rail 0 of node 2 (pod-2) mlx5_0:1 10.0.0.3, tried with "), message


def test_two_that_are_broken_side_by_side_are_both_named() -> None:
    fabric = Fabric(nodes(8), broken(2, 3))
    ((_, _, message),) = told(fabric.run())
    assert message == "rail 0 of nodes 2 (pod-2), 3 (pod-3): nothing arrives, in either direction"


@pytest.mark.parametrize("end", ["near", "far", "both"])
def test_who_says_it_is_not_whose_fault_it_is(end: str) -> None:
    def seen_by(near: bytes | None, far: bytes | None) -> Outcome:
        outcome = judged(near, far)
        return replace(outcome, end=end) if outcome.status == FAILED else outcome

    for cause in ("NO_NEIGHBOUR", "GID_REFUSED"):
        ((_, _, message),) = told(Fabric(nodes(4), broken(2, cause=cause), judge=seen_by).run())
        assert message.startswith("rail 0 of node 2 (pod-2) mlx5_0:1 10.0.0.3, tried with 1 (pod-1), 3 (pod-3)"), (
            message
        )
    ((_, _, message),) = told(Fabric(nodes(2), broken(1, cause="NO_NEIGHBOUR"), judge=seen_by).run())
    assert "between 0 (pod-0) mlx5_0:1 10.0.0.1 and 1 (pod-1) mlx5_0:1 10.0.0.2: no neighbour answers" in message


def test_two_nodes_are_named_as_a_pair_with_all_rails_in_one() -> None:
    ((severity, _, message),) = told(Fabric(nodes(2, 4), broken(1, rails=(1, 2, 3))).run())
    assert severity == "error"
    assert message.startswith(
        "rails 1-3 between 0 (pod-0) mlx5_1:1 10.1.0.1 and 1 (pod-1) mlx5_1:1 10.1.0.2: nothing"
    )


def test_the_way_between_two_whole_nodes() -> None:
    way = frozenset((1, 2))
    ((_, _, message),) = told(
        Fabric(nodes(5), lambda _rail, ends, _p: "NO_WAY" if ends == way else "proven").run()
    )
    assert "between 1 (pod-1)" in message
    assert "both ends reach others" in message


def test_what_the_kernel_refuses_is_not_tried_again() -> None:
    fabric = Fabric(nodes(4), broken(2, cause="GID_REFUSED"))
    assert {(severity, code) for severity, code, _ in told(fabric.run())} == {("error", "RAIL_GID_REFUSED")}
    assert not any(patient for _, _, patient in fabric.begun)


def test_a_rail_that_nccl_does_not_need_is_a_warning() -> None:
    whole = nodes(3, 2)
    spare = {index: (rails[0], replace(rails[1], proof=False)) for index, rails in whole.rails.items()}
    found = told(Fabric(Nodes(spare, whole.machines), broken(1, rails=(1,))).run())
    assert [(severity, code) for severity, code, _ in found] == [("warning", "RAIL_NO_WAY")]


@pytest.mark.parametrize(
    "cause", ["QP_REFUSED", "MEMLOCK", "PORT_DOWN", "GID_MOVED", "REFUSED_KEY", "SOMETHING_NEW"]
)
def test_what_this_cannot_judge_is_a_warning(cause: str) -> None:
    def of_a_launch(near: bytes | None, far: bytes | None) -> object:
        return replace(judged(near, far), fatal=False) if near == cause.encode() else judged(near, far)

    fabric = Fabric(nodes(3), broken(1, cause=cause), judge=of_a_launch)  # type: ignore[arg-type]
    assert {severity for severity, _, _ in told(fabric.run())} == {"warning"}


# ----------------------------------------------------------------------------------------- members


@pytest.mark.parametrize("how", ["mute", "crash", "garbage"])
@pytest.mark.parametrize("size", [2, 5])
def test_a_process_that_fails_costs_its_own_pairs_and_a_bounded_time(size: int, how: str) -> None:
    fabric = Fabric(nodes(size, 2), **{how: frozenset({1})})  # type: ignore[arg-type]
    proof = fabric.run()
    assert fabric.now_s <= START_S + 3 * FIRST_S + PATIENT_S
    for pair, outcome in proof.outcomes.items():
        assert outcome.status == (NOT_TRIED if 1 in (pair.near, pair.far) else PROVEN), pair
    assert {(severity, code) for severity, code, _ in told(proof)} == {("warning", "RAIL_NOT_PROVEN")}


def test_nothing_is_begun_any_more_after_a_minute_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LONGEST_S", FIRST_S - 1)
    fabric = Fabric(nodes(6, 2), garbage=frozenset({2}))
    proof = fabric.run()
    assert fabric.now_s <= FIRST_S + 1
    in_time, late = first_waves(nodes(6, 2))
    assert {proof.outcomes[pair].cause for pair in late} == {"NO_TIME"}
    assert PROVEN in {proof.outcomes[pair].status for pair in in_time}
    assert ("warning", "RAIL_NOT_PROVEN") in {(severity, code) for severity, code, _ in told(proof)}
    assert any(
        "it could not be tried; 11 s had passed before its turn" in message for _, _, message in told(proof)
    )


LINES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda number, pair, rest: b"%d %d %s" % (number, pair, rest),
        st.integers(0, 9), st.integers(-1, 40), st.sampled_from([b"", b"proven", b"NO_WAY", b"{}", b"x" * 5000]),
    ),
    st.sampled_from([b"7 up", b"7 no because", b"7 no \x1b[2J", b"7"]),
)  # fmt: skip


@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(sorted(wire.OF_A_PROOF)), LINES), max_size=80),
)
@settings(deadline=None)
def test_whatever_members_say_it_ends_and_is_judged(size: int, said: list[tuple[int, bytes, bytes]]) -> None:
    proof = Proof(nodes(size, 2), judged)
    now_s = 0.0
    proof.begin(7, now_s)
    for index, word, rest in said:
        for to, line in proof.took(index, word, rest, now_s):
            assert 0 <= to < size
            assert b"\n" not in line
    while not proof.over:
        now_s += 5.0
        proof.tick(now_s)
        assert now_s < START_S + LONGEST_S + 2 * PATIENT_S
    assert len(proof.outcomes) == sum(map(len, first_waves(nodes(size, 2))))
    for one in judge_proof(proof.results(), PODS):
        assert one.message.isprintable()


def test_an_older_round_is_not_heard() -> None:
    proof = Proof(nodes(2), judged)
    proof.begin(7, 0.0)
    assert proof.took(0, wire.PROVER, b"6 no reason", 0.0) == []
    assert proof.took(0, wire.PROVER, b"7 up", 0.0) == []
    lines = proof.took(1, wire.PROVER, b"7 up", 0.0)
    assert [index for index, _ in lines] == [0, 1]
    assert proof.took(1, wire.SEEN, b"6 1 proven", 0.0) == []
    assert proof.took(1, wire.RAIL, b"7 1 {}", 0.0) == [(0, b"RAIL 7 1 {}")]


def test_failed_is_what_nobody_could_try_again() -> None:
    """A second try that could not be made leaves the first as it was: no error rests on one try alone."""
    fabric = Fabric(nodes(2), lambda *_: "NO_WAY", late_crash=True)
    proof = fabric.run()
    assert {one.status for one in proof.outcomes.values()} == {FAILED}
    assert {severity for severity, _, _ in told(proof)} == {"warning"}
