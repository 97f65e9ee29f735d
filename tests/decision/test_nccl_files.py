"""NCCL's configuration files: which are read, and lines that NCCL reads otherwise than they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.nccl.files import check_files
from tests.decision.golden import hgx
from tests.planning import codes, plan_of, value

if TYPE_CHECKING:
    from sglang_roce_entry.problems import Problem

PATH = "/etc/nccl.conf"


def check(text: str, nccl: tuple[int, ...] | None = (2, 28, 3), conf_file: str | None = None) -> list[Problem]:
    return check_files([(PATH, text)], nccl, conf_file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NCCL_DEBUG =INFO\n", "line 1: 'NCCL_DEBUG =INFO' sets a variable whose name has a space"),
        ("# comment\n NCCL_DEBUG=INFO\n", "line 2"),
        ("NCCL_DEBUG= INFO\n", "a value with a space"),
        ("export NCCL_DEBUG\n", "sets nothing"),
        (f"NCCL_IB_HCA={'m' * 1024}\n", "more than 1023 bytes"),
    ],
)
def test_lines_that_are_lost(text: str, words: str) -> None:
    (problem,) = check(text)
    assert problem.code == "NCCL_FILE_LINE"
    assert words in problem.message
    assert len(problem.message) < 300


@pytest.mark.parametrize("text", ["", "\n\n", "# a=b\nNCCL_DEBUG=INFO\n\nNCCL_X=a=b\n", "   \n"])
def test_good_files(text: str) -> None:
    assert check(text) == []


def test_carriage_returns_up_to_2_29() -> None:
    text = "NCCL_DEBUG=INFO\r\nNCCL_IB_HCA=mlx5\r\n"
    (problem,) = check(text)
    assert problem.code == "NCCL_FILE_CRLF"
    assert check(text, (2, 30, 3)) == []
    assert check(text, None) == []


def test_the_file_that_replaces_the_home_file() -> None:
    assert [one.code for one in check("", conf_file="/opt/none.conf")] == ["NCCL_CONF_FILE"]
    assert check("", conf_file=PATH) == []
    (problem,) = check("", (2, 21, 5), PATH)
    assert "NCCL 2.21.5 does not read it" in problem.message


def test_the_plan_reads_and_checks_them() -> None:
    node = hgx()
    node.facts["files"] = {"/opt/nccl.conf": "NCCL_IB_HCA==mlx5_0:1\nNCCL_DEBUG = INFO\n"}
    node.files["/opt/nccl.conf"] = node.facts["files"]["/opt/nccl.conf"]
    plan = plan_of(node, environ={"NCCL_CONF_FILE": "/opt/nccl.conf"})
    assert value(plan, "NCCL_IB_HCA") == "=mlx5_0:1"
    assert codes(plan) == ["NCCL_FILE_LINE"]
    assert codes(plan_of(hgx(), environ={"NCCL_CONF_FILE": "/opt/none.conf"})) == ["NCCL_CONF_FILE"]


@pytest.mark.parametrize(
    ("environ", "plugin"),
    [
        ({"NCCL_NET": "gIB"}, "Google gIB"),
        ({"NCCL_NET": "AWS Libfabric"}, "aws-ofi-nccl"),
        ({"NCCL_NET_PLUGIN": "/opt/amazon/ofi-nccl/lib/libnccl-net-ofi.so"}, "aws-ofi-nccl"),
        ({"NCCL_NET": "FasTrak"}, "Google GPUDirect-TCPXO"),
        ({"NCCL_NET": "GPUDirectTCPX_v7"}, "Google GPUDirect-TCPX"),
        ({"NCCL_NET": "IB"}, None),
        ({"NCCL_NET_PLUGIN": "none"}, None),
    ],
)
def test_external_plugins(environ: dict[str, str], plugin: str | None) -> None:
    plan = plan_of(hgx(), environ=environ)
    assert plan.choice.plugin == plugin
    assert ("EXTERNAL_PLUGIN" in {row.decision.reason for row in plan.choice.ports}) is (plugin is not None)
    assert (value(plan, "NCCL_IB_HCA") is None) is (plugin is not None)


def test_a_plugin_in_nccls_own_file() -> None:
    node = hgx()
    node.files["/etc/nccl.conf"] = "NCCL_NET=gIB\n"
    assert plan_of(node).choice.plugin == "Google gIB"


@pytest.mark.parametrize("line", ["hunter without equals", "HF_TOKEN = hunter", "export  HF_TOKEN= hunter"])
def test_what_is_not_nccls_is_not_shown(line: str) -> None:
    (problem,) = check(f"{line}\n")
    assert " ...'" in problem.message
    assert "= hunter" not in problem.message
    assert "without" not in problem.message
