"""The command, and what SGLang would only refuse after minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.report.text import as_text
from sglang_roce_entry.server.arguments import read_arguments
from sglang_roce_entry.server.command import Command, build_command, user_dist_init
from sglang_roce_entry.server.gpu_count import GpuCount, count_gpus
from tests.planning import plan_of
from tests.trees import Node as FakeNode

if TYPE_CHECKING:
    from sglang_roce_entry.host.facts import IpAddress

LEADER = "sglang-0.sglang.default"
FOUR = collect(FakeNode().interface("eth0", "10.0.0.1/24", "fd00::1/64").host(), {}).interfaces
SIX = collect(FakeNode().interface("eth0", "fd00::1/64", "fe80::1/64").host(), {}).interfaces


def build(
    *argv: str,
    size: int = 2,
    index: int = 1,
    gpus: int | None = 8,
    leader: str = LEADER,
    compute_tp: bool = True,
    interfaces: object = FOUR,
) -> Command:
    node = Identity(leader if size > 1 else None, size, index, "test")
    return build_command(
        read_arguments(argv),
        node,
        GpuCount(gpus, "test"),
        20000,
        interfaces,  # type: ignore[arg-type]
        compute_tp=compute_tp,
    )


def test_a_worker() -> None:
    command = build("--model-path", "/m")
    assert command.argv("/usr/bin/python3") == (
        "/usr/bin/python3", "-m", "sglang.launch_server",
        "--tp-size", "16", "--nnodes", "2", "--node-rank", "1",
        "--dist-init-addr", f"{LEADER}:20000", "--host", "0.0.0.0",
        "--model-path", "/m",
    )  # fmt: skip
    assert command.problems == ()


def test_the_host_is_of_the_pods_family_whatever_its_rails_have() -> None:
    node = FakeNode().interface("eth0", "fd00::1/64").interface("net1", "10.0.0.1/24")
    assert _host_of(node) == "0.0.0.0"
    unset = "0" * 32
    node.files["/proc/net/ipv6_route"] = f"{unset} 00 {unset} 00 {unset} 00000400 1 0 00000003 eth0\n"
    assert _host_of(node) == "::"


def test_arguments_that_are_refused_were_given_all_the_same() -> None:
    refused = as_text(plan_of(FakeNode(), "--model", "m", "--port", "x"))
    assert "no SGLang arguments were given" not in refused
    assert "no SGLang arguments were given" in as_text(plan_of(FakeNode()))


def _host_of(node: FakeNode) -> str:
    argv = plan_of(node, "--model", "m").argv
    assert argv is not None
    return argv[argv.index("--host") + 1]


def test_one_node_gets_only_a_host() -> None:
    command = build("--model-path", "/m", size=1, index=0)
    assert command.added == ("--host", "0.0.0.0")
    assert command.dist_init is None


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (("--tp", "16"), "--tp-size"),
        (("--tensor-parallel-size=16",), "--tp-size"),
        (("--nn", "2"), "--nnodes"),
        (("--node-rank=1",), "--node-rank"),
        (("--nccl-init-addr", "h:1"), "--dist-init-addr"),
        (("--ho", "10.0.0.1"), "--host"),
    ],
)
def test_what_the_user_gave_is_not_added(argv: tuple[str, ...], missing: str) -> None:
    assert missing not in build(*argv).added


def test_ipv6() -> None:
    command = build("--model-path", "/m", leader="fd00::1", interfaces=SIX)
    assert "[fd00::1]:20000" in command.added
    assert command.added[-2:] == ("--host", "::")


def test_an_ipv6_only_name_becomes_the_literal() -> None:
    address: IpAddress = next(a.ip for a in SIX[0].addresses)
    command = build("--model-path", "/m").with_literal(address)
    assert "[fd00::1]:20000" in command.added
    kept = build("--dist-init-addr", "h:1").with_literal(address)
    assert str(kept.dist_init) == "h:1"


@pytest.mark.parametrize(
    ("argv", "gpus", "size", "tp"),
    [
        ((), 8, 2, "16"),
        ((), 8, 4, "32"),
        (("--pp-size", "2"), 8, 2, "8"),
        (("--pp-size", "4"), 8, 2, "4"),
        (("--base-gpu-id", "4"), 8, 2, "8"),
        (("--gpu-id-step", "2"), 8, 2, "8"),
        (("--base-gpu-id", "1", "--gpu-id-step", "2"), 8, 2, "8"),
    ],
)
def test_computed_tensor_parallel_size(argv: tuple[str, ...], gpus: int, size: int, tp: str) -> None:
    command = build(*argv, gpus=gpus, size=size)
    assert command.added[:2] == ("--tp-size", tp)
    assert command.problems == ()


@pytest.mark.parametrize(
    ("argv", "options", "code"),
    [
        (("--tp", "15"), {}, "TP_NODES"),
        (("--tp", "32"), {}, "TP_GPUS"),
        (("--tp", "16"), {"size": 1, "index": 0}, "TP_GPUS"),
        (("--tp", "16", "--base-gpu-id", "1"), {}, "TP_GPUS"),
        (("--tp", "8"), {}, "GPUS_IDLE"),
        ((), {"gpus": None}, "TP_UNKNOWN"),
        ((), {"gpus": 0}, "TP_GPUS"),
        ((), {"compute_tp": False}, "TP_NODES"),
        (("--pp-size", "2"), {"size": 3}, "PP_NODES"),
        (("--pp-size", "3"), {"size": 4}, "PP_NODES"),
        (("--dp-size", "2"), {}, "DP_NODES"),
        (("--enable-dp-attention", "--dp-size", "3"), {}, "ATTENTION_DP"),
        (("--attn-dp-size", "5"), {}, "ATTENTION_DP"),
        (("--dwdp-size", "8"), {}, "ATTENTION_DP"),
        (("--dwdp-size", "16"), {}, None),
        (("--use-ray",), {}, "USE_RAY"),
        (("--use-ray",), {"index": 0}, "USE_RAY"),
        (("--use-ray", "--tp", "8"), {"size": 1, "index": 0}, None),
        (("--use-ray", "--tp", "16"), {"size": 1, "index": 0}, None),
        (("--enable-dp-attention", "--dp-size", "16"), {}, None),
        (("--tp", "16", "--device", "cpu"), {"gpus": 0}, None),
        (("--tp", "8"), {"size": 1, "index": 0}, None),
        (("--dp-size", "2", "--tp", "4"), {"size": 1, "index": 0}, None),
        (("--dp-size", "4", "--tp", "4"), {"size": 1, "index": 0}, "TP_GPUS"),
        (("--dp-size", "9"), {"size": 1, "index": 0}, "TP_GPUS"),
        (("--dp-size", "4", "--tp", "8", "--enable-dp-attention"), {"size": 1, "index": 0}, None),
        (("--port", "20000"), {}, "PORT_CLASH"),
        (("--port", "20013"), {}, None),
        (("--port", "20013", "--enable-dp-attention"), {}, "PORT_CLASH"),
        (("--port", "20007", "--enable-dp-attention"), {}, None),
        (("--port", "20000"), {"size": 1, "index": 0}, None),
        (("--dist-init-addr", "h:65530"), {}, None),
        (("--dist-init-addr", "h:65530", "--enable-dp-attention"), {}, "PORTS_OUT_OF_RANGE"),
        (("--dist-init-addr", "h:65522", "--enable-dp-attention"), {}, None),
    ],
)
def test_refused_at_once(argv: tuple[str, ...], options: dict[str, int], code: str | None) -> None:
    problems = build(*argv, **options).problems  # type: ignore[arg-type]
    assert [problem.code for problem in problems] == ([code] if code else [])
    for problem in problems:
        assert problem.exit_code == (78 if problem.fatal else 0)


@pytest.mark.parametrize(
    "argv",
    [("--tp", "x"), ("--port", "0"), ("--port", "70000"), ("--pp-size", "-1"), ("--nnodes", "2", "--dp-size", "")],
)
def test_numbers_that_are_none(argv: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(*argv)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$(LWS_LEADER_ADDRESS):20000", "not expanded"),
        ("tcp://h:1", "scheme"),
        ("h", "no port"),
        ("h:70000", "out of range"),
        ("fd00::1:20000", "without brackets"),
    ],
)
def test_dist_init_addresses_that_sglang_gives_up_on_in_ten_minutes(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        user_dist_init(read_arguments(("--dist-init-addr", text)), {})


@pytest.mark.parametrize(
    ("setting", "environ", "nodes", "count", "codes"),
    [
        (None, {}, None, None, []),
        (None, {}, 8, 8, []),
        (None, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 8, 4, []),
        (None, {"CUDA_VISIBLE_DEVICES": "GPU-aaa,GPU-bbb"}, 8, 2, []),
        (None, {"CUDA_VISIBLE_DEVICES": ""}, 8, 0, []),
        (None, {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 8, 1, []),
        (None, {"NVIDIA_VISIBLE_DEVICES": "all"}, 8, 8, []),
        (None, {"NVIDIA_VISIBLE_DEVICES": "void"}, 8, 8, []),
        (None, {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia"}, 8, 8, []),
        (None, {"NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 8, 2, []),
        ((4, "--gpus"), {"CUDA_VISIBLE_DEVICES": "0,1"}, 8, 4, ["GPUS_DISAGREE"]),
        ((8, "--gpus"), {}, 4, 8, ["GPUS_DISAGREE"]),
        ((8, "--gpus"), {}, None, 8, []),
    ],
)
def test_gpu_count(
    setting: tuple[int, str] | None,
    environ: dict[str, str],
    nodes: int | None,
    count: int | None,
    codes: list[str],
) -> None:
    gpus, problems = count_gpus(setting, environ, nodes)
    assert gpus.count == count
    assert [problem.code for problem in problems] == codes
