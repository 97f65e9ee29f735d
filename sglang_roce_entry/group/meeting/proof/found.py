"""What a proof comes to: each fault by its name, with the node that has it, and what to look at. Pure.

Never stricter than NCCL: an error only where NCCL fails as well, which is what the kernel refuses and what does
not arrive in a second, patient try either, on a rail that NCCL needs. All else is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.group.meeting.comparison.verdict import listed
from sglang_roce_entry.group.meeting.proof.faults import Fault, fault_of
from sglang_roce_entry.group.meeting.proof.pairs import (
    BOTH,
    FAR,
    LOSSY,
    NEAR,
    PROVEN,
    Nodes,
    Outcome,
    Pair,
    Port,
    passed,
)
from sglang_roce_entry.group.meeting.proof.relay import Proven
from sglang_roce_entry.natural import runs_of
from sglang_roce_entry.problems import RDMA_UNUSABLE, Problem, error, errors_first, rdma_value, shortened

#: Causes of which the end that has seen them need not be the one that has them.
_OF_TWO = ("NO_NEIGHBOUR", "GID_REFUSED", "LID_REFUSED", "PEER_")
#: A full packet has so many bytes more than its MTU: of IPv4 20, UDP 8, BTH 12, RETH 16, ICRC 4; a ping brings 28.
_PING_MORE = 20 + 8 + 12 + 16 + 4 - 28
_LARGEST_MTU = 4096
#: Pairs of nodes of which the same is true, that are named.
_MOST_PAIRS = 8


@dataclass(frozen=True, slots=True)
class _Case:
    """One fault of one subject, a node or a pair of them: on which rails, and as what was seen first.

    ``between``: both ends pass with others, it is the way between the two.
    """

    fault: Fault
    subject: tuple[int, ...]
    fatal: bool
    between: bool
    outcomes: tuple[tuple[Pair, Outcome], ...]

    @property
    def first(self) -> Pair:
        """The pair that was seen first."""
        return self.outcomes[0][0]

    @property
    def rails(self) -> str:
        """The positions, as a sentence names them."""
        positions = sorted({pair.position for pair, _ in self.outcomes})
        return f"rail{'s' if len(positions) > 1 else ''} {','.join(runs_of(positions))}"

    @property
    def ends(self) -> tuple[Port, Port]:
        """The ends of that pair, the one first whose fault it is."""
        near, far = self.first.ports
        return (far, near) if self.subject == (self.first.far,) else (near, far)


def status_of(outcome: Outcome) -> tuple[str, str]:
    """Return status and cause as the document has them: what needed a second try is lossy."""
    late = outcome.status == PROVEN and outcome.again
    return (LOSSY, "LATE") if late else (outcome.status, outcome.cause)


def judge_proof(proven: Proven, pods: Mapping[int, str]) -> tuple[Problem, ...]:
    """Return what is wrong with the rails; nodes, or pairs of them, of which the same is true are one problem."""
    cases: dict[tuple[Fault, bool, bool, tuple[int, ...]], _Case] = {}
    good = passed({**proven.outcomes, **proven.trials})
    for pair, outcome in proven:
        status, cause = status_of(outcome)
        if status == PROVEN:
            continue
        fault = fault_of(cause, infiniband=proven.nodes.by_lid(pair))
        fatal = _fatal(pair, outcome, proven.nodes)
        subjects, between = _subjects(pair, outcome, good)
        for subject in subjects:
            key = (fault, fatal, between, subject)
            before = cases[key].outcomes if key in cases else ()
            cases[key] = _Case(fault, subject, fatal, between, (*before, (pair, outcome)))
    alike: dict[tuple[Fault, bool, bool, int, str], list[_Case]] = {}
    by_node = {(fault.code, subject[0]) for fault, _, _, subject in cases if len(subject) == 1}
    for case in cases.values():
        if len(case.subject) > 1 and all((case.fault.code, index) in by_node for index in case.subject):
            continue  # both are named
        kind = (case.fault, case.fatal, case.between, len(case.subject), case.rails)
        alike.setdefault(kind, []).append(case)
    return errors_first(_problem(those, proven.nodes, pods) for those in alike.values())


def _fatal(pair: Pair, outcome: Outcome, nodes: Nodes) -> bool:
    """Return whether NCCL fails on this rail as well."""
    return outcome.surely_failed and outcome.fatal and nodes.counts(pair)


def _subjects(pair: Pair, outcome: Outcome, good: set[Port]) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """Return whose the fault is, one node, each of two or their pair; and whether both are whole otherwise."""
    own = not outcome.cause.startswith(_OF_TWO) and (outcome.cause, outcome.end) != ("NO_ROUTE", BOTH)
    if own and outcome.end == BOTH:
        return ((pair.near,), (pair.far,)), False
    if own and outcome.end in (NEAR, FAR):
        return ((pair.near if outcome.end == NEAR else pair.far,),), False
    near, far = (port in good for port in pair.ports)
    if near != far and outcome.status != PROVEN:
        return ((pair.far if near else pair.near,),), False
    return ((pair.near, pair.far),), near and far and outcome.status != PROVEN


def _problem(cases: Sequence[_Case], nodes: Nodes, pods: Mapping[int, str]) -> Problem:
    fault, message = cases[0].fault, _sentence(cases, nodes, pods)
    hint = _filled(fault.hint, cases[0], nodes)
    if cases[0].fatal:
        return error(fault.code, message, hint, RDMA_UNUSABLE)
    return rdma_value(fault.code, message, hint)


def _filled(hint: str, case: _Case, nodes: Nodes) -> str:
    """Return a hint with what the ends have, so that its commands can be copied."""
    own, peer = (nodes.rails[index][position] for index, position in case.ends)
    same_index = own.gid_index if own.gid_index == peer.gid_index else None
    size = min(own.roce_mtu or _LARGEST_MTU, peer.roce_mtu or _LARGEST_MTU) + _PING_MORE
    lids = (("OWN_LID", own.lid), ("PEER_LID", peer.lid))
    for word, value in (*lids, ("OWN", own.gid), ("PEER", peer.gid), ("INDEX", same_index), ("SIZE", size)):
        if value is not None:
            hint = hint.replace(word, str(value))
    return hint


def _sentence(cases: Sequence[_Case], nodes: Nodes, pods: Mapping[int, str]) -> str:
    case = cases[0]
    said = [case.fault.what + _direction(cases)]
    if case.between:
        said.append("both ends reach others")
    detail = next((outcome.detail for _, outcome in case.outcomes if outcome.detail), "")
    return f"{case.rails} {_where(cases, nodes, pods)}: {'; '.join(filter(None, (*said, detail)))}"


def _where(cases: Sequence[_Case], nodes: Nodes, pods: Mapping[int, str]) -> str:
    case = cases[0]
    if len(case.subject) > 1:
        ends = " and ".join(named(port, nodes, pods) for port in case.first.ports)
        others = [f"{one.first.near}-{one.first.far}" for one in cases[1:]]
        more = f", and between {shortened(others, _MOST_PAIRS)}" if others else ""
        return f"between {ends}{more}"
    if len(cases) > 1:
        return f"of nodes {listed(sorted(index for one in cases for index in one.subject), pods)}"
    index = case.subject[0]
    others_of = sorted({one for pair, _ in case.outcomes for one in (pair.near, pair.far)} - {index})
    several = len({pair.position for pair, _ in case.outcomes}) > 1
    own = named(case.ends[0], nodes, pods, first=several)
    return f"of node {own}, tried with {listed(others_of, pods)}"


def named(port: Port, nodes: Nodes, pods: Mapping[int, str], *, first: bool = False) -> str:
    """Return a port as a sentence names it: member, pod, device, and GID or LID; ``first``: of several."""
    index, position = port
    rail = nodes.rails[index][position]
    address = f"LID {rail.lid}" if rail.lid is not None else rail.gid
    return f"{listed([index], pods)}{', first' if first else ''} {rail.device}:{rail.port} {address}"


def _direction(cases: Sequence[_Case]) -> str:
    """Return the way that is concerned, where it is the same on all pairs; else nothing."""
    seen = [each for case in cases for each in case.outcomes]
    directions = {outcome.direction for _, outcome in seen}
    if directions == {BOTH}:
        return ", in either direction"
    if directions & {"", BOTH}:
        return ""
    ways = [(pair.near, pair.far) if one.direction == "out" else (pair.far, pair.near) for pair, one in seen]
    origins, targets = (set(ends) for ends in zip(*ways, strict=True))
    one_way = len(origins) == 1 or len(targets) == 1
    return f", from {_numbers(origins)} to {_numbers(targets)}" if one_way else ""


def _numbers(indices: Iterable[int]) -> str:
    return ",".join(runs_of(sorted(indices)))
