"""What a plan rests on: what was asked for, who this pod is, the host's facts, what is known of the leader.

The only file of this package that reads from outside, through the host that it is given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sglang_roce_entry.fabric.constraints import OFF, OPTIONAL, REQUIRED, Constraints
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.group.endpoint import bracketed, literal
from sglang_roce_entry.group.evidence import suspected
from sglang_roce_entry.group.identity import NONE, Identity, parse_podinfo, resolve_identity
from sglang_roce_entry.group.names import NotResolved, Resolver, of_hosts
from sglang_roce_entry.group.sources import IdentityInputs, names_a_group
from sglang_roce_entry.group.wait import Awaited
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.facts import Hca, HostFacts, IpAddress, Libibverbs, Route
from sglang_roce_entry.host.further.providers import listed_by_files
from sglang_roce_entry.invocation import BARE_WORD, LAUNCH, MODE, Invocation, Settings
from sglang_roce_entry.named_file import read_in
from sglang_roce_entry.plan.bare_word import not_executed
from sglang_roce_entry.problems import ConfigurationError, EntryError, Problem, error
from sglang_roce_entry.server.arguments import UserArguments, read_arguments
from sglang_roce_entry.server.command import user_dist_init
from sglang_roce_entry.verbs.listed import list_devices

#: A mode may look the leader's name up, but not wait for it.
_QUICK_LOOKUP_S = 2.0
_PODINFO = "/etc/podinfo"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for. ``user`` is ``None`` for a bare word; ``shell`` names what a replay's shell has set."""

    settings: Settings
    environ: Mapping[str, str]
    form: str  # LAUNCH, BARE_WORD or MODE
    executable: str
    user: UserArguments | None = None
    bare_word: tuple[str, ...] = ()
    #: Why the bare word could not be executed, and whether that is known at all. A launch finds out by itself.
    not_executed: Problem | None = None
    exec_known: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    hostname: str | None = None
    shell: frozenset[str] = frozenset()
    mode: str | None = None  # of the form MODE: "check", "rehearse", ...
    #: What cannot be read of all that was asked: nothing is decided but whom to tell.
    refused: Problem | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Who this pod is (``None``: not known, see ``problems``), and the rendezvous port D.

    ``leader_given``: its leader is that of the user's own ``--dist-init-addr``.
    """

    identity: Identity | None
    problems: tuple[Problem, ...]
    dist_init_port: int
    leader_given: bool = False

    @property
    def size(self) -> int:
        """The group size, 1 if it is not known."""
        return self.identity.size if self.identity else 1


@dataclass(frozen=True, slots=True)
class Leader:
    """What is known of the leader's address. ``address`` is the one that counts.

    ``elsewhere``: what the user's ``--dist-init-addr`` gives is no address of the leader itself, but a Service's
    or NAT's; ``address`` is then the one with which the leader reaches it.
    """

    addresses: tuple[IpAddress, ...] = ()
    address: IpAddress | None = None
    route: Route | None = None
    only_ipv6: bool = False  # its name has no IPv4 address: SGLang cannot bind such a name
    failure: str | None = None
    elsewhere: bool = False


def read_request(
    invocation: Invocation,
    settings: Settings,
    environ: Mapping[str, str],
    host: Host,
    shell: frozenset[str] = frozenset(),
    folder: str | None = ".",
    *,
    config: bool = True,
) -> Request:
    """Return what a command line asks for. Raises ``EntryError``, but not where no ``config`` file is to be read.

    ``folder`` is where the command runs, ``None`` where that is not known.
    """
    bare = invocation.form == BARE_WORD and bool(invocation.rest)
    number = host.answers.exec_errno(invocation.rest[0], environ) if bare and invocation.mode else 0
    return Request(
        settings=settings,
        environ=environ,
        form=MODE if invocation.mode else BARE_WORD if bare else LAUNCH,
        executable=(sys.executable or "python3") if host.live else "python3",
        user=None if bare else read_arguments(invocation.rest, _file_reader(host, folder) if config else None),
        bare_word=invocation.rest if bare else (),
        not_executed=as_problem(not_executed(invocation.rest[0], number, os.strerror(number))) if number else None,
        exec_known=number is not None,
        labels=_podinfo(host, "labels"),
        annotations=_podinfo(host, "annotations"),
        hostname=os.uname().nodename if host.live else None,
        shell=shell,
        mode=invocation.mode,
    )


def _file_reader(host: Host, folder: str | None) -> Callable[[str], str]:
    def read(path: str) -> str:
        if not host.live:
            with suppress(OSError):  # not recorded: the user means the local file
                return host.tree.text(os.path.abspath(path))
        return read_in(folder, path)

    return read


def _podinfo(host: Host, name: str) -> dict[str, str]:
    try:
        return parse_podinfo(host.tree.text(f"{_PODINFO}/{name}"))
    except OSError:
        return {}


def identify(request: Request) -> Member:
    """Return who this pod is. Errors are among the problems, not raised."""
    settings = request.settings
    written = {
        field_name: (text, settings.origin(key))
        for field_name, key, text in (
            ("leader", "leader_address", settings.leader_address),
            ("size", "group_size", settings.group_size),
            ("index", "worker_index", settings.worker_index),
        )
        if text is not None
    }
    port = settings.dist_init
    try:
        arguments: dict[str, tuple[str, str]] = {}
        if request.user is not None:
            endpoint = user_dist_init(request.user, request.environ)
            if endpoint is not None:
                port = endpoint.port
                arguments["leader"] = (bracketed(endpoint.host), request.user.values["dist_init_addr"].where)
            for field_name, dest in (("size", "nnodes"), ("index", "node_rank")):
                argument = request.user.values.get(dest)
                if argument is not None:
                    arguments[field_name] = (argument.text, argument.where)
        if request.user is not None and request.user.text("ep_join_mode") == "scale":
            # It joins a group that serves already, as one node of its own: SGLang asserts --node-rank 1 and
            # takes --nnodes 1 (srt/arg_groups/parallel_hook.py). The pods beside it are no peers of its ranks.
            return Member(Identity(None, 1, 0, "--elastic-ep-join-mode"), (), port)
        alone = not written and not names_a_group(request.environ, (*request.labels, *request.annotations))
        by_ray = request.user is not None and "use_ray" in request.user.values
        if alone and by_ray and arguments.get("index", ("0",))[0] == "0":
            # Its --nnodes counts the nodes of a Ray cluster, whose ranks Ray starts (srt/ray/engine.py).
            return Member(Identity(None, 1, 0, "--use-ray"), (), port)
        if alone and set(arguments) == {"leader"}:
            # SGLang's own --dist-init-addr on one node: a fixed port, no group.
            return Member(Identity(None, 1, 0, NONE), _suspected(request), port)
        sources = (request.environ, request.labels, request.annotations, request.hostname)
        identity = resolve_identity(IdentityInputs(written, arguments, *sources))
    except ConfigurationError as failure:
        return Member(None, (as_problem(failure),), port)
    problems = identity.problems if identity.source != NONE else _suspected(request)
    return Member(identity, problems, port, "leader" in arguments and "leader" not in written)


def _suspected(request: Request) -> tuple[Problem, ...]:
    """Return the warning on one node beside another controller's group.

    In ``kubectl exec POD -- sglang-roce-entry --check`` flags in ``args`` are not seen, and the Jobs of preflight
    and rehearsal have an index without being SGLang's group.
    """
    return () if request.mode == "check" else suspected(request.environ, jobs=request.mode != "rehearse")


def as_problem(failure: EntryError) -> Problem:
    """Return a failure of one stage as a problem of the plan, so that the others are still decided."""
    return error(failure.code, failure.message, failure.hint, failure.exit_code)


def asked_constraints(settings: Settings, group_size: int, facts: HostFacts | None = None) -> Constraints:
    """Return the fabric's part of the settings: RDMA is required as soon as there are two nodes.

    Not where an IMEX channel opens and no verbs device does: NCCL then moves the data of one NVLink domain over
    NVLink (NVIDIA/nccl ``ncclMnnvlCheck``).
    """
    nvlink_only = (
        group_size > 1 and not settings.rdma and facts is not None and "ok" in facts.imex_channels.values()
    )
    by_default = REQUIRED if group_size > 1 and not nvlink_only else OPTIONAL
    return Constraints(
        rdma=settings.rdma or by_default,
        nvlink_only=nvlink_only,
        rdma_by_flag=settings.by_flag("rdma"),
        selector=parse_selector(settings.hca) if settings.hca else None,
        selector_origin=settings.origin("hca") if settings.hca else "",
        subnets=settings.subnets,
        subnets_origin=settings.origin("subnets"),
        family=settings.family,
        family_origin=settings.origin("family"),
        family_by_flag=settings.by_flag("family"),
        allow_foreign_gids=settings.foreign_gids == "allow",
    )


def read_facts(
    request: Request,
    member: Member,
    host: Host,
    *,
    ask_libibverbs: bool = False,
    known: HostFacts | None = None,
) -> HostFacts:
    """Return the present facts of the host. Without RDMA a launch reads no HCAs.

    libibverbs is asked where RDMA is required: that takes a process. After the HCAs were read, so that one that
    has just come is not taken for one without a provider; and not again where ``known`` has the same devices: a
    provider that hangs would hold up a whole meeting.
    """
    rdma = asked_constraints(request.settings, member.size).rdma
    facts = collect(host, request.environ, rdma=rdma != OFF or request.form == MODE)
    if not ask_libibverbs and rdma != REQUIRED:
        return facts
    if known is not None and _devices(known) == _devices(facts):
        return replace(facts, libibverbs=known.libibverbs)
    return replace(facts, libibverbs=libibverbs_of(host, request.environ, facts.hcas))


def _devices(facts: HostFacts) -> set[tuple[str, str | None]]:
    return {(hca.name, hca.verbs) for hca in facts.hcas}


def libibverbs_of(host: Host, environ: Mapping[str, str], hcas: Iterable[Hca] = ()) -> Libibverbs:
    """Return what libibverbs answers; a recording answers from itself, or by the files of the providers."""
    recorded = host.answers.libibverbs()
    if recorded is None:
        return Libibverbs(*list_devices(environ))
    if recorded.devices is None:
        return replace(recorded, devices=listed_by_files(host.tree, hcas))
    return recorded


def look_up_leader(member: Member, facts: HostFacts, host: Host) -> Leader | None:
    """Return what one quick look-up of the leader's name gives; a recording answers from itself."""
    identity = member.identity
    if identity is None or not identity.in_group or identity.leader is None:
        return None
    recorded = host.answers.resolve(identity.leader)
    if recorded is not None:
        try:
            return found_leader(member, of_hosts(identity.leader, recorded) if recorded else (), facts, host)
        except NotResolved as failure:
            return Leader(failure=str(failure))
    if not host.live and literal(identity.leader) is None:
        return Leader(failure=f"{identity.leader} was not looked up when this was recorded")
    try:
        addresses = Resolver().addresses(identity.leader, _QUICK_LOOKUP_S)
    except NotResolved as failure:
        return Leader(failure=str(failure))
    return found_leader(member, addresses, facts, host)


