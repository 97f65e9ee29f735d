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
from sglang_roce_entry.group.meeting.answering import CLOSED, MEETING, OTHER, Answer
from sglang_roce_entry.group.meeting.answering import SILENT as UNKNOWN
from sglang_roce_entry.group.names import Addresses, NotResolved
from sglang_roce_entry.group.path_mtu import BLACK_HOLE, FULL, SILENT, PathMtu
from sglang_roce_entry.host.facts import IpAddress
from sglang_roce_entry.problems import CONFIGURATION, DEADLINE

NAME, PORT, MTU, GROUP, PORTS = "leader name", "leader port", "path mtu", "workers", "ports"
OTHERS, MESH = "other ports", "service mesh"

#: Of the kernel's range of outgoing connections: hardly anything listens on all three.
_SURELY_CLOSED = (35711, 47303, 58991)
#: The ports of a sidecar proxy, and what keeps it out of a pod.
_SIDECARS = {
    "Istio": ((15001, 15006), 'sidecar.istio.io/inject: "false"'),
    "Linkerd": ((4140, 4143), "linkerd.io/inject: disabled"),
}
_NO_SIDECAR = ", ".join(annotation for _, annotation in _SIDECARS.values())
_LOOKUP_S = 2.0
_CONNECT_S = 2.0
_MTU_S = 3.0


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything outside that is asked, and how long it may take in all."""

    remaining_s: Callable[[], float]
    resolve: Callable[[str, float], Addresses]  # raises NotResolved
    connect: Callable[[Sequence[IpAddress], Sequence[int], float], ConnectOutcome]
    greeting: Callable[[Sequence[IpAddress], Sequence[int], float], tuple[ConnectOutcome, Answer | None]]
    path_mtu: Callable[[IpAddress, int, float], PathMtu]
    mtu_towards: Callable[[IpAddress], int | None]
    is_free: Callable[[str, int], bool]
    server_pid: int | None  # of the server of this pod


def not_tried(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines of a replay: what was recorded, and that the path was not tried."""
    found = (*(of_problem(NAME, problem) for problem in examined.of(NAME)), *_outgoing(examined, lambda *_: True))
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
        return _ports(examined, outside)
    named = _name(examined, identity.leader, addresses, failure)
    if identity.is_leader:
        return (named, *_workers(identity.leader, outside), *_mesh(outside), *_ports(examined, outside))
    path = _path(examined, addresses, outside) if addresses else ()
    return (named, *path, *_mesh(outside), *_ports(examined, outside))


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
        return (skip(PORT, "no time was left" if ports else "no SGLang opens the rendezvous port"),)
    probe, answer = outside.greeting(addresses, ports, limit)
    where = listed([str(address) for address in addresses])
    on = ", ".join(str(port) for port in ports)
    reached = probe.address or addresses[0]
    if probe.cause == ACCEPTED:
        if answer is not None and answer.kind in (CLOSED, OTHER):
            return (_no_sign_of_life(f"{probe.address} on {probe.port}", answer),)
        if answer is not None and answer.kind == UNKNOWN:
            line = _no_sign_of_life(f"{probe.address} on {probe.port}", answer)
        else:
            who = "" if answer is None else f": {_MEETS if answer.kind == MEETING else answer.detail}"
            line = ok(PORT, f"{probe.address} accepts on {probe.port}{who}")
        return (line, *_others(reached, probe.port, outside), _mtu(reached, outside))
    if probe.cause == REFUSED:
        line = warn(
            PORT,
            f"{where} refuses connections on {on}: neither its launcher nor its SGLang is there",
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


_MEETS = "its launcher holds the group's meeting"


def _no_sign_of_life(where: str, answer: Answer) -> CheckItem:
    return warn(
        PORT,
        f"{where} {answer.detail}",
        f"keep a service mesh out of the pods of a group ({_NO_SIDECAR}); on the leader: ss -ltnp",
    )


def _others(address: IpAddress, port: int | None, outside: Outside) -> tuple[CheckItem, ...]:
    """Return a warning where other ports of the leader are filtered: a closed one answers by a refusal."""
    limit = min(_CONNECT_S, outside.remaining_s())
    if limit <= 0 or address.is_loopback:
        return ()
    found = outside.connect([address], _SURELY_CLOSED, limit)
    if found.cause in (ACCEPTED, REFUSED):
        return ()
    how = "silence" if found.cause == TIMED_OUT else "unreachable"
    shown = ", ".join(map(str, _SURELY_CLOSED))
    return (
        warn(
            OTHERS,
            f"{address} accepts on {port}, but other ports are filtered ({shown}: {how})",
            "allow all TCP between the pods of a group (NetworkPolicy, firewall of the nodes, security group): "
            "NCCL, Gloo and SGLang's queues use such ports",
        ),
    )


def _mesh(outside: Outside) -> tuple[CheckItem, ...]:
    """Return a warning where a sidecar proxy listens in this pod."""
    for name, (ports, annotation) in _SIDECARS.items():
        if not any(outside.is_free("*", port) for port in ports):
            shown = " and ".join(map(str, ports))
            evidence = f"something listens on {shown}, as {name}'s sidecar does: it takes the group's connections"
            return (warn(MESH, evidence, f"keep it out of these pods by an annotation: {annotation}"),)
    return ()


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


def _ports(examined: Examined, outside: Outside) -> tuple[CheckItem, ...]:
    return (*_outgoing(examined, outside.is_free), _free(examined, outside))


def _outgoing(examined: Examined, is_free: Callable[[str, int], bool]) -> tuple[CheckItem, ...]:
    """Return a warning about ports that the kernel may have given to an outgoing connection (sglang#37215)."""
    command, inspection = examined.plan.command, examined.inspection
    bounds = [int(text) for text in (inspection.outgoing_ports or "").split() if text.isdecimal()]
    if command is None or len(bounds) != 2:
        return ()
    low, high = bounds
    reserved = _reserved(inspection.reserved_ports or "")
    own = {port for _, port, _ in command.ports}
    within = [(port, why) for _, port, why in command.ports if low <= port <= high and port not in reserved]
    if not within:
        return ()
    # 30000 to 32767 are Kubernetes' NodePorts; below 1024 a user needs a capability.
    below = (*range(8100, min(low, 30000), 100), *range(min(low, 30000) - 1, 1023, -1))
    better = next((port for port in below if port not in own and is_free("*", port)), None)
    advice = f"choose a port below {low}, such as {better} (D: --dist-init); or reserve" if better else "reserve"
    ports = ",".join(str(port) for port, _ in within)
    evidence = (
        f"{listed([f'{port} ({why})' for port, why in within])} in the range {low}-{high} of the kernel's "
        "outgoing connections: sometimes such a port is in use when SGLang binds it"
    )
    return (warn(PORTS, evidence, f"{advice} them: sysctl net.ipv4.ip_local_reserved_ports={ports}"),)


def _reserved(text: str) -> set[int]:
    """Return the ports of a list like ``8080,9000-9010``."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if first.isdecimal() and (last.isdecimal() or not dash):
            found.update(range(int(first), int(last or first) + 1))
    return found


def _free(examined: Examined, outside: Outside) -> CheckItem:
    command = examined.plan.command
    if command is None:
        return skip(PORTS, "no SGLang arguments were given")
    if outside.server_pid is not None:
        return ok(PORTS, f"in use by the SGLang server that runs here (process {outside.server_pid})")
    wanted = command.ports
    taken = [f"{port} ({why})" for host, port, why in wanted if not outside.is_free(host, port)]
    if not taken:
        return ok(PORTS, f"free: {', '.join(str(port) for _, port, _ in wanted)}")
    remedy = (
        "another process of this pod, or of this node with hostNetwork (ss -ltnp): end it, or choose another port "
        "with the option in brackets (D with --dist-init)"
    )
    return fail(PORTS, f"taken: {', '.join(taken)}", remedy, CONFIGURATION)
