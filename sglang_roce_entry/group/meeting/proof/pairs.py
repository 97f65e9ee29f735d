"""Who proves which rail with whom, and in which order, so that a port holds one pair at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.group.meeting.comparison.compare import Member

#: What one wave may hold: its lines pass the leader in some 0.5 s, so that no end waits for them in vain.
WAVE_PAIRS = 2048
#: What a port holds at once in the second try: two neighbours and a trial. Eight rails pin less than 1 MiB so.
SECOND_PAIRS = 3

PROVEN, LOSSY, FAILED, NOT_TRIED = "proven", "lossy", "failed", "not_tried"
NEAR, FAR, BOTH = "near", "far", "both"
#: Faults without an answer: a busy CPU or a burst can look like them, so that they are tried again with patience.
SILENT = frozenset(
    {"NO_NEIGHBOUR", "NO_WAY", "NO_LID", "PKEY_DIFFERS", "LARGE_LOST", "LOSSY", "WRONG_DATA", "PEER_SILENT"}
)

Port = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """One rail, by its position, between the members ``near`` and ``far``.

    ``across``: so much further is the position of ``far``, where it is another rail.
    """

    position: int
    near: int
    far: int
    across: int = 0

    @property
    def ports(self) -> tuple[Port, Port]:
        """Its ends: member and position."""
        return (self.near, self.position), (self.far, self.position + self.across)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a pair.

    ``end``: whose fault it is (``near``, ``far``, ``both``), or the ``direction`` in which it is: ``out`` from
    near to far, ``in``, ``both``. ``fatal``: NCCL fails on it as well. ``again``: it was tried twice.
    """

    status: str
    cause: str = ""
    end: str = ""
    direction: str = ""
    detail: str = ""
    seconds: float | None = None
    fatal: bool = False
    again: bool = False

    @property
    def surely_failed(self) -> bool:
        """Whether it failed, and also with patience where that can cure it."""
        return self.status == FAILED and (self.again or self.cause not in SILENT)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The rails of the members that prove theirs, and on which machine each is.

    ``across``: the variable that has NCCL connect rails of other positions; empty where none does.
    """

    rails: Mapping[int, Sequence[Rail]]
    machines: Mapping[int, str | None]
    across: str = ""

    def ends(self, pair: Pair) -> tuple[Rail, Rail] | None:
        """Return the rails of a pair that can be proven, networks apart: both prove them, on two machines."""
        machine, other = self.machines[pair.near], self.machines[pair.far]
        if machine is not None and machine == other:
            return None
        if any(position >= len(self.rails[index]) for index, position in pair.ports):
            return None
        near, far = (self.rails[index][position] for index, position in pair.ports)
        if near.proof is None or far.proof is None or near.gid is None or far.gid is None:
            return None
        return (near, far) if (near.lid is None) == (far.lid is None) else None

    def fit(self, pair: Pair) -> bool:
        """Return whether a pair can be proven: in one network (of InfiniBand: one subnet), or over gateways.

        What differs otherwise is compared, and no fault of the fabric.
        """
        ends = self.ends(pair)
        if ends is None:
            return False
        near, far = ends
        routed = near.routed is True and far.routed is True
        return near.network is not None and (near.network == far.network or routed)

    def by_lid(self, pair: Pair) -> bool:
        """Return whether it is a rail of InfiniBand."""
        return any(self.rails[index][position].lid is not None for index, position in pair.ports)

    def counts(self, pair: Pair) -> bool:
        """Return whether NCCL needs this rail on both nodes: the GPUs in use are nearest to it."""
        return all(self.rails[index][position].proof is True for index, position in pair.ports)


def nodes_of(members: Iterable[Member], commons: Mapping[str, Mapping[str, str]]) -> Nodes:
    """Return the members that prove rails; ``commons`` hold the variables in force, by their digest."""
    proving = [one.card for one in members if any(rail.proof is not None for rail in one.card.own.rails)]
    return Nodes(
        {card.index: card.own.rails for card in proving},
        {card.index: card.own.machine for card in proving},
        next(filter(None, (_across(commons.get(card.digest, {})) for card in proving)), ""),
    )


def _across(variables: Mapping[str, str]) -> str:
    """Return the variable that has NCCL connect rails of other positions, ``""`` where none does.

    Rings and trees may change the rail with NCCL_CROSS_NIC 1; with 2, the default, only where that gives more
    bandwidth (``ncclTopoCompute``, src/graph/search.cc, 2.28). Without PXN sends leave by the HCA that is nearest
    to the sender, whatever the receiver's is (``ncclTopoGetNetDev``).
    """
    cross = variables.get("NCCL_CROSS_NIC", "2")
    if cross == "1":
        return "NCCL_CROSS_NIC=1"
    off = (("NCCL_PXN_DISABLE", "1"), ("NCCL_P2P_PXN_LEVEL", "0"))
    found = [f"{name}={value}" for name, value in off if variables.get(name) == value]
    return found[0] if found and cross != "0" else ""


def ring_of(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Return the neighbours in a ring: one pair of two members, none of one."""
    ring = sorted(set(indices))
    pairs = list(zip(ring, [*ring[1:], *ring[:1]], strict=True))
    return pairs if len(ring) > 2 else pairs[: len(ring) - 1]


