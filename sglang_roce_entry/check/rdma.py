"""The HCAs, their verbs devices, GIDs, links, rates, MTUs, PCI links and counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from sglang_roce_entry.check.items import CheckItem, Examined, listed, of_problem, ok, skip, warn
from sglang_roce_entry.fabric import requirements
from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.constraints import OFF, Reason
from sglang_roce_entry.fabric.rules import down
from sglang_roce_entry.host.check_facts import LOSS_COUNTERS, MARK_COUNTERS
from sglang_roce_entry.host.facts import ACTIVE
from sglang_roce_entry.host.further.routes import Way
from sglang_roce_entry.host.installed import oldest_version
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.report.folding import names_by_text
from sglang_roce_entry.report.text import left_out

#: Which item reports a plan without usable ports: by the port that passed the most checks.
_PLACE = (
    (Reason.NETDEV_DOWN, "link"),
    (Reason.NO_OWN_GID, "gid"),
    (Reason.FAMILY_MISMATCH, "gid"),
    (Reason.PORT_NOT_ACTIVE, "link"),
    (Reason.NO_PROVIDER, "verbs"),
    (Reason.VERBS_DENIED, "verbs"),
    (Reason.NO_VERBS, "verbs"),
)
#: The least netdev MTU for the largest RoCE packets: 4096 bytes and 96 of headers.
_FULL_PACKET, _FULL_MTU = 4096, 4192

#: How an interface answers ARP: for its own address, for those of the others too, or perhaps not at all.
_OWN, _MIXED, _SILENT = "own", "mixed", "silent"
_ARP = ("arp_ignore", "arp_announce", "rp_filter")


def place_of_unusable(plan: Plan) -> str:
    """Return the item that the error of a node without any usable port belongs to."""
    reasons = {row.decision.reason for row in plan.choice.ports}
    return next((name for reason, name in _PLACE if reason in reasons), "hca")


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on RDMA hardware."""
    if examined.plan.choice.constraints.rdma == OFF:
        return (ok("hca", "RDMA is off (the rdma setting): NCCL uses TCP"),)
    return (
        *_hca(examined),
        *_verbs(examined),
        *_gid(examined),
        *_link(examined),
        *_rate(examined),
        *_mtu(examined),
        *_one_network(examined),
        *_pci(examined),
        *_counters(examined),
    )


def _without(rows: Sequence[PortRow], *reasons: str) -> list[PortRow]:
    return [row for row in rows if row.decision.reason in reasons]


def _hca(examined: Examined) -> tuple[CheckItem, ...]:
    plan, drivers = examined.plan, examined.inspection.drivers
    if not plan.facts.hcas:
        evidence = "no RDMA device is visible (/sys/class/infiniband is empty), and none is required"
        return examined.lines("hca", ok("hca", evidence))
    by_driver = names_by_text((hca.name, drivers.get(hca.name, "")) for hca in plan.facts.hcas)
    names = [f"{devices} ({driver})" if driver else devices for devices, driver in by_driver]
    used = plan.choice.used
    left = [f"{ports} {reason} ({detail})" for ports, reason, detail in left_out(plan.choice.ports)]
    if left and not plan.choice.satisfied and plan.first_error is None:
        # RDMA is optional here, so that a launch reports nothing and NCCL uses TCP.
        hint = requirements.unusable(plan.choice).hint
        return (*examined.lines("hca", warn("hca", f"no port is used: {listed(left, most=3)}", hint)),)
    notes = f"; {'; '.join(plan.choice.notes)}" if plan.choice.notes else ""
    evidence = f"{listed(names)}; {len(used)} of {len(plan.choice.ports)} ports used{notes}"
    return examined.lines("hca", ok("hca", evidence))


