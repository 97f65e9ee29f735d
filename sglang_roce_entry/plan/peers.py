"""Whom SGLang's ZeroMQ sockets accept: the variables that the meeting fills in.

They take pickles from whoever reaches them (CVE-2026-93034). From 0.5.23 on SGLang has a list of whom it accepts,
and connects from an address that one names (``srt/utils/network.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.consumers.sglang import ALLOWED_PEERS, OWN_ADDRESSES, SOURCE_IP, allowed_peers
from sglang_roce_entry.fabric.wishes import Wish, found, shown, unset
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.plan.inputs import Request

PEERS_SINCE = (0, 5, 23)
#: Why nothing is set before the meeting.
MEETING_TELLS = "the meeting tells the addresses of all members"


def has_peers(version: str | None) -> bool:
    """Return whether SGLang of this version has the list; of an unknown one that is not known."""
    return (parse_version(version) or ()) >= PEERS_SINCE


def peer_wishes(request: Request, choice: Choice, peers: Peers | None, *, meets: bool) -> Sequence[Wish]:
    """Return what is wanted of the two variables.

    ``peers``: what the meeting came to, ``None`` before it; ``meets``: there is one.
    """
    why = _withheld(request, choice.facts.sglang_version, peers, meets=meets)
    if why is not None or peers is None:
        return [unset(name, why) if why else shown(name) for name in (ALLOWED_PEERS, SOURCE_IP)]
    return [
        found(ALLOWED_PEERS, ",".join(peers.addresses), "the members of the group, as they see each other"),
        _source(choice, peers),
    ]


def _source(choice: Choice, peers: Peers) -> Wish:
    """Return from where SGLang is to connect: as it is seen, or as the user's own list has it."""
    given, control = choice.constraints.given, choice.control.address
    named = [given[name].value for name in OWN_ADDRESSES if name in given]
    own = [text for text in (peers.source, *named, str(control) if control is not None else None) if text]
    allowed = allowed_peers(given[ALLOWED_PEERS].value) if ALLOWED_PEERS in given else None
    source = next((text for text in own if allowed is None or text in allowed), None)
    if source is None:
        return unset(SOURCE_IP, "no address of this node is in the list: the kernel chooses")
    return found(SOURCE_IP, source, "as which the other nodes know this one")


def _withheld(request: Request, version: str | None, peers: Peers | None, *, meets: bool) -> str | None:
    """Return why nothing is set (``""``: there is nothing to say), ``None`` if all is known."""
    if not meets or not has_peers(version):
        return ""
    if request.settings.zmq_peers == "off":
        return f"zmq-peers off ({request.settings.origin('zmq_peers')})"
    elastic = request.user.text("elastic_ep_backend") if request.user is not None else None
    if elastic is not None and elastic.lower() != "none":
        return "--elastic-ep-backend: who joins later has an address that nobody knows yet"
    if peers is None:
        return MEETING_TELLS
    return peers.why if not peers.addresses else None
