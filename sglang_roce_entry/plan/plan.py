"""The whole decision as one value: facts and settings in, everything that will be done out.

A launch and a dry run share every line up to here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sglang_roce_entry.fabric import consumers, requirements
from sglang_roce_entry.fabric.affinity import Affinity, pair
from sglang_roce_entry.fabric.choice import Choice, PortRow, choose
from sglang_roce_entry.fabric.constraints import with_given
from sglang_roce_entry.fabric.consumers.sglang import TransferHcas
from sglang_roce_entry.fabric.control import (
    Control,
    leader_interface,
    named_interface,
    no_interface,
    unanswered,
    worker_interface,
)
from sglang_roce_entry.fabric.nccl.files import check_files, given_values
from sglang_roce_entry.fabric.topology import place
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.group.wait import life_ports
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import Gpu, HostFacts, Interface
from sglang_roce_entry.host.installed import oldest_version
from sglang_roce_entry.plan.bare_word import check_wrapped, shown_program
from sglang_roce_entry.plan.inputs import (
    Leader,
    Member,
    Request,
    as_problem,
    asked_constraints,
    look_up_leader,
    read_facts,
)
from sglang_roce_entry.plan.leader_address import leader_problems
from sglang_roce_entry.plan.merge import Variable, in_effect, merge
from sglang_roce_entry.plan.peers import peer_wishes
from sglang_roce_entry.problems import (
    OK,
    ConfigurationError,
    Problem,
    config_error,
    deciding,
    hardened,
    warning,
)
from sglang_roce_entry.server.command import Command, build_command
from sglang_roce_entry.server.gpu_count import GpuCount, VisibleGpus, see_gpus
from sglang_roce_entry.server.ports import overridden
from sglang_roce_entry.server.redaction import masked_quotes
from sglang_roce_entry.server.transfer import read_use
from sglang_roce_entry.server.traps import check_ipv6, check_override

#: Variables that SGLang reads as numbers, and the Service for which Kubernetes injects each as a URL.
_SERVICE_PORTS = {
    "SGLANG_PORT": "sglang",
    "SGLANG_GRPC_PORT": "sglang-grpc",
    "SGLANG_TCP_STORE_PORT": "sglang-tcp-store",
}


@dataclass(frozen=True, slots=True)
class WaitPlan:
    """What a launch waits for before it hands over.

    ``meets``: on which port the launchers of the group meet; ``None``: they do not, and SGLang is waited for.
    """

    what: str  # "leader" or "own_name"
    host: str
    ports: tuple[int, ...]
    deadline_s: float
    meets: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, what was left out and why, and what is wrong.

    ``affinity`` pairs GPUs with the used HCAs; ``transfer`` is how the KV cache is carried; ``use`` is what
    SGLang's arguments ask for.
    """

    identity: Identity | None
    choice: Choice
    affinity: Affinity
    transfer: TransferHcas
    variables: tuple[Variable, ...]
    command: Command | None
    argv: tuple[str, ...] | None
    wait: WaitPlan | None
    problems: tuple[Problem, ...]
    gpus: GpuCount
    use: Use
    gpu_devices: tuple[Gpu, ...] = ()  # in the order of the process; empty where that is not known
    #: A bare word of which a recording does not tell whether the node has it.
    unproven: str | None = None

    @property
    def facts(self) -> HostFacts:
        """The facts that the plan rests on, in the places that NCCL's topology file gives them."""
        return self.choice.facts

    @property
    def rails(self) -> tuple[PortRow, ...]:
        """The used ports in the order of the GPUs that they serve, then by name."""
        return in_order(self.choice.used_rows, self.affinity)

    @property
    def first_error(self) -> Problem | None:
        """The error that decides: the first in the order of the stages."""
        return deciding(self.problems)

    @property
    def exit_code(self) -> int:
        """The code that a launch would end with."""
        return self.first_error.exit_code if self.first_error is not None else OK

    def environment(self) -> dict[str, str]:
        """Return the variables to set."""
        return {one.name: one.value for one in self.variables if one.value is not None}


def in_order(rows: Iterable[PortRow], affinity: Affinity) -> tuple[PortRow, ...]:
    """Return ports in the order of the GPUs that they serve, the others behind them."""
    by_gpu = [affinity.hcas[column].name for columns in affinity.assigned for column in columns]
    place = {name: position for position, name in enumerate(dict.fromkeys(by_gpu))}
    return tuple(sorted(rows, key=lambda row: place.get(row.decision.hca.name, len(place))))


