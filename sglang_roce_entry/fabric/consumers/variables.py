"""The decision as environment variables, each in the grammar of the library that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.fabric.constraints import OFF, REQUIRED, FabricPolicy, Reason
from sglang_roce_entry.fabric.control import Control
from sglang_roce_entry.fabric.gids import IndexDecision
from sglang_roce_entry.fabric.nccl.scan import AF_INET6
from sglang_roce_entry.fabric.nccl.selector import MAX_ENTRIES, render_selector
from sglang_roce_entry.fabric.nccl.settings import Given
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.problems import RDMA_UNUSABLE, Problem, value_warning, warning

USER, FILE, DISCOVERED, DEFAULT, WITHHELD = "user", "file", "discovered", "default", "withheld"

#: Libraries beside NCCL that take one index for all devices: the same answer, the same conditions.
#: NVSHMEM carries a copy of NCCL's scan; Mooncake falls back to NCCL's variable; UCX takes one integer.
INDEX_SIBLINGS = ("MC_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX")


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the plan; ``value`` is ``None`` where it is withheld, with the reason."""

    name: str
    value: str | None
    source: str
    reason: str


class VariablePlan:
    """Collects variables; a value that somebody has already decided is kept."""

    def __init__(self, decided: Mapping[str, Given]) -> None:
        self._decided = decided
        self._variables: dict[str, Variable] = {}
        self.problems: list[Problem] = []
        self._overridden: set[str] = set()

    def given(self, name: str) -> Given | None:
        """Return the value that the pod or a configuration file has decided."""
        return self._decided.get(name)

    def in_effect(self) -> Mapping[str, Given]:
        """Return the decided values without those that a flag of the launcher has overridden."""
        return {name: one for name, one in self._decided.items() if name not in self._overridden}

    def put(self, name: str, value: str, source: str, reason: str) -> None:
        """Set ``name`` unless it is decided already; then the decided value is shown."""
        given = self._decided.get(name)
        if given is not None:
            self.keep(name)
        else:
            self._variables[name] = Variable(name, value, source, reason)

    def override(self, name: str, value: str, reason: str) -> None:
        """Set ``name`` because a flag of the launcher says so, over the pod's own value."""
        given = self._decided.get(name)
        if given is not None and given.value != value:
            reason += f" (overrides {given.value!r} of {given.where})"
            self._overridden.add(name)
        self._variables[name] = Variable(name, value, USER, reason)

    def withhold(self, name: str, reason: str) -> None:
        """Say why ``name`` is not set, unless somebody has decided it."""
        if name in self._decided:
            self.keep(name)
        else:
            self._variables[name] = Variable(name, None, WITHHELD, reason)

    def keep(self, name: str) -> None:
        """Show a value that was decided before."""
        given = self._decided.get(name)
        if given is not None and name not in self._variables:
            self._variables[name] = Variable(name, given.value, given.source, f"set in {given.where}")

    def values(self) -> dict[str, str]:
        """Return what is set so far, and what somebody has decided."""
        given = {name: one.value for name, one in self._decided.items()}
        return given | {name: one.value for name, one in self._variables.items() if one.value is not None}

    def result(self) -> tuple[Variable, ...]:
        """Return the variables by name."""
        return tuple(self._variables[name] for name in sorted(self._variables))


def limit_ports(ports: Sequence[PortDecision]) -> tuple[list[PortDecision], list[Problem]]:
    """Return the ports that fit into NCCL's list of 32, and a warning if some do not."""
    if len(ports) <= MAX_ENTRIES:
        return list(ports), []
    detail = f"NCCL reads at most {MAX_ENTRIES} entries of NCCL_IB_HCA"
    kept = list(ports[:MAX_ENTRIES])
    dropped = [port.rejected(Reason.TOO_MANY_PORTS, detail) for port in ports[MAX_ENTRIES:]]
    names = ", ".join(port.label for port in dropped)
    problem = warning(
        "TOO_MANY_PORTS",
        f"{len(ports)} ports are usable, NCCL reads {MAX_ENTRIES}; left out: {names}",
        "choose the ports with --hca or SGLANG_ROCE_HCA",
    )
    return [*kept, *dropped], [problem]


def put_hca(plan: VariablePlan, ports: Sequence[PortDecision], policy: FabricPolicy) -> None:
    """Decide ``NCCL_IB_HCA`` for the used ``ports``; an explicit ``--hca`` beats the pod's value."""
    value = render_selector((port.hca.name, port.port.number) for port in ports)
    reason = f"{len(ports)} usable RoCE port{'s' if len(ports) != 1 else ''} of this pod"
    if policy.selector is not None and policy.selector_origin == "--hca":
        plan.override("NCCL_IB_HCA", value, f"{reason}, limited by --hca")
    else:
        plan.put("NCCL_IB_HCA", value, DISCOVERED, reason)


