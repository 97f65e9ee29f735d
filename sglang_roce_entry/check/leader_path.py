"""The path to the leader, tried: name, TCP, path MTU; on the leader its ports and its first worker.

Everything outside is passed in (:class:`Outside`), and no step begins after the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglang_roce_entry.check.items import CheckItem, Examined, fail, listed, of_problem, ok, skip, warn
from sglang_roce_entry.check.names import CLUSTER_DNS, cluster_search
from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, TIMED_OUT, ConnectOutcome
from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.names import Addresses, NotResolved
from sglang_roce_entry.group.path_mtu import BLACK_HOLE, FULL, SILENT, PathMtu
from sglang_roce_entry.host.facts import IpAddress
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE

NAME, PORT, MTU, GROUP, PORTS = "leader name", "leader port", "path mtu", "workers", "ports"

_LOOKUP_S = 2.0
_CONNECT_S = 2.0
_MTU_S = 3.0


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything outside that is asked, and how long it may take in all."""

    remaining_s: Callable[[], float]
    resolve: Callable[[str, float], Addresses]  # raises NotResolved
    connect: Callable[[Sequence[IpAddress], Sequence[int], float], ConnectOutcome]
    path_mtu: Callable[[IpAddress, int, float], PathMtu]
    mtu_towards: Callable[[IpAddress], int | None]
    is_free: Callable[[str, int], bool]
    server_pid: int | None  # of the server of this pod