def found_leader(
    member: Member,
    addresses: tuple[IpAddress, ...],
    facts: HostFacts,
    host: Host,
    awaited: Awaited | None = None,
) -> Leader:
    """Return the leader with the address that counts: the one that accepted, or on the leader itself its own."""
    only_ipv6 = bool(addresses) and all(one.version == 6 for one in addresses)
    if awaited is not None:
        only_ipv6 = awaited.only_ipv6
    address = awaited.address if awaited is not None and not awaited.elsewhere else None
    if address is None and member.identity is not None and member.identity.is_leader:
        own = {address.ip for interface in facts.interfaces for address in interface.addresses}
        address = next((one for one in addresses if one in own or one.is_loopback), None)
        if address is None and addresses and member.leader_given:
            route = host.answers.route(addresses[0], facts.interfaces)
            source = route.source if route is not None else None
            return with_route(Leader(addresses, source, only_ipv6=only_ipv6, elsewhere=True), facts, host)
    elif address is None:
        address = next(iter(addresses), None)
    return with_route(Leader(addresses, address, only_ipv6=only_ipv6), facts, host)


def with_route(leader: Leader, facts: HostFacts, host: Host) -> Leader:
    """Return ``leader`` with the present route to its address, over the interfaces in ``facts``."""
    address = leader.address
    return replace(leader, route=host.answers.route(address, facts.interfaces)) if address is not None else leader
