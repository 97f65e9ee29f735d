"""SGLang's command line, and what SGLang itself would reject only after minutes.

Rank layout (``srt/entrypoints/engine.py``): GPUs per node = tp × pp / nnodes; data parallelism inside
attention and expert parallelism add no GPUs. SGLang checks neither the rank's range nor the number
of GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sglang_roce_entry.group.endpoint import Endpoint, EndpointError, parse_endpoint
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.sources import not_expanded
from sglang_roce_entry.host.facts import Interface, IpAddress
from sglang_roce_entry.problems import ConfigurationError, Problem, config_error, warning
from sglang_roce_entry.server.arguments import UserArguments
from sglang_roce_entry.server.gpu_count import GpuCount
from sglang_roce_entry.server.ports import Listener, Ports, check_ports
from sglang_roce_entry.server.spellings import MODULE
from sglang_roce_entry.server.traps import check_group
from sglang_roce_entry.unexpanded import was_not_expanded

#: SGLang gives late workers torch's default timeout unless --dist-timeout is given.
DEFAULT_DIST_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Command:
    """The arguments for SGLang: ours, which come first, and the user's."""

    added: tuple[str, ...]
    user: tuple[str, ...]
    dist_init: Endpoint | None
    http_host: str
    http_port: int
    attention_dp: bool
    dist_timeout_s: int
    problems: tuple[Problem, ...] = ()
    #: What this node must be able to bind.
    ports: tuple[Listener, ...] = ()
    #: The ranks of the whole group that join torch's store; ``None`` if that is not known.
    ranks: int | None = None
    has_key: bool = False  # clients must show one

    def argv(self, executable: str) -> tuple[str, ...]:
        """Return the whole command."""
        return (executable, "-m", MODULE, *self.added, *self.user)

    def with_added(self, *tokens: str) -> Command:
        """Return the command with more of our arguments."""
        return replace(self, added=(*self.added, *tokens))

    def with_literal(self, address: IpAddress) -> Command:
        """Return the command with the leader as an address: a name with only IPv6 cannot be bound.

        (``srt/utils/network.py``: the IPv6 option is set for literals only.) A ``--dist-init-addr`` of
        the user stays as it is.
        """
        if self.dist_init is None or "--dist-init-addr" not in self.added:
            return self
        endpoint = Endpoint(str(address), self.dist_init.port)
        position = self.added.index("--dist-init-addr") + 1
        added = (*self.added[:position], str(endpoint), *self.added[position + 1 :])
        return replace(self, added=added, dist_init=endpoint)


def user_dist_init(user: UserArguments, environ: Mapping[str, str]) -> Endpoint | None:
    """Return the endpoint of the user's ``--dist-init-addr``. Raises ``ConfigurationError``.

    SGLang takes ``tcp://host:20000`` and an unexpanded ``$(LWS_LEADER_ADDRESS):20000``
    silently, and gives up on them in DNS ten minutes later.
    """
    argument = user.values.get("dist_init_addr")
    if argument is None:
        return None
    if was_not_expanded(argument.text):
        raise not_expanded("leader", argument.text, argument.where, environ)
    try:
        return parse_endpoint(argument.text)
    except EndpointError as failure:
        raise ConfigurationError(
            "DIST_INIT_ADDR", f"{argument.where} {argument.text!r} {failure}", failure.fix
        ) from failure


def build_command(
    user: UserArguments,
    node: Identity,
    gpus: GpuCount,
    dist_init_port: int,
    interfaces: Sequence[Interface],
    *,
    compute_tp: bool = True,
    environ: Mapping[str, str] = MappingProxyType({}),
    version: str | None = None,
) -> Command:
    """Return the command for this node; what SGLang cannot run is in its ``problems``.

    ``version`` is SGLang's, ``None`` if it is not known; ``environ`` holds the variables that move ports.
    """
    given = user_dist_init(user, environ)
    endpoint = given
    added: list[str] = []
    problems: list[Problem] = list(user.problems)
    tp, found = _tensor_parallel(user, node, gpus, compute_tp=compute_tp)
    problems += found
    if node.size > 1:
        if tp is not None and "tp_size" not in user.values and compute_tp:
            added += ["--tp-size", str(tp)]
        if "nnodes" not in user.values:
            added += ["--nnodes", str(node.size)]
        if "node_rank" not in user.values:
            added += ["--node-rank", str(node.index)]
        if given is None and node.leader is not None:
            endpoint = Endpoint(node.leader, dist_init_port)
            added += ["--dist-init-addr", str(endpoint)]
    http_host = user.text("host")
    if http_host is None:
        http_host = "::" if _only_ipv6(interfaces) else "0.0.0.0"  # noqa: S104 - probes reach the pod IP
        added += ["--host", http_host]
    ports = Ports(user, node, http_host, endpoint.port if endpoint is not None else None, environ, version)
    bound = ports.bound()
    leaders = [] if node.is_leader else check_ports(ports.of_leader())
    problems += leaders or check_ports(bound, ports.unbound())
    problems += check_group(user, node)
    return Command(
        added=tuple(added),
        user=user.argv,
        dist_init=endpoint if node.size > 1 else None,
        http_host=http_host,
        http_port=user.http_port,
        attention_dp=user.attention_dp,
        dist_timeout_s=user.number("dist_timeout", DEFAULT_DIST_TIMEOUT_S),
        problems=tuple(problems),
        ports=bound,
        ranks=tp * user.number("pp_size", 1) if tp is not None else None,
        has_key="api_key" in user.values,
    )