def first_waves(nodes: Nodes) -> list[list[Pair]]:
    """Return the ring for each rail in two rounds, three for an odd size, each in waves that can be relayed.

    Where NCCL connects rails of other positions, each is then tried against the next one of both neighbours.
    """
    ring = ring_of(nodes.rails)
    closing = len(ring) - 1 if len(ring) % 2 and len(ring) > 1 else len(ring)
    rounds = (ring[:closing:2], ring[1:closing:2], ring[closing:])
    waves = []
    for further in range(2 if nodes.across else 1):
        for edges in rounds:
            pairs = [pair for pair in _between(edges, nodes, further) if nodes.fit(pair)]
            waves += [pairs[start : start + WAVE_PAIRS] for start in range(0, len(pairs), WAVE_PAIRS)]
    return waves


def across_pairs(nodes: Nodes) -> list[Pair]:
    """Return each rail against the next one of its neighbours, whether their networks fit or not."""
    return list(_between(ring_of(nodes.rails), nodes, 1))


def _between(edges: Iterable[tuple[int, int]], nodes: Nodes, further: int) -> Iterator[Pair]:
    for near, far in edges:
        rails = min(len(nodes.rails[near]), len(nodes.rails[far]))
        for position in range(rails if rails > 1 or not further else 0):
            yield Pair(position, near, far, (position + further) % rails - position)


def second_wave(outcomes: Mapping[Pair, Outcome], nodes: Nodes) -> list[Pair]:
    """Return what is tried once more, with patience and at once: the pairs that failed without an answer.

    And each end of them that passed with nobody, against a rail that passed, so that the fault has a node and not
    a pair.
    """
    failed = [pair for pair, one in outcomes.items() if one.status != PROVEN and one.cause in SILENT]
    good = passed(outcomes)
    by_position: dict[int, list[int]] = {}
    for index, position in sorted(good):
        by_position.setdefault(position, []).append(index)
    tried = set(outcomes)
    trials = []
    suspects = sorted({port for pair in failed for port in pair.ports} - good)
    for number, (index, position) in enumerate(suspects):
        those = by_position.get(position, [])
        for other in those[number % len(those) :] + those[: number % len(those)] if those else ():
            pair = Pair(position, min(index, other), max(index, other))
            known = pair in tried or Pair(position, pair.far, pair.near) in tried
            if not known and nodes.fit(pair):
                trials.append(pair)
                break
    return _within_bounds(sorted([*failed, *trials], key=lambda pair: pair.across != 0))


def passed(outcomes: Mapping[Pair, Outcome]) -> set[Port]:
    """Return the ports that carried everything, with whomever it was."""
    return {port for pair, one in outcomes.items() if one.status == PROVEN for port in pair.ports}


def _within_bounds(pairs: Sequence[Pair]) -> list[Pair]:
    """Return as many of the pairs as can be tried at once; the rest keeps what its first try gave."""
    busy: dict[Port, int] = {}
    kept: list[Pair] = []
    for pair in pairs:
        if len(kept) < WAVE_PAIRS and all(busy.get(port, 0) < SECOND_PAIRS for port in pair.ports):
            kept.append(pair)
            busy.update({port: busy.get(port, 0) + 1 for port in pair.ports})
    return kept


#: Makes an outcome of what both ends saw; ``None`` of one that said nothing.
Judge = Callable[[bytes | None, bytes | None], Outcome]
