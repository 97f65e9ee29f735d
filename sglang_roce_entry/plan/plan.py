"""The whole decision as one value: facts and settings in, everything that will be done out.

A launch and a dry run share every line up to here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sglang_roce_entry import problems as errors
from sglang_roce_entry.fabric import control as control_interface
from sglang_roce_entry.fabric.choice import FabricDecision, decide_fabric
from sglang_roce_entry.fabric.constraints import OFF, OPTIONAL, REQUIRED, FabricPolicy
from sglang_roce_entry.fabric.consumers import nccl as user_values
from sglang_roce_entry.fabric.consumers.variables import Variable, VariablePlan, put_control
from sglang_roce_entry.fabric.control import Control
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.nccl.settings import decided_values
from sglang_roce_entry.group.endpoint import bracketed
from sglang_roce_entry.group.identity import Identity, IdentityInputs, resolve_identity
from sglang_roce_entry.group.wait import life_ports
from sglang_roce_entry.host.facts import Gpus, HostFacts, Interface, IpAddress, Route
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.plan.neighbours import Neighbours, decide_neighbours, read_files
from sglang_roce_entry.plan.settings import Settings
from sglang_roce_entry.problems import ConfigurationError, EntryError, Problem
from sglang_roce_entry.server.arguments import UserArguments
from sglang_roce_entry.server.command import Command, GpuCount, Node, build_command, user_dist_init
from sglang_roce_entry.server.gpu_count import VisibleGpus, see_gpus


@dataclass(frozen=True, slots=True)
class LeaderLookup:
    """What is known of the leader's address: what accepted, or what the name gave, or why nothing did."""

    addresses: tuple[IpAddress, ...] = ()
    accepted: IpAddress | None = None
    only_ipv6: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Everything a plan rests on."""

    settings: Settings
    environ: Mapping[str, str]
    facts: HostFacts
    gpus: Gpus
    form: str  # LAUNCH, BARE_WORD or MODE
    executable: str
    user: UserArguments | None = None
    bare_word: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    hostname: str | None = None
    shell: frozenset[str] = frozenset()  # a replay: variables of the caller's shell, over the recording


@dataclass(frozen=True, slots=True)
class WaitPlan:
    """What a launch waits for before it hands over."""

    what: str  # "leader" or "own_name"
    host: str
    ports: tuple[int, ...]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, what was left out and why, and what is wrong."""

    identity: Identity | None
    fabric: FabricDecision
    variables: tuple[Variable, ...]
    command: Command | None
    argv: tuple[str, ...] | None
    wait: WaitPlan | None
    problems: tuple[Problem, ...]
    gpus: GpuCount
    facts: HostFacts
    control: Control
    form: str
    neighbours: Neighbours

    @property
    def exit_code(self) -> int:
        """The code that a launch would end with: of the first error in the order of the stages."""
        return next((problem.exit_code for problem in self.problems if problem.fatal), errors.OK)

    @property
    def first_error(self) -> Problem | None:
        """The error that decides."""
        return next((problem for problem in self.problems if problem.fatal), None)

    def environment(self) -> dict[str, str]:
        """Return the variables to set."""
        return {one.name: one.value for one in self.variables if one.value is not None}


@dataclass(frozen=True, slots=True)
class Stages:
    """The outcome of the first two stages, on which looking up the leader depends."""

    identity: Identity | None
    problems: tuple[Problem, ...]
    dist_init_port: int


def identify(inputs: PlanInputs) -> Stages:
    """Return who this pod is. Errors are among the problems, not raised."""
    settings = inputs.settings
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
        if inputs.user is not None:
            endpoint = user_dist_init(inputs.user)
            if endpoint is not None:
                port = endpoint.port
                where = inputs.user.values["dist_init_addr"].where
                arguments["leader"] = (bracketed(endpoint.host), where)
            for field_name, dest in (("size", "nnodes"), ("index", "node_rank")):
                argument = inputs.user.values.get(dest)
                if argument is not None:
                    arguments[field_name] = (argument.text, argument.where)
        alone = set(arguments) == {"leader"} and not written
        if alone and not _is_in_a_group(inputs):
            # SGLang's own --dist-init-addr on one node: a fixed port, no group.
            return Stages(Identity(None, 1, 0, "none"), (), port)
        identity = resolve_identity(
            IdentityInputs(written, arguments, inputs.environ, inputs.labels, inputs.annotations, inputs.hostname)
        )
    except ConfigurationError as failure:
        return Stages(None, (_problem(failure),), port)
    return Stages(identity, identity.problems, port)


_LWS_VARIABLES = ("LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX")


