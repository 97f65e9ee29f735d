"""The card of a meeting, made of a plan: what all nodes should share, and what is this node's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sglang_roce_entry import __version__
from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.consumers.sglang import OWN_ADDRESSES
from sglang_roce_entry.fabric.requirements import roce_mtu
from sglang_roce_entry.fabric.wishes import DISCOVERED
from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.meeting.card import Card, Own, Rail, Refusal, keyed_digest, make
from sglang_roce_entry.host.further.card_facts import CardFacts
from sglang_roce_entry.plan.infiniband import subnet
from sglang_roce_entry.plan.inputs import Request
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.plan.proof import needed_by_device, rails_in_order
from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.server.compared.agreement import comparable_arguments
from sglang_roce_entry.server.redaction import masked

#: Variables that travel, by the library that reads them.
_PREFIXES = ("NCCL_", "SGLANG_", "MC_", "UCX_", "NVSHMEM_")
#: Of these: our settings, whose effects are compared; what Kubernetes sets for a Service; names, indices and
#: addresses of the node; logs.
_OF_THE_NODE = re.compile(
    r"SGLANG_ROCE_.*|.*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_TCP.*)?)"
    r"|.*_(IFNAME|GID_INDEX|HCA|HCA_LIST|HCA_PE_MAPPING|NET_DEVICES|HOSTID|HOST_IP|LOCAL_IP|SOURCE_IP|BIND_ADDRESS)"
    r"|.*(DEBUG|LOG|DUMP).*"
)


@dataclass(frozen=True, slots=True)
class CardMaker:
    """Makes this node's card for a meeting; ``is_secret`` tells the names of variables that never travel.

    ``refusal`` is why this node cannot start where its plan does not know.
    """

    request: Request
    plan: Plan
    facts: CardFacts
    group: str
    is_secret: Callable[[str], bool]
    clock: Callable[[], float]
    refusal: EntryError | None = None

    def make(self, nonce: str) -> Card:
        """Return the card for the meeting of this nonce, which keys the digests of secrets and of the machine."""
        identity, control, boot = self.plan.identity, self.plan.choice.control, self.facts.boot_id
        # Nodes of one NVLink domain are one node to NCCL (ncclMnnvlCheck): it connects no HCA between them.
        told = self.plan.choice.constraints.given.get("NCCL_MNNVL_ENABLE")
        inside = self.facts.imex and (told is None or told.value != "0")
        needed = needed_by_device(self.plan, self.request)
        proven = {name: need and not inside for name, need in needed.items()}
        rows = rails_in_order(self.plan)
        rails = tuple(_rail(row, self.plan, self.facts, proven.get(row.decision.hca.name)) for row in rows)
        first, namespace = self.plan.first_error or self.refusal, self.facts.network_namespace
        own = Own(
            address=str(control.address) if control.address is not None else None,
            interface=control.interface,
            machine=keyed_digest(nonce, boot) if boot else None,
            namespace=keyed_digest(nonce, f"{boot} {namespace}") if boot and namespace else None,
            clock_s=self.clock(),
            rails=rails,
            sources=_sources(self.plan),
        )
        return make(
            self.group,
            identity.size if identity is not None else 1,
            identity.index if identity is not None else 0,
            pod_name(self.request),
            own,
            dict(self._common(nonce, rails)),
            Refusal(first.code, first.message, first.hint, first.exit_code) if first is not None else None,
        )

    def _common(self, nonce: str, rails: tuple[Rail, ...]) -> Iterator[tuple[str, str]]:
        plan = self.plan
        yield "launcher", __version__
        yield from self.facts.versions.items()
        if plan.facts.sglang_version:
            yield "sglang", plan.facts.sglang_version
        if plan.facts.nccl_versions:
            yield "nccl", " ".join(plan.facts.nccl_versions)
        if plan.gpus.count is not None:
            yield "gpus", str(plan.gpus.count)
        if self.facts.gpu_models:
            yield "gpu_model", " + ".join(sorted(set(self.facts.gpu_models)))
        if self.facts.imex:
            yield "nvlink_domain", "an IMEX channel"
        yield from _fabric(plan, rails)

        def digest(value: str) -> str:
            return f"digest {keyed_digest(nonce, value)}"

        if plan.command is not None and self.request.user is not None:
            tokens = (*self.request.user.from_file, *plan.command.added, *plan.command.user)
            yield from comparable_arguments(tokens, digest).items()
        for name, value in _variables(plan).items():
            yield name, digest(value) if self.is_secret(name) or masked(value) != value else value


def _sources(plan: Plan) -> tuple[str, ...]:
    """Return the addresses of this node that variables in force name as SGLang's own."""
    given, environment = plan.choice.constraints.given, plan.environment()
    texts = [environment.get(name) or (given[name].value if name in given else "") for name in OWN_ADDRESSES]
    own = {address.ip for interface in plan.facts.interfaces for address in interface.addresses}
    return tuple(dict.fromkeys(str(one) for one in map(literal, texts) if one in own))


def pod_name(request: Request) -> str:
    """Return the name of this pod; on the host network without ``POD_NAME`` it is the node's."""
    names = (request.environ.get("POD_NAME"), request.environ.get("HOSTNAME"), request.hostname)
    return next((name for name in names if name and "$(" not in name), "")


def _fabric(plan: Plan, rails: tuple[Rail, ...]) -> Iterator[tuple[str, str]]:
    choice = plan.choice
    kind = "RoCE" if choice.used else "InfiniBand" if choice.infiniband else "off"
    yield "rdma", f"by {choice.plugin}" if choice.plugin is not None else kind
    if not rails:
        return
    yield "rails", str(len(rails))
    yield "rail_rates", _folded([f"{rail.rate_gbps:g}" if rail.rate_gbps is not None else "?" for rail in rails])
    if not choice.used:
        return
    families = {"IPv6" if ":" in rail.gid else "IPv4" for rail in rails if rail.gid}
    if families:
        yield "family", " and ".join(sorted(families))
    yield "roce_mtu", _folded([str(rail.roce_mtu or "?") for rail in rails])


def _folded(texts: list[str]) -> str:
    """Return one text where all rails have it, else all of them in order."""
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)


def _rail(row: PortRow, plan: Plan, facts: CardFacts, proof: bool | None) -> Rail:
    """Return a rail as the card shows it; ``proof``: whether NCCL needs it, where it can be proven."""
    decision, mtu = row.decision, plan.facts.mtu_of(row.netdev)
    if decision.used:
        network = str(row.network) if row.network is not None else None
        routed = facts.gateways.get(row.netdev) if row.netdev is not None else None
    else:
        network, routed = subnet(row)
    return Rail(
        device=decision.hca.name,
        port=decision.port.number,
        network=network,
        gid=row.gid,
        gid_index=row.gid_index,
        rate_gbps=decision.port.rate_gbps,
        roce_mtu=roce_mtu(mtu) if mtu is not None else None,
        routed=routed,
        proof=proof,
        lid=decision.port.lid,
    )


def _variables(plan: Plan) -> Mapping[str, str]:
    """Return the variables in force, but for what was read from this node's hardware or names it."""
    given = {name: one.value for name, one in plan.choice.constraints.given.items()}
    decided = {one.name: one.value for one in plan.variables}
    discovered = {one.name for one in plan.variables if one.source == DISCOVERED}
    in_force = {**given, **decided}
    return {
        name: value
        for name, value in sorted(in_force.items())
        if value is not None
        and name.startswith(_PREFIXES)
        and name not in discovered
        and not _OF_THE_NODE.fullmatch(name)
    }
