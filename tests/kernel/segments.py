"""Nodes of a rail-optimised fabric, from the inside of the guest: an HCA for each rail of each node, a bridge for each rail.

Soft-RoCE of 6.1 sends from the first namespace only, so all HCAs are there, and the fabric is a namespace of its own; by
policy routing what goes from one HCA to another leaves by the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sglang_roce_entry.verbs.messages import Rail
from tests.kernel.node import INFINIBAND, gid_table, ip, run, set_sysctl, until

IN_FABRIC = ("ip", "netns", "exec", "fabric")
#: Without a delay an answer comes before the kernel begins to wait for it, and that wait lasts a second.
LEAST_DELAY = "delay 1ms"


@dataclass(frozen=True, slots=True)
class Port:
    """The HCA of one rail of one node, with the port of the fabric that it is plugged into."""

    node: int
    rail: int
    number: int

    @property
    def device(self) -> str:
        return f"mlx5_{self.number}"

    @property
    def netdev(self) -> str:
        return f"rail{self.number}"

    @property
    def leaf(self) -> str:
        return f"leaf{self.number}"

    @property
    def ipv4(self) -> str:
        return f"10.{self.rail}.0.{self.node + 1}"

    @property
    def ipv6(self) -> str:
        return f"fd00:{self.rail + 1}::{self.node + 1}"

    @property
    def table(self) -> int:
        """The routing table of what it sends."""
        return 100 + self.number

    def index_of(self, address: str) -> int:
        """Return the index of an address as RoCE v2."""
        rows = gid_table(self.device).items()
        return next(int(at) for at, row in rows if row["address"] == address and row["type"] == "RoCE v2")

    def verbs_rail(self, index: int | None = None) -> Rail:
        """Return it as what is proven, with the index of its IPv4 address or another."""
        node = next((INFINIBAND / self.device / "device" / "infiniband_verbs").glob("uverbs*"), None)
        rail = Rail(self.device, 1, self.index_of(self.ipv4), node=node.name if node is not None else "")
        if index is not None:
            return replace(rail, gid_index=index)
        digits = "".join(f"{int(number):02x}" for number in self.ipv4.split("."))
        return replace(rail, gid=f"{'f' * 4:0>24}{digits}")


def lay_segments(nodes: int, rails: int, mtu: int = 1500) -> list[list[Port]]:
    """Put an HCA for each rail of each node on a port of that rail's bridge; return them by node and rail."""
    for name, value in (("rp_filter", "0"), ("accept_local", "1"), ("arp_ignore", "1"), ("arp_announce", "2")):
        set_sysctl(f"net/ipv4/conf/all/{name}", value)
        set_sysctl(f"net/ipv4/conf/default/{name}", value)
    by_node = [[Port(node, rail, node * rails + rail) for rail in range(rails)] for node in range(nodes)]
    ports = [port for of_node in by_node for port in of_node]
    ip("netns add fabric")
    ip(*(f"link add bridge{rail} mtu {mtu} type bridge" for rail in range(rails)), netns="fabric")
    for port in ports:
        peer = f"{port.leaf} mtu {mtu} netns fabric"
        ip(f"link add {port.netdev} mtu {mtu} type veth peer name {peer}", f"link set {port.netdev} up")
    ip(
        *(f"link set bridge{rail} up" for rail in range(rails)),
        *(f"link set {port.leaf} master bridge{port.rail}" for port in ports),
        *(f"link set {port.leaf} up" for port in ports),
        netns="fabric",
    )
    run("rdma", "-b", "-", stdin="".join(f"link add {one.device} type rxe netdev {one.netdev}\n" for one in ports))
    condition(ports)
    ip(*(f"addr add {one.ipv4}/24 dev {one.netdev}" for one in ports))
    ip(*(f"addr add {one.ipv6}/64 dev {one.netdev} nodad" for one in ports))
    _route_over_the_wire(ports)
    for port in ports:
        until(lambda port=port: _has_both(port), f"GIDs of {port.device}")  # type: ignore[misc]
    return by_node


def _route_over_the_wire(ports: Sequence[Port]) -> None:
    for family in (4, 6):
        lines = ["rule add pref 10 not iif lo lookup local"]
        for port in ports:
            own = port.ipv4 if family == 4 else port.ipv6
            network = f"10.{port.rail}.0.0/24" if family == 4 else f"fd00:{port.rail + 1}::/64"
            lines += [
                f"rule add pref 20 from {own} lookup {port.table}",
                f"route add {network} dev {port.netdev} table {port.table} src {own}",
            ]
        ip(*lines, "rule add pref 30 lookup local", "rule del pref 0", family=family)


def _has_both(port: Port) -> bool:
    try:
        found = {row["address"] for row in gid_table(port.device).values() if row["type"] == "RoCE v2"}
    except OSError:  # a slot that became empty between its GID and its type
        return False
    return {port.ipv4, port.ipv6} <= found


def condition(ports: Sequence[Port], what: str = LEAST_DELAY) -> None:
    """Give what the fabric sends to these ports a delay, a loss or the like: ``tc-netem(8)``."""
    lines = (f"qdisc replace dev {port.leaf} root netem limit 20000 {what}\n" for port in ports)
    run(*IN_FABRIC, "tc", "-batch", "-", stdin="".join(lines))


def drop(port: Port, *match: str, protocol: str = "ip") -> None:
    """Drop what comes from a port into the fabric and matches: ``tc-u32(8)``."""
    lines = (
        f"qdisc add dev {port.leaf} clsact\n"
        f"filter add dev {port.leaf} ingress protocol {protocol} u32 {' '.join(match)} action drop\n"
    )
    run(*IN_FABRIC, "tc", "-batch", "-", stdin=lines)


def let_pass(port: Port) -> None:
    """Drop nothing any more."""
    run(*IN_FABRIC, "tc", "qdisc", "del", "dev", port.leaf, "clsact")
