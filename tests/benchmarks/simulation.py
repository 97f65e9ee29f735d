"""A large group in one process: the real policy and wait, on a clock that only moves when somebody sleeps.

Workers do not see each other, and the leader is a function of time (its name resolves from one moment
on, its port accepts from a later one). So each worker can be run alone, one after another, and the
traffic of all is put together afterwards: nothing is approximated, and 10,000 take seconds.

The group without a wait is torch's own client, which tries again by itself.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, ConnectOutcome
from sglang_roce_entry.group.names import FRESH_S, NotResolved, Resolver
from sglang_roce_entry.group.wait import LeaderName, Surroundings, WaitPolicy, await_leader, life_ports
from tests.torch.wire import TorchPatience

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address

LEADER = ip_address("10.77.0.11")
PORTS = life_ports(20000)
#: net.core.somaxconn since Linux 5.4, and with it the most that a listener's queue holds.
SOMAXCONN = 4096
#: With a pod's resolv.conf (ndots 5, three search domains) and the leader's name as LeaderWorkerSet gives
#: it: A and AAAA for one domain in vain and for the right one; or for all three and the bare name.
QUERIES_RESOLVED, QUERIES_UNRESOLVED = 4, 8


@dataclass(frozen=True)
class Scenario:
    """A group: its size, and when things happen (seconds). Pods start evenly over `starts_s`."""

    size: int
    starts_s: float = 30.0
    name_s: float = 60.0
    port_s: float = 180.0
    seed: int = 7


@dataclass
class Traffic:
    """What arrives at the leader and the DNS server, and when each worker has found the leader."""

    lookups: list[tuple[float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)


class _Worker:
    """The world as one waiting worker finds it."""

    def __init__(self, scenario: Scenario, starts_s: float, traffic: Traffic) -> None:
        self._scenario, self._traffic = scenario, traffic
        self.now = starts_s

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def look_up(self, _host: str) -> tuple[IPv4Address | IPv6Address, ...]:
        known = self.now >= self._scenario.name_s
        self._traffic.lookups.append((self.now, QUERIES_RESOLVED if known else QUERIES_UNRESOLVED))
        if not known:
            raise OSError(-2, "Name or service not known")
        return (LEADER,)

    def connect(
        self, _addresses: Sequence[IPv4Address | IPv6Address], ports: Sequence[int], _timeout_s: float
    ) -> ConnectOutcome:
        if self.now < self._scenario.port_s:
            self._traffic.refused += [self.now] * len(ports)
            return ConnectOutcome(None, None, REFUSED)
        self._traffic.accepted.append(self.now)
        self._traffic.refused += [self.now] * (len(ports) - 1)
        return ConnectOutcome(LEADER, ports[0], ACCEPTED)


class _PromptResolver(Resolver):
    """The resolver without its thread, which a clock of its own would not wait for."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__(worker.look_up, lambda: worker.now)
        self._worker = worker

    def addresses(self, host: str, timeout_s: float) -> tuple[IPv4Address | IPv6Address, ...]:
        try:
            return self._worker.look_up(host)
        except OSError as error:
            raise NotResolved(host, str(error.strerror)) from error


def _starts(scenario: Scenario) -> list[float]:
    workers = scenario.size - 1
    return [scenario.starts_s * index / workers for index in range(workers)]


def _silent(message: str, **fields: object) -> None:
    """Write nothing."""


def with_the_wait(scenario: Scenario) -> Traffic:
    """Return the traffic of a group whose workers wait, as `await_leader` and its policy have it."""
    traffic = Traffic()
    policy = WaitPolicy.for_group(1800.0, scenario.size)
    before = random.getstate()
    random.seed(scenario.seed)  # tenacity draws from the module's own generator
    try:
        for start in _starts(scenario):
            worker = _Worker(scenario, start, traffic)
            around = Surroundings(_silent, lambda worker=worker: worker.now, worker.pause)  # type: ignore[misc]
            name = LeaderName("sglang-0.sglang.default", _PromptResolver(worker), around, "")
            await_leader(name, PORTS, policy, around, worker.connect)
            traffic.found.append(worker.now)
    finally:
        random.setstate(before)
    return traffic


def torch_alone(scenario: Scenario) -> Traffic:
    """Return the traffic of the same group without a wait: torch tries again by itself."""
    traffic = Traffic()
    chance = random.Random(scenario.seed)
    for start in _starts(scenario):
        patience = TorchPatience(scenario.size, chance)
        now = start + patience.first_s
        while True:
            known = now >= scenario.name_s
            traffic.lookups.append((now, QUERIES_RESOLVED if known else QUERIES_UNRESOLVED))
            if now >= scenario.port_s:
                break
            if known:
                traffic.refused.append(now)
            now += patience.pause_s()
        traffic.accepted.append(now)
        traffic.found.append(now)
    return traffic


def busiest_second(moments: Iterable[float], weight: Sequence[int] | None = None) -> int:
    """Return the largest sum of weights (1 each) over moments that lie within one second."""
    given = list(moments)
    weights = weight if weight is not None else [1] * len(given)
    window: deque[tuple[float, int]] = deque()
    total = most = 0
    for moment, one in sorted(zip(given, weights, strict=True)):
        window.append((moment, one))
        total += one
        while window[0][0] <= moment - 1.0:
            total -= window.popleft()[1]
        most = max(most, total)
    return most


def per_second(moments: Sequence[float], begin_s: float, end_s: float) -> float:
    """Return the mean rate between two moments; `moments` in any order."""
    ordered = sorted(moments)
    return (bisect_left(ordered, end_s) - bisect_left(ordered, begin_s)) / (end_s - begin_s)


def expected(size: int) -> dict[str, float]:
    """Return what the policy comes to, by its formula: rates per second of the whole group.

    A pause is 3/4 of the cap in the mean, a name is looked up once for each try but at most every 2 s.
    """
    cap_s = max(0.5, size / 100)
    workers = size - 1
    lookups = workers / max(FRESH_S, 0.75 * cap_s)
    return {
        "connects": len(PORTS) * workers / (0.75 * cap_s),
        "queries": QUERIES_RESOLVED * lookups,
        "queries_unresolved": QUERIES_UNRESOLVED * lookups,
        "last_s": cap_s,
    }


def summary(scenario: Scenario, traffic: Traffic) -> dict[str, float | None]:
    """Return the figures of one group, rates per second.

    `connects` and `queries`: the mean of the last minute before the port opens; `queries_unresolved` that of the
    20 s before the name resolves; `_busiest` the busiest second of all. `queue_full_s`: how long the leader may
    accept nothing, from the opening of its port on, until its queue of somaxconn is full; None: for ever.
    """
    connects = traffic.refused + traffic.accepted
    queries = [at for at, count in traffic.lookups for _ in range(count)]
    opened_s = scenario.port_s
    late = sorted(found - opened_s for found in traffic.found)
    arrived = sorted(traffic.accepted)
    return {
        "connects": per_second(connects, opened_s - 60, opened_s),
        "connects_busiest": busiest_second(connects),
        "queries": per_second(queries, opened_s - 60, opened_s),
        "queries_unresolved": per_second(queries, scenario.name_s - 20, scenario.name_s),
        "queries_busiest": busiest_second(*zip(*traffic.lookups, strict=True)),
        "accepted_busiest": busiest_second(arrived),
        "queue_full_s": arrived[SOMAXCONN] - opened_s if len(arrived) > SOMAXCONN else None,
        "found_median_s": late[len(late) // 2],
        "found_last_s": late[-1],
    }
