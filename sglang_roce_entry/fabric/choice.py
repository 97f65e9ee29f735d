"""The whole choice on the fabric as one frozen value: ports, network, GID index, and what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sglang_roce_entry.fabric.candidates import (
    IPV4_LINK_LOCAL,
    Candidate,
    GidView,
    PortDecision,
    Rejection,
    examine,
    infiniband_ports,
)
from sglang_roce_entry.fabric.constraints import OFF, Constraints, IpNetwork, Reason
from sglang_roce_entry.fabric.control import Control
from sglang_roce_entry.fabric.gids import (
    IndexChoice,
    choose_gid,
    decide_index,
    forced_index,
    one_family,
    user_scan,
)
from sglang_roce_entry.fabric.nccl.plugins import external_plugin
from sglang_roce_entry.fabric.nccl.selector import MAX_ENTRIES
from sglang_roce_entry.fabric.rules import Node, apply_rules, degraded_links, rails_down, slower_by_selector
from sglang_roce_entry.fabric.wishes import Wish, found, unset
from sglang_roce_entry.host.facts import ACTIVE, HostFacts, IpAddress
from sglang_roce_entry.problems import Problem, shortened, warning


@dataclass(frozen=True, slots=True)
class Selection:
    """The decision on every port of the node, in natural order, before the index is chosen."""

    ports: tuple[PortDecision, ...]
    problems: tuple[Problem, ...] = ()
    infiniband: tuple[str, ...] = ()  # usable InfiniBand ports, if no RoCE port is

    @property
    def used(self) -> tuple[PortDecision, ...]:
        """The ports that NCCL is to use."""
        return tuple(port for port in self.ports if port.used)


@dataclass(frozen=True, slots=True)
class PortRow:
    """One port of the report, with the index and GID that NCCL will use on it."""

    decision: PortDecision
    gid_index: int | None
    gid: str | None
    netdev: str | None

    @property
    def network(self) -> IpNetwork | None:
        """The network of the GID that NCCL will use, ``None`` if it is not one of this pod's."""
        own = (one.network for one in self.decision.choices if one.gid.index == self.gid_index)
        return next(own, None)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen. ``unused_because``: why no library is given a port; ``notes`` are not problems.

    ``control`` is the interface of bootstrap traffic, which is not chosen here but goes with the rest.
    """

    facts: HostFacts
    constraints: Constraints
    control: Control
    ports: tuple[PortRow, ...]
    index: IndexChoice
    infiniband: tuple[str, ...] = ()
    plugin: str | None = None
    unused_because: str = ""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def used_rows(self) -> tuple[PortRow, ...]:
        """The ports that NCCL is to use, as the report shows them."""
        return tuple(row for row in self.ports if row.decision.used)

    @property
    def used(self) -> tuple[PortDecision, ...]:
        """The ports that NCCL is to use."""
        return tuple(row.decision for row in self.used_rows)

    def index_wish(self, name: str) -> Wish:
        """Return the wish for ``name``, of a library that takes one index for all devices."""
        if not self.used or self.index.index is None:
            return unset(name, self.index.reason if self.used else self.unused_because)
        return found(name, str(self.index.index), self.index.reason)

    @property
    def satisfied(self) -> bool:
        """Whether RDMA can be used: by RoCE ports, InfiniBand ports or an external plugin."""
        return bool(self.plugin or self.infiniband or self.used)


def select_ports(facts: HostFacts, constraints: Constraints) -> Selection:
    """Return the decision on every port of the node."""
    candidates, rejected = examine(facts, constraints)
    node = _node(facts, constraints)
    examined = candidates
    candidates, by_rule = apply_rules(examined, node)
    problems = [*slower_by_selector(examined, candidates, node), *degraded_links(candidates)]
    family, candidates, by_family = one_family(candidates, constraints)
    chosen = {}
    for candidate in candidates:
        chosen[candidate.label], said = choose_gid(candidate, family, constraints)
        problems += said
    rejected = {**rejected, **by_rule, **by_family}
    ports = []
    for hca in facts.hcas:
        for port in hca.ports:
            why = rejected.get(port.label, Rejection("", ""))
            ports.append(chosen.get(port.label) or PortDecision(hca, port, why.reason, why.detail))
    problems += [*_on_one_cable(chosen.values(), constraints), *_twice(chosen.values())]
    problems += rails_down(ports, facts, constraints)
    labels = () if chosen else tuple(port.label for _, port in node.infiniband)
    return Selection(tuple(ports), tuple(problems), labels)


def _node(facts: HostFacts, constraints: Constraints) -> Node:
    infiniband = tuple(infiniband_ports(facts, constraints))
    return Node(constraints, facts.gpus, frozenset(facts.default_route_interfaces), infiniband)


def would_stay(facts: HostFacts, constraints: Constraints, labels: Collection[str]) -> frozenset[str]:
    """Return those of the ports with these ``labels`` that the rules would keep if they had an address.

    A second management or storage card is never a rail, whether it gets an address or not.
    """
    candidates, _ = examine(facts, constraints)
    unaddressed = [(hca, port) for hca in facts.hcas for port in hca.ports if port.label in labels]
    view = GidView((), (), ())
    addressed = [Candidate(hca, port, view) for hca, port in unaddressed]
    _, left_out = apply_rules([*candidates, *addressed], _node(facts, constraints))
    return frozenset(one.label for one in addressed if one.label not in left_out)


def _on_one_cable(ports: Iterable[PortDecision], constraints: Constraints) -> Iterator[Problem]:
    """Return a warning if the fabric is 169.254/16 although no setting names it."""
    local = [
        port
        for port in ports
        if port.gid is not None
        and port.gid.ip in IPV4_LINK_LOCAL
        and not any(port.gid.ip in network for network in constraints.subnets)
    ]
    if not local:
        return
    listed = ", ".join(f"{port.label} {port.gid.ip}" for port in local if port.gid is not None)
    yield warning(
        "LINK_LOCAL_FABRIC",
        f"no port has another address than a link-local one ({listed}): it is used, and reaches only machines "
        "on the same cable or switch",
        "right for two machines on one cable, if both have such an address on it (to have no warning: --subnets "
        f"{IPV4_LINK_LOCAL}); else give the ports addresses of their own network",
    )


def _twice(ports: Iterable[PortDecision]) -> Iterator[Problem]:
    """Return a warning on each address that several HCAs have: a bond of two HCAs, no HCA of the bond."""
    users: dict[tuple[str | None, IpAddress], list[str]] = {}
    netdevs: dict[IpAddress, set[str | None]] = {}
    for port in ports:
        if port.gid is not None:
            users.setdefault((port.gid.netdev, port.gid.ip), []).append(port.label)
            netdevs.setdefault(port.gid.ip, set()).add(port.gid.netdev)
    for ip, names in netdevs.items():
        if len(names) > 1 and None not in names:
            listed = ", ".join(f"{users[name, ip][0]} on {name}" for name in sorted(names, key=str))
            yield warning(
                "ADDRESS_TWICE",
                f"{ip} is the address of several ports ({listed}): the others find only one of them",
                "give each interface an address of its own (ip -br address)",
            )
    for (netdev, ip), labels in users.items():
        if len(labels) > 1:
            yield warning(
                "BOND_WITHOUT_LAG",
                f"{', '.join(labels)} have the same address, {ip} of {netdev}: packets to it may arrive at the "
                "other one",
                "make the bond one RDMA device (RoCE LAG: both ports of one card, mode 802.3ad, active-backup or "
                "balance-xor, made before any VF), or give each port an address of its own",
            )


def choose(facts: HostFacts, constraints: Constraints, control: Control) -> Choice:
    """Return the choice."""
    selection = select_ports(facts, constraints)
    if constraints.rdma == OFF:
        return _nothing(
            facts, constraints, control, selection.ports, "RDMA is switched off", "RDMA is off: NCCL uses TCP"
        )
    plugin = external_plugin(constraints.given, facts.net_plugin_paths)
    if plugin is not None:
        name, how = plugin
        reason = f"the NCCL net plugin {name} decides ({how})"
        ports = [port.rejected(Reason.EXTERNAL_PLUGIN, reason) if port.used else port for port in selection.ports]
        nothing = _nothing(facts, constraints, control, ports, reason, reason)
        return replace(nothing, plugin=name, infiniband=selection.infiniband)
    fitting, problems = _limit(selection.used)
    index = decide_index(
        [port for port in fitting if port.used],
        constraints.nccl,
        user_scan(constraints.given, constraints.nccl),
        [port.port for port in selection.ports if not port.used and _opened_by_selector(port, constraints)],
    )
    dropped = {port.label: port for port in (*fitting, *index.dropped) if not port.used}
    final = [dropped.get(port.label, port) for port in selection.ports]
    forced = forced_index(constraints.given, constraints.nccl)
    rows = tuple(_row(port, index, forced) for port in final)
    unused_because, notes = ("", ()) if any(port.used for port in final) else _why_unused(selection)
    return Choice(
        facts=facts,
        constraints=constraints,
        control=control,
        ports=rows,
        index=index,
        infiniband=selection.infiniband,
        unused_because=unused_because,
        problems=(*_foreign_sysfs(facts), *selection.problems, *problems, *index.problems),
        notes=notes,
    )


def _opened_by_selector(port: PortDecision, constraints: Constraints) -> bool:
    """Return whether NCCL uses this port too, since the pod's own selector names it."""
    selector = constraints.selector
    named = selector is not None and selector.matches(port.hca.name, port.port.number)
    return constraints.selector_final and named and opened_by_nccl(port)


