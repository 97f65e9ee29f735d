"""NCCL's neighbours in one launch: GPUs and their HCAs, the KV transfer, Mooncake, UCX, NVSHMEM, Gloo.

The rules are in ``fabric`` and ``server``; here they meet, since which library is used is known to
SGLang's arguments, and which ports to the fabric. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.fabric import topology
from sglang_roce_entry.fabric.affinity import Affinity
from sglang_roce_entry.fabric.choice import FabricDecision
from sglang_roce_entry.fabric.consumers import together as consumers
from sglang_roce_entry.fabric.consumers import values as consumer_values
from sglang_roce_entry.fabric.consumers.variables import VariablePlan
from sglang_roce_entry.fabric.control import Control
from sglang_roce_entry.fabric.nccl.files import check_files
from sglang_roce_entry.fabric.nccl.settings import Given
from sglang_roce_entry.fabric.pairing import pair
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.host.facts import Gpu, Gpus, HostFacts
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.problems import RDMA_UNUSABLE, ConfigurationError, Problem, value_warning
from sglang_roce_entry.server import transfer as disaggregation
from sglang_roce_entry.server.arguments import UserArguments
from sglang_roce_entry.server.gpu_count import VisibleGpus

#: Variables whose values are held against the node; without any, nothing is loaded for that.
_OF_NEIGHBOURS = ("MC_", "MOONCAKE_", "NVSHMEM_", "UCX_", "GLOO_", "NCCL_SOCKET_", "NCCL_IB_GID_INDEX")
_REINDEXED = "SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS"


@dataclass(frozen=True, slots=True)
class Files:
    """Facts and GPUs in the places that NCCL's topology file gives them, and what is wrong with NCCL's files.

    ``places`` says whose places they are, if not the kernel's.
    """

    facts: HostFacts
    gpus: Gpus
    problems: tuple[Problem, ...] = ()
    places: str | None = None


def read_files(facts: HostFacts, gpus: Gpus, conf_file: str | None, nccl: tuple[int, ...] | None) -> Files:
    """Return what NCCL's own files change; ``conf_file`` is NCCL_CONF_FILE.

    Most pods have no such files: nothing is loaded for them.
    """
    problems: list[Problem] = []
    if facts.nccl_files or conf_file:
        problems += check_files(facts.nccl_files, nccl, conf_file)
    if facts.topology_file is None:
        return Files(facts, gpus, tuple(problems))

    placed = topology.place(facts, gpus)
    return Files(placed.facts, placed.gpus, (*problems, *placed.problems), placed.note)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What was decided: the pairing, the arguments to add, sentences on the KV transfer, and what is wrong."""

    affinity: Affinity
    tokens: tuple[str, ...] = ()
    transfer: str | None = None
    problems: tuple[Problem, ...] = ()


def decide_neighbours(
    user: UserArguments | None,
    facts: HostFacts,
    decided: Mapping[str, Given],
    visible: VisibleGpus,
    fabric: FabricDecision,
    control: Control,
    variables: VariablePlan,
    places: str | None = None,
) -> Neighbours:
    """Return the decision on the neighbours and put their variables into ``variables``.

    ``places`` says where the places of GPUs and HCAs come from, if not from the kernel.
    """
    used = [row.decision for row in fabric.ports if row.decision.used]
    uses = disaggregation.read_uses(user) if user is not None else disaggregation.Uses()
    affinity = _affinity(user, visible, used, places)
    names = [hca.name for hca in facts.hcas]
    if fabric.plugin is not None or fabric.selection.infiniband or not used:
        # No port is chosen here, so nothing is said to anybody either.
        checked = _check_given(user, facts, visible, names, {}) if names else []
        return Neighbours(affinity, transfer=_nothing_said(uses, fabric), problems=tuple(checked))

    need = _need(uses, facts, control)
    given = user is not None and any(dest in user.values for dest in disaggregation.DESTS)
    carrying, problems = _carrying(used, fabric, variables, facts, given=given) if uses.mooncake else (used, [])
    devices = None
    if uses.kv_backend is not None and user is not None and "disaggregation_ib_device" not in user.values:
        ports = carrying if uses.kv_backend == disaggregation.MOONCAKE else used
        devices = _device_argument(uses.kv_backend, facts, decided, affinity, ports)
    problems += consumers.put_consumers(variables, used, carrying, names, fabric.index, need)
    if any(name.startswith(_OF_NEIGHBOURS) for name in decided):
        problems += consumer_values.check_consumers(decided, facts.hcas, facts.interfaces, used, need)
        problems += consumer_values.check_interfaces(decided, facts.interfaces, control)
    unusable = _unusable(fabric, {port.hca.name for port in used})
    problems += _check_given(user, facts, visible, names, unusable)
    tokens = devices.tokens if devices is not None else ()
    return Neighbours(affinity, tokens, _transfer(user, uses, devices), tuple(problems))


