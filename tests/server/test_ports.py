"""Which ports SGLang binds on which node, and what cannot be bound together."""

from __future__ import annotations

import json

import pytest

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.server.arguments import read_arguments
from sglang_roce_entry.server.ports import Ports, check_ports
from sglang_roce_entry.server.spellings import CHECKED_TO

D = 21000
EVENTS = ("--kv-events-config", '{"publisher": "zmq"}')
BACKUP = ("--enable-elastic-expert-backup", "--elastic-ep-backend", "mooncake")
ATTENTION = ("--attn-dp-size", "4")
PREFILL = ("--disaggregation-mode", "prefill")
GRPC = {"SGLANG_GRPC_PORT": "31005"}
RUST = {"SGLANG_RUST_SERVER": "Yes"}
OVERRIDE = {"SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": "env://"}
SEED = "--remote-instance-weight-loader-start-seed-via-transfer-engine"


def events(**settings: object) -> tuple[str, str]:
    return "--kv-events-config", json.dumps({"publisher": "zmq", **settings})


NEW, OLD = CHECKED_TO, "0.5.9"


def ports(
    *argv: str,
    size: int = 2,
    index: int = 0,
    dist_init: int | None = D,
    environ: dict[str, str] | None = None,
    version: str | None = NEW,
) -> Ports:
    node = Identity("leader" if size > 1 else None, size, index, "test")
    return Ports(read_arguments(argv), node, "0.0.0.0", dist_init, environ or {}, version)


@pytest.mark.parametrize(
    ("argv", "options", "wanted"),
    [
        ((), {}, {D, 30000}),
        ((), {"index": 1}, {30000}),
        ((), {"size": 1, "dist_init": None}, {30000}),
        (("--port", "8100"), {"size": 1}, {D, 8100}),
        (ATTENTION, {}, {*range(D, D + 7), D + 13, 30000}),
        (ATTENTION, {"index": 1}, {*range(D, D + 7), 30000}),
        (ATTENTION, {"index": 1, "version": None}, {*range(D, D + 7), 30000}),
        # The load collector came with 0.5.15; 0.5.2 looks at no port of a worker.
        (ATTENTION, {"index": 1, "version": OLD}, {*range(D, D + 6), 30000}),
        (ATTENTION, {"index": 1, "version": "0.5.2"}, {30000}),
        (ATTENTION, {"size": 1, "dist_init": None}, {*range(30233, 30239), 30000}),
        ((*ATTENTION, "--port", "65400"), {"size": 1, "dist_init": None}, {*range(65167, 65173), 65400}),
        (("--dwdp-size", "16"), {"index": 1}, {*range(D, D + 7), 30000}),
        (PREFILL, {}, {D, 30000, 8998}),
        (PREFILL, {"index": 1}, {30000}),
        (PREFILL, {"size": 1, "dist_init": None}, {30000, 8998}),
        ((*PREFILL, "--disaggregation-boot=9100"), {}, {D, 30000, 9100}),
        (PREFILL, {"environ": RUST}, {D, 30000}),
        (("--disaggregation-mode", "decode"), {}, {D, 30000}),
        (("--disaggregation-mode", "decode", "--enable-pd-role-switch"), {}, {D, 30000, 8998}),
        (("--grpc-port", "31001"), {"index": 1}, {30000, 31001}),
        ((), {"environ": GRPC}, {D, 30000, 31005}),
        ((), {"environ": GRPC, "version": OLD}, {D, 30000}),
        (("--grpc-port", "31001"), {"environ": GRPC}, {D, 30000, 31001}),
        (("--smg-grpc-mode",), {"environ": GRPC}, {D, 30000, 30001}),
        (("--grpc-mode", "--smg-http-sidecar-port", "9500"), {}, {D, 30000, 9500}),
        (("--gated-launch-port", "7001"), {}, {D, 30000, 7001}),
        (("--gated-launch-port", "7001"), {"index": 1}, {30000}),
        (("--language-only",), {}, {D, 30000, 8997}),
        (("--engine-info-bootstrap-port", "7002"), {}, {D, 30000}),
        (("--engine-info-bootstrap-port", "7002", SEED), {}, {D, 30000, 7002}),
        (("--moe-a2a-backend", "nixl"), {}, {D, 30000, 29600}),
        (("--nccl-port", "7003"), {}, {D, 30000}),
        (("--nccl-port", "7003"), {"size": 1, "dist_init": None}, {30000, 7003}),
        # One server for each rank of attention DP of this node, and a slot for each.
        (ATTENTION, {"environ": RUST}, {*range(D, D + 9), D + 13, 30000, 30001}),
        (ATTENTION, {"index": 1, "environ": RUST}, {*range(D, D + 7), D + 9, D + 10, 30000, 30001}),
        # KV events and loads: one socket for each KV cache of the node.
        (EVENTS, {}, {D, 30000, 5557}),
        (EVENTS, {"index": 1}, {30000}),
        (("--kv-e=" + EVENTS[1], "--pp-size", "2"), {}, {D, 30000, 5557}),
        ((*EVENTS, *ATTENTION), {}, {*range(D, D + 7), D + 13, 30000, 5557, 5558}),
        ((*EVENTS, *ATTENTION), {"index": 1}, {*range(D, D + 7), 30000, 5559, 5560}),
        ((*EVENTS, *ATTENTION, "--pp-size", "2"), {"index": 1}, {*range(D, D + 7), 30000}),
        ((*EVENTS, "--dp-size", "2"), {"size": 1}, {D, 30000, 5557, 5558}),
        ((*EVENTS, "--dp-size", "2"), {"size": 1, "version": OLD}, {D, 30000, 5557}),
        (("--kv-events-config", "{}"), {}, {D, 30000}),
        (("--kv-events-config", '{"publisher": "null", "endpoint": "tcp://*:7001"}'), {}, {D, 30000}),
        (("--kv-events-config", "[not json"), {}, {D, 30000}),
        (events(endpoint="tcp://0.0.0.0:7001"), {}, {D, 30000, 7001}),
        (events(endpoint="tcp://router:7001", replay_endpoint="tcp://*:7002"), {}, {D, 30000, 7002}),
        (events(endpoint="tcp://127.0.0.1:7001", bind=True), {}, {D, 30000, 7001}),
        (events(endpoint="tcp://[::]:7001", bind=False), {}, {D, 30000}),
        (events(endpoint="ipc:///tmp/events", replay_endpoint="inproc://x"), {}, {D, 30000}),
        ((*EVENTS, "--load-publish-endpoint", "off"), {}, {D, 30000, 5557}),
        (
            (*EVENTS, "--load-publish-endpoint", "auto", "--dp-size", "2"),
            {"size": 1},
            {D, 30000, *range(5557, 5561)},
        ),
        ((*events(replay_endpoint="tcp://*:5558"), "--load-p=auto"), {}, {D, 30000, 5557, 5558, 5559}),
        ((*EVENTS, "--load-publish-endpoint", "tcp://*:6000"), {}, {D, 30000, 5557, 6000}),
        ((*EVENTS, "--load-publish-endpoint", "tcp://router:6000"), {}, {D, 30000, 5557}),
        (BACKUP, {}, {D, 30000, 10000, 10001}),
        (BACKUP, {"index": 1}, {30000, 10002, 10003}),
        (BACKUP, {"index": 1, "environ": {"SGLANG_BACKUP_PORT_BASE": "12000"}}, {30000, 12002, 12003}),
        (BACKUP[:1], {}, {D, 30000}),
        ((), {"environ": OVERRIDE}, {30000}),
        (ATTENTION, {"environ": OVERRIDE}, {*range(D + 1, D + 7), D + 13, 30000}),
        ((), {"environ": OVERRIDE, "version": "0.5.6"}, {D, 30000}),
    ],
)
def test_what_a_node_binds(argv: tuple[str, ...], options: dict[str, object], wanted: set[int]) -> None:
    assert {port for _, port, _ in ports(*argv, **options).bound()} == wanted  # type: ignore[arg-type]


