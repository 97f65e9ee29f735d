"""Rails of other positions, which NCCL connects where a variable says so: do they reach each other? Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.group.meeting.proof.faults import fault_of
from sglang_roce_entry.group.meeting.proof.found import named, status_of
from sglang_roce_entry.group.meeting.proof.pairs import Nodes, Outcome, Pair, across_pairs, passed
from sglang_roce_entry.group.meeting.proof.relay import Proven
from sglang_roce_entry.problems import Problem, rdma_value


def judge_across(proven: Proven, pods: Mapping[int, str]) -> tuple[Problem, ...]:
    """Return one warning on rails that do not reach each other across: NCCL may connect them, and need not.

    A port that passes with nobody has a name already, and a silent fault is none before it was tried twice.
    """
    nodes = proven.nodes
    if not nodes.across:
        return ()
    good = passed({**proven.outcomes, **proven.trials})
    apart = [(pair, why) for pair in across_pairs(nodes) if (why := _apart(pair, nodes))]
    failed = [
        (pair, _said(pair, one, nodes))
        for pair, one in proven.across
        if one.surely_failed and good.issuperset(pair.ports)
    ]
    found = [*apart, *failed]
    if not found:
        return ()
    (pair, why), tried = found[0], len(apart) + len(proven.across)
    ends = " and ".join(named(port, nodes, pods) for port in pair.ports)
    each = f"{len(found)} of {tried} pairs" if tried > 1 else "the one pair"
    message = f"{nodes.across} has NCCL connect rails across, and {each} cannot, first {ends}: {why}"
    return (
        rdma_value(
            "RAIL_ACROSS",
            message,
            "set NCCL_CROSS_NIC=0 on all nodes, which keeps NCCL to rails of one position, or route the rails' "
            "networks to each other",
        ),
    )


def _apart(pair: Pair, nodes: Nodes) -> str:
    """Return why no route leads from one rail to the other, ``""`` where one may."""
    ends = nodes.ends(pair)
    if ends is None:
        return ""
    near, far = ends
    one_way = near.routed is False or far.routed is False
    apart = near.network and far.network and near.network != far.network and one_way
    return f"no gateway leads from {near.network} to {far.network}" if apart else ""


def _said(pair: Pair, outcome: Outcome, nodes: Nodes) -> str:
    what = fault_of(status_of(outcome)[1], infiniband=nodes.by_lid(pair)).what
    return f"{what}; {outcome.detail}" if outcome.detail else what
