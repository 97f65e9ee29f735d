"""What a proof comes to: each fault by its name, with the node that has it, and what to look at. Pure.

Never stricter than NCCL: an error only where NCCL fails as well, which is what the kernel refuses and what does
not arrive in a second, patient try either, on a rail that NCCL needs. All else is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.group.meeting.comparison.verdict import listed
from sglang_roce_entry.group.meeting.proof.faults import Fault, fault_of
from sglang_roce_entry.group.meeting.proof.pairs import (
    BOTH,
    FAILED,
    FAR,
    LOSSY,
    NEAR,
    PROVEN,
    SILENT,
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
    pairs: tuple[Pair, ...]
    first: Outcome

    @property
    def rails(self) -> str:
        """The positions, as a sentence names them."""
        positions = sorted({pair.position for pair in self.pairs})
        return f"rail{'s' if len(positions) > 1 else ''} {','.join(runs_of(positions))}"


def status_of(outcome: Outcome) -> tuple[str, str]:
    """Return status and cause as the document has them: what needed a second try is lossy."""
    late = outcome.status == PROVEN and outcome.again
    return (LOSSY, "LATE") if late else (outcome.status, outcome.cause)


def judge_proof(proven: Proven, pods: Mapping[int, str]) -> tuple[Problem, ...]:
    """Return what is wrong with the rails; nodes, or pairs of them, of which the same is true are one problem."""
    cases: dict[tuple[str, bool, bool, tuple[int, ...]], _Case] = {}
    good = passed({**proven.outcomes, **proven.trials})
    for pair, outcome in proven:
        status, cause = status_of(outcome)
        if status == PROVEN:
            continue
        fault = fault_of(cause, infiniband=proven.nodes.by_lid(pair))
        fatal = _fatal(pair, outcome, proven.nodes)
        subjects, between = _subjects(pair, outcome, good)
        for subject in subjects:
            key = (fault.code, fatal, between, subject)
            before = cases.get(key)
            pairs = (*(before.pairs if before is not None else ()), pair)
            first = before.first if before is not None else outcome
            cases[key] = _Case(fault, subject, fatal, between, pairs, first)
    alike: dict[tuple[str, bool, bool, int, str], list[_Case]] = {}
    by_node = {(code, subject[0]) for code, _, _, subject in cases if len(subject) == 1}
    for case in cases.values():
        if len(case.subject) > 1 and all((case.fault.code, index) in by_node for index in case.subject):
            continue  # both are named
        kind = (case.fault.code, case.fatal, case.between, len(case.subject), case.rails)
        alike.setdefault(kind, []).append(case)
    return errors_first(_problem(those, proven.nodes, pods) for those in alike.values())


def _fatal(pair: Pair, outcome: Outcome, nodes: Nodes) -> bool:
    """Return whether NCCL fails on this rail as well."""
    sure = outcome.again or outcome.cause not in SILENT
    return outcome.status == FAILED and outcome.fatal and sure and nodes.counts(pair)


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
    return ((pair.near, pair.far),), near and far


def _problem(cases: Sequence[_Case], nodes: Nodes, pods: Mapping[int, str]) -> Problem:
    fault, message = cases[0].fault, _sentence(cases, nodes, pods)
    if cases[0].fatal:
        return error(fault.code, message, fault.hint, RDMA_UNUSABLE)
    return rdma_value(fault.code, message, fault.hint)


def _sentence(cases: Sequence[_Case], nodes: Nodes, pods: Mapping[int, str]) -> str:
    case = cases[0]
    pair, outcome = case.pairs[0], case.first
    said = [case.fault.what + (_direction(outcome, pair) if len(cases) == 1 else "")]
    if case.between:
        said.append("both ends reach others")
    if outcome.detail:
        said.append(outcome.detail)
    return f"{case.rails} {_where(cases, pair, nodes, pods)}: {'; '.join(said)}"


def _where(cases: Sequence[_Case], pair: Pair, nodes: Nodes, pods: Mapping[int, str]) -> str:
    case = cases[0]
    if len(case.subject) > 1:
        ends = " and ".join(named(port, nodes, pods) for port in pair.ports)
        others = [f"{one.pairs[0].near}-{one.pairs[0].far}" for one in cases[1:]]
        more = f", and between {shortened(others, _MOST_PAIRS)}" if others else ""
        return f"between {ends}{more}"
    if len(cases) > 1:
        return f"of {listed(sorted(index for one in cases for index in one.subject), pods)}"
    index = case.subject[0]
    others_of = sorted({one for each in case.pairs for one in (each.near, each.far)} - {index})
    return f"of {named((index, pair.position), nodes, pods)}, tried with {listed(others_of, pods)}"


def named(port: Port, nodes: Nodes, pods: Mapping[int, str]) -> str:
    """Return a port as a sentence names it: member, pod, device, and GID or LID."""
    index, position = port
    rail = nodes.rails[index][position]
    address = f"LID {rail.lid}" if rail.lid is not None else rail.gid
    return f"{listed([index], pods)} {rail.device}:{rail.port} {address}"


def _direction(outcome: Outcome, pair: Pair) -> str:
    if outcome.direction == BOTH:
        return ", in either direction"
    origin, target = (pair.near, pair.far) if outcome.direction == "out" else (pair.far, pair.near)
    return f", from {origin} to {target}" if outcome.direction else ""
