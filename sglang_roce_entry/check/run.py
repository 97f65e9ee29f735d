"""``--check`` as a whole: facts and plan once, then all lines."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic, sleep

from sglang_roce_entry import __version__
from sglang_roce_entry.check import command, environment, gpudirect, leader_path, loopback, names, rdma, versions
from sglang_roce_entry.check.head import head, head_lines
from sglang_roce_entry.check.items import Examined, exit_code, fail
from sglang_roce_entry.check.outcome import Outcome
from sglang_roce_entry.check.serving import communicators, in_use, open_ports
from sglang_roce_entry.fabric.consumers.sglang import ALLOWED_PEERS
from sglang_roce_entry.group.attempts import NotYet
from sglang_roce_entry.group.connect import ConnectOutcome, connect_any, port_is_free
from sglang_roce_entry.group.meeting.answering import Answer, connect, who_answers
from sglang_roce_entry.group.names import NotResolved, Resolver
from sglang_roce_entry.group.path_mtu import path_mtu
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.check_facts import read_check_facts
from sglang_roce_entry.host.collect import IMEX_CHANNEL
from sglang_roce_entry.host.facts import HostFacts, IpAddress
from sglang_roce_entry.host.further.queue_pairs import read_devices, read_queue_pairs
from sglang_roce_entry.host.further.traffic import read_counters
from sglang_roce_entry.invocation import Invocation, Settings
from sglang_roce_entry.plan.inputs import identify, read_request
from sglang_roce_entry.plan.plan import look_and_plan
from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.report.text import go_ahead
from sglang_roce_entry.server.probe.ask_ras import environment_of
from sglang_roce_entry.server.probe.ranks import read_ranks
from sglang_roce_entry.server.probe.sockets import (
    all_listening,
    family_of,
    holders,
    may_be_read,
    open_files,
    read_tables,
)
from sglang_roce_entry.server.processes import process_of
from sglang_roce_entry.server.running import Found, running_here
from sglang_roce_entry.verbs.proof.looped import prove_loops

#: For all look-ups and connections together.
DEADLINE_S = 10.0
_OWN_NAME_S = 1.5
#: For NCCL's RAS, which takes a third of it where a rank is silent.
_RANKS_S = 6.0
#: Between the two readings of the counters of a port that a server uses.
_TRAFFIC_S = 1.0


def run_check(
    invocation: Invocation,
    settings: Settings,
    environ: Mapping[str, str],
    host: Host,
    shell: frozenset[str] = frozenset(),
) -> Outcome:
    """Return all items and the exit code. Raises ``EntryError`` where not even a plan can be made."""
    started = monotonic()
    found = running_here() if host.live else Found()
    servers = found.servers
    adopted = servers[0] if len(servers) == 1 and not invocation.rest else None
    if adopted is not None:
        # kubectl exec in a running pod: SGLang's arguments are in its own command line.
        invocation = replace(invocation, rest=adopted[1])
    folder = adopted[0].cwd if adopted is not None else "."
    request = read_request(invocation, settings, environ, host, shell, folder)
    plan, lookup = look_and_plan(request, identify(request), host, ask_libibverbs=True)
    inspection = read_check_facts(host, plan.facts.hcas, environ, own_name_addresses(host))
    tried = loopback.rails(plan) if host.live else ()
    loops = prove_loops(tried, environ) if tried else []
    seen = _seen(host, plan.facts, found) if servers else None
    examined = Examined(plan, environ, inspection, host.live, command.by_item(plan), loops)
    lines = [
        *command.items(examined),
        *rdma.items(examined),
        *loopback.items(examined),
        *environment.memory(examined),
        *gpudirect.items(examined),
        *names.items(examined),
        *environment.items(examined),
        *versions.items(examined),
        *in_use.items(examined, seen),
        *communicators.items(read_ranks(found, _RANKS_S) if servers else None),
        *open_ports.items(examined, _opened(servers[0][0].pid) if servers else None),
    ]
    written = {line.name for line in lines} | {command.LEADER}
    if host.live:
        lines += leader_path.items(
            examined,
            lookup.addresses if lookup is not None else (),
            lookup.failure if lookup is not None else None,
            _outside(host, plan.facts, started, servers[0][0].pid if servers else None),
        )
    else:
        lines += leader_path.not_tried(examined)
    lines += command.rest(examined, written)
    top = head(examined, adopted[0].pid if adopted is not None else None)
    return Outcome(
        tuple(lines),
        exit_code(lines, plan),
        top,
        head_lines(examined, top),
        go_ahead(plan),
        in_use.as_document(plan, seen),
    )


def _seen(host: Host, facts: HostFacts, found: Found) -> in_use.Seen:
    """Return what the kernel tells of the RDMA of the servers here, with a second of counters."""
    ports = [port for hca in facts.hcas for port in hca.ports]
    try:
        devices = read_devices()
        before, started = read_counters(host.tree, devices, ports), monotonic()
        sleep(_TRAFFIC_S)
        after, seconds = read_counters(host.tree, devices, ports), monotonic() - started
        pairs = read_queue_pairs(devices)
    except (OSError, struct.error) as failure:
        return in_use.Seen(why_not=getattr(failure, "strerror", None) or str(failure))
    server = found.servers[0][0].pid
    family = family_of([process.pid for process, _ in found.servers])
    threads = {pair.thread: process_of(pair.thread) for pair in pairs if pair.thread is not None}
    readable = all(map(may_be_read, family))
    return in_use.Seen(
        pairs,
        {thread: pid for thread, pid in threads.items() if pid in family},
        frozenset(os.path.basename(path) for pid in family for path in open_files(pid)) if readable else None,
        environment_of(server).get("NCCL_IB_HCA", ""),
        any(host.answers.open_node(path) == "ok" for path in host.answers.device_nodes(IMEX_CHANNEL)),
        before,
        after,
        seconds,
    )


def _opened(server: int) -> open_ports.Opened:
    """Return what a server's processes listen on; nothing where their open files may not be read."""
    listening = {one.inode: (one.address, one.port) for one in all_listening(read_tables())}
    own = {listening[inode] for inode in holders(listening, family_of((server,)))}
    peers = environment_of(server).get(ALLOWED_PEERS, "").split(",")
    return open_ports.Opened(tuple(sorted(own)), tuple(part.strip() for part in peers if part.strip()))