def make_plan(request: Request, member: Member, facts: HostFacts, leader: Leader | None) -> Plan:
    """Return the plan before a meeting, stage by stage; ``leader`` is ``None`` without a group."""
    settings, environ = request.settings, request.environ
    nccl = oldest_version(facts.nccl_versions)
    file_problems = check_files(facts.nccl_files, nccl, environ.get("NCCL_CONF_FILE"))
    placed = place(facts)
    given = given_values(environ, facts.nccl_files, request.shell)
    gpus = (settings.gpus, settings.origin("gpus")) if settings.gpus is not None else None
    visible = see_gpus(gpus, environ, placed.facts.gpus)
    command, command_problems = _command(request, member, facts, visible.count, leader)
    constraints = with_given(asked_constraints(settings, member.size, facts), given, nccl)
    control = _control(request, member.identity, facts, leader)
    choice = choose(_with_visible(placed.facts, visible), constraints, control)
    use = read_use(request.user, facts, visible.devices, environ)
    hcas = tuple({port.hca.name: port.hca for port in choice.used}.values())
    affinity = pair(visible.devices, hcas, use.gpus, placed.note)
    transfer = consumers.transfer_hcas(choice, use, affinity)
    wait = _wait_plan(request, member, command, facts.sglang_version)
    meets = _meets(wait)
    variables = merge(given, (*consumers.wishes(choice, use), *peer_wishes(request, choice, None, meets=meets)))
    problems = (
        *member.problems,
        *visible.problems,
        *command_problems,
        *file_problems,
        *placed.problems,
        *choice.problems,
        *consumers.check(in_effect(given, variables), choice, use),
        *requirements.check(choice),
        *control.problems,
        *_surroundings(request),
        *leader_problems(request, member.identity, leader, facts),
        *_bare_word_problems(request, member),
    )
    command = command.with_added(*transfer.tokens) if command is not None else None
    return Plan(
        identity=member.identity,
        choice=choice,
        affinity=affinity,
        transfer=transfer,
        variables=variables,
        command=command,
        argv=request.bare_word or (command.argv(request.executable) if command else None),
        wait=wait,
        problems=_in_force(problems, request),
        gpus=visible.count,
        gpu_devices=visible.devices,
        unproven=None if request.exec_known else shown_program(request.bare_word[0]),
        use=use,
    )


def with_peers(plan: Plan, request: Request, peers: Peers) -> Plan:
    """Return the plan with what the meeting has told of the members: two variables, and nothing else of it."""
    wishes = peer_wishes(request, plan.choice, peers, meets=_meets(plan.wait))
    names = {one.name for one in wishes}
    told = merge(plan.choice.constraints.given, wishes)
    variables = [*(one for one in plan.variables if one.name not in names), *told]
    return replace(plan, variables=tuple(sorted(variables, key=lambda one: one.name)))


def _meets(wait: WaitPlan | None) -> bool:
    return wait is not None and wait.meets is not None


def look_and_plan(
    request: Request, member: Member, host: Host, *, ask_libibverbs: bool = False
) -> tuple[Plan, Leader | None]:
    """Return the plan of a mode or a bare word, and what its one quick look-up of the leader's name gave."""
    facts = read_facts(request, member, host, ask_libibverbs=ask_libibverbs)
    leader = look_up_leader(member, facts, host)
    return make_plan(request, member, facts, leader), leader


def _in_force(problems: Iterable[Problem], request: Request) -> tuple[Problem, ...]:
    """Return the problems as ``strict`` makes them; a bare word is only stopped where it cannot be executed.

    Where something cannot be read that alone counts: the rest comes of it.
    """
    if request.refused is not None:
        found = [request.refused]
    elif request.bare_word:
        found = [one if one is request.not_executed else replace(one, severity="warning") for one in problems]
    else:
        found = [*hardened(tuple(problems), strict=request.settings.strict)]
    return tuple(replace(one, message=masked_quotes(one.message)) for one in found)


def _bare_word_problems(request: Request, member: Member) -> Iterator[Problem]:
    if not request.bare_word:
        return
    yield from check_wrapped(request.bare_word, member.identity.size if member.identity else None)
    if request.not_executed is not None:
        yield request.not_executed


def _with_visible(facts: HostFacts, visible: VisibleGpus) -> HostFacts:
    """Return the facts with the GPUs that the process will see, in its order, where these are known."""
    return replace(facts, gpus=replace(facts.gpus, devices=visible.devices)) if visible.devices else facts