def test_a_scale_joiner_counts_from_its_own_port() -> None:
    """It joins D, which the group has open already."""
    joiner = (*ATTENTION, "--elastic-ep-join-mode", "scale", "--port", "9000")
    assert {port for _, port, _ in ports(*joiner, size=1).bound()} == {9000, *range(9234, 9239)}


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--port", "21000"), "PORT_CLASH", ("21000", "--port", "--dist-init-addr")),
        ((*PREFILL, "--port", "8998"), "PORT_CLASH", ("8998", "--disaggregation-bootstrap-port")),
        ((*PREFILL, "--disaggregation-bootstrap-port", "21000"), "PORT_CLASH", ("21000", "rendezvous")),
        (("--dwdp-size", "16", "--port", "21003"), "PORT_CLASH", ("21003", "attention DP")),
        (("--grpc-port", "30000"), "PORT_CLASH", ("--grpc-port",)),
        (events(endpoint="tcp://*:30000"), "PORT_CLASH", ("30000", "--kv-events-config", "--port")),
        ((*BACKUP, "--port", "10001"), "PORT_CLASH", ("10001", "SGLANG_BACKUP_PORT_BASE")),
        (("--gated-launch-port", "21000"), "PORT_CLASH", ("--gated-launch-port",)),
        (("--smg-grpc-mode", "--port", "65535"), "PORTS_OUT_OF_RANGE", ("65536",)),
    ],
)
def test_clashes(argv: tuple[str, ...], code: str, words: tuple[str, ...]) -> None:
    for index in (0, 1):
        (problem,) = check_ports(ports(*argv, index=index).of_leader())
        assert (problem.code, problem.exit_code) == (code, 78)
        assert all(word in problem.message for word in words), problem.message


@pytest.mark.parametrize("name", ["--grpc-port", "--gated-launch-port"])
def test_a_port_is_one_of_tcp(name: str) -> None:
    with pytest.raises(ConfigurationError, match="70000"):
        ports(name, "70000").bound()


@pytest.mark.parametrize(
    ("argv", "version", "environ", "refused"),
    [
        (("--port", "56000"), "0.5.15.post1", {}, True),
        (("--port", "55535"), "0.5.15.post1", {}, False),
        (("--port", "56000"), "0.5.15.post1", GRPC, False),
        (("--port", "56000"), NEW, {}, False),
        (("--port", "56000", "--smg-grpc-mode"), NEW, {}, True),
        (("--port", "56000", "--smg-grpc-mode", "--grpc-port", "31001"), NEW, {}, False),
        (("--port", "56000"), OLD, {}, False),
    ],
)
def test_a_port_that_is_only_counted(
    argv: tuple[str, ...], version: str, environ: dict[str, str], *, refused: bool
) -> None:
    """SGLang 0.5.15 counts a gRPC port from --port and refuses it, though it opens none."""
    made = ports(*argv, version=version, environ=environ)
    assert [one.code for one in check_ports(made.bound(), made.unbound())] == ["PORTS_OUT_OF_RANGE"] * refused
