"""The installed command on a node whose verbs devices open, with a libibverbs that lists what the test says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.rails import ARGUMENTS, Leader, environment, missing_here, standin
from tests.layers import skip_or_fail
from tests.process.command import CHECKOUT, entry_command
from tests.verbs.stubs import stub_library

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.netns

Answer = tuple[int, Any]
Node = tuple[Leader, dict[str, str]]
HCAS = 3


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Return a leader with HCAs, and the environment of its container, with the stub before other libraries."""
    lacking = missing_here()
    if lacking:
        skip_or_fail("netns", lacking)
    folder = tmp_path_factory.mktemp("node")
    checkout = [CHECKOUT] if len(entry_command()) > 1 else []
    around = environment(standin(folder), *checkout)
    around["LD_LIBRARY_PATH"] = str(stub_library(folder))
    return Leader(folder / "leader", HCAS, 8), around


@pytest.fixture(scope="module")
def ask(node: Node) -> Callable[..., Answer]:
    """Return what gives the exit code and the document of a mode, where libibverbs does as it is ``told``."""
    leader, around = node

    def run(told: str, *options: str, **more: str) -> Answer:
        command = ["sh", "-c", '"$@"; echo "code $?"', "sh", *entry_command(), *options, *ARGUMENTS]
        said, _, code = leader.run(command, {**around, "STUB_VERBS": told, **more}).rpartition("code ")
        return int(code), json.loads(said)

    return run


def test_ports_that_libibverbs_does_not_list_are_left_out(ask: Callable[..., Answer]) -> None:
    code, plan = ask("mlx5_0,mlx5_2", "--dry-run=json")
    assert code == 0
    assert {port["device"]: port["reason"] for port in plan["ports"]} == {
        "mlx5_0": None,
        "mlx5_1": "NO_PROVIDER",
        "mlx5_2": None,
    }
    assert plan["environment"]["NCCL_IB_HCA"]["value"] == "=mlx5_0:1,mlx5_2:1"


def test_where_it_lists_none_rdma_is_unusable(ask: Callable[..., Answer]) -> None:
    code, plan = ask("rxe_0", "--dry-run=json")
    assert code == plan["exit_code"] == 69
    (problem,) = (one for one in plan["problems"] if one["code"] == "NO_USABLE_HCA")
    assert "NO_PROVIDER on mlx5_0:1, mlx5_1:1, mlx5_2:1" in problem["message"]
    assert "libibverbs does not list it" in problem["message"]
    assert "ibverbs-providers" in problem["hint"]


def test_where_rdma_is_optional_only_a_check_asks(ask: Callable[..., Answer]) -> None:
    optional = {"SGLANG_ROCE_RDMA": "optional"}
    _, plan = ask("crash", "--dry-run=json", **optional)
    assert {port["reason"] for port in plan["ports"]} == {None}
    assert "LIBIBVERBS_BROKEN" not in {one["code"] for one in plan["problems"]}
    code, check = ask("mlx5_0,mlx5_2", "--check=json", **optional)
    assert code == 0
    (line,) = (one for one in check["items"] if one["name"] == "verbs")
    assert line["status"] == "warn"
    assert line["evidence"].startswith("left out: mlx5_1: libibverbs does not list it")


@pytest.mark.parametrize(("told", "said"), [("crash", "signal 6 (Aborted)"), ("\x1b[2J", "no name of a device")])
def test_a_provider_that_breaks_is_a_warning(ask: Callable[..., Answer], told: str, said: str) -> None:
    code, plan = ask(told, "--dry-run=json")
    assert code == 0
    assert {port["reason"] for port in plan["ports"]} == {None}
    (problem,) = (one for one in plan["problems"] if one["code"] == "LIBIBVERBS_BROKEN")
    assert problem["severity"] == "warning"
    assert said in problem["message"]


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        ("crash", "CHILD_FAILED (the process that tried it was ended by signal 11 (Segmentation fault))"),
        ("lie", "PORT_DOWN (state 77, MTU 99)"),
    ],
)
def test_a_provider_that_breaks_later_is_a_line_and_no_failure(
    ask: Callable[..., Answer], opened: str, said: str
) -> None:
    code, check = ask("mlx5_0,mlx5_1,mlx5_2", "--check=json", STUB_OPEN=opened)
    assert code == 0
    found = [one for one in check["items"] if one["name"] == "loopback"]
    assert {one["status"] for one in found} == {"warn"}
    assert found[0]["evidence"] == f"mlx5_0:1 did not carry a message to itself: {said}"
    assert found[0]["remedy"]


@pytest.mark.parametrize("told", ["crash", "mlx5_0,mlx5_1,mlx5_2"])
def test_a_launch_goes_on(node: Node, told: str) -> None:
    leader, around = node
    command = ["sh", "-c", '"$@" 2>&1', "sh", *entry_command(), "--meeting", "off", *ARGUMENTS]
    said = leader.run(command, {**around, "STUB_VERBS": told}).splitlines()
    assert said[-1].isdecimal(), said  # the stand-in of SGLang
    assert any(line.endswith("[LIBIBVERBS_BROKEN]") for line in said) == (told == "crash"), said