def _command(
    request: Request, member: Member, facts: HostFacts, gpus: GpuCount, leader: Leader | None
) -> tuple[Command | None, list[Problem]]:
    if request.user is None:
        return None, []
    problems = []
    if facts.sglang_installed is False:
        problems.append(
            config_error(
                "SGLANG_MISSING",
                f"SGLang is not installed in this interpreter ({request.executable})",
                "run in the image that has SGLang, and install sglang-roce-entry into the interpreter that has it",
            )
        )
    identity = member.identity
    if identity is None or not request.user.argv:
        return None, problems
    try:
        command = build_command(
            request.user,
            identity,
            gpus,
            member.dist_init_port,
            _pod_interfaces(facts),
            compute_tp=request.settings.tp == "auto",
            environ=request.environ,
            version=facts.sglang_version,
        )
    except ConfigurationError as failure:
        return None, [*problems, as_problem(failure)]
    if leader is not None and leader.only_ipv6 and leader.address is not None:
        command = command.with_literal(leader.address)
    only_ipv6 = leader is not None and leader.only_ipv6
    version, endpoint = facts.sglang_version, command.dist_init
    trap = check_ipv6(request.user, identity, endpoint, version, only_ipv6=only_ipv6)
    override = check_override(request.environ, version, identity, member.dist_init_port)
    return command, [*problems, *command.problems, *trap, *override]


def _pod_interfaces(facts: HostFacts) -> tuple[Interface, ...]:
    """Return the interfaces that the pod is reached on: those of the default route, not its rails."""
    default = tuple(one for one in facts.interfaces if one.name in facts.default_route_interfaces)
    return default or facts.interfaces


def _control(request: Request, identity: Identity | None, facts: HostFacts, leader: Leader | None) -> Control:
    settings, interfaces = request.settings, facts.interfaces
    if identity is None:
        return no_interface("this pod's identity is not known")
    if not identity.in_group:
        unused = no_interface("one node needs no control interface")
        return replace(unused, problems=unanswered(settings.interface, settings.origin("interface"), interfaces))
    address = leader.address if leader is not None else None
    if settings.interface is not None:
        named = named_interface(settings.interface, settings.origin("interface"), interfaces, address)
        return replace(named, by_flag=settings.by_flag("interface"))
    if leader is None or address is None:
        why = leader.failure if leader is not None and leader.failure else "it has not been looked up yet"
        return no_interface(f"the leader's address is not known: {why}")
    if identity.is_leader:
        return leader_interface(address, interfaces)
    return worker_interface(address, leader.route, interfaces)


def _surroundings(request: Request) -> Iterator[Problem]:
    environ = request.environ
    for name, service in _SERVICE_PORTS.items():
        if "://" in environ.get(name, ""):
            yield warning(
                "SERVICE_LINK",
                f"{name}={environ[name]} comes from a Service named '{service}', and SGLang reads it as a port",
                "set enableServiceLinks: false in the pod spec, or rename the Service",
            )
    if environ.get("SGLANG_BLOCK_NONZERO_RANK_CHILDREN") == "0":
        yield warning(
            "NONZERO_RANKS_RETURN",
            "SGLANG_BLOCK_NONZERO_RANK_CHILDREN=0 makes a worker exit right after loading",
            "remove it: it is for SGLang's Python Engine",
        )


def rendezvous_port(member: Member, command: Command | None) -> int:
    """Return D, the port of the group's rendezvous."""
    return command.dist_init.port if command and command.dist_init else member.dist_init_port


def _wait_plan(request: Request, member: Member, command: Command | None, version: str | None) -> WaitPlan | None:
    identity = member.identity
    if identity is None or not identity.in_group or identity.leader is None or request.bare_word:
        return None  # a bare word never waits
    deadline_s = float(request.settings.wait_deadline)
    port, elsewhere = rendezvous_port(member, command), overridden(request.environ, version)
    # Where torch meets in somebody else's store there is no rendezvous of the leader's to meet before.
    meets = port if request.settings.meeting == "auto" and deadline_s > 0 and not elsewhere else None
    if identity.is_leader:
        return WaitPlan("own_name", identity.leader, (), deadline_s, meets)
    ports = life_ports(port)
    if elsewhere:
        # Nobody opens D; the rest only attention DP does.
        ports = ports[1:] if command is not None and command.attention_dp else ()
    return WaitPlan("leader", identity.leader, ports, deadline_s, meets) if ports else None