def _affinity(
    user: UserArguments | None, visible: VisibleGpus, used: Sequence[PortDecision], places: str | None
) -> Affinity:
    hcas = list({port.hca.name: port.hca for port in used}.values())
    if not visible.devices or not hcas:
        return Affinity(note=places)

    return pair(visible.devices, hcas, _gpus_in_use(user, visible.devices), places)


def _check_given(
    user: UserArguments | None,
    facts: HostFacts,
    visible: VisibleGpus,
    names: Sequence[str],
    unusable: Mapping[str, str],
) -> list[Problem]:
    if user is None:
        return []
    gpus = _gpus_in_use(user, visible.devices)
    return disaggregation.check_given(user, facts.sglang_version, names, unusable, gpus)


def _need(uses: disaggregation.Uses, facts: HostFacts, control: Control) -> consumers.Need:

    by_nixl = uses.kv_backend == disaggregation.NIXL
    reads = disaggregation.nixl_reads_option(facts.sglang_version)
    default = next(iter(facts.default_route_interfaces), "lo")
    return consumers.Need(
        mooncake=uses.mooncake,
        nixl=uses.nixl,
        nvshmem=uses.nvshmem,
        option=uses.kv_backend == disaggregation.MOONCAKE,
        net_devices=by_nixl and not reads,
        silences=by_nixl and reads,
        interface=control.interface or default,
    )


def _gpus_in_use(user: UserArguments | None, devices: Sequence[Gpu]) -> list[int]:
    """Return the numbers of the visible GPUs that SGLang will use (``--base-gpu-id``, ``--gpu-id-step``).

    With more than one pipeline stage on a node the step counts within a stage only
    (``srt/entrypoints/engine.py``), so all from the base on are taken.
    """
    try:
        base = user.number("base_gpu_id", 0, lowest=0) if user is not None else 0
        step = user.number("gpu_id_step", 1) if user is not None else 1
        stages = user.number("pp_size", 1) if user is not None else 1
    except ConfigurationError:
        return list(range(len(devices)))  # said where the command is built
    return list(range(base, len(devices), step if stages == 1 else 1))


def _carrying(
    used: Sequence[PortDecision],
    fabric: FabricDecision,
    variables: VariablePlan,
    facts: HostFacts,
    *,
    given: bool,
) -> tuple[Sequence[PortDecision], list[Problem]]:
    """Return the ports that Mooncake can use: those that its own choice of a GID does not spoil.

    ``given``: the user has named HCAs, which stay as they are.
    """
    version = parse_version(facts.mooncake_version)
    wrong = consumers.spoilt_ports(used, fabric.index, variables.values(), version)
    if not wrong:
        return used, []
    left = [port for port in used if port.label not in wrong]
    outcome = "Mooncake is not given" if left and not given else "it would fail to transfer with"
    listed = "; ".join(f"{label}: {how}" for label, how in wrong.items())
    problem = value_warning(
        "MOONCAKE_GID",
        f"no index fits all ports, and Mooncake's own choice is wrong on {len(wrong)} of {len(used)}, which "
        f"{outcome}: {listed}",
        "give all ports the same addresses history (driver reload on the node), so that one index fits all",
        RDMA_UNUSABLE,
    )
    return left or used, [problem]


def _device_argument(
    backend: str,
    facts: HostFacts,
    decided: Mapping[str, Given],
    affinity: Affinity,
    ports: Sequence[PortDecision],
) -> disaggregation.Devices:

    number = consumers.port_for_mooncake(ports)
    names = list(dict.fromkeys(port.hca.name for port in ports if port.port.number == number))
    per_gpu: dict[int, tuple[str, ...]] = {}
    if affinity.informative:
        for gpu in range(len(affinity.gpus)):
            near = tuple(name for name in affinity.names(gpu) if name in names)
            per_gpu[gpu] = near or tuple(names)
    return disaggregation.device_argument(
        backend,
        facts.sglang_version,
        names,
        per_gpu,
        reindexed=_REINDEXED in decided and decided[_REINDEXED].value.lower() in ("1", "true"),
    )


def _unusable(fabric: FabricDecision, used: set[str]) -> dict[str, str]:
    return {
        row.decision.hca.name: f"{row.decision.reason}, {row.decision.detail}"
        for row in fabric.ports
        if row.decision.hca.name not in used
    }


def _transfer(
    user: UserArguments | None, uses: disaggregation.Uses, devices: disaggregation.Devices | None
) -> str | None:
    if uses.kv_backend is None:
        return None
    if devices is None:
        where = user.values["disaggregation_ib_device"].where if user is not None else disaggregation.OPTION
        return f"{uses.kv_backend}: by {where} of the user"
    what = disaggregation.OPTION if devices.tokens else f"no {disaggregation.OPTION}"
    return f"{uses.kv_backend}: {what}, {devices.reason}"


def _nothing_said(uses: disaggregation.Uses, fabric: FabricDecision) -> str | None:
    if uses.kv_backend is None:
        return None
    why = fabric.plugin or ("InfiniBand ports only" if fabric.selection.infiniband else "no usable HCA port")
    return f"{uses.kv_backend}: no {disaggregation.OPTION}, {why}"
