"""The rails of all members against each other: networks in common, rail by rail, and their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.group.meeting.comparison.keys import ERROR, WARNING
from sglang_roce_entry.group.meeting.comparison.verdict import Difference, between
from sglang_roce_entry.problems import RDMA_UNUSABLE, Problem, error, rdma_value

_Node = tuple[int, tuple[Rail, ...]]


def compare_rails(nodes: Sequence[_Node], pods: Mapping[int, str]) -> Iterator[tuple[Difference, Problem]]:
    """Yield what differs in the networks of the rails.

    In a routed fabric each node, or each rack, has networks of its own: only where a node has no gateway on
    any rail can it not reach what is elsewhere.
    """
    with_networks = [(index, rails) for index, rails in nodes if any(rail.network for rail in rails)]
    islands = _islands(with_networks)
    if len(islands) > 1:
        found = _no_common_network(with_networks, islands, pods)
        if found is not None:
            yield found
        return
    yield from _order(with_networks, pods)


def _islands(nodes: Sequence[_Node]) -> list[list[int]]:
    """Return the indices of the nodes that are connected by networks in common, the most first."""
    leader: dict[str, str] = {}

    def root(network: str) -> str:
        while leader.setdefault(network, network) != network:
            network = leader[network]
        return network

    for _, rails in nodes:
        first, *others = dict.fromkeys(root(rail.network) for rail in rails if rail.network)
        leader.update(dict.fromkeys(others, first))
    islands: dict[str, list[int]] = {}
    for index, rails in nodes:
        network = next(rail.network for rail in rails if rail.network)
        islands.setdefault(root(network), []).append(index)
    return sorted(islands.values(), key=len, reverse=True)


def _no_common_network(
    nodes: Sequence[_Node], islands: Sequence[Sequence[int]], pods: Mapping[int, str]
) -> tuple[Difference, Problem] | None:
    # A rail whose routes are not known may have a gateway: nothing is said of it.
    if not any(all(rail.routed is False for rail in rails) for _, rails in nodes):
        return None
    networks = dict(nodes)
    values = {_networks(networks[island[0]]): tuple(island) for island in islands}
    message, odd = between("no network in common: the rails' network", values, pods)
    problem = error(
        "NO_COMMON_NETWORK",
        message,
        "these nodes have no gateway on their rails: correct the addresses, the VLAN or --subnets, or route the "
        "networks to each other",
        RDMA_UNUSABLE,
    )
    return Difference("rail_networks", ERROR, values, odd, problem.code, message), problem


def _networks(rails: Sequence[Rail]) -> str:
    return " ".join(dict.fromkeys(rail.network for rail in rails if rail.network))


def _order(nodes: Sequence[_Node], pods: Mapping[int, str]) -> Iterator[tuple[Difference, Problem]]:
    """Yield rails that are in other networks than their peers, or in the same ones in another order."""
    rows: dict[tuple[str | None, ...], list[int]] = {}
    routed: dict[int, frozenset[int]] = {}
    for index, rails in nodes:
        rows.setdefault(tuple(rail.network for rail in rails), []).append(index)
        routed[index] = frozenset(place for place, rail in enumerate(rails) if rail.routed)
    if len(rows) < 2:
        return
    hint = "NCCL connects rails by their position: cable and address every node alike, GPU by GPU"
    if len({frozenset(row) for row in rows}) == 1 and len({len(row) for row in rows}) == 1:
        values = {" ".join(map(str, row)): tuple(indices) for row, indices in rows.items()}
        yield _warning("rail_order", "the order of the rails' networks", values, pods, hint)
        return
    for place in range(min(len(row) for row in rows)):
        at: dict[str, list[int]] = {}
        for row, indices in rows.items():
            at.setdefault(row[place] or "none", []).extend(indices)
        most = max(at.values(), key=len)
        elsewhere = [index for indices in at.values() if indices is not most for index in indices]
        if len(at) > 1 and len(most) > 1 and not all(place in routed[index] for index in elsewhere):
            values = {network: tuple(sorted(indices)) for network, indices in at.items()}
            yield _warning(f"rail_{place}_network", f"the network of rail {place}", values, pods, hint)


def _warning(
    key: str, subject: str, values: Mapping[str, tuple[int, ...]], pods: Mapping[int, str], hint: str
) -> tuple[Difference, Problem]:
    message, odd = between(subject, values, pods)
    problem = rdma_value("RAILS_DIFFER", message, hint)
    return Difference(key, WARNING, values, odd, problem.code, message), problem