def opened_by_nccl(port: PortDecision) -> bool:
    """Return whether NCCL takes this Ethernet port if nothing keeps it from it (``ncclIbInit``)."""
    opens = port.hca.verbs_answer == "ok" and port.reason != Reason.NO_PROVIDER
    return opens and port.port.state == ACTIVE and port.port.link_layer == "Ethernet"


def _nothing(
    facts: HostFacts,
    constraints: Constraints,
    control: Control,
    ports: Sequence[PortDecision],
    why: str,
    note: str,
) -> Choice:
    rows = tuple(PortRow(port, None, None, _netdev(port)) for port in ports)
    return Choice(facts, constraints, control, rows, IndexChoice(None, why, {}), unused_because=why, notes=(note,))


def _why_unused(selection: Selection) -> tuple[str, tuple[str, ...]]:
    if not selection.infiniband:
        return "no usable HCA port", ()
    listed = ", ".join(selection.infiniband)
    return (
        f"InfiniBand ports only ({listed}): NCCL's own defaults are right for them",
        (f"using InfiniBand: {listed}",),
    )


def _limit(ports: Sequence[PortDecision]) -> tuple[list[PortDecision], list[Problem]]:
    """Return the ports, those beyond NCCL's list of 32 rejected, and a warning if there are any."""
    if len(ports) <= MAX_ENTRIES:
        return list(ports), []
    detail = f"NCCL reads at most {MAX_ENTRIES} entries of NCCL_IB_HCA"
    dropped = [port.rejected(Reason.TOO_MANY_PORTS, detail) for port in ports[MAX_ENTRIES:]]
    problem = warning(
        "TOO_MANY_PORTS",
        f"{len(ports)} ports are usable, NCCL reads {MAX_ENTRIES}; left out: "
        + ", ".join(port.label for port in dropped),
        "choose the ports with --hca or SGLANG_ROCE_HCA",
    )
    return [*ports[:MAX_ENTRIES], *dropped], [problem]


def _foreign_sysfs(facts: HostFacts) -> Iterator[Problem]:
    """Return a warning if the mounted sysfs shows the interfaces of another network namespace."""
    if not facts.foreign_netdevs:
        return
    listed = shortened(facts.foreign_netdevs, 6)
    yield warning(
        "SYSFS_FOREIGN",
        f"the /sys mounted here belongs to another network namespace: it lists {listed}, "
        "which this pod does not have",
        "do not mount the host's /sys into the pod: remove that hostPath volume",
    )


def _row(port: PortDecision, index: IndexChoice, forced: int | None) -> PortRow:
    if not port.used:
        return PortRow(port, None, None, _netdev(port))
    number = forced if forced is not None else index.indices.get(port.label)
    gid = port.port.gid_at(number)
    return PortRow(port, number, str(gid.ip) if gid else None, gid.netdev if gid else _netdev(port))


def _netdev(port: PortDecision) -> str | None:
    if port.gid is not None:
        return port.gid.netdev
    named = next((gid.netdev for gid in port.port.gids if gid.netdev), None)
    return named or (port.hca.netdevs[0] if len(port.hca.netdevs) == 1 else None)
