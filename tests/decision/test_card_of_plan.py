"""What a node's card says: equal nodes have equal common texts, however their arguments are spelled."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.group.meeting.comparison.compare import Member, Rules, judge
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.host.further.card_facts import CardFacts
from sglang_roce_entry.plan.card import CardMaker
from sglang_roce_entry.plan.inputs import identify, read_request
from sglang_roce_entry.plan.plan import look_and_plan
from sglang_roce_entry.report.rehearsal import as_text, document
from sglang_roce_entry.report.secrets import is_secret_variable
from tests.healthy import healthy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sglang_roce_entry.group.meeting.card import Card
    from tests.trees import Node

FACTS = CardFacts(
    {"torch": "2.9.1", "driver": "580.95.05"}, ("NVIDIA H100",) * 8, False, "boot", "net:[1]", {"net0": False}
)
SECRET = "s3cr3t-value"


def card_of(
    *arguments: str,
    node: Node | None = None,
    environ: Mapping[str, str] | None = None,
    nonce: str = "n",
    facts: CardFacts = FACTS,
) -> Card:
    node = node or healthy()
    invocation = parse_command_line(("--dry-run", "--", "--model-path", "/m", *arguments))
    variables = {**node.facts.get("environ", {}), **(environ or {})}
    host = node.host()
    request = read_request(invocation, read_settings(invocation.flags, variables, None), variables, host)
    plan, _ = look_and_plan(request, identify(request), host)
    return CardMaker(request, plan, facts, "sglang-0:20000", is_secret_variable, lambda: 1000.5).make(nonce)


def common(card: Card) -> Mapping[str, str]:
    assert card.common is not None
    return card.common


def test_what_a_card_says() -> None:
    card = card_of("--dtype=bfloat16", environ={"NCCL_IB_TC": "106", "POD_NAME": "sglang-0-1"})
    assert common(card) == {
        "--dtype": "bfloat16",
        "--model-path": "/m",
        "--nnodes": "2",
        "--tp-size": "16",
        "NCCL_IB_TC": "106",
        "NCCL_NET": "IB",
        "driver": "580.95.05",
        "family": "IPv4",
        "gpu_model": "NVIDIA H100",
        "gpus": "8",
        "launcher": common(card)["launcher"],
        "nccl": "2.28.3",
        "rail_rates": "400",
        "rails": "2",
        "rdma": "RoCE",
        "roce_mtu": "4096",
        "sglang": "0.5.10",
        "torch": "2.9.1",
    }
    own = card.own
    assert (card.size, card.index, card.pod, card.refusal) == (2, 1, "sglang-0-1", None)
    assert (own.address, own.interface, own.clock_s) == ("10.0.0.12", "eth0", 1000.5)
    assert [(rail.device, rail.network, rail.gid, rail.routed) for rail in own.rails] == [
        ("mlx5_0", "10.1.0.0/24", "10.1.0.1", False),
        ("mlx5_1", "10.1.1.0/24", "10.1.1.1", None),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("--tp", "16"), ("--tensor-parallel-size=16",)),
        (("--mem-fraction-static", "0.80"), ("--mem-frac=.8",)),
        (("--context-length", "32k"), ("--context-l", "32000")),
        (("--json-model-override-args", '{"b": 1, "a":2}'), ("--json-model-override-args", '{"a": 2, "b":1}')),
        (("--dtype", "auto", "--pp", "1"), ()),
        (("--cuda-graph-bs-decode", "1", "2"), ("--cuda-graph-bs-decode", "01", "2")),
        (("--trust-remote-code", "--enable-mixed-chunk"), ("--enable-mixed-chunk", "--trust-remote-code")),
        (("--dtype", "half", "--dtype", "float16"), ("--dtype", "float16")),
        (("--log-level", "debug", "--port", "31000"), ("--host", "::")),
        (("--disaggregation-ib-device", "mlx5_0"), ("--disaggregation-ib-device", "mlx5_1")),
    ],
)
def test_spellings_and_what_may_differ_are_no_difference(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert card_of(*one).digest == card_of(*other).digest


@pytest.mark.parametrize(
    "argument", [("--dtype", "half"), ("--enable-mixed-chunk",), ("--of-later", "3"), ("--no-dllm-fdfo",)]
)
def test_what_differs_is_a_difference(argument: tuple[str, ...]) -> None:
    assert card_of(*argument).digest != card_of().digest


@pytest.mark.parametrize(
    "environ",
    [
        {"NCCL_DEBUG": "INFO"}, {"NCCL_SOCKET_IFNAME": "=eth0"}, {"NCCL_IB_HCA": "mlx5"}, {"UCX_LOG_LEVEL": "info"},
        {"SGLANG_SERVICE_HOST": "10.0.0.1", "SGLANG_PORT_30000_TCP": "tcp://10.0.0.1:30000"}, {"NVSHMEM_IB_GID_INDEX": "3"},
        {"SGLANG_ROCE_HCA_WAIT": "3"}, {"HOME": "/x"}, {"NCCL_IB_TC": ""},
    ],
)  # fmt: skip
def test_variables_of_the_node_do_not_travel(environ: Mapping[str, str]) -> None:
    assert card_of(environ=environ).digest == card_of().digest


def test_secrets_travel_as_a_digest_of_this_meeting() -> None:
    arguments = [
        *("--api-key", SECRET, "--of-later", f"https://user:{SECRET}@host/", "--watermark-config", SECRET),
        *("--hf-token", SECRET, f"--later-secret-key={SECRET}"),
        *("--model-loader-extra-config", f'{{"token": "{SECRET}"}}'),
    ]
    environ = {
        "SGLANG_X_TOKEN": SECRET,
        "NCCL_URL": f"http://h/?token={SECRET}",
        "MC_JSON": f'{{"api_key": "{SECRET}"}}',
    }
    card = card_of(*arguments, environ=environ)
    assert SECRET.encode() not in card.line() + card.common_text()
    assert {
        "--api-key",
        "--of-later",
        "--hf-token",
        "--later-secret-key",
        "SGLANG_X_TOKEN",
        "NCCL_URL",
        "MC_JSON",
    } <= common(card).keys()
    assert card_of(*arguments, environ=environ).digest == card.digest
    assert card_of(*arguments, environ=environ, nonce="other").digest != card.digest
    assert common(card_of("--api-key", "another"))["--api-key"] != common(card)["--api-key"]


def test_the_machine_is_not_named() -> None:
    line = card_of(nonce="a").line()
    assert b"boot" not in line
    assert json.loads(line)["machine"] != json.loads(card_of(nonce="b").line())["machine"]


def test_a_refusal_is_the_error_that_decides() -> None:
    refusal = card_of("--tp", "15").refusal
    assert refusal is not None
    assert (refusal.code, refusal.exit_code) == ("TP_NODES", 78)


def test_without_rdma() -> None:
    card = card_of(environ={"NCCL_IB_DISABLE": "1"})
    assert (common(card)["rdma"], card.own.rails) == ("off", ())
    assert not {"rails", "rail_rates", "roce_mtu", "family"} & common(card).keys()


def test_arguments_of_a_file_count(tmp_path: object) -> None:
    node = healthy()
    node.files["/serve.yaml"] = "dtype: half\nenable-mixed-chunk: true\ncuda-graph-bs-decode: [1, 2]\n"
    in_file = card_of("--config", "/serve.yaml", node=node)
    given = card_of("--dtype", "half", "--enable-mixed-chunk", "--cuda-graph-bs-decode", "1", "2")
    assert common(in_file) == common(given)


@pytest.mark.parametrize(
    ("nccl", "ending"),
    [
        ("2.28.3", "The group would end with exit code 69 (ROCE_MTU_DIFFERS)."),
        ("2.20.5", "The group would end with exit code 69 (ROCE_MTU_DIFFERS)."),
        ("2.29.7", "The group would start."),
    ],
)
def test_mtus_of_two_nodes_as_a_rehearsal_shows_them(nccl: str, ending: str) -> None:
    """From the interfaces of each to the sentence: NCCL 2.20 to 2.28 takes no smaller one (NVIDIA/nccl#1524)."""
    members, commons = [], {}
    for index, mtu in enumerate((4200, 1500)):
        node = healthy(mtu=mtu)
        node.facts["versions"]["nccl"] = nccl
        there = replace(FACTS, boot_id=f"boot {index}")
        card = card_of(node=node, environ={"LWS_WORKER_INDEX": str(index)}, nonce=f"n{index}", facts=there)
        members.append(Member(card, f"10.0.0.1{index + 1}", 1000.5, 1000.5))
        commons[card.digest] = common(card)
    verdict = judge(members, commons, Rules())
    shown = as_text(document(None, Gathered(members, commons, (), (), overdue=False), verdict))
    assert "ROCE_MTU_DIFFERS: the rails' RoCE MTU differs: " in shown
    assert "1024 on 1" in shown
    assert shown.splitlines()[-1] == ending
    assert ("ERROR ROCE_MTU_DIFFERS" in shown) == ("69" in ending)