def _is_in_a_group(inputs: PlanInputs) -> bool:
    """Return whether LeaderWorkerSet says anything of this pod: in variables, labels or annotations."""
    keys = (*inputs.labels, *inputs.annotations)
    return any(inputs.environ.get(name, "").strip() for name in _LWS_VARIABLES) or any(
        key.startswith("leaderworkerset.sigs.k8s.io/") for key in keys
    )


def _problem(failure: EntryError) -> Problem:
    return errors.error(failure.code, failure.message, failure.hint, failure.exit_code)


def fabric_policy(settings: Settings, group_size: int) -> FabricPolicy:
    """Return the fabric's part of the settings: RDMA is required as soon as there are two nodes."""
    by_default = REQUIRED if group_size > 1 else OPTIONAL
    return FabricPolicy(
        rdma=settings.rdma or by_default,
        rdma_explicit=settings.by_flag("rdma"),
        selector=parse_selector(settings.hca) if settings.hca else None,
        selector_origin=settings.origin("hca") if settings.hca else "",
        subnets=settings.subnets,
        family=settings.family,
        family_explicit=settings.by_flag("family"),
        allow_foreign_gids=settings.foreign_gids == "allow",
        interface=settings.interface,
    )


def oldest_nccl(facts: HostFacts) -> tuple[int, ...] | None:
    """Return the oldest NCCL that a process here may load, ``None`` if unknown."""
    versions = [parse_version(text) for text in facts.nccl_versions or ()]
    return min((version for version in versions if version), default=None)


def make_plan(
    inputs: PlanInputs,
    stages: Stages,
    leader: LeaderLookup | None,
    route: Callable[[IpAddress], Route | None],
) -> Plan:
    """Return the plan. ``leader`` is ``None`` where there is no group; ``route`` asks the kernel."""
    files = read_files(inputs.facts, inputs.gpus, inputs.environ.get("NCCL_CONF_FILE"), oldest_nccl(inputs.facts))
    settings, facts = inputs.settings, files.facts
    identity = stages.identity
    size = identity.size if identity else 1
    decided = decided_values(inputs.environ, facts.nccl_files)
    variables = VariablePlan(decided)
    visible = _see_gpus(inputs, files.gpus)
    command, command_problems = _command(inputs, stages, visible.count, leader)
    gpus = replace(files.gpus, devices=visible.devices) if visible.devices else files.gpus
    fabric = decide_fabric(facts, gpus, fabric_policy(settings, size), decided, oldest_nccl(facts), variables)
    control = _control(inputs, identity, leader, route)
    put_control(variables, control, explicit=settings.by_flag("interface"))
    in_effect = variables.in_effect()
    neighbours = decide_neighbours(
        inputs.user, facts, in_effect, visible, fabric, control, variables, places=files.places
    )
    if command is not None and neighbours.tokens:
        command = command.with_added(*neighbours.tokens)
    problems = (
        *stages.problems,
        *visible.problems,
        *command_problems,
        *files.problems,
        *fabric.problems,
        *variables.problems,
        *control.problems,
        *user_values.check_sockets(in_effect, facts.interfaces, host_ip_is_set=control.address is not None),
        *neighbours.problems,
        *_surroundings(inputs),
        *_leader_problems(identity, leader, facts),
    )
    problems = errors.hardened(problems, strict=settings.strict)
    if inputs.bare_word:
        problems = tuple(replace(one, severity="warning") for one in problems)
    return Plan(
        identity=identity,
        fabric=fabric,
        variables=variables.result(),
        command=command,
        argv=inputs.bare_word or (command.argv(inputs.executable) if command else None),
        wait=_wait_plan(inputs, stages, command),
        problems=problems,
        gpus=visible.count,
        facts=facts,
        control=control,
        form=inputs.form,
        neighbours=neighbours,
    )


def _see_gpus(inputs: PlanInputs, gpus: Gpus) -> VisibleGpus:
    settings = inputs.settings
    setting = (settings.gpus, settings.origin("gpus")) if settings.gpus is not None else None
    return see_gpus(setting, inputs.environ, gpus)


def _command(
    inputs: PlanInputs, stages: Stages, gpus: GpuCount, leader: LeaderLookup | None
) -> tuple[Command | None, list[Problem]]:
    if inputs.user is None or not inputs.user.argv:
        return None, []
    problems = []
    if inputs.facts.sglang_installed is False:
        problems.append(
            errors.error(
                "SGLANG_MISSING",
                f"SGLang is not installed in this interpreter ({inputs.executable})",
                "build on an SGLang image, and install sglang-roce-entry into the interpreter that has it",
                errors.CONFIGURATION,
            )
        )
    identity = stages.identity
    if identity is None:
        return None, problems
    node = Node(identity.leader, identity.size, identity.index)
    try:
        command = build_command(
            inputs.user,
            node,
            gpus,
            stages.dist_init_port,
            _pod_interfaces(inputs.facts),
            compute_tp=inputs.settings.tp == "auto",
        )
    except ConfigurationError as failure:
        return None, [*problems, _problem(failure)]
    if leader is not None and leader.only_ipv6 and leader.accepted is not None:
        command = command.with_literal(leader.accepted)
    return command, [*problems, *command.problems]