def not_tried(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines of a replay: what was recorded, and that the path was not tried."""
    found = tuple(of_problem(NAME, problem) for problem in examined.of(NAME))
    if not examined.in_group:
        return found
    leads = examined.plan.identity is not None and examined.plan.identity.is_leader
    names = (GROUP, PORTS) if leads else (PORT, MTU)
    return (*found, *(skip(name, "needs the live node") for name in names))


def items(
    examined: Examined,
    addresses: Sequence[IpAddress],
    failure: str | None,
    outside: Outside,
) -> tuple[CheckItem, ...]:
    """Return the live lines. ``addresses`` or ``failure`` is what one look-up of the leader's name gave."""
    identity = examined.plan.identity
    if identity is None:
        return ()
    if not identity.in_group or identity.leader is None:
        return (_ports(examined, outside),)
    named = _name(examined, identity.leader, addresses, failure)
    if identity.is_leader:
        return (named, *_workers(identity.leader, outside), _ports(examined, outside))
    path = _path(examined, addresses, outside) if addresses else ()
    return (named, *path, _ports(examined, outside))


def _name(examined: Examined, leader: str, addresses: Sequence[IpAddress], failure: str | None) -> CheckItem:
    if failure is None:
        if examined.of(NAME):
            return of_problem(NAME, examined.of(NAME)[0])
        return ok(NAME, f"{leader} is {listed([str(address) for address in addresses])}")
    domains = examined.plan.facts.search_domains
    if literal(leader) is None and domains is not None and not cluster_search(domains):
        return fail(
            NAME,
            f"{failure}, and no search domain of the cluster completes it",
            f"with hostNetwork: true set {CLUSTER_DNS} in the pod spec; a launch would end at its --wait-deadline",
            DEADLINE,
        )
    pod = leader.partition(".")[0]
    return warn(
        NAME,
        failure,
        f"a launch waits for it: is the leader scheduled, and does its headless Service exist? "
        f"kubectl get pod {pod} -o wide; no other Service may have the LeaderWorkerSet's name",
    )


def _path(examined: Examined, addresses: Sequence[IpAddress], outside: Outside) -> tuple[CheckItem, ...]:
    wait = examined.plan.wait
    ports = wait.ports if wait is not None else ()
    limit = min(_CONNECT_S, outside.remaining_s())
    if not ports or limit <= 0:
        return (skip(PORT, "no time was left"),)
    probe = outside.connect(addresses, ports, limit)
    where = listed([str(address) for address in addresses])
    on = ", ".join(str(port) for port in ports)
    reached = probe.address or addresses[0]
    if probe.cause == ACCEPTED:
        return (ok(PORT, f"{probe.address} accepts on {probe.port}"), _mtu(reached, outside))
    if probe.cause == REFUSED:
        line = warn(
            PORT,
            f"{where} refuses connections on {on}: the leader's SGLang has not opened a port yet",
            "a launch waits for it; if this persists, read the log of the leader (kubectl logs)",
        )
        return (line, _mtu(reached, outside))
    if probe.cause == TIMED_OUT:
        return (
            fail(
                PORT,
                f"{where} does not answer on {on} within {limit:g} s: filtered, or a stale address",
                "allow all TCP ports between the pods of a group (NetworkPolicy, firewall of the nodes, security "
                "group); a launch would end at its --wait-deadline",
                DEADLINE,
            ),
        )
    remedy = "check the pod network between the two nodes; a launch would end at its --wait-deadline"
    return (fail(PORT, f"{where} is unreachable: no route", remedy, DEADLINE),)


def _mtu(address: IpAddress, outside: Outside) -> CheckItem:
    own = outside.mtu_towards(address)
    limit = min(_MTU_S, outside.remaining_s())
    if own is None or limit <= 0 or address.is_loopback:
        why = "the leader is on this node" if address.is_loopback else "no route, or no time was left"
        return skip(MTU, why)
    found = outside.path_mtu(address, own, limit)
    if found.state == FULL:
        return ok(MTU, f"packets of {own} bytes reach {address}")
    if found.state == SILENT:
        return skip(MTU, f"{address} does not answer UDP with ICMP")
    if found.state == BLACK_HOLE:
        passing = f"; {found.mtu} bytes pass" if found.mtu else ""
        return warn(
            MTU,
            f"packets of {own} bytes to {address} are dropped silently{passing}: TCP connects, then hangs",
            f"lower the interface's MTU to {found.mtu or 1280}, or raise that of the network between them",
        )
    return warn(
        MTU,
        f"{found.mtu} bytes pass to {address}, the interface here has {own}",
        "give all nodes and the network between them the same MTU",
    )


def _workers(leader: str, outside: Outside) -> tuple[CheckItem, ...]:
    first, dot, domain = leader.partition(".")
    limit = min(_LOOKUP_S, outside.remaining_s())
    if literal(leader) is not None or not dot or limit <= 0:
        return ()
    worker = f"{first}-1.{domain}"
    try:
        addresses = outside.resolve(worker, limit)
    except NotResolved:
        return (
            warn(
                GROUP,
                f"{worker} does not resolve: no worker pod exists yet",
                "startupPolicy must be LeaderCreated: LeaderReady creates the workers once the leader is ready, "
                "which it cannot be without them; else see why they are not scheduled (kubectl describe pod)",
            ),
        )
    return (ok(GROUP, f"{worker} is {listed([str(address) for address in addresses])}"),)


def _ports(examined: Examined, outside: Outside) -> CheckItem:
    command, identity = examined.plan.command, examined.plan.identity
    if command is None:
        return skip(PORTS, "no SGLang arguments were given")
    if outside.server_pid is not None:
        return ok(PORTS, f"in use by the SGLang server that runs here (process {outside.server_pid})")
    leads = identity is not None and identity.in_group and identity.is_leader
    wanted = command.leader_ports() if leads else command.http_ports()
    taken = [f"{port} ({why})" for host, port, why in wanted if not outside.is_free(host, port)]
    if not taken:
        return ok(PORTS, f"free: {', '.join(str(port) for _, port, _ in wanted)}")
    remedy = (
        "another process of this pod, or of this node with hostNetwork (ss -ltnp): end it, or choose others with "
        "--dist-init and SGLang's --port"
    )
    if not leads:
        # Only a leader waits for its ports; SGLang itself will end here.
        return warn(PORTS, f"taken: {', '.join(taken)}", remedy)
    return fail(PORTS, f"taken: {', '.join(taken)}", remedy, CONFIGURATION)
