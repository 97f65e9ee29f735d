"""Who reaches this server beside its clients, and what keeps them out: the line ``open ports``.

ZeroMQ's sockets of attention DP take pickles (``srt/managers/io_struct.py``), so that who reaches them runs code
(CVE-2026-93034); torch's store and Gloo ask nobody for a name either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from sglang_roce_entry.check.items import CheckItem, Examined, listed, ok, skip, warn
from sglang_roce_entry.fabric.consumers.sglang import ALLOWED_PEERS
from sglang_roce_entry.natural import runs_of
from sglang_roce_entry.plan.peers import MEETING_TELLS, PEERS_SINCE, has_peers

_NAME = "open ports"
_UNSEEN = "a NetworkPolicy cannot be seen from inside"
_SINCE = ".".join(map(str, PEERS_SINCE))
#: How the ports of a plan name what they are for (``server/ports.py``).
_PICKLES, _RENDEZVOUS = "attention DP", "rendezvous"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a server listens on, address and port, and whom its ZeroMQ sockets accept (empty: everybody)."""

    sockets: tuple[tuple[str, int], ...] = ()
    peers: tuple[str, ...] = ()


def items(examined: Examined, opened: Opened | None) -> tuple[CheckItem, ...]:
    """Return the line; ``opened`` is what a running server listens on, ``None`` where the plan alone is known."""
    return examined.lines(_NAME, _line(examined, opened))


def _line(examined: Examined, opened: Opened | None) -> CheckItem:
    command = examined.plan.command
    if command is None:
        return skip(_NAME, "no SGLang arguments were given")
    if opened is not None and not opened.sockets:
        return skip(
            _NAME, "what the server listens on cannot be told: no socket, or its open files cannot be read"
        )
    named = {port: why for _, port, why in command.ports}
    beyond = sorted({port for host, port in _listeners(examined, opened) if not _loopback(host)})
    pickles = [port for port in beyond if named.get(port, "").startswith(_PICKLES)]
    inner = [port for port in beyond if port not in named or named[port].startswith(_RENDEZVOUS)]
    clients = [port for port in beyond if port not in pickles and port not in inner]
    parts = []
    if clients:
        parts.append(f"{_shown(clients)} for clients, {'with' if command.has_key else 'without'} an API key")
    ephemeral = ["ephemeral ones"] if opened is None and examined.in_group else []
    if inner or ephemeral:
        shown = " and ".join([*([_shown(inner)] if inner else []), *ephemeral])
        parts.append(f"{shown} for the group (store, NCCL, Gloo, queues), no password")
    if not pickles:
        return ok(_NAME, "; ".join([*parts, _UNSEEN]) if parts else "none beyond loopback")
    peers = _peers(examined, opened)
    parts.append(f"{_shown(pickles)} for the group, take pickles {peers or 'from everybody'}")
    if peers:
        return ok(_NAME, "; ".join([*parts, _UNSEEN]))
    return warn(_NAME, "; ".join([*parts, _why_open(examined), _UNSEEN]), _remedy(examined, clients))


def _listeners(examined: Examined, opened: Opened | None) -> Iterable[tuple[str, int]]:
    """Return what is listened on; of attention DP the leader's alone: the workers only find these ports free."""
    if opened is not None:
        return opened.sockets
    plan = examined.plan
    listeners = plan.command.ports if plan.command is not None else ()
    leads = examined.in_group and plan.identity is not None and plan.identity.is_leader
    return [(host, port) for host, port, why in listeners if leads or not why.startswith((_PICKLES, _RENDEZVOUS))]


def _peers(examined: Examined, opened: Opened | None) -> str | None:
    """Return from whom alone these sockets take anything; a launch fills it in after its meeting."""
    version = examined.plan.facts.sglang_version
    if not has_peers(version):
        return None
    if opened is not None:
        return f"from {len(opened.peers)} addresses ({ALLOWED_PEERS})" if opened.peers else None
    variable = next((one for one in examined.plan.variables if one.name == ALLOWED_PEERS), None)
    if variable is None:
        return None
    if variable.value is not None:
        return f"from those in {ALLOWED_PEERS}"
    told = variable.reason == MEETING_TELLS
    return f"from the members alone ({ALLOWED_PEERS}, filled in by the meeting)" if told else None


def _why_open(examined: Examined) -> str:
    version = examined.plan.facts.sglang_version
    if not has_peers(version):
        return f"SGLang {version or 'of unknown version'} has no list of whom to accept ({_SINCE} and later do)"
    variable = next(
        (one for one in examined.plan.variables if one.name == ALLOWED_PEERS and one.value is None), None
    )
    return variable.reason if variable is not None else f"{ALLOWED_PEERS} is not set"


def _remedy(examined: Examined, clients: Iterable[int]) -> str:
    shown = ", ".join(map(str, clients)) or "HTTP"
    closed = f"close all ports but {shown} to others: NetworkPolicy, or the nodes' firewall with the host network"
    return closed if has_peers(examined.plan.facts.sglang_version) else f"{closed}; SGLang {_SINCE} or later"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(ports: list[int]) -> str:
    """Return ports, those that follow each other as a range."""
    return listed(runs_of(ports))
