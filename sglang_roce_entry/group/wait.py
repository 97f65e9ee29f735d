"""Waiting: for the leader's port, for the leader's own name, for ports that must be free.

A wait is a value (:class:`WaitPolicy`) and an attempt that either returns or raises :class:`NotYet`
with the cause. Only a second attempt loads tenacity (``retrying``). No deadline is ever passed, also
not by a resolver that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TypeVar

from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, TIMED_OUT, ConnectOutcome, connect_any, port_is_free
from sglang_roce_entry.group.endpoint import MAX_PORT, IpAddress, literal
from sglang_roce_entry.group.names import FRESH_S, NotResolved, Resolver
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE, EntryError

Result = TypeVar("Result")


#: Offsets from the dist-init port D on which a leader shows life before its workers join: D with
#: tensor parallelism, D+1 and D+13 with attention DP, where D opens only after the workers have
#: called on D+13 (a wait for D alone deadlocks, one for the HTTP port always does).
SIGNS_OF_LIFE = (0, 1, 13)

_CONNECT_S = 1.0
_FIRST_LOOKUP_S = 1.0
_LOOKUP_S = 5.0
_STATUS_EVERY_S = 30.0
PORTS_FREE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class WaitPolicy:
    """How long and how often: seconds in all, the longest pause between two tries and the longest first.

    Pauses double from ``first_s`` to ``cap_s``; each is between half of that and the whole, by chance.
    """

    deadline_s: float
    cap_s: float = 0.5
    first_s: float = 0.1

    @classmethod
    def for_group(cls, deadline_s: float, size: int) -> WaitPolicy:
        """Return the policy of a worker in a group of ``size``.

        Beyond 50 nodes all pauses grow with the group, so that what the leader and the DNS server see
        does not: a pause is 3/4 of the cap in the mean, hence ``size / (0.75 * cap)`` tries a second,
        133 at most, each a connect to every port and at most one look-up.
        """
        cap_s = max(0.5, size / 100)
        return cls(deadline_s, cap_s, cap_s / 5)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything outside a wait: clock, pause, and the log (``Log.say``)."""

    say: Callable[..., None]
    clock: Callable[[], float] = monotonic
    pause: Callable[[float], None] = sleep