def own_name_addresses(host: Host) -> tuple[IpAddress, ...] | None:
    """Return what the pod's host name resolves to, ``None`` in a replay or while no resolver answers."""
    if not host.live:
        return None
    try:
        return Resolver().addresses(os.uname().nodename, _OWN_NAME_S)
    except NotResolved as failure:
        return None if failure.silent else ()


def _outside(host: Host, facts: HostFacts, started: float, server_pid: int | None) -> leader_path.Outside:
    def mtu_towards(address: IpAddress) -> int | None:
        route = host.answers.route(address, facts.interfaces)
        mtus = {interface.name: interface.mtu for interface in facts.interfaces}
        return mtus.get(route.interface) if route is not None else None

    return leader_path.Outside(
        remaining_s=lambda: DEADLINE_S - (monotonic() - started),
        resolve=Resolver().addresses,
        connect=connect_any,
        greeting=_greeting,
        path_mtu=path_mtu,
        mtu_towards=mtu_towards,
        is_free=port_is_free,
        server_pid=server_pid,
    )


def _greeting(
    addresses: Sequence[IpAddress], ports: Sequence[int], timeout_s: float
) -> tuple[ConnectOutcome, Answer | None]:
    """Return which port accepts, and who answers there: on D first, since beside it one is only called."""
    found = connect_any(addresses, ports, timeout_s)
    if found.address is None:
        return found, None
    for port in ports:
        try:
            one, address = connect([found.address], port, timeout_s)
        except NotYet:
            continue
        with one:
            return ConnectOutcome(address, port, found.cause), who_answers(one)
    return found, None


def refusal(failure: EntryError) -> Outcome:
    """Return the check of a node for which not even a plan can be made: the one line that is wrong."""
    name = failure.code.lower().replace("_", " ")
    items = (fail(name, failure.message, failure.hint, failure.exit_code),)
    return Outcome(items, failure.exit_code, {"sglang_roce_entry": __version__})


def on_a_terminal(environ: Mapping[str, str]) -> bool:
    """Return whether the answer may be coloured: https://no-color.org, and terminals that cannot."""
    plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()