def put_infiniband(plan: VariablePlan, labels: Sequence[str], policy: FabricPolicy) -> None:
    """Decide ``NCCL_IB_HCA`` on InfiniBand: nothing, unless a setting has chosen the ports ``labels``."""
    if policy.selector is None or policy.selector_final:
        return
    value = render_selector((label.rpartition(":")[0], int(label.rpartition(":")[2])) for label in labels)
    reason = f"the InfiniBand ports that {policy.selector_origin} selects"
    if policy.selector_origin == "--hca":
        plan.override("NCCL_IB_HCA", value, reason)
    else:
        plan.put("NCCL_IB_HCA", value, USER, reason)


def put_index(plan: VariablePlan, decision: IndexDecision) -> None:
    """Decide the GID index for NCCL and its siblings, or what lets each choose right by itself."""
    if decision.index is not None:
        for name in ("NCCL_IB_GID_INDEX", *INDEX_SIBLINGS):
            if name == "UCX_IB_GID_INDEX" and plan.given("UCX_IB_ROCE_SUBNETS"):
                plan.withhold(name, "UCX refuses it together with UCX_IB_ROCE_SUBNETS")
                continue
            plan.put(name, str(decision.index), DISCOVERED, decision.reason)
        return
    for name in ("NCCL_IB_GID_INDEX", *INDEX_SIBLINGS):
        plan.withhold(name, decision.reason)
    steering = {"NCCL_IB_ADDR_FAMILY": decision.family, "NCCL_IB_ADDR_RANGE": decision.address_range}
    for name, value in steering.items():
        if value is not None:
            plan.put(name, str(value), DISCOVERED, "makes the choice of NCCL itself right on every port")


def put_net(plan: VariablePlan, policy: FabricPolicy) -> None:
    """Decide ``NCCL_NET``: with required RDMA, NCCL must fail instead of falling back to TCP."""
    if policy.rdma != REQUIRED:
        plan.keep("NCCL_NET")
        return
    plugin = plan.given("NCCL_NET_PLUGIN")
    if plugin is not None and plugin.value != "none":
        plan.withhold("NCCL_NET", f"the net plugin {plugin.value!r} of {plugin.where} decides")
        return
    plan.put("NCCL_NET", "IB", DEFAULT, "RDMA is required: NCCL fails instead of falling back to TCP")
    given = plan.given("NCCL_NET")
    if given is not None and given.value.lower() == "socket":
        plan.problems.append(
            value_warning(
                "NCCL_NET_SOCKET",
                f"NCCL_NET={given.value} ({given.where}) makes NCCL use TCP, but RDMA is required",
                "remove NCCL_NET, or say --rdma off",
                RDMA_UNUSABLE,
            )
        )


def put_rdma_switch(plan: VariablePlan, policy: FabricPolicy) -> None:
    """Decide ``NCCL_IB_DISABLE``: 1 with RDMA off, else nothing but the pod's own value."""
    if policy.rdma == OFF:
        reason = "RDMA is switched off by the rdma setting"
        if policy.rdma_explicit:
            plan.override("NCCL_IB_DISABLE", "1", reason)
        else:
            plan.put("NCCL_IB_DISABLE", "1", USER, reason)
    elif plan.given("NCCL_IB_DISABLE") and policy.rdma_explicit:
        plan.override("NCCL_IB_DISABLE", "0", f"--rdma {policy.rdma}")
    else:
        plan.keep("NCCL_IB_DISABLE")


#: The control interface in each grammar: NCCL and NVSHMEM exact with "=", Gloo a bare name ("=eth0"
#: crashes it).
CONTROL_VARIABLES = (
    ("NCCL_SOCKET_IFNAME", "="),
    ("GLOO_SOCKET_IFNAME", ""),
    ("NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME", "="),
)


def put_control(plan: VariablePlan, control: Control, *, explicit: bool) -> None:
    """Decide the socket interface of NCCL, Gloo and NVSHMEM, and SGLang's own address.

    ``explicit`` is a ``--interface`` flag, which beats the pod's values.
    """
    names = [name for name, _ in CONTROL_VARIABLES]
    if control.interface is None:
        for name in (*names, "SGLANG_HOST_IP"):
            plan.withhold(name, control.reason)
        return
    why = f"{control.interface}: {control.reason}"
    for name, prefix in CONTROL_VARIABLES:
        if explicit:
            plan.override(name, prefix + control.interface, why)
        else:
            plan.put(name, prefix + control.interface, DISCOVERED, why)
    if control.address is not None:
        if explicit:
            plan.override("SGLANG_HOST_IP", str(control.address), why)
        else:
            plan.put("SGLANG_HOST_IP", str(control.address), DISCOVERED, why)
    if control.address is not None and control.address.version == 6:
        # NVSHMEM's bootstrap assumes IPv4 unless told; NCCL takes the interface's first address.
        plan.put("NVSHMEM_BOOTSTRAP_UID_SOCK_FAMILY", AF_INET6, DISCOVERED, why)
        if control.name_family:
            plan.put("NCCL_SOCKET_FAMILY", AF_INET6, DISCOVERED, why)
