"""Whether the running server uses RDMA: its queue pairs on each rail of the plan, and what passes there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_roce_entry.check.items import CheckItem, Examined, listed, ok, skip, warn
from sglang_roce_entry.fabric.constraints import OFF
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.host.further.queue_pairs import QueuePair
from sglang_roce_entry.host.further.traffic import BYTES, Traffic, traffic
from sglang_roce_entry.natural import natural_key
from sglang_roce_entry.plan.plan import Plan

_NAME = "in use"
_LOG = "NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,NET on every node"
_SYMBOLS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel tells of a running server, and two readings of the counters with the seconds between them.

    ``processes`` holds the server's process by the thread that made a queue pair. ``opened`` are the open files
    of its processes (``uverbs0``), ``None`` where they may not be read. ``selector``: its own ``NCCL_IB_HCA``.
    """

    pairs: Sequence[QueuePair] = ()
    processes: Mapping[int, int] = field(default_factory=dict)
    opened: frozenset[str] | None = None
    selector: str = ""
    nvlink_domain: bool = False
    before: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    after: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: float = 1.0
    why_not: str = ""  # the kernel tells nothing of queue pairs


@dataclass(frozen=True, slots=True)
class Rail:
    """One port: the server's queue pairs on it, and how many may be the server's or another's.

    ``planned``: it should carry some. ``beside``: neither the plan nor the server's ``NCCL_IB_HCA`` names it.
    """

    device: str
    port: int
    planned: bool
    beside: bool
    pairs: Sequence[QueuePair]
    unknown: int
    traffic: Traffic

    @property
    def label(self) -> str:
        """``mlx5_0:1``."""
        return f"{self.device}:{self.port}"


def rails(plan: Plan, seen: Seen) -> tuple[Rail, ...]:
    """Return the ports that the plan or the server uses, in natural order.

    A plan made here knows no flags of the launch: what the server's own ``NCCL_IB_HCA`` names is planned, too.
    """
    planned = {port.label for port in plan.choice.used} | set(plan.choice.infiniband)
    selector = parse_selector(seen.selector) if seen.selector else None
    nodes = {hca.name: hca.verbs for hca in plan.facts.hcas}
    ports = {(port.device, port.number): port.label in planned for hca in plan.facts.hcas for port in hca.ports}
    # Where RDMA is off no HCA was read, and one can have come since.
    ports |= {
        (pair.device, pair.port or 1): False
        for pair in seen.pairs
        if pair.device not in nodes and pair.thread in seen.processes
    }
    found = []
    for (device, number), by_plan in ports.items():
        here = [pair for pair in seen.pairs if pair.device == device and pair.port in (None, number)]
        own = tuple(pair for pair in here if pair.thread in seen.processes)
        named = selector.matches(device, number) if selector is not None else by_plan
        # A list of names is what a launch has planned; a prefix or an exclusion matches ports that cannot be used.
        listed_there = selector is not None and selector.exact and not selector.exclude
        wanted = named and (by_plan or listed_there)
        opened = seen.opened is None or nodes.get(device) in seen.opened
        if wanted or own:
            label = f"{device}:{number}"
            passed = traffic(seen.before.get(label, {}), seen.after.get(label, {}), seen.seconds)
            unknown = sum(pair.thread is None for pair in here) if opened else 0
            found.append(Rail(device, number, wanted, not (by_plan or named), own, unknown, passed))
    return tuple(sorted(found, key=lambda rail: natural_key(rail.label)))


def items(examined: Examined, seen: Seen | None) -> tuple[CheckItem, ...]:
    """Return the lines; none without a running server, and one that says so in a replay."""
    if not examined.live:
        return (skip(_NAME, "needs the live node"),)
    if seen is None:
        return ()
    if seen.why_not:
        return (skip(_NAME, f"the kernel does not tell who has queue pairs ({seen.why_not})"),)
    found = rails(examined.plan, seen)
    return (
        *_used(found, seen),
        *_unused(examined, found, seen),
        *_beside(examined.plan, found),
        *_lossy(found, seen),
    )


def _used(found: Sequence[Rail], seen: Seen) -> Iterator[CheckItem]:
    for rail in found:
        if rail.pairs:
            rates = _rates(rail.traffic)
            marked = [f"{name} +{count}" for name, count in (rail.traffic.marked or {}).items()]
            parts = [_in_words(rail.pairs, seen), rates, f"marked: {listed(marked)}" if marked else ""]
            yield ok(_NAME, f"{rail.label} {'; '.join(filter(None, parts))}")
        elif rail.unknown:
            whose = "not known to be the server's: another pod's, or of a thread that has ended"
            yield skip(_NAME, f"{_queue_pairs(rail.unknown)} on {rail.label} {whose}")