def _only_ipv6(interfaces: Sequence[Interface]) -> bool:
    versions = {
        address.version
        for interface in interfaces
        for address in interface.addresses
        if not address.ip.is_loopback and not address.ip.is_link_local
    }
    return versions == {6}


def _tensor_parallel(
    user: UserArguments, node: Identity, gpus: GpuCount, *, compute_tp: bool
) -> tuple[int | None, list[Problem]]:
    pp = user.number("pp_size", 1)
    dp = user.number("dp_size", 1)
    if node.size > 1 and node.size % pp and pp % node.size:
        return None, [
            config_error(
                "PP_NODES",
                f"pipeline parallel size {pp} does not fit {node.size} nodes",
                "choose a --pp-size that divides the number of nodes, or is a multiple of it",
            )
        ]
    if node.size > 1 and dp > 1 and not user.attention_dp:
        return None, [
            config_error(
                "DP_NODES",
                f"--dp-size {dp} over {node.size} nodes: SGLang supports plain data parallelism on one node only",
                "add --enable-dp-attention (0.5.22 and later: --attn-dp-size), or scale the "
                "LeaderWorkerSet's replicas",
            )
        ]
    on_gpus = (user.text("device") or "cuda") in ("cuda", "musa", "hip")
    if node.size == 1 and "use_ray" in user.values:
        on_gpus = False  # they are those of a Ray cluster
    available = _available(user, gpus) if on_gpus else None
    if "tp_size" in user.values or node.size == 1 or not compute_tp:
        tp = user.number("tp_size", 1)
        return tp, _check_given(user, node, gpus, tp, pp, available)
    if available is None:
        return None, [
            config_error(
                "TP_UNKNOWN",
                "the number of GPUs of this node cannot be determined, so --tp-size cannot be computed",
                "request GPUs in the manifest (nvidia.com/gpu), or give --gpus N (SGLANG_ROCE_GPUS) "
                "or SGLang's --tp-size",
            )
        ]
    if available == 0 or available * node.size % pp:
        return None, [
            config_error(
                "TP_GPUS",
                f"{available} GPUs ({gpus.source}) × {node.size} nodes cannot be divided by --pp-size {pp}",
                "check the GPUs of the pod, --base-gpu-id, --gpu-id-step and --pp-size",
            )
        ]
    tp = available * node.size // pp
    return tp, _check_attention(user, tp)


def _available(user: UserArguments, gpus: GpuCount) -> int | None:
    if gpus.count is None:
        return None
    base = user.number("base_gpu_id", 0, lowest=0)
    step = user.number("gpu_id_step", 1)
    return max(0, -(-(gpus.count - base) // step))


def _check_given(
    user: UserArguments, node: Identity, gpus: GpuCount, tp: int, pp: int, available: int | None
) -> list[Problem]:
    argument = user.values.get("tp_size")
    where = argument.where if argument else "--tp-size (SGLang's default)"
    # Plain data parallelism runs whole copies side by side (srt/managers/data_parallel_controller.py).
    copies = 1 if user.attention_dp else user.number("dp_size", 1)
    ranks = tp * pp * copies
    by_pp = f" × --pp-size {pp}" if pp > 1 else ""
    by_pp += f" × --dp-size {copies}" if copies > 1 else ""
    if ranks % node.size:
        fix = f"remove {where}: it is computed as GPUs × nodes / pp" if argument else "give --tp-size"
        return [config_error("TP_NODES", f"{where} {tp}{by_pp} cannot be divided among {node.size} nodes", fix)]
    per_node = ranks // node.size
    on_each = f" on each of {node.size} nodes" if node.size > 1 else ""
    if available is not None and per_node > available:
        return [
            config_error(
                "TP_GPUS",
                f"{where} {tp}{by_pp} needs {per_node} GPUs{on_each}, this node has {available} ({gpus.source})",
                f"remove {where} in a group, where it is computed, or correct the pod's GPUs (nvidia.com/gpu)",
            )
        ]
    problems = _check_attention(user, tp)
    if node.size > 1 and available is not None and per_node < available:
        problems.append(
            warning(
                "GPUS_IDLE",
                f"{where} {tp}{by_pp} uses {per_node} of the {available} GPUs of each node",
                f"remove {where} to use them all",
            )
        )
    return problems


def _check_attention(user: UserArguments, tp: int) -> list[Problem]:
    dp = user.attention_dp_size
    if user.number("dwdp_size", 1, lowest=0) > 1 and dp != tp:
        return [
            config_error(
                "ATTENTION_DP",
                f"--dwdp-size {dp} is not the tensor parallel size {tp}, which SGLang asserts",
                f"write --dwdp-size {tp}",
            )
        ]
    if dp and tp % dp:
        return [
            config_error(
                "ATTENTION_DP",
                f"tensor parallel size {tp} cannot be divided by the attention data parallel size {dp}",
                "choose an attention data parallel size that divides it",
            )
        ]
    return []
