"""Which HCA ports are used, with which GID, and why not the others.

Hard rules first (what cannot work), then soft ones, each only while something remains and every GPU
keeps an equally near port. Never by name pattern: "bond", "eth" and ``mlx5_*`` are wrong in the field
both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network

from sglang_roce_entry.fabric.affinity import keeps_every_gpu, near_some_gpu
from sglang_roce_entry.fabric.candidates import GidView, OwnGid, routable, view_gids
from sglang_roce_entry.fabric.constraints import OFF, FabricPolicy, IpNetwork, Reason
from sglang_roce_entry.host.facts import (
    ACTIVE,
    CHANNEL_ADAPTER,
    ROCE_V2,
    Gid,
    Gpus,
    Hca,
    HostFacts,
    Interface,
    Port,
)
from sglang_roce_entry.problems import RDMA_UNUSABLE, Problem, value_warning, warning


@dataclass(frozen=True, slots=True)
class PortDecision:
    """One port, used or not. ``choices`` are own GIDs of the chosen network, lowest index first."""

    hca: Hca
    port: Port
    reason: str | None  # None: used
    detail: str
    choices: tuple[OwnGid, ...] = ()

    @property
    def used(self) -> bool:
        """Whether NCCL is told to use this port."""
        return self.reason is None

    @property
    def gid(self) -> Gid | None:
        """The GID that was chosen, ``None`` on a port that is not used."""
        return self.choices[0].gid if self.choices else None

    @property
    def label(self) -> str:
        """``mlx5_0:1``."""
        return f"{self.hca.name}:{self.port.number}"

    def rejected(self, reason: str, detail: str) -> PortDecision:
        """Return this port with the reason why it is not used."""
        return replace(self, reason=reason, detail=detail)


@dataclass(frozen=True, slots=True)
class Selection:
    """The decision on every port of the node, in natural order, and what was noticed on the way."""

    ports: tuple[PortDecision, ...]
    problems: tuple[Problem, ...] = ()
    infiniband: tuple[str, ...] = ()  # usable InfiniBand ports, where no RoCE port is
    family: int | None = None

    @property
    def used(self) -> tuple[PortDecision, ...]:
        """The ports that NCCL is told to use."""
        return tuple(port for port in self.ports if port.used)


@dataclass(frozen=True, slots=True)
class _Candidate:
    hca: Hca
    port: Port
    view: GidView


_VERBS_SENTENCE = {
    "ENOENT": "{node} does not exist in this container",
    "EACCES": "{node} may not be opened by this user (file mode: EACCES)",
    "EPERM": "{node} may not be opened here (EPERM: device cgroup, or an exclusive RDMA namespace)",
    "ENXIO": "{node} has no driver behind it (ENXIO)",
    "ENODEV": "{node} is not the device that sysfs shows (stale node)",
    "ENOTTY": "{node} is not a device node",
}


def select_ports(facts: HostFacts, gpus: Gpus, policy: FabricPolicy) -> Selection:
    """Return the decision on every port of the node."""
    interfaces = {interface.name: interface for interface in facts.interfaces}
    rejected: dict[tuple[str, int], PortDecision] = {}
    candidates: list[_Candidate] = []
    for hca in facts.hcas:
        for port in hca.ports:
            outcome = _examine(hca, port, interfaces, policy)
            if isinstance(outcome, _Candidate):
                candidates.append(outcome)
            else:
                rejected[hca.name, port.number] = outcome
    problems: list[Problem] = []
    for rule in (_user_selector, _beside_infiniband, _management_nic, _slower_rate, _own_function):
        kept, dropped, said = rule(candidates, facts, gpus, policy)
        candidates = kept
        problems.extend(said)
        rejected.update({(one.hca.name, one.port.number): one for one in dropped})
    family, kept_by_family, dropped = _one_family(candidates, policy)
    rejected.update({(one.hca.name, one.port.number): one for one in dropped})
    used: dict[tuple[str, int], PortDecision] = {}
    for candidate in kept_by_family:
        decision, said = _choose_gid(candidate, family, policy)
        used[candidate.hca.name, candidate.port.number] = decision
        problems.extend(said)
    decided = {**rejected, **used}
    ports = tuple(decided[hca.name, port.number] for hca in facts.hcas for port in hca.ports)
    infiniband = (
        () if used else tuple(f"{hca.name}:{port.number}" for hca, port in _infiniband_ports(facts, policy))
    )
    return Selection(ports, tuple(problems), infiniband, family)


def _examine(
    hca: Hca, port: Port, interfaces: Mapping[str, Interface], policy: FabricPolicy
) -> _Candidate | PortDecision:
    def no(reason: str, detail: str) -> PortDecision:
        return PortDecision(hca, port, reason, detail)

    if policy.rdma == OFF:
        return no(Reason.RDMA_OFF, "RDMA is switched off")
    # iWARP says "Ethernet" too, and EFA "Unknown" or nothing: only both facts together mean RoCE.
    if hca.node_type != CHANNEL_ADAPTER:
        return no(Reason.NOT_ROCE, f"node type {hca.node_type} is no RoCE HCA (iWARP, EFA, usNIC)")
    if port.link_layer != "Ethernet":
        return no(Reason.NOT_ROCE, f"link layer is {port.link_layer or 'unknown'}, not Ethernet")
    if hca.verbs_answer != "ok":
        return _no_verbs(hca, port)
    if port.state != ACTIVE:
        return no(Reason.PORT_NOT_ACTIVE, f"port state is {port.state_name}, not ACTIVE")
    view = view_gids(port, interfaces, policy.subnets, allow_foreign=policy.allow_foreign_gids)
    if view.own:
        return _Candidate(hca, port, view)
    if view.own_on_down:
        netdev = view.own_on_down[0].netdev
        return no(Reason.NETDEV_DOWN, f"its address is on {netdev}, which is not up")
    return no(Reason.NO_OWN_GID, _no_own_gid(port, view, interfaces))


def _no_verbs(hca: Hca, port: Port) -> PortDecision:
    denied = hca.verbs_answer in ("EACCES", "EPERM")
    reason = Reason.VERBS_DENIED if denied else Reason.NO_VERBS
    node = f"/dev/infiniband/{hca.verbs}" if hca.verbs else f"a verbs device for {hca.name}"
    sentence = _VERBS_SENTENCE.get(hca.verbs_answer, "{node} does not open (" + hca.verbs_answer + ")")
    return PortDecision(hca, port, reason, sentence.format(node=node))


def _no_own_gid(port: Port, view: GidView, interfaces: Mapping[str, Interface]) -> str:
    if view.foreign:
        gid = view.foreign[0]
        here = gid.netdev in interfaces
        where = (
            f"is on {gid.netdev} elsewhere; the {gid.netdev} of this pod does not have that address"
            if here
            else f"belongs to {gid.netdev or 'an interface'} of another network namespace"
        )
        return f"no GID of this pod: {gid.ip} (index {gid.index}) {where}"
    if any(gid.type == ROCE_V2 for gid in port.gids):
        return "only link-local RoCE v2 GIDs: no address is configured on its interface"
    if port.gids:
        return "no RoCE v2 GID in its table"
    return "its GID table is empty"


_RuleResult = tuple[list[_Candidate], list[PortDecision], list[Problem]]


def _user_selector(
    candidates: list[_Candidate], facts: HostFacts, gpus: Gpus, policy: FabricPolicy
) -> _RuleResult:
    selector = policy.selector
    if selector is None:
        return candidates, [], []
    kept, dropped = [], []
    for one in candidates:
        if selector.matches(one.hca.name, one.port.number):
            kept.append(one)
        else:
            detail = f"not selected by {policy.selector_origin} {selector.text!r}"
            dropped.append(PortDecision(one.hca, one.port, Reason.USER_EXCLUDED, detail))
    return kept, dropped, []


def _beside_infiniband(
    candidates: list[_Candidate], facts: HostFacts, gpus: Gpus, policy: FabricPolicy
) -> _RuleResult:
    """Drop all RoCE ports where InfiniBand is the fabric: every one is far from all GPUs or a slower card.

    The two are never mixed, and an Ethernet card for storage or management must not idle the rails.
    """
    ports = _infiniband_ports(facts, policy)
    if not ports or not candidates or policy.selector_final or policy.subnets:
        return candidates, [], []
    infiniband = [hca for hca, _ in ports]
    everything = [*(one.hca for one in candidates), *infiniband]
    fastest = max(port.rate_gbps or 0.0 for _, port in ports)
    fast_models = {hca.model for hca, port in ports if port.rate_gbps == fastest}

    def fault(one: _Candidate) -> tuple[str, str] | None:
        if not near_some_gpu(one.hca, everything, gpus):
            return Reason.FAR_FROM_GPU, "InfiniBand ports are nearer to every GPU"
        rate, model = one.port.rate_gbps, one.hca.model
        if rate is None or rate >= fastest or not model or model in fast_models or None in fast_models:
            return None
        if len(ports) < len(candidates):
            return None  # one fast card for storage beside many slower rails
        return Reason.SLOWER_RATE, f"{rate:g} Gb/s on another card model, InfiniBand has {fastest:g} Gb/s"

    faults = [(one, fault(one)) for one in candidates]
    dropped = [PortDecision(one.hca, one.port, *found) for one, found in faults if found is not None]
    if len(dropped) < len(candidates) or not keeps_every_gpu(everything, infiniband, gpus):
        return candidates, [], []
    return [], dropped, []


def _management_nic(
    candidates: list[_Candidate], facts: HostFacts, gpus: Gpus, policy: FabricPolicy
) -> _RuleResult:
    if not gpus.placed or policy.selector_final:
        return candidates, [], []
    hcas = [one.hca for one in candidates]
    defaults = set(facts.default_route_interfaces)

    def is_management(one: _Candidate) -> bool:
        on_default = any(own.gid.netdev in defaults for own in one.view.own)
        return on_default and not near_some_gpu(one.hca, hcas, gpus)

    def why(one: _Candidate) -> str:
        netdev = next(own.gid.netdev for own in one.view.own if own.gid.netdev in defaults)
        return f"{netdev} carries the default route and is nearest to no GPU"

    return _drop_softly(candidates, is_management, Reason.MANAGEMENT_NIC, why, gpus)


def _slower_rate(candidates: list[_Candidate], facts: HostFacts, gpus: Gpus, policy: FabricPolicy) -> _RuleResult:
    rates = [one.port.rate_gbps for one in candidates if one.port.rate_gbps is not None]
    if not rates:
        return candidates, [], []
    fastest = max(rates)
    fast_models = {one.hca.model for one in candidates if one.port.rate_gbps == fastest}

    def is_slower(one: _Candidate) -> bool:
        return one.port.rate_gbps is not None and one.port.rate_gbps < fastest

    def is_other_card(one: _Candidate) -> bool:
        # Only a card that is known to be another model: a degraded rail must be seen, not dropped.
        model = one.hca.model
        return is_slower(one) and bool(model) and None not in fast_models and model not in fast_models

    def why(one: _Candidate) -> str:
        rate = one.port.rate_gbps or 0.0
        return f"{rate:g} Gb/s on another card model, others have {fastest:g} Gb/s"

    kept, dropped, said = (
        (candidates, [], [])
        if policy.selector_final
        else _drop_softly(candidates, is_other_card, Reason.SLOWER_RATE, why, gpus)
    )
    for one in kept:
        if is_slower(one):
            rate = one.port.rate_gbps or 0.0
            said.append(
                warning(
                    "DEGRADED_LINK",
                    f"{one.hca.name} port {one.port.number} runs at {rate:g} Gb/s, others at {fastest:g} Gb/s",
                    "check cable, transceiver and switch port; the port is kept and slows its rail",
                )
            )
    return kept, dropped, said


def _own_function(candidates: list[_Candidate], facts: HostFacts, gpus: Gpus, policy: FabricPolicy) -> _RuleResult:
    virtual_of: dict[str | None, str] = {
        one.hca.physical_function: one.hca.name for one in candidates if one.hca.physical_function
    }

    def is_physical(one: _Candidate) -> bool:
        return one.hca.pci_address in virtual_of

    def why(one: _Candidate) -> str:
        return f"its virtual function {virtual_of[one.hca.pci_address]} is used instead"

    if policy.selector_final:
        return candidates, [], []
    return _drop_softly(candidates, is_physical, Reason.DUPLICATE_FUNCTION, why, gpus)


def _drop_softly(
    candidates: list[_Candidate],
    drop: Callable[[_Candidate], bool],
    reason: str,
    why: Callable[[_Candidate], str],
    gpus: Gpus,
) -> _RuleResult:
    # One by one, the slowest first: a port that some GPU needs keeps no other one in.
    kept = candidates
    for one in sorted(filter(drop, candidates), key=lambda one: one.port.rate_gbps or 0.0):
        left = [other for other in kept if other is not one]
        if left and keeps_every_gpu([other.hca for other in kept], [other.hca for other in left], gpus):
            kept = left
    remaining = {id(one) for one in kept}
    dropped = [PortDecision(one.hca, one.port, reason, why(one)) for one in candidates if id(one) not in remaining]
    return kept, dropped, []


def _one_family(
    candidates: list[_Candidate], policy: FabricPolicy
) -> tuple[int | None, list[_Candidate], list[PortDecision]]:
    if not candidates:
        return None, [], []
    if policy.family != "auto":
        family = 4 if policy.family == "ipv4" else 6
    else:
        # IPv4 as soon as one port has it: a node that lost one address must not move to another
        # family than its peers.
        family = 4 if any(_of_family(one, 4) for one in candidates) else 6
    kept = [one for one in candidates if _of_family(one, family)]
    why = f"has no IPv{family} address, and the group uses IPv{family}"
    dropped = [
        PortDecision(one.hca, one.port, Reason.FAMILY_MISMATCH, why)
        for one in candidates
        if not _of_family(one, family)
    ]
    return family, kept, dropped


def _of_family(candidate: _Candidate, family: int) -> tuple[OwnGid, ...]:
    return tuple(own for own in candidate.view.own if own.gid.ip.version == family)


def _choose_gid(
    candidate: _Candidate, family: int | None, policy: FabricPolicy
) -> tuple[PortDecision, list[Problem]]:
    own = _of_family(candidate, family or 4)
    said: list[Problem] = []
    chosen = _by_configured_subnet(own, policy)
    if not chosen:
        networks = sorted({_network_of(one) for one in own}, key=_network_key)
        # The lowest network, never the first slot: the order of slots is history and moves with
        # every restart of a driver.
        chosen = [one for one in own if _network_of(one) == networks[0]]
        if len(networks) > 1:
            listed = ", ".join(str(network) for network in networks)
            said.append(
                value_warning(
                    "AMBIGUOUS_SUBNET",
                    f"{candidate.hca.name} port {candidate.port.number} has addresses in several "
                    f"networks ({listed}); {networks[0]} was taken",
                    "name the fabric's network: --subnets or SGLANG_ROCE_SUBNETS",
                    RDMA_UNUSABLE,
                )
            )
    chosen.sort(key=lambda one: one.gid.index)
    gid = chosen[0].gid
    foreign = " (not of this pod, allowed by foreign-gids)" if chosen[0].network is None else ""
    detail = f"RoCE v2 GID {gid.ip} on {gid.netdev} at index {gid.index}{foreign}"
    return PortDecision(candidate.hca, candidate.port, None, detail, tuple(chosen)), said


def _by_configured_subnet(own: tuple[OwnGid, ...], policy: FabricPolicy) -> list[OwnGid]:
    for subnet in policy.subnets:
        inside = [one for one in own if one.gid.ip.version == subnet.version and one.gid.ip in subnet]
        if inside:
            return inside
    return []


def _network_of(own: OwnGid) -> IpNetwork:
    # The network of a foreign GID cannot be seen from here: its address alone.
    return own.network or ip_network(own.gid.ip)


def _network_key(network: object) -> tuple[int, int, int]:
    version, address, length = (
        network.version,  # type: ignore[attr-defined]
        int(network.network_address),  # type: ignore[attr-defined]
        network.prefixlen,  # type: ignore[attr-defined]
    )
    return version, address, length


def _infiniband_ports(facts: HostFacts, policy: FabricPolicy) -> list[tuple[Hca, Port]]:
    if policy.rdma == OFF:
        return []
    return [
        (hca, port)
        for hca in facts.hcas
        for port in hca.ports
        if hca.node_type == CHANNEL_ADAPTER
        and port.link_layer == "InfiniBand"
        and port.state == ACTIVE
        and hca.verbs_answer == "ok"
        and (policy.selector is None or policy.selector.matches(hca.name, port.number))
    ]


def coming(facts: HostFacts, selection: Selection) -> tuple[str, ...]:
    """Return what is still coming up, as sentences; empty on a healthy node.

    A port counts whose verbs device opens and whose interface is up here, but which has no own GID
    yet or is still initialising. Addresses arrive late, and their GIDs a moment after them.
    """
    up = {interface.name for interface in facts.interfaces if interface.up}
    sentences = []
    for decision in selection.ports:
        hca, port = decision.hca, decision.port
        if hca.verbs_answer != "ok" or decision.reason not in (
            Reason.NO_OWN_GID,
            Reason.PORT_NOT_ACTIVE,
        ):
            continue
        named = {gid.netdev for gid in port.gids if gid.netdev} | set(hca.netdevs)
        # A routable GID that is not ours on a name that we have too: another namespace's interface
        # of the same name, not ours about to get its address.
        foreign = {gid.netdev for gid in port.gids if gid.type == ROCE_V2 and routable(gid.ip)}
        for netdev in sorted((named & up) - foreign):
            state = "is still initialising" if port.state != ACTIVE else "has no own GID yet"
            sentences.append(f"{decision.label} on {netdev} {state}")
            break
    return tuple(sentences)
