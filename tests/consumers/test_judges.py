"""Released libraries read what this program writes for them as it means it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.server.transfer import nixl_reads_option, reads_map
from tests.consumers.wheels import SGLANG
from tests.decision.golden import hgx
from tests.packaged import h20_roce
from tests.planning import plan_of, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.consumers.conftest import Ask
    from tests.consumers.sglang_source import Validator
    from tests.trees import Node

pytestmark = pytest.mark.consumers

PREFILL = ("--model-path", "/m", "--disaggregation-mode", "prefill")
NIXL = (*PREFILL, "--disaggregation-transfer-backend", "nixl")


def _versioned(node: Node, version: str) -> Node:
    node.facts["versions"]["sglang"] = version
    return node


@pytest.mark.parametrize("version", SGLANG)
@pytest.mark.parametrize("build", [hgx, h20_roce])
def test_sglang_accepts_what_it_is_given(
    validator: Callable[[str], Validator], version: str, build: Callable[[], Node]
) -> None:
    sglang = validator(version)
    plan = plan_of(_versioned(build(), version), *PREFILL)
    devices = [hca.name for hca in plan.facts.hcas]
    text = plan.transfer.tokens[1]
    assert sglang.validate(text, devices) == text
    for gpu in range(8):
        near = plan.affinity.names(gpu)
        given = sglang.for_gpu(text, gpu).split(",")
        assert given == (list(near) if text.startswith("{") else devices)


@pytest.mark.parametrize("version", SGLANG)
def test_which_release_reads_a_map(validator: Callable[[str], Validator], version: str) -> None:
    text = json.dumps({"0": "mlx5_0", "1": "mlx5_1"}, separators=(",", ":"))
    try:
        read = validator(version).validate(text, ["mlx5_0", "mlx5_1"]) == text
    except ValueError:
        read = False
    assert read is reads_map(version)


@pytest.mark.parametrize("version", SGLANG)
def test_which_release_reads_the_option_with_nixl(validator: Callable[[str], Validator], version: str) -> None:
    assert ("ib_device" in validator(version).nixl) is nixl_reads_option(version)


@pytest.mark.parametrize(
    "text", ["mlx5_77", "mlx5_0:1", "=mlx5_0", '{"0":"mlx5_9"}', '{"gpu0":"mlx5_0"}', "{}", " , "]
)
def test_sglang_refuses_what_is_warned_about(validator: Callable[[str], Validator], text: str) -> None:
    node = hgx()
    plan = plan_of(node, *PREFILL, f"--disaggregation-ib-device={text}")
    assert "IB_DEVICE" in [problem.code for problem in plan.problems]
    with pytest.raises((ValueError, RuntimeError)):
        validator("0.5.23").validate(text, [hca.name for hca in plan.facts.hcas])


def _resources(text: str) -> list[str]:
    return [line.rpartition(" -- ")[2].strip() for line in text.splitlines() if " resource " in line]


def test_ucx_keeps_its_tcp_with_the_list_it_is_given(ucx_info: Ask) -> None:
    node = _versioned(h20_roce(), "0.5.10").set(environ={})
    node.files.pop("/proc/net/route")
    given = value(plan_of(node, *NIXL), "UCX_NET_DEVICES")
    assert given is not None
    assert given.endswith(",lo")  # no group here, and no route: every machine has lo
    out = ucx_info({"UCX_NET_DEVICES": given})
    assert "tcp/lo" in _resources(out)
    assert "'mlx5_bond_0:1'" in out  # not on this machine, and named with its port as one device
    assert "'lo'" not in out.partition("please use")[0]


@pytest.mark.parametrize("devices", ["mlx5_0:1", "=lo", "lo:1"])
def test_ucx_without_an_interface_has_no_tcp(ucx_info: Ask, devices: str) -> None:
    assert not [one for one in _resources(ucx_info({"UCX_NET_DEVICES": devices})) if one.startswith("tcp/")]


def test_ucx_excludes_with_a_caret(ucx_info: Ask) -> None:
    assert "tcp/lo" in _resources(ucx_info({}))
    assert "tcp/lo" not in _resources(ucx_info({"UCX_NET_DEVICES": "^lo"}))


_IGNORED = "Ignore value from environment variable MC_GID_INDEX"


@pytest.mark.parametrize(
    ("environ", "ignored"),
    [
        ({}, False),
        ({"MC_GID_INDEX": "255"}, False),
        ({"MC_GID_INDEX": "256"}, True),
        ({"NCCL_IB_GID_INDEX": "-1"}, True),
        ({"NCCL_IB_GID_INDEX": "3"}, False),
        ({"MC_GID_INDEX": "3", "NCCL_IB_GID_INDEX": "-1"}, False),
    ],
)
def test_mooncake_inherits_nccls_index_unless_it_has_its_own(
    mooncake: Ask, environ: dict[str, str], ignored: bool
) -> None:
    out = mooncake(environ)
    assert "initialize 0" in out
    assert (_IGNORED in out) is ignored


def test_mooncake_reads_its_filter(mooncake: Ask) -> None:
    node = hgx()
    node.hca("mlx5_9", pci="0000:99:00.0").port().pair("10.99.0.1", "ens9", 2)
    given = value(plan_of(node, "--model-path", "/m", "--hicache-storage-backend", "mooncake"), "MC_TE_FILTERS")
    assert given is not None
    out = mooncake({"MC_TE_FILTERS": given})
    line = next(line for line in out.splitlines() if "whitelist" in line)
    assert set(line.partition("whitelist: ")[2].replace(",", " ").split()) == set(given.split(","))
