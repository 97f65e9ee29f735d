"""Eight rails between two nodes, each in a situation of its own: whole in some way, or with one fault.

What is done to a rail is a function of its two ports, near and far; `mend` takes all of it back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.kernel.node import gid_table, ip, run, until
from tests.kernel.segments import IN_FABRIC, LEAST_DELAY, condition, drop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sglang_roce_entry.verbs.messages import Rail
    from tests.kernel.segments import Port

RAILS = 8
VLAN = 100
_UDP = ("match", "ip", "protocol", "17", "0xff")
UDP_4791 = (*_UDP, "match", "ip", "dport", "4791", "0xffff")
UDP6_4791 = ("match", "ip6", "protocol", "17", "0xff", "match", "ip6", "dport", "4791", "0xffff")
ICMP = ("match", "ip", "protocol", "1", "0xff")
#: Datagrams of 1024 to 2047 bytes, and of 4096 and more, as a switch with a smaller MTU drops them.
LARGE = (*_UDP, "match", "u16", "0x0400", "0xfc00", "at", "2")
JUMBO = (*_UDP, "match", "u16", "0x1000", "0xf000", "at", "2")


@dataclass(frozen=True, slots=True)
class Situation:
    """One rail: by which GIDs its ends are reached, what is done to the fabric, and what its name in a verdict is."""

    name: str
    near: str = "ipv4"
    far: str = "ipv4"
    does: Callable[[Port, Port], None] = lambda near, far: None
    cause: str = ""
    traffic_class: int = 0
    service_level: int = 0

    def ends(self, near: Port, far: Port) -> tuple[Rail, Rail]:
        """Return both ends as what is proven."""
        rails = [port.verbs_rail(gid_index(port, which)) for port, which in ((near, self.near), (far, self.far))]
        near_rail, far_rail = (
            replace(rail, traffic_class=self.traffic_class, service_level=self.service_level) for rail in rails
        )
        return near_rail, far_rail


def gid_index(port: Port, which: str) -> int:
    """Return the index of a GID of its own netdev, by family and version, or of its VLAN."""
    addresses = {"ipv4": port.ipv4, "v1": port.ipv4, "ipv6": port.ipv6, "vlan": vlan_address(port)}
    kind = "IB/RoCE v1" if which == "v1" else "RoCE v2"
    for index, row in gid_table(port.device).items():
        address = row["address"] if which != "link-local" or not row["address"].startswith("fe80:") else which
        if row["type"] == kind and address == addresses.get(which, which):
            return int(index)
    raise LookupError(f"{port.device} has no GID {which}")


def vlan_address(port: Port) -> str:
    return f"10.{VLAN + port.rail}.0.{port.node + 1}"


def _larger_mtu(*ports: Port) -> None:
    for port in ports:
        ip(f"link set {port.leaf} mtu 4200", netns="fabric")
        ip(f"link set {port.netdev} mtu 4200")


def _other_index(near: Port, far: Port) -> None:
    """Let another address take the slots of the far end's."""
    ip(
        f"addr del {far.ipv4}/24 dev {far.netdev}",
        f"addr add 10.{far.rail}.9.1/24 dev {far.netdev}",
        f"addr add {far.ipv4}/24 dev {far.netdev}",
        f"route replace 10.{far.rail}.0.0/24 dev {far.netdev} table {far.table} src {far.ipv4}",
    )
    until(lambda: gid_index(far, "ipv4") != gid_index(near, "ipv4"), "the address has another index")


def _vlan(near: Port, far: Port) -> None:
    for port in (near, far):
        netdev = f"{port.netdev}.{VLAN}"
        ip(
            f"link add link {port.netdev} name {netdev} type vlan id {VLAN}",
            f"link set {netdev} up",
            f"addr add {vlan_address(port)}/24 dev {netdev}",
            f"rule add pref 20 from {vlan_address(port)} lookup {port.table}",
            f"route add 10.{VLAN + port.rail}.0.0/24 dev {netdev} table {port.table} src {vlan_address(port)}",
        )
        until(lambda port=port: vlan_address(port) in str(gid_table(port.device)), "the VLAN has a GID")  # type: ignore[misc]


def _netem(what: str) -> Callable[[Port, Port], None]:
    return lambda near, far: condition((near, far), f"{LEAST_DELAY} {what}")


def _both(*match: str) -> Callable[[Port, Port], None]:
    def does(near: Port, far: Port) -> None:
        drop(near, *match)
        drop(far, *match)

    return does


def _blackhole(near: Port, far: Port) -> None:
    ip(f"route add blackhole {far.ipv4}/32 table {near.table}")


def cut(near: Port, far: Port) -> None:
    ip(f"link set {far.leaf} nomaster", netns="fabric")


