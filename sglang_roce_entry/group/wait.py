"""Waiting: for the leader's port, for the leader's own name, for ports that must be free.

A wait is a value (:class:`WaitPolicy`) and an attempt that either returns or raises :class:`NotYet`
with the cause. Only a second attempt loads tenacity (``retrying``). No deadline is ever passed, also
not by a resolver that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglang_roce_entry.group.attempts import NotYet, Result, Surroundings, WaitPolicy, seconds, within
from sglang_roce_entry.group.connect import (
    ACCEPTED,
    NO_ANSWER_HINT,
    REFUSED,
    TIMED_OUT,
    ConnectOutcome,
    connect_any,
    port_is_free,
)
from sglang_roce_entry.group.endpoint import MAX_PORT, IpAddress, literal
from sglang_roce_entry.group.names import FRESH_S, NotResolved, Resolver
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE, EntryError

#: Offsets from the dist-init port D on which a leader listens before its workers join: D with
#: tensor parallelism, D+1 and D+13 with attention DP, where D opens only after the workers have
#: connected to D+13 (a wait for D alone deadlocks, one for the HTTP port always does).
SIGNS_OF_LIFE = (0, 1, 13)

_CONNECT_S = 1.0
_FIRST_LOOKUP_S = 1.0
_LOOKUP_S = 5.0
_STATUS_EVERY_S = 30.0
PORTS_FREE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Awaited:
    """A reachable leader: the address that accepted (or is our own), and what it took.

    ``elsewhere``: on the leader, its name gives no address of this pod's, and that is not waited for.
    """

    address: IpAddress
    port: int | None
    elapsed_s: float
    only_ipv6: bool
    elsewhere: bool = False


def wait_until(
    what: str,
    attempt: Callable[[float], Result],
    policy: WaitPolicy,
    around: Surroundings,
    name: str = "",
) -> Result:
    """Return what ``attempt`` returns as soon as it does; it gets the seconds it may take.

    The log calls it ``what`` and gives its ``name`` once. Raises the last :class:`NotYet` when
    ``policy.deadline_s`` is over.
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

    return keep_trying(attempt, first, deadline, policy, around, _status(what, name, policy, around, started))


def _status(
    what: str, name: str, policy: WaitPolicy, around: Surroundings, started: float
) -> Callable[[NotYet, float], None]:
    """Return what logs at once, then at most every 30 s, what is waited for and why; a hint only if it is new."""
    full_name, deadline_s = f"{what} {name}".rstrip(), policy.deadline_s
    last: float | None = None
    hint = ""

    def tell(failure: NotYet, next_try_s: float) -> None:
        nonlocal last, hint
        now = around.clock()
        if last is not None and now - last < _STATUS_EVERY_S:
            return
        elapsed_s = now - started
        passed = f"{seconds(elapsed_s)} of {seconds(deadline_s)} s"
        line = f"still waiting for {what}: {failure.cause} ({passed})"
        if last is None:
            line = f"waiting for {full_name}: {failure.cause} ({passed}, next try in {next_try_s:.1f} s)"
        if failure.look_at != hint:
            line += f"; {failure.look_at}"
        last, hint = now, failure.look_at
        around.say(
            line,
            waiting_for=full_name,
            cause=failure.cause,
            elapsed_s=round(elapsed_s, 1),
            deadline_s=round(deadline_s, 1),
            next_try_s=round(next_try_s, 2),
        )

    return tell


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
            state = "is not resolved" if failure.silent else "does not resolve"
            raise NotYet(f"{state} ({failure.reason})", self._dns_hint, due_s) from failure
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
            raise before[-1]  # the deadline cut this try short: its silence proves nothing
        where = "" if literal(name.host) else f"{', '.join(map(str, addresses))} "
        cause = f"{where}{_connect_cause(outcome.cause, listed)}"
        before[:] = [NotYet(cause, _look_at(outcome.cause, name.host))]
        raise before[-1]

    try:
        return wait_until("the leader", attempt, policy, around, name.host)
    except NotYet as last:
        raise EntryError(
            "LEADER_TIMEOUT",
            f"the leader {name.host} was not reachable{within(policy.deadline_s)}: {last.cause}",
            f"{last.look_at}; to wait longer: --wait-deadline or SGLANG_ROCE_WAIT_DEADLINE",
            DEADLINE,
        ) from last


def _connect_cause(cause: str, ports: str) -> str:
    if cause == REFUSED:
        return f"refuses connections on {ports}"
    if cause == TIMED_OUT:
        return f"does not answer on {ports}"
    return "is unreachable"


def _look_at(cause: str, host: str) -> str:
    pod = host.partition(".")[0] if literal(host) is None else "<leader pod>"
    if cause == REFUSED:
        return f"the leader's SGLang has not opened its port yet: kubectl logs {pod}"
    if cause == TIMED_OUT:
        return NO_ANSWER_HINT
    return "this pod has no route to the leader: check the pod network"


def await_own_name(
    name: LeaderName,
    own_addresses: Callable[[], Sequence[IpAddress]],
    policy: WaitPolicy,
    around: Surroundings,
    elsewhere_after_s: float | None = None,
) -> Awaited:
    """Return the leader's own address as soon as its name resolves to one of this pod's addresses.

    The record can be late, or still that of the pod before; one that gives another address for
    ``elsewhere_after_s`` is a Service's or NAT's, which never changes (``None``: it cannot be one). Raises
    :class:`~sglang_roce_entry.problems.EntryError` (124) at the deadline.
    """
    started = around.clock()

    def attempt(within_s: float) -> Awaited:
        found = name.addresses(within_s)
        own = set(own_addresses())
        mine = [address for address in found if address in own or address.is_loopback]
        mine.sort(key=lambda address: address.is_loopback)
        if mine:
            only_ipv6 = all(address.version == 6 for address in found)
            return Awaited(mine[0], None, around.clock() - started, only_ipv6)
        if elsewhere_after_s is not None and around.clock() - started >= elsewhere_after_s:
            only_ipv6 = all(address.version == 6 for address in found)
            return Awaited(found[0], None, around.clock() - started, only_ipv6, elsewhere=True)
        listed = ", ".join(str(address) for address in found)
        have = ", ".join(str(address) for address in own_addresses() if not address.is_loopback)
        raise NotYet(
            f"resolves to {listed}, which is not an address of this pod ({have or 'none'})",
            "a stale DNS record of the previous pod, or this is not the leader: check the worker index",
            FRESH_S,
        )

    try:
        return wait_until("this leader's own name", attempt, policy, around, name.host)
    except NotYet as last:
        raise EntryError(
            "OWN_NAME_TIMEOUT",
            f"{name.host} did not resolve to this leader{within(policy.deadline_s)}: {last.cause}",
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
                f"{', '.join(taken)} in use",
                "another process of this pod (with hostNetwork: of this node) listens there: ss -ltnp",
            )

    try:
        wait_until("free ports", attempt, policy, around)
    except NotYet as last:
        raise EntryError(
            "PORT_TAKEN",
            f"ports that SGLang needs were not free{within(policy.deadline_s)}: {last.cause}",
            f"{last.look_at}; or choose another port with the option in brackets (D with --dist-init)",
            CONFIGURATION,
        ) from last


def life_ports(dist_init_port: int) -> tuple[int, ...]:
    """Return the ports on which a leader listens: D, D+1, D+13, those that exist."""
    return tuple(dist_init_port + offset for offset in SIGNS_OF_LIFE if dist_init_port + offset <= MAX_PORT)
