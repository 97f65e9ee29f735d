"""Late hardware: waiting for HCAs and addresses that are still coming up.

A healthy node is read once. A GID has no kernel event of its own, so the table is read again and
again; a new device or link has one, and wakes the wait at once where libudev is there.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from sglang_roce_entry.fabric.candidates import IPV4_LINK_LOCAL, PortDecision, routable
from sglang_roce_entry.fabric.choice import Selection, select_ports, would_stay
from sglang_roce_entry.fabric.constraints import Constraints, Reason
from sglang_roce_entry.group.attempts import NotYet, Surroundings, WaitPolicy
from sglang_roce_entry.group.wait import wait_until
from sglang_roce_entry.host.facts import ACTIVE, ROCE_V2, HostFacts

#: The time between two reads that must agree: the kernel fills a table from a work queue.
_SETTLE_S = 0.3
_DEFINITE = frozenset({Reason.VERBS_DENIED, Reason.NO_PROVIDER, Reason.USER_EXCLUDED, Reason.EXTERNAL_PLUGIN})
_SUBSYSTEMS = ("infiniband", "infiniband_verbs", "net")
#: How long a host takes to give itself an address of 169.254/16 (RFC 3927, section 9: 1 s, three probes at most
#: 2 s apart, 2 s). The other function of a cable, for which nobody has asked for one, never gets any.
_LINK_LOCAL_S = 10.0


def await_hardware(
    read: Callable[[], HostFacts],
    constraints: Constraints,
    deadline_s: float,
    around: Surroundings,
) -> HostFacts:
    """Return the facts as soon as nothing more is coming and two reads agree, at the latest at the deadline."""
    latest: list[HostFacts] = []
    seen: list[tuple[object, ...]] = []

    def attempt(within_s: float) -> HostFacts:
        facts = read()
        selection = select_ports(facts, constraints)
        latest[:] = [facts]
        missing = _missing(facts, constraints, selection)
        if deadline_s - within_s > _LINK_LOCAL_S and _on_one_cable(selection):
            missing = None
        signature = _signature(selection)
        settled = not seen or seen[-1] == signature
        seen.append(signature)
        if missing is None and settled:
            return facts
        if missing is None:
            raise NotYet("the ports have just changed", "reading them again", _SETTLE_S)
        raise NotYet(missing, "check links and addresses on the node: rdma link; ip address")

    try:
        return wait_until("RDMA ports", attempt, WaitPolicy(deadline_s), around)
    except NotYet:
        return latest[0]


def _on_one_cable(selection: Selection) -> bool:
    addresses = [port.gid.ip for port in selection.used if port.gid is not None]
    return bool(addresses) and all(ip in IPV4_LINK_LOCAL for ip in addresses)


def _missing(facts: HostFacts, constraints: Constraints, selection: Selection) -> str | None:
    pending = coming(facts, constraints, selection)
    if pending:
        return "; ".join(pending)
    if selection.used or selection.infiniband:
        return None
    if selection.ports and all(port.reason in _DEFINITE for port in selection.ports):
        return None  # waiting would not help
    if not facts.hcas:
        return "no RDMA device is visible"
    first = selection.ports[0] if selection.ports else None
    return f"no usable port yet ({first.label}: {first.detail})" if first else "no port yet"


def coming(facts: HostFacts, constraints: Constraints, selection: Selection) -> tuple[str, ...]:
    """Return what is still coming up, as sentences; empty on a healthy node.

    A port counts if its verbs device opens and its interface is up here, but it has no own GID yet
    or is still initialising. Addresses arrive late, and their GIDs a moment after them. What would be left out
    with an address as well is not waited for.
    """
    up = frozenset(interface.name for interface in facts.interfaces if interface.up)
    late = [(port, netdev) for port in selection.ports if (netdev := _without_gid(port, up)) is not None]
    # The rate of a port that is not ACTIVE yet says nothing.
    active = [port.label for port, _ in late if port.port.state == ACTIVE]
    stay = would_stay(facts, constraints, active) if active else frozenset()
    return tuple(
        f"{port.label} on {netdev} {'has no own GID yet' if port.label in stay else 'is still initialising'}"
        for port, netdev in late
        if port.label in stay or port.label not in active
    )


def _without_gid(decision: PortDecision, up: frozenset[str]) -> str | None:
    """Return the interface that is up here, of a port whose device opens without an own GID, else ``None``."""
    hca, port = decision.hca, decision.port
    if hca.verbs_answer != "ok" or decision.reason not in (Reason.NO_OWN_GID, Reason.PORT_NOT_ACTIVE):
        return None
    named = {gid.netdev for gid in port.gids if gid.netdev} | set(hca.netdevs)
    # A foreign GID on the name of one of our interfaces: another namespace's interface of that
    # name, not ours about to get its address.
    foreign = {gid.netdev for gid in port.gids if gid.type == ROCE_V2 and routable(gid.ip)}
    return min((named & up) - foreign, default=None)


def _signature(selection: Selection) -> tuple[object, ...]:
    return tuple(
        (port.label, port.reason, tuple(choice.gid for choice in port.choices)) for port in selection.ports
    )


class KernelEvents:
    """Pauses that end early when the kernel announces a device or a link."""

    def __init__(self) -> None:
        self._monitor: Any = None
        self._tried = False

    def pause(self, seconds: float) -> None:
        """Sleep for ``seconds``, or less if something appears meanwhile."""
        if not self._tried:
            self._tried = True
            self._monitor = _monitor()
        if self._monitor is None or seconds <= 0:
            sleep(max(0.0, seconds))
            return
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            try:
                # None also comes early: the socket wakes for every subsystem, the filter is libudev's.
                event = self._monitor.poll(timeout=max(0.0, deadline - monotonic()))
            except OSError:
                event = True  # ENOBUFS: there were more than the socket holds
            if event is not None:
                # An event comes before its files are complete, and seldom alone.
                sleep(max(0.0, min(0.1, deadline - monotonic())))
                return


def _monitor() -> Any:
    """Return a monitor of kernel events, ``None`` where libudev or the permission to listen is missing."""
    try:
        from sglang_roce_entry.launch.kernel_events import monitor

        return monitor(_SUBSYSTEMS)
    except (ImportError, OSError, ValueError):
        return None