class NotYet(Exception):
    """An attempt failed for a reason that time may cure.

    ``look_at`` says where to look meanwhile; ``retry_in_s`` the earliest sensible next try, where the
    ordinary back-off may be too short.
    """

    def __init__(self, cause: str, look_at: str, retry_in_s: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.look_at = look_at
        self.retry_in_s = retry_in_s


@dataclass(frozen=True, slots=True)
class Awaited:
    """A leader that is there: the address that accepted (or is our own), and what it took."""

    address: IpAddress
    port: int | None
    elapsed_s: float
    only_ipv6: bool


def wait_until(
    what: str,
    attempt: Callable[[float], Result],
    policy: WaitPolicy,
    around: Surroundings,
) -> Result:
    """Return what ``attempt`` returns as soon as it does; it is told the seconds it may take.

    Raises the last :class:`NotYet` when ``policy.deadline_s`` is over.
    """
    started = around.clock()
    deadline = started + policy.deadline_s
    try:
        return attempt(max(0.0, policy.deadline_s))
    except NotYet as not_yet:
        if around.clock() >= deadline:
            raise
        first = not_yet

    from sglang_roce_entry.group.retrying import keep_trying

    return keep_trying(attempt, first, deadline, policy, around, _Status(what, policy, around, started).tell)


class _Status:
    """Says at once, and then at most every 30 s, what is waited for and why."""

    def __init__(self, what: str, policy: WaitPolicy, around: Surroundings, started: float) -> None:
        self._what = what
        self._policy = policy
        self._around = around
        self._started = started
        self._last: float | None = None

    def tell(self, failure: NotYet, next_try_s: float) -> None:
        now = self._around.clock()
        if self._last is not None and now - self._last < _STATUS_EVERY_S:
            return
        self._last = now
        elapsed = now - self._started
        self._around.say(
            f"waiting for {self._what}: {failure.cause} ({elapsed:.0f} of {self._policy.deadline_s:.0f} s, "
            f"next try in {next_try_s:.1f} s); {failure.look_at}",
            waiting_for=self._what,
            cause=failure.cause,
            elapsed_s=round(elapsed, 1),
            deadline_s=self._policy.deadline_s,
            next_try_s=round(next_try_s, 2),
        )


class LeaderName:
    """The leader's name with its addresses, asked at most every 2 s and never used when older."""

    def __init__(self, host: str, resolver: Resolver, around: Surroundings, dns_hint: str) -> None:
        self.host = host
        self._resolver = resolver
        self._around = around
        self._dns_hint = dns_hint
        self._addresses: tuple[IpAddress, ...] = ()
        self._asked: float | None = None
        #: The last answer, however old: for what is done without the leader.
        self.last_known: tuple[IpAddress, ...] = ()

    def addresses(self, within_s: float) -> tuple[IpAddress, ...]:
        """Return fresh addresses. Raises :class:`NotYet`."""
        now = self._around.clock()
        if self._asked is not None and now - self._asked < FRESH_S and self._addresses:
            return self._addresses
        first = self._asked is None
        limit = min(within_s, _FIRST_LOOKUP_S if first else _LOOKUP_S)
        self._asked, self._addresses = now, ()
        try:
            self._addresses = self._resolver.addresses(self.host, limit)
        except NotResolved as failure:
            due_s = max(0.0, now + FRESH_S - self._around.clock())
            cause = f"{self.host} does not resolve ({failure.reason})"
            if failure.silent:
                cause = f"{self.host} is not resolved: {failure.reason}"
            raise NotYet(cause, self._dns_hint, due_s) from failure
        self.last_known = self._addresses
        return self._addresses


def await_leader(
    name: LeaderName,
    ports: Sequence[int],
    policy: WaitPolicy,
    around: Surroundings,
    connect: Callable[[Sequence[IpAddress], Sequence[int], float], ConnectOutcome] = connect_any,
) -> Awaited:
    """Return the leader's address as soon as any of ``ports`` accepts there.

    Raises :class:`~sglang_roce_entry.problems.EntryError` (124) at the deadline.
    """
    started = around.clock()
    listed = ", ".join(str(port) for port in ports)
    before: list[NotYet] = []

    def attempt(within_s: float) -> Awaited:
        deadline = around.clock() + within_s
        addresses = name.addresses(within_s)
        limit = max(0.0, min(_CONNECT_S, deadline - around.clock()))
        outcome = connect(addresses, ports, limit)
        if outcome.cause == ACCEPTED and outcome.address is not None:
            only_ipv6 = all(address.version == 6 for address in addresses)
            return Awaited(outcome.address, outcome.port, around.clock() - started, only_ipv6)
        if outcome.cause == TIMED_OUT and limit < _CONNECT_S and before:
            raise before[-1]  # the deadline cut this try short: its silence says nothing
        where = ", ".join(str(address) for address in addresses)
        before[:] = [
            NotYet(f"{where} {_connect_cause(outcome.cause, listed)}", _look_at(outcome.cause, name.host))
        ]
        raise before[-1]

    try:
        return wait_until(f"the leader {name.host}", attempt, policy, around)
    except NotYet as last:
        raise EntryError(
            "LEADER_TIMEOUT",
            f"the leader {name.host} did not come within {policy.deadline_s:.0f} s: {last.cause}",
            f"{last.look_at}; more patience: --wait-deadline or SGLANG_ROCE_WAIT_DEADLINE",
            DEADLINE,
        ) from last


def _connect_cause(cause: str, ports: str) -> str:
    if cause == REFUSED:
        return f"refuses connections on {ports}"
    if cause == TIMED_OUT:
        return f"does not answer on {ports}"
    return "is unreachable"


def _look_at(cause: str, host: str) -> str:
    pod = host.partition(".")[0] if literal(host) is None else "the leader"
    if cause == REFUSED:
        return f"the leader's SGLang has not opened its port yet: kubectl logs {pod}"
    if cause == TIMED_OUT:
        return (
            "a NetworkPolicy or firewall drops it, or the address is stale: pods of a group need all "
            "TCP ports between each other"
        )
    return "no route from this pod to the leader: check the pod network"


def await_own_name(
    name: LeaderName,
    own_addresses: Callable[[], Sequence[IpAddress]],
    policy: WaitPolicy,
    around: Surroundings,
) -> Awaited:
    """Return the leader's own address as soon as its name resolves to one of this pod's addresses.

    The record can be late, or still that of the pod before. Raises
    :class:`~sglang_roce_entry.problems.EntryError` (124) at the deadline.
    """
    started = around.clock()

    def attempt(within_s: float) -> Awaited:
        found = name.addresses(within_s)
        own = set(own_addresses())
        mine = [address for address in found if address in own or address.is_loopback]
        if mine:
            only_ipv6 = all(address.version == 6 for address in found)
            return Awaited(mine[0], None, around.clock() - started, only_ipv6)
        listed = ", ".join(str(address) for address in found)
        have = ", ".join(str(address) for address in own_addresses() if not address.is_loopback)
        raise NotYet(
            f"{name.host} is {listed}, which is no address of this pod ({have or 'none'})",
            "the record of the pod before, or this is not the leader: check the worker index",
            FRESH_S,
        )

    try:
        return wait_until(f"this leader's own name {name.host}", attempt, policy, around)
    except NotYet as last:
        raise EntryError(
            "OWN_NAME_TIMEOUT",
            f"this leader's own name did not come within {policy.deadline_s:.0f} s: {last.cause}",
            last.look_at,
            DEADLINE,
        ) from last


def await_free_ports(
    wanted: Sequence[tuple[str, int, str]],
    policy: WaitPolicy,
    around: Surroundings,
    is_free: Callable[[str, int], bool] = port_is_free,
) -> None:
    """Return as soon as every (host, port, purpose) is free.

    Raises :class:`~sglang_roce_entry.problems.EntryError` (78) if one stays taken.
    """

    def attempt(within_s: float) -> None:  # noqa: ARG001 - a bind takes no time
        taken = [f"{port} ({why})" for host, port, why in wanted if not is_free(host, port)]
        if taken:
            raise NotYet(
                f"taken: {', '.join(taken)}",
                "another process of this pod, or of this node with hostNetwork: ss -ltnp",
            )

    try:
        wait_until("free ports", attempt, policy, around)
    except NotYet as last:
        raise EntryError(
            "PORT_TAKEN",
            f"ports that SGLang needs stay {last.cause}",
            f"{last.look_at}; choose others with --dist-init and SGLang's --port",
            CONFIGURATION,
        ) from last


def life_ports(dist_init_port: int) -> tuple[int, ...]:
    """Return the ports on which a leader shows life: D, D+1, D+13, those that exist."""
    return tuple(dist_init_port + offset for offset in SIGNS_OF_LIFE if dist_init_port + offset <= MAX_PORT)