def _verbs(examined: Examined) -> tuple[CheckItem, ...]:
    rows, problems = examined.plan.choice.ports, examined.of("verbs")
    if not rows and not problems:
        return ()
    devices = {row.decision.hca.name: row.decision.hca.verbs_answer for row in rows}
    closed = _each([(name, f"({answer})") for name, answer in devices.items() if answer != "ok"])
    opened = sum(answer == "ok" for answer in devices.values())
    counted = f"{opened} of {len(devices)} verbs devices open read-write"
    unlisted = _without(rows, Reason.NO_PROVIDER)
    if unlisted and not problems:
        evidence = (
            f"left out: {listed([row.decision.hca.name for row in unlisted])}: {unlisted[0].decision.detail}"
        )
        return (warn("verbs", evidence, requirements.HINTS[Reason.NO_PROVIDER]),)
    refused = [name for name, answer in devices.items() if answer not in ("ok", "ENOENT")]
    if refused and not problems:
        return (
            warn(
                "verbs",
                f"{counted}; not {closed}",
                "EPERM: grant the device (RDMA device plugin), EACCES: its file mode on the node; without it "
                "the port is left out",
            ),
        )
    hidden = f"; not given to this container: {closed}" if closed else ""
    return examined.lines("verbs", ok("verbs", counted + hidden))


def _gid(examined: Examined) -> tuple[CheckItem, ...]:
    rows = examined.plan.choice.ports
    if not rows and not examined.of("gid"):
        return ()
    used = examined.plan.choice.used
    # The port's own GID, which is not what a wrong index of the pod makes NCCL take.
    own = [(port.label, port.gid) for port in used]
    found = [f"{label} {gid.ip} (index {gid.index})" for label, gid in own if gid is not None]
    lost = requirements.lost_rails(examined.plan.choice)
    bare = [row for row in _without(rows, Reason.NO_OWN_GID, Reason.FAMILY_MISMATCH) if used and row not in lost]
    lines = [
        warn(
            "gid",
            f"not used: {row.decision.label}: {row.decision.detail}",
            "configure an address of the fabric's network on the port's interface, as on the other ports",
        )
        for row in bare
    ]
    fine = ok("gid", f"own RoCE v2 GIDs: {listed(found)}" if found else "no port is used")
    given = examined.lines("gid", fine, lines)
    # No `ok gid` beside a warning on GIDs; which ports are used is told all the same.
    return given if given == (fine,) or not found else (*given, ok("used", listed(found)))


def _link(examined: Examined) -> tuple[CheckItem, ...]:
    rows = examined.plan.choice.ports
    if not rows and not examined.of("link"):
        return ()
    choice = examined.plan.choice
    open_rows = [row for row in rows if row.decision.hca.verbs_answer == "ok"]
    told = down([row.decision for row in rows], choice.facts, choice.constraints)
    lines = [
        warn(
            "link",
            f"not used: {row.decision.label}: {row.decision.detail}",
            "check cable, transceiver and switch port (rdma link; ethtool <netdev>), or leave it out with --hca",
        )
        for row in _without(open_rows, Reason.PORT_NOT_ACTIVE, Reason.NETDEV_DOWN)
        if choice.used and row.decision not in told
    ]
    active = sum(row.decision.port.state == ACTIVE for row in open_rows)
    return examined.lines("link", ok("link", f"{active} of {len(open_rows)} accessible ports are ACTIVE"), lines)


def _rate(examined: Examined) -> tuple[CheckItem, ...]:
    used = examined.plan.choice.used
    if not used and not examined.of("rate"):
        return ()
    rates = sorted({port.port.rate_gbps or 0.0 for port in used})
    shown = ", ".join(f"{rate:g} Gb/s" if rate else "unknown" for rate in rates)
    fine = ok("rate", f"{len(used)} used port{'s' if len(used) != 1 else ''}: {shown}")
    return examined.lines("rate", fine)


def _mtu(examined: Examined) -> tuple[CheckItem, ...]:
    plan, problems = examined.plan, examined.of("mtu")
    known = {interface.name: interface.mtu for interface in plan.facts.interfaces if interface.mtu}
    mtus = {row.netdev: known[row.netdev] for row in plan.choice.used_rows if row.netdev in known}
    if not mtus:
        return tuple(of_problem("mtu", problem) for problem in problems)
    by_mtu = names_by_text((netdev, str(mtu)) for netdev, mtu in mtus.items())
    shown = ", ".join(f"{netdevs} {mtu}" for netdevs, mtu in by_mtu)
    packet = requirements.roce_mtu(min(mtus.values()))
    if packet < _FULL_PACKET and not problems:
        evidence = f"{shown}: RoCE packets of {packet} bytes instead of {_FULL_PACKET}{_gin(plan)}"
        remedy = (
            f"set the MTU of the interface (in a pod: in its network's CNI configuration) and of the switches to "
            f"{_FULL_MTU} or more, the same on all rails and nodes"
        )
        return (warn("mtu", evidence, remedy),)
    return examined.lines("mtu", ok("mtu", f"{shown}: RoCE packets of {packet} bytes"))


