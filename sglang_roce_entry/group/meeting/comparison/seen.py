"""As whom the members of a group see each other: the addresses that SGLang's own sockets may accept. Pure.

SGLang 0.5.23 compares the source of each connection, as text, with ``SGLANG_ZMQ_ALLOWED_PEERS``
(``srt/utils/network.py``, ``restrict_zmq_peers``; libzmq writes it compressed). Whoever is not in it gets no
error: its messages never arrive. So there is a list that is complete, or none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from ipaddress import ip_address

from sglang_roce_entry.group.endpoint import literal, no_host
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.comparison.verdict import MOST_PEERS_BYTES, listed
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.problems import Problem, config_error, warning

#: A process of a node calls its own node's sockets from these, or from an address of the node.
_LOOPBACK = ("127.0.0.1", "::1")


def peers_of(members: Sequence[Member], edges: Sequence[Edge], size: int) -> Peers:
    """Return the addresses of all ``size`` members, the same on each of them, or why there is no list of them."""
    if len({member.card.index for member in members}) < size:
        return Peers(why="not all members came to the meeting")
    known = set(_LOOPBACK)
    length = sum(len(one) + 1 for one in known)
    for member, seen in _seen(members, edges):
        own = member.card.own
        texts = (own.address, own.reach_address, *(rail.gid for rail in own.rails))
        strange = seen.difference(texts)  # most are written as they are seen, and reading them all takes time
        if strange:
            strange -= {*_plain(texts)}
        mine = {*_plain((own.address, own.reach_address, *own.sources)), *seen}
        if strange:
            return Peers(
                why=f"member {member.card.index} is seen as {min(strange)}, which is no address of its own: "
                "a proxy or NAT is in between"
            )
        if not mine:
            return Peers(why=f"the addresses of member {member.card.index} are not known")
        length += sum(len(one) + 1 for one in mine - known)
        known |= mine
        if length > MOST_PEERS_BYTES:
            return Peers(why=f"the list of {size} nodes would be longer than {MOST_PEERS_BYTES >> 10} KiB")
    addresses = sorted(map(ip_address, known), key=lambda one: (one.version, int(one)))
    return Peers(tuple(map(str, addresses)))


def _seen(members: Iterable[Member], edges: Iterable[Edge]) -> Iterator[tuple[Member, set[str]]]:
    """Yield each member with the addresses as which the leader and the neighbours see it."""
    by_others: dict[int, list[str | None]] = {}
    for edge in edges:
        if edge.ok:
            by_others.setdefault(edge.origin, []).append(edge.seen)
    for member in members:
        yield member, {*_plain((member.address, *by_others.get(member.card.index, ())))}


def _plain(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield the addresses among ``texts`` as libzmq writes them; what no other node can have is left out."""
    for text in texts:
        address = literal(text) if text else None
        if (
            address is not None
            and no_host(address) is None
            and not (address.version == 6 and address.is_link_local)
        ):
            yield address.compressed


def check_given(
    allowed: Container[str], members: Sequence[Member], edges: Sequence[Edge], *, pinned: bool, in_use: bool
) -> list[Problem]:
    """Return the members that a list of the user's leaves out.

    ``pinned``: SGLang connects to an address, and so from ``SGLANG_ZMQ_SOURCE_IP``; else the kernel chooses.
    ``in_use``: such sockets are open beyond this node at all, which takes attention DP.
    """
    out = []
    for member, by_others in _seen(members, edges):
        own = member.card.own
        seen = by_others or {*_plain((own.address, own.reach_address))}
        counted = {*seen, *_plain(own.sources)} if pinned else seen
        if counted and not any(one in allowed for one in counted):
            out.append((member.card.index, ", ".join(sorted(seen))))
    if not out:
        return []
    pods = {member.card.index: member.card.pod for member in members}
    shown = "; ".join(f"{listed([index], pods)} is {address}" for index, address in out[:4])
    more = f" and {len(out) - 4} more" if len(out) > 4 else ""
    message = f"SGLANG_ZMQ_ALLOWED_PEERS leaves members of this group out: {shown}{more}"
    hint = "remove it: it is filled from the meeting; or add these addresses on every node"
    if in_use:
        return [config_error("PEERS_LEAVE_OUT", message, hint)]
    return [warning("PEERS_LEAVE_OUT", message, hint)]
