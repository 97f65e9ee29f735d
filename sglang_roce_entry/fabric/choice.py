"""The whole decision on the fabric: ports, index, variables, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sglang_roce_entry.fabric import requirements
from sglang_roce_entry.fabric.constraints import OFF, REQUIRED, FabricPolicy, Reason
from sglang_roce_entry.fabric.consumers import nccl as user_values
from sglang_roce_entry.fabric.consumers import nvshmem
from sglang_roce_entry.fabric.consumers.variables import (
    INDEX_SIBLINGS,
    VariablePlan,
    limit_ports,
    put_hca,
    put_index,
    put_infiniband,
    put_net,
    put_rdma_switch,
)
from sglang_roce_entry.fabric.gids import IndexDecision, decide_index
from sglang_roce_entry.fabric.nccl.plugins import external_plugin
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.nccl.settings import Given, parse_c_integer
from sglang_roce_entry.fabric.rules import PortDecision, Selection, select_ports
from sglang_roce_entry.host.facts import Gpus, HostFacts
from sglang_roce_entry.problems import Problem


@dataclass(frozen=True, slots=True)
class PortRow:
    """One port of the report, with the index and GID that NCCL will use on it."""

    decision: PortDecision
    gid_index: int | None
    gid: str | None
    netdev: str | None


@dataclass(frozen=True, slots=True)
class FabricDecision:
    """What was decided about the fabric. ``notes`` are facts to say that are no problem."""

    policy: FabricPolicy
    selection: Selection
    ports: tuple[PortRow, ...]
    index: IndexDecision
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    plugin: str | None = None

    @property
    def satisfied(self) -> bool:
        """Whether RDMA can be used, be it by RoCE ports, InfiniBand ports or an external plugin."""
        return bool(self.plugin or self.selection.infiniband) or any(row.decision.used for row in self.ports)


def effective_policy(
    policy: FabricPolicy, decided: Mapping[str, Given], nccl: tuple[int, ...] | None
) -> FabricPolicy:
    """Return the policy with what the pod's own NCCL variables decide of it, as NCCL ``nccl`` reads them.

    An explicit flag beats the pod's ``NCCL_*``; the pod's ``NCCL_*`` beats every other setting.
    """
    disable = decided.get("NCCL_IB_DISABLE")
    if disable is not None and not policy.rdma_explicit and parse_c_integer(disable.value)[0]:
        policy = replace(policy, rdma=OFF)
    hca = decided.get("NCCL_IB_HCA")
    if hca is not None and policy.selector_origin != "--hca":
        origin = f"NCCL_IB_HCA ({hca.where})"
        selector = parse_selector(hca.value, nccl=nccl)
        policy = replace(policy, selector=selector, selector_origin=origin, selector_final=True)
    family = decided.get("NCCL_IB_ADDR_FAMILY")
    if family is not None and not policy.family_explicit:
        chosen = "ipv6" if family.value == "AF_INET6" else "ipv4"
        policy = replace(policy, family=chosen)
    return policy


def decide_fabric(
    facts: HostFacts,
    gpus: Gpus,
    policy: FabricPolicy,
    decided: Mapping[str, Given],
    nccl: tuple[int, ...] | None,
    variables: VariablePlan,
) -> FabricDecision:
    """Return the decision on the fabric and put its variables into ``variables``.

    ``nccl`` is the oldest NCCL that may run here, ``None`` if its version is not known.
    """
    wanted, policy = policy.rdma, effective_policy(policy, decided, nccl)
    plugin = external_plugin(decided, facts.net_plugin_paths)
    put_rdma_switch(variables, policy)
    selection = select_ports(facts, gpus, policy)
    if policy.rdma == OFF:
        said = user_values.check_without_rdma(decided, required=wanted == REQUIRED)
        return _without_rdma(policy, selection, variables, said)
    if plugin is not None:
        return _with_plugin(plugin, policy, selection, variables)
    problems = [*requirements.foreign_sysfs(facts), *selection.problems]
    if policy.selector_origin != "--hca":
        problems += user_values.check_selector(decided, selection, facts, nccl)
    fitting, said = limit_ports(selection.used)
    problems += said
    used = [port for port in fitting if port.used]
    user = user_values.user_scan(decided, nccl)
    index = decide_index(used, nccl, user)
    problems += index.problems
    dropped = {port.label: port for port in (*fitting, *index.dropped) if not port.used}
    used = [port for port in used if port.label not in dropped]
    problems += user_values.check_index(decided, used, nccl)
    forced = user_values.forced_index(decided, nccl)
    scans = index.index is None and forced is None
    scan_family = (index.family or user.settings().family) if scans else None
    problems += user_values.check_steering(decided, scan_family)
    notes = _put(variables, policy, selection, used, index)
    put_net(variables, policy)
    problems += _required(facts, policy, selection, used)
    problems += requirements.differing_mtus(facts, [port.gid.netdev for port in used if port.gid])
    final = tuple(dropped.get(port.label, port) for port in selection.ports)
    rows = tuple(_row(port, index, forced) for port in final)
    selection = replace(selection, ports=final)
    return FabricDecision(policy, selection, rows, index, tuple(problems), tuple(notes))


def _put(
    variables: VariablePlan,
    policy: FabricPolicy,
    selection: Selection,
    used: Sequence[PortDecision],
    index: IndexDecision,
) -> list[str]:
    if used:
        put_hca(variables, used, policy)
        put_index(variables, index)
        nvshmem.put_scan(variables, index)
        for name in ("NCCL_IB_ADDR_FAMILY", "NCCL_IB_ADDR_RANGE", "NCCL_IB_ROCE_VERSION_NUM"):
            variables.keep(name)
        return []
    if selection.infiniband:
        listed = ", ".join(selection.infiniband)
        reason = f"InfiniBand ports only ({listed}): NCCL's own defaults are right there"
        _withhold_all(variables, reason)
        put_infiniband(variables, selection.infiniband, policy)
        return [f"using InfiniBand: {listed}"]
    _withhold_all(variables, "no usable HCA port")
    return []


def _withhold_all(variables: VariablePlan, reason: str) -> None:
    for name in ("NCCL_IB_HCA", "NCCL_IB_GID_INDEX", *INDEX_SIBLINGS):
        variables.withhold(name, reason)


def _required(
    facts: HostFacts, policy: FabricPolicy, selection: Selection, used: Sequence[PortDecision]
) -> list[Problem]:
    if not used and not selection.infiniband:
        selector_missed = policy.selector is not None and any(
            port.reason == Reason.USER_EXCLUDED for port in selection.ports
        )
        if policy.rdma == REQUIRED:
            return [
                requirements.unusable(facts, selection, policy),
                *requirements.memlock(facts),
                *requirements.libibverbs(facts),
            ]
        if selector_missed:
            problem = requirements.unusable(facts, selection, policy)
            return [replace(problem, severity="warning", value=True)]
        return []
    if policy.rdma != REQUIRED:
        return []
    return [*requirements.memlock(facts), *requirements.libibverbs(facts)]


def _without_rdma(
    policy: FabricPolicy, selection: Selection, variables: VariablePlan, problems: Sequence[Problem]
) -> FabricDecision:
    reason = "RDMA is switched off"
    _withhold_all(variables, reason)
    variables.keep("NCCL_NET")
    rows = tuple(PortRow(port, None, None, _netdev(port)) for port in selection.ports)
    note = "RDMA is off: NCCL uses TCP"
    return FabricDecision(policy, selection, rows, IndexDecision(None, reason, {}), tuple(problems), (note,))


def _with_plugin(
    plugin: tuple[str, str], policy: FabricPolicy, selection: Selection, variables: VariablePlan
) -> FabricDecision:
    name, how = plugin
    reason = f"the NCCL net plugin {name} decides ({how})"
    _withhold_all(variables, reason)
    variables.withhold("NCCL_NET", reason)
    ports = tuple(port.rejected(Reason.EXTERNAL_PLUGIN, reason) if port.used else port for port in selection.ports)
    rows = tuple(PortRow(port, None, None, _netdev(port)) for port in ports)
    selection = replace(selection, ports=ports)
    decision = IndexDecision(None, reason, {})
    return FabricDecision(policy, selection, rows, decision, (), (reason,), plugin=name)


def _row(port: PortDecision, index: IndexDecision, forced: int | None) -> PortRow:
    if not port.used:
        return PortRow(port, None, None, _netdev(port))
    number = forced if forced is not None else index.indices.get(port.label)
    gid = next((one for one in port.port.gids if one.index == number), None)
    return PortRow(port, number, str(gid.ip) if gid else None, gid.netdev if gid else _netdev(port))


def _netdev(port: PortDecision) -> str | None:
    if port.gid is not None:
        return port.gid.netdev
    named = next((gid.netdev for gid in port.port.gids if gid.netdev), None)
    return named or (port.hca.netdevs[0] if len(port.hca.netdevs) == 1 else None)
