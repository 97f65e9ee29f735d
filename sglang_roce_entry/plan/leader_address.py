"""What is wrong with the leader's address: nobody's, somebody else's, a Service's, this worker's own."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.plan.inputs import Leader, Request
from sglang_roce_entry.problems import Problem, config_error, warning


def leader_problems(
    request: Request, identity: Identity | None, leader: Leader | None, facts: HostFacts
) -> list[Problem]:
    """Return what is wrong with the address of the leader, as far as it is known."""
    if identity is None or not identity.in_group:
        return []
    broadcast = _broadcast(literal(identity.leader or ""), facts)
    if broadcast is not None:
        return [broadcast]
    if leader is None:  # not looked up yet: an address needs no look-up
        known = literal(identity.leader or "")
        given = (known,) if known is not None else ()
        return [] if identity.is_leader else _own_leader(request, identity, given, facts)
    if leader.failure is not None:
        return [
            warning(
                "LEADER_UNRESOLVED",
                f"the leader's address is not known here: {leader.failure}",
                "a launch waits for it (at most --wait-deadline); in Kubernetes check the leader pod "
                "and its headless Service",
            )
        ]
    if leader.elsewhere:
        return [_elsewhere(request, identity, leader)]
    if not identity.is_leader:
        return _own_leader(request, identity, leader.addresses, facts)
    if leader.addresses and leader.address is None:
        listed = ", ".join(str(address) for address in leader.addresses)
        fixed = listed == identity.leader
        found = f"the leader's address {listed} is" if fixed else f"{identity.leader} resolves to {listed},"
        record = (
            "address to appear; correct the leader address or the worker index"
            if fixed
            else "DNS record to change; if it never does, check the worker index"
        )
        return [
            warning(
                "OWN_NAME_FOREIGN",
                f"this is the leader, but {found} not an address of this pod",
                f"a launch waits for the {record}",
            )
        ]
    return []


def _broadcast(leader: IpAddress | None, facts: HostFacts) -> Problem | None:
    """Return the problem of a leader's address that is the broadcast address of a network of this pod."""
    if leader is None or leader.version != 4:
        return None
    for interface in facts.interfaces:
        for own in interface.addresses:
            network = own.network
            if leader in network and network.prefixlen < 31 and leader == network.broadcast_address != own.ip:
                return config_error(
                    "LEADER_ADDRESS",
                    f"leader address {leader} is the broadcast address of {network} ({interface.name})",
                    "write the leader pod's name or address; LeaderWorkerSet injects LWS_LEADER_ADDRESS",
                )
    return None


def _elsewhere(request: Request, identity: Identity, leader: Leader) -> Problem:
    """Return the problem of a leader whose --dist-init-addr is a Service's or NAT's address."""
    listed = ", ".join(str(address) for address in leader.addresses)
    where = listed if listed == identity.leader else f"{identity.leader} ({listed})"
    if request.user is not None and request.user.attention_dp:
        return config_error(
            "DIST_INIT_ELSEWHERE",
            f"--dist-init-addr {where} is no address of this leader (a Service's or NAT's?): with attention DP "
            "SGLang binds it",
            "name the pod itself: a headless Service (clusterIP: None); under LeaderWorkerSet remove "
            "--dist-init-addr",
        )
    return warning(
        "DIST_INIT_ELSEWHERE",
        f"--dist-init-addr {where} is no address of this leader: a Service's or NAT's? It is used as it is",
        "if the workers do not get through, name the pod itself: a headless Service (clusterIP: None)",
    )


def _own_leader(
    request: Request, identity: Identity, addresses: Sequence[IpAddress], facts: HostFacts
) -> list[Problem]:
    """Return the problem of a worker whose leader is itself: SGLang waits for a rank 0 that never is."""
    own = {one.ip for interface in facts.interfaces for one in interface.addresses if not one.ip.is_loopback}
    mine = next((address for address in addresses if address in own), None)
    if mine is None:
        return []
    fixed = str(mine) == identity.leader
    where = f"the leader's address {mine}" if fixed else f"{identity.leader} resolves to {mine}, which"
    message = f"{where} is this pod's own, but this is worker {identity.index}"
    hint = "give every node the address of the leader's pod (not $(hostname)), or correct the worker index"
    # A name may be that of a pod before; without a meeting two ranks of one machine can share its network.
    final = fixed and request.settings.meeting != "off"
    if final:
        return [config_error("LEADER_IS_WORKER", message, hint)]
    return [warning("LEADER_IS_WORKER", message, hint)]