def _gin(plan: Plan) -> str:
    """Return what a smaller MTU means for NCCL's device-initiated path, where DeepEP may take it.

    2.28.9 to 2.30.7 set its queue pairs to 4096 whatever the port has (NVIDIA/nccl#1957).
    """
    nccl = oldest_version(plan.facts.nccl_versions)
    if not plan.use.nvshmem or nccl is None or not (2, 28) <= nccl < (2, 31):
        return ""
    return f"; a DeepEP built on NCCL's GIN hangs, since that always sends {_FULL_PACKET} (NVIDIA/nccl#1957)"


@dataclass(frozen=True, slots=True)
class _Rail:
    """A used rail that shares its network with others: how it answers ARP, and the way of its packets."""

    device: str
    netdev: str
    arp: str | None
    way: Way | None

    @property
    def strays(self) -> bool:
        return self.way is not None and self.way.interface != self.netdev

    @property
    def shown(self) -> str:
        by = f"leaves by {self.way.interface}, table {self.way.table}" if self.way and self.way.interface else ""
        return f"{self.device} ({self.netdev}) {by or 'has no route'}"


def _one_network(examined: Examined) -> tuple[CheckItem, ...]:
    """Return what becomes of several used rails in one IPv4 network.

    RoCE packets leave by their own rail: its route is looked up bound to it (``set_addr_netns_by_gid_rcu`` of
    drivers/infiniband/core/addr.c). What goes wrong is who answers ARP, which follows from the routes of sockets.
    IPv6 answers a solicitation only on the interface that has the address (``ndisc_recv_ns``).
    """
    networks: dict[IPv4Network | IPv6Network, dict[str, _Rail]] = {}
    addresses = {interface.name: interface.addresses for interface in examined.plan.facts.interfaces}
    ways = examined.inspection.ways or {}
    for row in examined.plan.choice.used_rows:
        gid, netdev = row.decision.gid, row.netdev or ""
        for own in addresses.get(netdev, ()):
            if gid is not None and own.ip == gid.ip:
                way = ways.get(str(own.ip))
                rail = _Rail(row.decision.hca.name, netdev, _arp_state(examined, netdev, way), way)
                networks.setdefault(own.network, {}).setdefault(netdev, rail)
    return tuple(
        _rails_in(examined, network, tuple(rails.values()))
        for network, rails in networks.items()
        if len(rails) > 1
    )


def _rails_in(examined: Examined, network: IPv4Network | IPv6Network, rails: Sequence[_Rail]) -> CheckItem:
    arp, where = examined.inspection.arp, f"{len(rails)} used rails are in one network ({network})"
    if network.version == 6:
        return ok("rails", f"{where}; IPv6 answers only on the interface that has the address")
    if any(rail.arp is None for rail in rails):
        what = "arp_ignore, rp_filter and the routes of each address"
        return skip("rails", f"{where}: {what} are not {'readable' if examined.live else 'in this recording'}")
    known = [
        (rail.netdev, [f"{one} {n}" for one in _ARP if (n := _effective(arp, rail.netdev, one)) is not None])
        for rail in rails
    ]
    texts = names_by_text((netdev, " ".join(values)) for netdev, values in known)
    shown = "; ".join(f"{names} {text}" for names, text in texts)
    silent = listed([rail.shown for rail in rails if rail.arp == _SILENT])
    astray = listed([rail.shown for rail in rails if rail.strays])
    also = f"; a socket on the address of {astray}"
    if silent:
        evidence = (
            f"but traffic from the address of {silent}: behind rp_filter 1 or arp_filter such a rail does not "
            "answer ARP, and NCCL of its peers ends with errno 110 (Connection timed out) of ibv_modify_qp"
        )
    elif all(rail.arp == _OWN for rail in rails):
        own = " and leaves by its own interface" if not astray and all(rail.way for rail in rails) else ""
        notes = f"{also}, which RoCE does not" if astray else ""
        return ok("rails", f"{where}, each answers for its own address{own} ({shown}){notes}")
    else:
        evidence = (
            "and ARP for one's address is answered with another's MAC (arp_ignore 0): peers send to a wrong card, "
            f"NCCL ends with status 12, or sends everything over one rail{also if astray else ''}"
        )
    return warn(
        "rails",
        f"{where}, {evidence} ({shown})",
        "give each rail a network of its own; or set arp_ignore=1, arp_announce=2 and rp_filter=2 on them (sysctl "
        "net.ipv4.conf; in a pod: the tuning plugin of its CNI), and for each address a rule to a table with a "
        "route by its own interface (ip rule add from ADDRESS lookup N)",
    )


