"""What SGLang goes on with, given the command of a plan, is what the plan says, release by release."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sglang.environment import Environment
    from tests.sglang.judge import Judge

pytestmark = pytest.mark.sglang

FOUR = Node().interface("eth0", "10.77.0.12/24")
SIX = Node().interface("eth0", "fd77::12/64")


@dataclass(frozen=True)
class Case:
    """One node of a group, and what SGLang must make of it (`D` is the rendezvous port)."""

    argv: tuple[str, ...]
    expected: dict[str, Any]
    leader: str = "127.0.0.1"
    size: int = 2
    index: int = 1
    only_ipv6: bool = False
    options: tuple[str, ...] = ()
    attention: bool = False
    d: int = 20000
    not_in: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


CASES = {
    "computed": Case((), {"tp_size": 16}),
    "the leader": Case((), {"tp_size": 16}, index=0),
    "four nodes": Case((), {"tp_size": 32}, size=4, index=3),
    "another rendezvous port": Case((), {"tp_size": 16}, options=("--dist-init", "21000"), d=21000),
    "a leader by name": Case((), {"tp_size": 16}, leader="sglang-0.sglang.default"),
    "a leader by IPv6 address": Case((), {"tp_size": 16}, leader="[fd77::11]", only_ipv6=True),
    "pipeline parallel": Case(
        ("--pp-size", "2"), {"tp_size": 8, "pp_size": 2}, not_in=("0.4.3.post2",)
    ),
    "one node": Case(("--tp", "8"), {"tp_size": 8}, size=1, index=0),
    "the user's spellings": Case(
        ("--tensor-parallel", "8", "--nnode=2", "--node-r", "1", "--nccl-init-addr=127.0.0.1:25000", "--ho", "::1"),
        {"tp_size": 8, "dist_init_addr": "127.0.0.1:25000", "host": "::1"},
        d=25000,
    ),
    "the user's HTTP port": Case(("--po", "31000"), {"tp_size": 16, "port": 31000}),
    "a file": Case(
        ("--config", "serve.yaml"),
        {"tp_size": 8, "port": 31000},
        files={"serve.yaml": "tensor-parallel-size: 8\nport: 31000\n"},
        not_in=("0.4.3.post2", "0.4.6.post5", "0.5.2"),
    ),
    "attention data parallel": Case(
        ("--enable-dp-attention", "--dp-size", "16"), {"tp_size": 16}, attention=True, d=27000,
        options=("--dist-init", "27000"),
    ),
    "attention data parallel, new spelling": Case(
        ("--attn-dp-size", "16"), {"tp_size": 16}, attention=True, d=27100, options=("--dist-init", "27100"),
        not_in=("0.4.3.post2", "0.4.6.post5", "0.5.2", "0.5.6.post2", "0.5.9", "0.5.15.post1"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A dry run's document, and the directory that its command starts in."""

    document: dict[str, Any]
    directory: Path

    @property
    def arguments(self) -> list[str]:
        """SGLang's arguments: the command behind `-m sglang.launch_server`."""
        argv = self.document["argv"]
        assert argv[1:3] == ["-m", "sglang.launch_server"]
        return list(argv[3:])


@pytest.fixture(scope="module")
def planned(environment: Environment, entry: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Planned]:
    """Return the plan of each case, made by the installed command."""
    plans = {}
    for name, case in CASES.items():
        directory = tmp_path_factory.mktemp("case")
        (SIX if case.only_ipv6 else FOUR).write(directory / "node")
        for file, text in case.files.items():
            (directory / file).write_text(text, encoding="utf-8")
        words = ["--snapshot", str(directory / "node"), "--dry-run=json", "--rdma", "off", "--gpus", "8"]
        group = {
            "LWS_LEADER_ADDRESS": case.leader,
            "LWS_GROUP_SIZE": str(case.size),
            "LWS_WORKER_INDEX": str(case.index),
        }
        model = ("--model-path", str(environment.folders["model"]))
        done = subprocess.run(
            [str(entry), *words, *case.options, *model, *case.argv],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(entry.parents[1]),
                **(group if case.size > 1 else {}),
            },
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        document = json.loads(done.stdout)
        errors = [problem for problem in document["problems"] if problem["severity"] == "error"]
        assert errors == [], name
        plans[name] = Planned(document, directory)
    return plans


def expected_of(case: Case) -> dict[str, Any]:
    """Return what SGLang must go on with, from the case alone."""
    return {
        "nnodes": case.size,
        "node_rank": case.index,
        "dist_init_addr": f"{case.leader}:{case.d}" if case.size > 1 else None,
        "host": "::" if case.only_ipv6 else "0.0.0.0",
        "port": 30000,
        **case.expected,
    }


def differences(judge: Judge, case: Case, arguments: list[str], directory: Path) -> list[str]:
    """Return how what SGLang makes of the arguments differs from what the case expects."""
    # Without a GPU SGLang refuses to guess its device; with it, its checks are those of a real deployment.
    real = judge.resolve([*arguments, "--device", "cuda"], directory)
    if "refused" in real:
        return [f"refused: {real['refused']}"]
    return [
        f"{name}: {real[name]!r}, expected {value!r}"
        for name, value in expected_of(case).items()
        if real[name] != value
    ]


@pytest.mark.parametrize("name", CASES)
def test_sglang_goes_on_with_what_the_plan_says(judge: Judge, planned: dict[str, Planned], name: str) -> None:
    case, plan = CASES[name], planned[name]
    if judge.release.version in case.not_in:
        assert "refused" in judge.resolve([*plan.arguments, "--device", "cuda"], plan.directory)
        return
    assert differences(judge, case, plan.arguments, plan.directory) == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.attention])
def test_a_worker_looks_where_attention_data_parallelism_listens(
    judge: Judge, planned: dict[str, Planned], name: str
) -> None:
    """The port that opens first is among those that the plan waits for; so is the handshake's."""
    case, plan = CASES[name], planned[name]
    if judge.release.version in case.not_in:
        return
    real = judge.resolve([*plan.arguments, "--device", "cuda"], plan.directory)
    waited = plan.document["wait"]["ports"]
    assert real["tokenizer"] == f"tcp://{case.leader}:{case.d + 1}"
    assert case.d + 1 in waited
    if real["handshake_delta"] is not None:
        assert case.d + real["handshake_delta"] in waited


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--node-rank", "0"), "node_rank"),
        (("--nnodes", "4"), "nnodes"),
        (("--tp-size", "15"), "refused"),
        (("--dist-init-addr", "127.0.0.1:20001"), "dist_init_addr"),
        (("--host", "127.0.0.1"), "host"),
    ],
)
def test_a_wrong_plan_is_noticed(
    judge: Judge, planned: dict[str, Planned], wrong: tuple[str, str], said: str
) -> None:
    """The last word counts for SGLang: with a wrong one appended the judge must object."""
    plan = planned["computed"]
    found = differences(judge, CASES["computed"], [*plan.arguments, *wrong], plan.directory)
    assert [sentence.partition(":")[0] for sentence in found] == [said]
