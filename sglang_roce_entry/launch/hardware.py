"""Late hardware: waiting for HCAs and addresses that are still coming up.

A healthy node is read once. A GID has no kernel event of its own, so the table is read again and
again; a new device or link has one, and wakes the wait at once where libudev is there.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from sglang_roce_entry.fabric.constraints import FabricPolicy, Reason
from sglang_roce_entry.fabric.rules import Selection, coming, select_ports
from sglang_roce_entry.group.wait import NotYet, Surroundings, WaitPolicy, wait_until
from sglang_roce_entry.host.facts import Gpus, HostFacts

#: Two reads that are to agree are this far apart: the kernel fills a table from a work queue.
_SETTLE_S = 0.3
_DEFINITE = frozenset({Reason.VERBS_DENIED, Reason.USER_EXCLUDED, Reason.EXTERNAL_PLUGIN})
_SUBSYSTEMS = ("infiniband", "infiniband_verbs", "net")


def await_hardware(
    read: Callable[[], HostFacts],
    gpus: Gpus,
    policy: FabricPolicy,
    deadline_s: float,
    around: Surroundings,
) -> HostFacts:
    """Return the facts as soon as nothing more is coming and two reads agree, at the latest at the deadline."""
    latest: list[HostFacts] = []
    seen: list[tuple[object, ...]] = []

    def attempt(within_s: float) -> HostFacts:  # noqa: ARG001 - reading takes no time
        facts = read()
        selection = select_ports(facts, gpus, policy)
        latest[:] = [facts]
        missing = _missing(facts, selection)
        signature = _signature(selection)
        settled = not seen or seen[-1] == signature
        seen.append(signature)
        if missing is None and settled:
            return facts
        if missing is None:
            raise NotYet("the ports have just changed", "reading them once more", _SETTLE_S)
        raise NotYet(missing, "look at links and addresses on the node: rdma link; ip address")

    try:
        return wait_until("RDMA ports", attempt, WaitPolicy(deadline_s), around)
    except NotYet:
        return latest[0]


def _missing(facts: HostFacts, selection: Selection) -> str | None:
    pending = coming(facts, selection)
    if pending:
        return "; ".join(pending)
    if selection.used or selection.infiniband:
        return None
    if selection.ports and all(port.reason in _DEFINITE for port in selection.ports):
        return None  # nothing that time cures
    if not facts.hcas:
        return "no RDMA device is visible"
    first = selection.ports[0] if selection.ports else None
    return f"no usable port yet ({first.label}: {first.detail})" if first else "no port yet"


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
    """Return a monitor of kernel events, ``None`` where libudev or the right to listen is missing."""
    try:
        import pyudev

        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        for subsystem in _SUBSYSTEMS:
            monitor.filter_by(subsystem)
        monitor.start()
    except (ImportError, OSError, ValueError):
        return None
    return monitor