def _arp_state(examined: Examined, netdev: str, way: Way | None) -> str | None:
    """Return how an interface answers ARP beside others of its network, ``None`` where that is not known.

    Of ``conf/all`` and ``conf/<interface>`` the larger counts (Documentation/networking/ip-sysctl.rst).
    ``arp_process`` drops a request whose sender is not routed back by the same interface under rp_filter 1,
    and does not answer under arp_filter; the route is that of packets from the address asked for.
    """
    ignore, by_route, reverse = (
        _effective(examined.inspection.arp, netdev, name) for name in ("arp_ignore", "arp_filter", "rp_filter")
    )
    if ignore is None or reverse is None:
        return None
    if reverse != 1 and not by_route:
        return _OWN if ignore else _MIXED
    if way is None or way.interface == netdev:
        return _OWN if way is not None else None
    return _SILENT if ignore else _MIXED


def _effective(arp: Mapping[str, Mapping[str, int]], netdev: str, name: str) -> int | None:
    every, own = (arp.get(one, {}).get(name) for one in ("all", netdev))
    return None if every is None or own is None else max(every, own)


def _pci(examined: Examined) -> tuple[CheckItem, ...]:
    slow, shown = [], []
    links = examined.inspection.pci_links
    for name in dict.fromkeys(port.hca.name for port in examined.plan.choice.used):
        link = links.get(name)
        if link is None or link.speed_gts is None or link.width is None:
            continue
        text = f"{link.speed_gts:g} GT/s x{link.width}"
        shown.append((name, text))
        if link.width < (link.max_width or 0) or link.speed_gts < (link.max_speed_gts or 0):
            slow.append((name, f"{text} of {link.max_speed_gts or 0:g} GT/s x{link.max_width or 0}"))
    if slow:
        remedy = "reseat the card, check the slot and the BIOS of the node; the rail is as slow as its slot"
        return (warn("pci link", f"trained below what the card can do: {_each(slow)}", remedy),)
    return (ok("pci link", _each(shown)),) if shown else ()


def _each(pairs: Sequence[tuple[str, str]]) -> str:
    return listed([f"{names} {text}" for names, text in names_by_text(pairs)])


def _counters(examined: Examined) -> tuple[CheckItem, ...]:
    used = [port.label for port in examined.plan.choice.used]
    if not used:
        return ()
    counters = {
        label: examined.inspection.counters[label] for label in used if label in examined.inspection.counters
    }
    if not counters:
        why = "no counters in this container (the kernel shows them with the host network or in exclusive mode)"
        return (skip("congestion", why if examined.live else "not in this recording"),)
    lost, marked = [], []
    for label, values in counters.items():
        for name, value in values.items():
            if value and name in MARK_COUNTERS:
                marked.append(f"{label} {name} {value}")
            elif value:
                lost.append(f"{label} {name} {value}")
    since = "since the driver was loaded"
    if lost:
        remedy = (
            "read them again under load; where they grow, packets are lost: check PFC and ECN on NIC and "
            "switches, and that NCCL_IB_TC names the lossless class"
        )
        return (warn("congestion", f"{listed([*lost, *marked])}, {since}", remedy),)
    seen = f"nothing lost; marked: {listed(marked)}, {since}" if marked else f"nothing lost or marked {since}"
    return (ok("congestion", f"{seen} ({', '.join(LOSS_COUNTERS)})"),)