def _pod_interfaces(facts: HostFacts) -> tuple[Interface, ...]:
    """Return the interfaces that the pod is reached on: those of the default route, not its rails."""
    default = tuple(one for one in facts.interfaces if one.name in facts.default_route_interfaces)
    return default or facts.interfaces


def _control(
    inputs: PlanInputs,
    identity: Identity | None,
    leader: LeaderLookup | None,
    route: Callable[[IpAddress], Route | None],
) -> Control:
    settings, interfaces = inputs.settings, inputs.facts.interfaces
    if identity is None:
        return control_interface.unset("it is not known who this pod is")
    if not identity.in_group:
        return control_interface.unset("one node needs no control interface")
    address = leader_address(identity, leader, inputs.facts)
    if settings.interface is not None:
        origin = settings.origin("interface")
        return control_interface.named_interface(settings.interface, origin, interfaces, address)
    if address is None:
        why = leader.failure if leader is not None and leader.failure else "it is not looked up yet"
        return control_interface.unset(f"the leader's address is not known: {why}")
    if identity.is_leader:
        return control_interface.leader_interface(address, interfaces)
    return control_interface.worker_interface(address, route(address), interfaces)


def leader_address(identity: Identity, leader: LeaderLookup | None, facts: HostFacts) -> IpAddress | None:
    """Return the leader's address: the one that accepted, on the leader the one that is its own."""
    if leader is None:
        return None
    if leader.accepted is not None:
        return leader.accepted
    if identity.is_leader:
        own = {address.ip for interface in facts.interfaces for address in interface.addresses}
        return next((one for one in leader.addresses if one in own or one.is_loopback), None)
    return leader.addresses[0] if leader.addresses else None


def _leader_problems(identity: Identity | None, leader: LeaderLookup | None, facts: HostFacts) -> list[Problem]:
    if identity is None or leader is None or not identity.in_group:
        return []
    if leader.failure is not None:
        return [
            errors.warning(
                "LEADER_UNRESOLVED",
                f"the leader's address is not known here: {leader.failure}",
                "a launch waits for it (as long as --wait-deadline says); in Kubernetes look at the leader pod "
                "and its headless Service",
            )
        ]
    if identity.is_leader and leader.addresses and leader_address(identity, leader, facts) is None:
        listed = ", ".join(str(address) for address in leader.addresses)
        fixed = listed == identity.leader
        found = f"the leader's address {listed} is" if fixed else f"{identity.leader} is {listed},"
        record = (
            "to appear here; correct the leader address or the worker index"
            if fixed
            else ("to change in DNS; check the worker index if it never does")
        )
        return [
            errors.warning(
                "OWN_NAME_FOREIGN",
                f"this is the leader, but {found} no address of this pod",
                f"a launch waits for it {record}",
            )
        ]
    return []


def _surroundings(inputs: PlanInputs) -> list[Problem]:
    environ = inputs.environ
    said = []
    port = environ.get("SGLANG_PORT", "")
    if "://" in port:
        said.append(
            errors.warning(
                "SERVICE_LINK",
                f"SGLANG_PORT={port} comes from a Service named 'sglang', and SGLang reads it as a port",
                "set enableServiceLinks: false in the pod spec, or rename the Service",
            )
        )
    if environ.get("SGLANG_BLOCK_NONZERO_RANK_CHILDREN") == "0":
        said.append(
            errors.warning(
                "NONZERO_RANKS_RETURN",
                "SGLANG_BLOCK_NONZERO_RANK_CHILDREN=0 makes a worker end right after loading",
                "remove it: it is for SGLang's Python Engine",
            )
        )
    return said


def _wait_plan(inputs: PlanInputs, stages: Stages, command: Command | None) -> WaitPlan | None:

    identity = stages.identity
    if identity is None or not identity.in_group or identity.leader is None:
        return None
    if inputs.bare_word:
        return None  # it never waits
    deadline_s = float(inputs.settings.wait_deadline)
    if identity.is_leader:
        return WaitPlan("own_name", identity.leader, (), deadline_s)
    port = command.dist_init.port if command and command.dist_init else stages.dist_init_port
    return WaitPlan("leader", identity.leader, life_ports(port), deadline_s)


def rdma_is_wanted(settings: Settings, size: int) -> bool:
    """Return whether HCAs have to be read at all."""
    return fabric_policy(settings, size).rdma != OFF