def no_route(near: Port, far: Port) -> None:
    cut(near, far)
    ip(f"route add unreachable {far.ipv4}/32 table {near.table}")


def _no_route6(near: Port, far: Port) -> None:
    ip(f"route add unreachable {far.ipv6}/128 table {near.table}", family=6)


def _wrong_neighbour(near: Port, far: Port) -> None:
    ip(f"neigh replace {far.ipv4} lladdr 02:00:00:00:00:99 nud permanent dev {near.netdev}")


def _elsewhere(near: Port, far: Port) -> None:
    cut(near, far)
    for port, peer in ((near, far), (far, near)):
        ip(f"neigh replace {peer.ipv4} lladdr 02:00:00:00:00:99 nud permanent dev {port.netdev}")


HEALTHY = (
    (
        Situation("IPv4"),
        Situation("IPv6", "ipv6", "ipv6"),
        Situation("link-local", "link-local", "link-local"),
        Situation("the indices differ", does=_other_index),
        Situation("RoCE MTU 4096", does=_larger_mtu),
        Situation("the MTUs differ", does=lambda near, far: _larger_mtu(near)),
        Situation("traffic class and service level", traffic_class=104, service_level=3),
        Situation("VLAN", "vlan", "vlan", does=_vlan),
    ),
    (
        Situation("loss 5 %", does=_netem("loss 5%")),
        Situation("delay 50 ms", does=_netem("delay 50ms")),
        Situation("duplicates", does=_netem("duplicate 20%")),
        Situation("reordered", does=_netem("reorder 50% 50%")),
        Situation("corrupted", does=_netem("corrupt 2%")),
        Situation("slow", does=_netem("rate 20mbit")),
        Situation("ICMP filtered", does=_both(*ICMP)),
        Situation("route into a black hole", does=_blackhole),  # RDMA does not heed it on its own segment
    ),
)
FAULTS = (
    (
        Situation("filtered there", does=lambda near, far: drop(near, *UDP_4791), cause="NO_WAY"),
        Situation("filtered back", does=lambda near, far: drop(far, *UDP_4791), cause="NO_WAY"),
        Situation("filtered both ways", does=_both(*UDP_4791), cause="NO_WAY"),
        Situation("MTU on the path one way", does=lambda near, far: drop(near, *LARGE), cause="LARGE_LOST"),
        Situation("MTU 4200 not on the path", does=_both(*JUMBO), cause="LARGE_LOST"),
        Situation("another segment", does=cut, cause="NO_NEIGHBOUR"),
        Situation("no route", does=no_route, cause="NO_ROUTE"),
        Situation("VLAN on one side", "vlan", "ipv4", cause="NO_NEIGHBOUR"),
    ),
    (
        Situation("the families differ", "ipv4", "ipv6", cause="GID_REFUSED"),
        Situation("RoCE v1", "v1", "v1", cause="GID_REFUSED"),
        Situation("wrong neighbour", does=_wrong_neighbour, cause="NO_WAY"),
        Situation(
            "IPv6 filtered",
            "ipv6",
            "ipv6",
            does=lambda near, far: drop(near, *UDP6_4791, protocol="ipv6"),
            cause="NO_WAY",
        ),
        Situation("link-local, another segment", "link-local", "link-local", does=cut, cause="NO_NEIGHBOUR"),
        Situation("elsewhere, with neighbours", does=_elsewhere, cause="NO_WAY"),
        Situation("no route of IPv6", "ipv6", "ipv6", does=_no_route6, cause="NO_ROUTE"),
        Situation("everything lost", does=_netem("loss 100%"), cause="NO_NEIGHBOUR"),
    ),
)

#: What every release of rdma-core and every kernel has to show.
BY_RELEASE = (HEALTHY[0][0], FAULTS[0][0], FAULTS[0][3], FAULTS[0][5], FAULTS[1][0])


def mend(ports: Sequence[Port]) -> None:
    """Take back what was done to the fabric; addresses, MTUs and VLANs stay."""
    condition(ports)
    deletions = "".join(f"qdisc del dev {port.leaf} clsact\n" for port in ports)
    run(*IN_FABRIC, "tc", "-force", "-batch", "-", stdin=deletions, check=False)
    ip(*(f"link set {port.leaf} up master bridge{port.rail}" for port in ports), netns="fabric")
    flushes = [
        f"route flush table {port.table} type {kind}" for port in ports for kind in ("blackhole", "unreachable")
    ]
    for family in ("-4", "-6"):
        run("ip", family, "-force", "-batch", "-", stdin="\n".join(flushes) + "\n", check=False)
    for state in ("permanent", "all"):
        run("ip", "neigh", "flush", "nud", state, check=False)