def _unused(examined: Examined, found: Sequence[Rail], seen: Seen) -> Iterator[CheckItem]:
    """Yield what is wrong with rails that carry nothing, and why that is right where it is."""
    empty = [rail for rail in found if not rail.pairs and not rail.unknown]
    nothing = len(empty) == len(found)
    if why := _needless(examined, seen):
        if nothing:
            yield ok(_NAME, f"no queue pair of the server: {why}")
        return
    notes = "; those that a GPU drives (IBGDA) are not counted" if examined.plan.use.nvshmem else ""
    if nothing:
        yield warn(
            _NAME,
            f"no process of the server has a queue pair: NCCL runs over TCP, or has not connected yet{notes}",
            f"send a request and look again; if it stays so, {_LOG} says which network it took and why",
        )
        return
    for rail in empty:
        yield warn(
            _NAME,
            f"{rail.label} carries no queue pair of the server{notes}",
            f"{_LOG} says which HCA each channel took; if this server needs fewer rails, leave it out with --hca",
        )


def _needless(examined: Examined, seen: Seen) -> str:
    """Return why this server may have no queue pair at all, nothing if it should have some."""
    if not examined.in_group:
        return "one node needs none"
    if examined.plan.choice.constraints.rdma == OFF:
        return "RDMA is off (the rdma setting)"
    return "in one NVLink domain (IMEX) NCCL needs none" if seen.nvlink_domain else ""


def _beside(plan: Plan, found: Sequence[Rail]) -> Iterator[CheckItem]:
    for rail in found:
        if rail.beside and plan.choice.plugin is None:
            details = {row.decision.port.label: row.decision.detail for row in plan.choice.ports}
            why = f" ({details[rail.label]})" if details.get(rail.label) else ""
            yield warn(
                _NAME,
                f"{rail.label} carries queue pairs of the server, but is not in the plan{why}",
                "look for a value that names it: NCCL_IB_HCA, UCX_NET_DEVICES, --disaggregation-ib-device",
            )


def _lossy(found: Sequence[Rail], seen: Seen) -> Iterator[CheckItem]:
    moved = [
        f"{rail.label} {name} +{count}" for rail in found for name, count in (rail.traffic.lost or {}).items()
    ]
    if moved:
        yield warn(
            _NAME,
            f"packets are lost, sent again or out of order, within {seen.seconds:.1f} s: {listed(moved)}",
            "check PFC and ECN on NIC and switches, and that NCCL_IB_TC names the lossless class; on a shared HCA "
            "it may be another pod's traffic",
        )


def _in_words(pairs: Sequence[QueuePair], seen: Seen) -> str:
    states = Counter(f"{pair.kind} {pair.state}" for pair in pairs)
    pids = sorted({seen.processes[pair.thread] for pair in pairs if pair.thread is not None})
    whose = f"process {pids[0]}" if len(pids) == 1 else f"processes {listed([str(pid) for pid in pids])}"
    peers = sorted({str(pair.peer) for pair in pairs if pair.peer is not None}, key=natural_key)
    kinds = ", ".join(f"{count} {state}" if len(states) > 1 else state for state, count in sorted(states.items()))
    return f"{_queue_pairs(len(pairs))} ({kinds}) of {whose}" + (f", peers {listed(peers)}" if peers else "")


def _queue_pairs(count: int) -> str:
    return f"{count} queue pair{'s' if count != 1 else ''}"


def _rates(passed: Traffic) -> str:
    sides = ((passed.sent, "sent"), (passed.received, "received"))
    known = [f"{_scaled(rate, passed.unit)}/s {side}" for rate, side in sides if rate is not None]
    return ", ".join(known) or "its traffic cannot be read here"


def _scaled(rate: float, unit: str) -> str:
    factor, symbol = next(((factor, symbol) for factor, symbol in _SYMBOLS if rate >= factor), (1.0, ""))
    number = f"{rate / factor:.3g}" if symbol else f"{rate:.0f}"
    return f"{number} {symbol}{unit}" if unit == BYTES else f"{number}{symbol} {unit}"


def as_document(plan: Plan, seen: Seen | None) -> dict[str, Any] | None:
    """Return the same for programs, as ``in_use`` of ``--check=json``; ``None`` where nothing is known."""
    if seen is None or seen.why_not:
        return None
    return {"seconds": round(seen.seconds, 3), "rails": [_rail(rail, seen) for rail in rails(plan, seen)]}


def _rail(rail: Rail, seen: Seen) -> dict[str, Any]:
    pairs = Counter(
        (seen.processes[pair.thread], pair.kind, pair.state) for pair in rail.pairs if pair.thread is not None
    )
    passed = rail.traffic
    return {
        "device": rail.device,
        "port": rail.port,
        "planned": rail.planned,
        "queue_pairs": [
            {"pid": pid, "type": kind, "state": state, "count": count}
            for (pid, kind, state), count in sorted(pairs.items())
        ],
        "unknown_queue_pairs": rail.unknown,
        "peers": sorted({str(pair.peer) for pair in rail.pairs if pair.peer is not None}, key=natural_key),
        "sent_per_s": passed.sent,
        "received_per_s": passed.received,
        "unit": "bytes" if passed.unit == BYTES else passed.unit,
        "lost": dict(passed.lost or {}),
        "marked": dict(passed.marked or {}),
    }
