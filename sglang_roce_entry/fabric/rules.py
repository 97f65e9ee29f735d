"""Soft rules over all usable ports: which ones each would leave out, and why.

Never by name pattern: in the field "bond", "eth" and ``mlx5_*`` match too much and too little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sglang_roce_entry.fabric.affinity import PIX, SYS, distances, is_surplus, keeps_every_gpu, near_some_gpu
from sglang_roce_entry.fabric.candidates import Candidate, PortDecision, Rejection, routable
from sglang_roce_entry.fabric.constraints import Constraints, Reason
from sglang_roce_entry.host.facts import Gpus, Hca, HostFacts, Port
from sglang_roce_entry.problems import Problem, rdma_value, warning

#: Why a slower card is none of the rails, whatever all of its kind carry together.
_FARTHER = " and farther from every GPU"


@dataclass(frozen=True, slots=True)
class Node:
    """What a rule may look at besides the candidates."""

    constraints: Constraints
    gpus: Gpus
    default_route_interfaces: frozenset[str] = frozenset()
    infiniband: tuple[tuple[Hca, Port], ...] = ()


#: Which of the remaining candidates a rule would leave out, by label, and why.
Rule = Callable[[Sequence[Candidate], Node], Mapping[str, Rejection]]


def users_selector(candidates: Sequence[Candidate], node: Node) -> dict[str, Rejection]:
    """Leave out what a selector (``--hca``, ``NCCL_IB_HCA``) does not name, even if nothing remains."""
    selector, origin = node.constraints.selector, node.constraints.selector_origin
    if selector is None:
        return {}
    why = Rejection(Reason.USER_EXCLUDED, f"not selected by {origin} {selector.text!r}")
    return {one.label: why for one in candidates if not selector.matches(one.hca.name, one.port.number)}


def beside_infiniband(candidates: Sequence[Candidate], node: Node) -> dict[str, Rejection]:
    """Leave out all RoCE ports where InfiniBand is the fabric: each is far from all GPUs or slower.

    The two are never mixed, and an Ethernet card for storage or management must not displace the rails.
    """
    ports, constraints = node.infiniband, node.constraints
    if not ports or not candidates or constraints.selector_final or constraints.subnets:
        return {}
    infiniband = [hca for hca, _ in ports]
    everything = [*(one.hca for one in candidates), *infiniband]
    fastest = max(port.rate_gbps or 0.0 for _, port in ports)

    def fault(one: Candidate) -> Rejection | None:
        if not near_some_gpu(one.hca, everything, node.gpus):
            return Rejection(Reason.FAR_FROM_GPU, "InfiniBand ports are nearer to every GPU")
        rate = one.port.rate_gbps
        if rate is None or rate >= fastest:
            return None
        if len(ports) < len(candidates):
            return None  # one fast card for storage beside many slower rails
        return Rejection(Reason.SLOWER_RATE, f"{rate:g} Gb/s, InfiniBand has {fastest:g} Gb/s")

    faults = {one.label: found for one in candidates if (found := fault(one)) is not None}
    all_of_them = len(faults) == len(candidates) and keeps_every_gpu(everything, infiniband, node.gpus)
    return faults if all_of_them else {}


def management_nic(candidates: Sequence[Candidate], node: Node) -> dict[str, Rejection]:
    """Leave out the card of the default route where it is no rail.

    It is none where it is not the nearest to any GPU, comes on top of what the other GPUs have, or is of
    another card than most. Where GPUs and cards are all alike, it is a rail that has the default route as well.
    """
    if not node.gpus.placed:
        return {}
    hcas = [one.hca for one in candidates]
    usual = _usual_card(hcas)
    found = {}
    for one in candidates:
        netdev = next((g.gid.netdev for g in one.view.own if g.gid.netdev in node.default_route_interfaces), None)
        if netdev is None:
            continue
        if not near_some_gpu(one.hca, hcas, node.gpus):
            why = "is not the nearest to any GPU"
        elif is_surplus(one.hca, hcas, node.gpus):
            why = "is one more than the other GPUs have"
        elif usual is not None and one.hca.card != usual:
            why = "is another card than the rails"
        else:
            continue
        found[one.label] = Rejection(Reason.MANAGEMENT_NIC, f"{netdev} carries the default route and {why}")
    return found


def slower_card(candidates: Sequence[Candidate], node: Node) -> dict[str, Rejection]:
    """Leave out a slower card that is known to be no rail: a degraded rail is reported, not dropped.

    It is none if it is of another model or board, comes on top of what the other GPUs have, or is farther from
    all GPUs than any of the others from its own (the storage card of NVIDIA/nccl#1277, the rails below switches).
    Where these would carry more than what remains, they are the rails, beside one fast card for storage.
    """
    fastest, slower = _slower(candidates)
    fast = [one.hca for one in candidates if one.port.rate_gbps == fastest]
    fast_cards = {hca.card for hca in fast}
    hcas = [one.hca for one in candidates]
    places = [_to_nearest_gpu(hca, node.gpus) for hca in fast]
    found = {}
    for one, rate in slower:
        if _is_another_card(one, fast_cards):
            why = " on another card model"
        elif is_surplus(one.hca, hcas, node.gpus):
            why = " on a port more than the other GPUs have"
        elif all(place < _to_nearest_gpu(one.hca, node.gpus, unknown=PIX) for place in places):
            why = _FARTHER
        else:
            continue
        found[one.label] = Rejection(Reason.SLOWER_RATE, f"{rate:g} Gb/s{why}, others have {fastest:g} Gb/s")
    dropped = [one for one, _ in slower if one.label in found]
    if _bandwidth(dropped) <= _bandwidth([one for one in candidates if one.label not in found]):
        return found
    return {label: why for label, why in found.items() if _FARTHER in why.detail}


def other_card(candidates: Sequence[Candidate], node: Node) -> dict[str, Rejection]:
    """Leave out a card of another model or board than most have, as fast or not, that is no GPU's rail.

    A storage card at its own root, or a north-south card on the switch of one GPU without the default route.
    """
    hcas = [one.hca for one in candidates]
    usual = _usual_card(hcas)
    if usual is None or not node.gpus.placed:
        return {}
    places = [_to_nearest_gpu(hca, node.gpus) for hca in hcas if hca.card == usual]
    found = {}
    for one in candidates:
        if one.hca.card in (usual, None):
            continue
        if all(place < _to_nearest_gpu(one.hca, node.gpus, unknown=PIX) for place in places):
            why = "is farther from every GPU than these"
        elif is_surplus(one.hca, hcas, node.gpus):
            why = "is one more than the other GPUs have"
        else:
            continue
        found[one.label] = Rejection(Reason.OTHER_CARD, f"it is another card than the rails and {why}")
    return found


def _usual_card(hcas: Sequence[Hca]) -> str | None:
    """Return the card that more than half of the HCAs are, ``None`` where none is or it is not known."""
    cards = Counter(hca.card for hca in hcas)
    return next((card for card, number in cards.items() if 2 * number > len(hcas)), None)


def _bandwidth(candidates: Sequence[Candidate]) -> float:
    """Return what the candidates carry together in Gb/s; virtual functions share that of their card."""
    of_card: dict[str, float] = {}
    for one in candidates:
        shared = one.hca.physical_function
        place = one.label if shared is None else f"{shared} {one.port.number}"
        of_card[place] = max(of_card.get(place, 0.0), one.port.rate_gbps or 0.0)
    return sum(of_card.values())


def beside_its_vf(candidates: Sequence[Candidate], _node: Node) -> dict[str, Rejection]:
    """Leave out a physical function whose virtual function is there as well."""
    virtual_of = {one.hca.physical_function: one.hca.name for one in candidates if one.hca.physical_function}
    return {
        one.label: Rejection(
            Reason.DUPLICATE_FUNCTION, f"its virtual function {virtual_of[one.hca.pci_address]} is used instead"
        )
        for one in candidates
        if one.hca.pci_address in virtual_of
    }


def _slower(candidates: Sequence[Candidate]) -> tuple[float, list[tuple[Candidate, float]]]:
    """Return the highest rate in Gb/s, and the candidates below it with theirs."""
    known = [(one, one.port.rate_gbps) for one in candidates if one.port.rate_gbps is not None]
    fastest = max((rate for _, rate in known), default=0.0)
    return fastest, [(one, rate) for one, rate in known if rate < fastest]


def _to_nearest_gpu(hca: Hca, gpus: Gpus, unknown: int = SYS) -> int:
    """Return the class of an HCA to its nearest GPU, ``unknown`` where none is known."""
    return min((one for one in distances(hca, gpus) if one is not None), default=unknown)


def _is_another_card(one: Candidate, fast_cards: set[str | None]) -> bool:
    return bool(one.hca.card) and None not in fast_cards and one.hca.card not in fast_cards


#: They hold even if nothing remains.
HARD_RULES: tuple[Rule, ...] = (users_selector, beside_infiniband)
#: Each only while something remains and every GPU keeps an equally near port.
RULES: tuple[Rule, ...] = (management_nic, slower_card, beside_its_vf, other_card)


def apply_rules(candidates: Sequence[Candidate], node: Node) -> tuple[list[Candidate], dict[str, Rejection]]:
    """Return the candidates that stay, and the reasons of the others by label."""
    kept = list(candidates)
    rejected: dict[str, Rejection] = {}
    for rule in HARD_RULES:
        drops = rule(kept, node)
        rejected.update(drops)
        kept = [one for one in kept if one.label not in drops]
    # With the pod's own NCCL_IB_HCA NCCL uses just those ports, whatever we think of them.
    for rule in () if node.constraints.selector_final else RULES:
        drops = rule(kept, node)
        # One by one, the slowest first: a port that some GPU needs does not save the others.
        for one in sorted((c for c in kept if c.label in drops), key=lambda c: c.port.rate_gbps or 0.0):
            left = [other for other in kept if other is not one]
            if left and keeps_every_gpu([c.hca for c in kept], [c.hca for c in left], node.gpus):
                kept = left
                rejected[one.label] = drops[one.label]
    return kept, rejected


def degraded_links(kept: Sequence[Candidate]) -> list[Problem]:
    """Return a warning for each port that runs slower than another of an equal board.

    A slower card of another model is no fault of the link: a selector, or a GPU that has no other, kept it.
    """
    boards: dict[str, list[Candidate]] = {}
    for one in kept:
        if one.hca.card:
            boards.setdefault(one.hca.card, []).append(one)
    return [
        warning(
            "DEGRADED_LINK",
            f"{one.hca.name} port {one.port.number} runs at {rate:g} Gb/s, others at {fastest:g} Gb/s",
            "check cable, transceiver and switch port; the port is used and slows its rail",
        )
        for fastest, slower in map(_slower, boards.values())
        for one, rate in slower
    ]


def down(ports: Sequence[PortDecision], facts: HostFacts, constraints: Constraints) -> list[PortDecision]:
    """Return the ports that look like rails and whose link is down: of the card of a used port and of this pod.

    Such a port has an address here, or is nearer to some GPU than every used one. The unused second port of a
    card is none, nor what a selector leaves out. What the pod's own NCCL_IB_HCA names is said there.
    """
    used = [one.hca for one in ports if one.used]
    cards = {hca.card for hca in used}
    virtual_of = {hca.physical_function for hca in used}
    here = {one.name: [address.ip for address in one.addresses] for one in facts.interfaces}
    selector = constraints.selector

    def looks_like_a_rail(one: PortDecision) -> bool:
        gids = [gid for gid in one.port.gids if gid.netdev is not None and gid.ip in here.get(gid.netdev, ())]
        if any(routable(gid.ip) for gid in gids):
            return True
        if facts.foreign_netdevs or not any(name in here for name in one.hca.netdevs):
            return False
        return not keeps_every_gpu([*used, one.hca], used, facts.gpus)

    return [
        one
        for one in ports
        if one.reason in (Reason.PORT_NOT_ACTIVE, Reason.NETDEV_DOWN)
        and None is not one.hca.card in cards
        and one.hca.pci_address not in virtual_of
        and (
            selector is None
            or (not constraints.selector_final and selector.matches(one.hca.name, one.port.number))
        )
        and looks_like_a_rail(one)
    ]


def rails_down(ports: Sequence[PortDecision], facts: HostFacts, constraints: Constraints) -> list[Problem]:
    """Return a warning for each rail whose link is down: this node has less bandwidth than the others."""
    found = down(ports, facts, constraints)
    all_of_them = ",".join(one.label for one in found)
    return [
        warning(
            "RAIL_DOWN",
            f"{one.label} is a card like the used ones, but is not used: {one.detail}",
            "check the node's cable, transceiver and switch port (rdma link; ip -br link), or leave it out on "
            f"purpose: --hca ^={all_of_them}",
        )
        for one in found
    ]


def slower_by_selector(candidates: Sequence[Candidate], kept: Sequence[Candidate], node: Node) -> list[Problem]:
    """Return a warning if the selector keeps slower cards of another model and leaves out faster ones.

    As a list does that was copied from a node with other names (NVIDIA/nccl#1277). Only where at least as
    many faster ports are left out: one fast card for storage beside many slower rails is left out on purpose.
    """
    constraints = node.constraints
    if constraints.selector is None or not kept:
        return []
    free = replace(node, constraints=replace(constraints, selector=None, selector_final=False))
    better = {one.label for one in apply_rules(candidates, free)[0]}
    missed = [one for one in candidates if one.label in better and one not in kept]
    cards = {one.hca.card for one in missed}
    fast = min((one.port.rate_gbps or 0.0 for one in missed), default=0.0)
    slow = [
        one
        for one in kept
        if one.label not in better and _is_another_card(one, cards) and (one.port.rate_gbps or fast) < fast
    ]
    if not slow or len(missed) < len(slow):
        return []
    origin = constraints.selector_origin
    return [
        rdma_value(
            "SELECTOR_TAKES_SLOWER",
            f"{origin} {constraints.selector.text!r} takes slower cards ({_with_rates(slow)}) and leaves "
            f"out faster ones ({_with_rates(missed)})",
            f"remove {origin.partition(' (')[0]}: names differ between nodes; the ports are found at every start",
        )
    ]


def _with_rates(ports: Sequence[Candidate]) -> str:
    return ", ".join(f"{one.label} {one.port.rate_gbps or 0:g} Gb/s" for one in ports)
