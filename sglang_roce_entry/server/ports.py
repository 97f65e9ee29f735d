"""The TCP ports that SGLang will bind on this node, for tests before anything is waited for.

SGLang finds a clash only when it binds: the rendezvous after the imports, HTTP after the model is
loaded. The bootstrap server of a prefill node logs the error in a thread of its own, and the server
stays healthy for ever (``srt/disaggregation/common/conn.py``; sgl-project/sglang#21268).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sglang_roce_entry.group.endpoint import MAX_PORT
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.problems import Problem, config_error
from sglang_roce_entry.server.arguments import UserArguments

#: Offsets from the dist-init port D that the leader binds with attention DP
#: (``srt/server_args.py``, ``PortArgs.init_new``; +13 since 0.5.3, ``data_parallel_controller.py``).
ATTENTION_DP_PORTS = (1, 2, 3, 4, 5, 6, 13)
#: Where D is on one node without --dist-init-addr: so far from --port (``ZMQ_TCP_PORT_DELTA``).
_ONE_NODE_DELTA = 233
#: Set: torch meets in a store of somebody else's, and SGLang binds neither D nor --nccl-port
#: (``srt/distributed/bootstrap.py`` of 0.5.23, ``_resolve_dist_init_method``; 0.5.6 does not know it).
OVERRIDE = "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"
_OVERRIDE_SINCE = (0, 5, 9)
#: A server for each local rank of attention DP, on ports that follow each other (0.5.23, ``srt/rust_server``).
_RUST_SERVER = "SGLANG_RUST_SERVER"
#: What backs up the experts of each node binds two ports from here (``srt/elastic_ep/expert_backup_manager.py``).
_BACKUP_BASE = "SGLANG_BACKUP_PORT_BASE"
#: A socket that publishes binds such a host, and connects to any other (``srt/disaggregation/kv_events.py``).
_WILDCARDS = ("*", "0.0.0.0", "::")  # noqa: S104 - read, not bound
#: Where SMG's gRPC would be, and in 0.5.15 any: SGLang refuses it beyond the range, though nobody binds it.
_GRPC_DELTA = 10000

#: Address ("*": all), port, and what it is for with the option that moves it.
Listener = tuple[str, int, str]


def overridden(environ: Mapping[str, str], version: str | None) -> bool:
    """Return whether SGLang of this version (``None``: not known) meets in somebody else's store."""
    release = parse_version(version)
    return bool(environ.get(OVERRIDE)) and (release is None or release >= _OVERRIDE_SINCE)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one node, as SGLang of ``version`` (``None``: not known) derives them."""

    user: UserArguments
    node: Identity
    host: str  # of HTTP
    dist_init: int | None  # D; None: one node without --dist-init-addr
    environ: Mapping[str, str]
    version: str | None = None

    def bound(self) -> tuple[Listener, ...]:
        """Return what this node binds, or finds free before it goes on. Raises ``ConfigurationError``."""
        return (*self._rendezvous(), *self._http(), *self._by_options(), *self._published(), *self._backup())

    def of_leader(self) -> tuple[Listener, ...]:
        """Return what the leader binds, whose clashes every member can tell."""
        return replace(self, node=replace(self.node, index=0)).bound()

    def unbound(self) -> tuple[Listener, ...]:
        """Return what nobody binds, and SGLang refuses all the same where it is no port."""
        counted = self._smg or (0, 5, 15) <= self._release < (0, 5, 16)
        if not counted or "grpc_port" in self.user.values or self.environ.get("SGLANG_GRPC_PORT"):
            return ()
        return ((self.host, self.user.http_port + _GRPC_DELTA, f"gRPC, --port + {_GRPC_DELTA}"),)

    @property
    def _rust(self) -> bool:
        # As EnvBool of srt/environ.py reads it.
        return self.environ.get(_RUST_SERVER, "").lower() in ("true", "1", "yes", "y")

    @property
    def _release(self) -> tuple[int, ...]:
        return parse_version(self.version) or (99,)

    def _rendezvous(self) -> Iterator[Listener]:
        attention, scaling = self.user.attention_dp, self.user.text("ep_join_mode") == "scale"
        base, option = self.dist_init, "--dist-init-addr"
        if attention and (base is None or scaling):
            http = self.user.http_port
            base = http + _ONE_NODE_DELTA if http + _ONE_NODE_DELTA + 6 <= MAX_PORT else http - _ONE_NODE_DELTA
            option = f"--port {base - http:+}"
        if base is None:
            return
        # With attention DP every node tests D and what follows it, the workers too, by binding all addresses.
        alone = not self.node.is_leader
        if alone and not (attention and self._release >= (0, 5, 6)):
            return
        if not (overridden(self.environ, self.version) or scaling or self.user.text("ep_join_mode") == "recover"):
            yield "*", base, f"rendezvous, {option}"
        if attention:
            yield from self._attention(base, option)

    def _attention(self, base: int, option: str) -> Iterator[Listener]:
        for offset in ATTENTION_DP_PORTS:
            of_groups = offset > 5 and self.node.size == 1
            of_leader = offset > 6 or (offset == 6 and self._release < (0, 5, 15))
            if not of_groups and (self.node.is_leader or not of_leader):
                yield "*", base + offset, f"attention DP, {option} + {offset}"
        if self._rust:
            for rank in self._local_ranks():
                yield "*", base + 7 + rank, f"{_RUST_SERVER}, {option} + {7 + rank}"

    def _local_ranks(self) -> range:
        size, index = self.user.attention_dp_size, self.node.index
        return range(index * size // self.node.size, -(-(index + 1) * size // self.node.size))

    def _http(self) -> Iterator[Listener]:
        servers = len(self._local_ranks()) if self._rust and self.user.attention_dp else 1
        # SMG's gRPC server is where HTTP would be (lightseekorg/smg, ``smg_grpc_servicer/sglang/server.py``).
        first = [(self.user.http_port, "SMG's gRPC, --port" if self._smg else "HTTP, --port")]
        grpc = self._grpc_port()
        if grpc is not None:
            first.append((grpc[0], f"gRPC, {grpc[1]}"))
        for port, why in first:
            for number in range(servers):
                yield self.host, port + number, f"{why} + {number}" if number else why

    def _grpc_port(self) -> tuple[int, str] | None:
        """Return the port of the native gRPC server (``srt/arg_groups/serving_hook.py``).

        Followers have one as of 0.5.23 (``start_follower_grpc_server``), before that only the leader.
        """
        if self._smg or self._release < ((0, 5, 16) if self.node.is_leader else (0, 5, 23)):
            return None
        if "grpc_port" in self.user.values:
            return self.user.tcp_port("grpc_port", 0), "--grpc-port"
        text = self.environ.get("SGLANG_GRPC_PORT", "")
        return (int(text), "SGLANG_GRPC_PORT") if text.isdecimal() and 0 < int(text[:9]) <= MAX_PORT else None

    @property
    def _smg(self) -> bool:
        return "smg_grpc_mode" in self.user.values or "grpc_mode" in self.user.values

    def _by_options(self) -> Iterator[Listener]:
        """Yield what only the first node binds, each where an option asks for it."""
        user, host = self.user, self.host
        if not self.node.is_leader:
            return
        mode = user.text("disaggregation_mode")
        if (mode == "prefill" or (mode == "decode" and "pd_role_switch" in user.values)) and not self._rust:
            # With the Rust server the registry is on the HTTP port itself (``pd_disaggregation_hook.py``).
            port = user.tcp_port("disaggregation_bootstrap_port", 8998)
            yield host, port, "KV bootstrap, --disaggregation-bootstrap-port"
        tried = (user.attention_dp or self.dist_init is None) and not overridden(self.environ, self.version)
        if "nccl_port" in user.values and tried:
            yield "*", user.tcp_port("nccl_port", 0), "rendezvous of one node, --nccl-port"
        if self._release < (0, 5, 15):
            return  # none of the following is there
        if "language_only" in user.values:
            yield host, user.tcp_port("encoder_bootstrap_port", 8997), "encoders, --encoder-bootstrap-port"
        if "start_seed" in user.values:
            yield host, user.tcp_port("engine_info_bootstrap_port", 6789), "seed, --engine-info-bootstrap-port"
        if "gated_launch_port" in user.values:
            yield host, user.tcp_port("gated_launch_port", 0), "gate, --gated-launch-port"
        if self._smg:
            port = user.tcp_port("smg_http_sidecar_port", user.http_port + 1)
            yield host, port, "metrics, --smg-http-sidecar-port"
        if user.text("moe_a2a_backend") == "nixl":
            text = self.environ.get("SGLANG_TCP_STORE_PORT", "")
            yield (
                "*",
                int(text) if text.isdecimal() and len(text) < 6 else 29600,
                "NIXL's store, SGLANG_TCP_STORE_PORT",
            )

    def _published(self) -> Iterator[Listener]:
        """Yield the sockets that publish events and loads of the KV caches on this node, a port for each rank."""
        config = _json_object(self.user.text("kv_events_config"))
        if config.get("publisher") != "zmq":
            return
        ranks, size = self._caches()
        host, base = _endpoint(config.get("endpoint", "tcp://*:5557"))
        again = _endpoint(config.get("replay_endpoint"))
        first: list[tuple[str, int, str]] = []
        if config.get("bind") or (config.get("bind") is None and host in _WILDCARDS):
            first.append((host, base, "KV events, --kv-events-config"))
        first.append((*again, "replay of KV events, --kv-events-config"))
        mode = (self.user.text("load_publish_endpoint") or "off").strip()
        load = _endpoint(mode)
        if mode.lower() == "auto":  # behind the events, or behind their replay where that is in the way
            load = (host, again[1] + size if base < again[1] < base + 2 * size else base + size)
        if load[0] in _WILDCARDS:
            first.append((*load, "loads, --load-publish-endpoint"))
        for address, port, why in first:
            for rank in ranks if port else ():
                yield "*" if address in _WILDCARDS else address, port + rank, f"{why} + {rank}" if rank else why

    def _caches(self) -> tuple[tuple[int, ...], int]:
        """Return the ranks of data parallelism whose first GPU is on this node, and how many there are in all."""
        size = self.user.attention_dp_size if self.user.attention_dp else self.user.number("dp_size", 1, lowest=0)
        stages = max(1, self.user.number("pp_size", 1, lowest=0))
        nodes = max(1, self.node.size // stages)  # of the first stage, which alone publishes
        if not self.user.attention_dp and self._release < (0, 5, 15):
            size = min(size, 1)  # all of them on one port: SGLang does not start
        return tuple(rank for rank in range(size) if rank * nodes // size == self.node.index), size

    def _backup(self) -> Iterator[Listener]:
        """Yield what backs up experts on this node; it binds the address that the others reach it at."""
        backend = self.user.text("elastic_ep_backend") or "none"
        if "enable_elastic_expert_backup" not in self.user.values or backend.lower() == "none":
            return
        text = self.environ.get(_BACKUP_BASE, "")
        base = int(text) if text.isdecimal() and len(text) < 6 else 10000
        for offset in (2 * self.node.index, 2 * self.node.index + 1):
            yield "*", base + offset, f"expert backup, {_BACKUP_BASE} + {offset}"


def _json_object(text: str | None) -> Mapping[str, object]:
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}  # SGLang refuses it
    return value if isinstance(value, dict) else {}


def _endpoint(value: object) -> tuple[str, int]:
    """Return host and port of ``tcp://host:port``, port 0 for anything else (``ipc://``, ``inproc://``, none)."""
    host, _, port = str(value).removeprefix("tcp://").rpartition(":")
    if not isinstance(value, str) or not value.startswith("tcp://") or not port.isdecimal() or len(port) > 5:
        return "", 0
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_ports(listeners: Sequence[Listener], unbound: Iterable[Listener] = ()) -> list[Problem]:
    """Return what keeps a node from binding these, whoever else uses them; ``unbound`` must only be ports."""
    highest = max((*listeners, *unbound), key=lambda one: one[1])
    if highest[1] > MAX_PORT:
        return [
            config_error(
                "PORTS_OUT_OF_RANGE",
                f"port {highest[1]} ({highest[2]}) is beyond {MAX_PORT}",
                f"choose a port that is lower by {highest[1] - MAX_PORT} or more (--dist-init, --port)",
            )
        ]
    seen: dict[int, str] = {}
    for _, port, why in listeners:
        if port in seen:
            return [
                config_error(
                    "PORT_CLASH",
                    f"port {port} is needed twice: {seen[port]}, and {why}",
                    "give one of the two another port",
                )
            ]
        seen[port] = why
    return []
