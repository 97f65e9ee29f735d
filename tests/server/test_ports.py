"""Which ports SGLang binds on which node, and what cannot be bound together."""

from __future__ import annotations

import pytest

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.server.arguments import read_arguments
from sglang_roce_entry.server.ports import Ports, check_ports
from sglang_roce_entry.server.spellings import CHECKED_TO

D = 21000
ATTENTION = ("--attn-dp-size", "4")
PREFILL = ("--disaggregation-mode", "prefill")
GRPC = {"SGLANG_GRPC_PORT": "31005"}
RUST = {"SGLANG_RUST_SERVER": "Yes"}
OVERRIDE = {"SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": "env://"}
SEED = "--remote-instance-weight-loader-start-seed-via-transfer-engine"
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
