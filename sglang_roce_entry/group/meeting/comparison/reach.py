"""The ring in which neighbours dial each other on ports besides D: who dials whom, and what its gaps say. Pure.

NCCL's bootstrap, Gloo and SGLang's queues use ephemeral ports between the nodes. A firewall that lets D alone
through, or a proxy that answers for everybody, is found here instead of minutes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.verdict import listed
from sglang_roce_entry.problems import Problem, config_error, warning


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A member to dial, and where it listens for that."""

    index: int
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Edge:
    """What came of one member dialling another; ``seen``: the address from which the other saw the call come."""

    origin: int
    target: int
    ok: bool
    detail: str = ""
    seen: str | None = None


def neighbours(members: Iterable[Member]) -> dict[int, tuple[Neighbour, ...]]:
    """Return whom each member dials: the one before and the one after it among those that listen."""
    ring = sorted(filter(None, map(_door, members)), key=lambda one: one.index)
    if len(ring) < 2:
        return {}
    pairs = list(zip(ring, [*ring[1:], *ring[:1]], strict=True))
    found: dict[int, dict[int, Neighbour]] = {one.index: {} for one in ring}
    for one, following in pairs:
        found[one.index][following.index] = following
        found[following.index][one.index] = one
    return {index: tuple(those.values()) for index, those in found.items()}


def beside(member: Member, those: Iterable[Member]) -> dict[int, tuple[Neighbour, ...]]:
    """Return who dials whom when ``member`` comes: it and its neighbours, each other."""
    own, doors = _door(member), [door for door in map(_door, those) if door is not None]
    if own is None or not doors:
        return {}
    return {own.index: tuple(doors)} | {door.index: (own,) for door in doors}


def _door(member: Member) -> Neighbour | None:
    own = member.card.own
    if own.reach_address is None or own.reach_port is None:
        return None
    return Neighbour(member.card.index, own.reach_address, own.reach_port)


def judge_reach(edges: Sequence[Edge], members: Sequence[Member]) -> list[Problem]:
    """Return what the ring's gaps say: of one member where all that dialled it, or all that it dialled, failed."""
    pods = {member.card.index: member.card.pod for member in members}
    gaps = [edge for edge in edges if not edge.ok]
    unreached = dict(_by_target(edges))
    problems = [_filtered(f"{listed([index], pods)} is not reached", of, pods) for index, of in unreached.items()]
    by_origin: dict[int, list[Edge]] = {}
    for edge in gaps:
        if edge.target not in unreached:
            by_origin.setdefault(edge.origin, []).append(edge)
    for origin, of in by_origin.items():
        targets = listed([edge.target for edge in of], pods)
        problems.append(_filtered(f"{targets} is not reached", of, pods, listed([origin], pods)))
    return [*problems, *_translated(edges, members)]


def _by_target(edges: Sequence[Edge]) -> Iterator[tuple[int, list[Edge]]]:
    """Yield each member that nobody reached who tried, with those edges."""
    by_target: dict[int, list[Edge]] = {}
    for edge in edges:
        by_target.setdefault(edge.target, []).append(edge)
    for target in sorted(by_target):
        if not any(edge.ok for edge in by_target[target]):
            yield target, by_target[target]


def _filtered(who: str, edges: Sequence[Edge], pods: Mapping[int, str], origin: str = "") -> Problem:
    origins = origin or listed([edge.origin for edge in edges], pods)
    details = "; ".join(dict.fromkeys(edge.detail for edge in edges))
    return config_error(
        "REACH_FILTERED",
        f"{who} from {origins} on other ports than the rendezvous: {details}",
        "allow all TCP ports between the pods of a group (NetworkPolicy, firewall of the nodes, security group), "
        'and keep a service mesh out of them (sidecar.istio.io/inject: "false")',
    )


def _translated(edges: Sequence[Edge], members: Sequence[Member]) -> Iterator[Problem]:
    """Yield a warning where calls arrive from an address that is no member's: a proxy that forwards, or NAT."""
    known: set[str] = set()
    for member in members:
        own = member.card.own
        known |= {text for text in (own.address, own.reach_address, member.address) if text}
        known |= {rail.gid for rail in own.rails if rail.gid}
    strange = [edge for edge in edges if edge.ok and edge.seen is not None and edge.seen not in known]
    if strange:
        shown = "; ".join(f"{edge.origin} is seen by {edge.target} as {edge.seen}" for edge in strange[:4])
        yield warning(
            "REACH_TRANSLATED",
            f"{len(strange)} connections between nodes arrive from an address that is no member's: {shown}",
            "a proxy (service mesh) or NAT is in between: keep it away from the pods of a group; SGLang's own "
            "list of peers would refuse such an address",
        )
