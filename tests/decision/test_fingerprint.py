"""One line per pod, equal on equal nodes, different where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.report.fingerprint import fingerprint
from sglang_roce_entry.report.log_lines import decision_lines
from tests.decision.golden import LWS, hgx, two_per_gpu
from tests.planning import plan_of
from tests.trees import Node

if TYPE_CHECKING:
    from collections.abc import Callable


MODEL = ("--model-path", "/m")


def fields(node: Node, *argv: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    line = fingerprint(plan_of(node, *argv, environ=environ))
    assert "\n" not in line
    return dict(part.partition("=")[::2] for part in line.split(" "))


def test_what_it_says() -> None:
    found = fields(hgx(), *MODEL)
    assert found["hcas"] == "8:mlx5_[0-7]:1"
    assert found["rails"] == ",".join(f"10.20.{n}.0/24" for n in range(8))
    assert {k: found[k] for k in ("gbps", "mtu", "family", "index", "nccl", "sglang", "gpus")} == {
        "gbps": "400", "mtu": "4200", "family": "ipv4", "index": "3", "nccl": "2.28.3", "sglang": "0.5.23",
        "gpus": "8",
    }  # fmt: skip
    assert len(found["args"]) == 8


def test_leader_and_worker_are_equal() -> None:
    leader = fields(hgx(), *MODEL, "--node-rank", "0")
    worker = fields(hgx(), *MODEL, "--node-rank", "1", environ={**LWS, "LWS_WORKER_INDEX": "1"})
    assert leader == worker == fields(hgx(), *MODEL)


def _links(first: int, length: int, version: int = 4) -> Node:
    """Return a node with a network of its own on each of two links; ``first`` is the node's part of them."""
    node = Node()
    for number in range(2):
        address = f"10.50.{number}.{first}" if version == 4 else f"fd00::{number + 1}:0:{first:x}"
        node.interface(f"net{number}", f"{address}/{length}")
        node.hca(f"mlx5_{number}", pci=f"0000:{number + 1}0:00.0").port().pair(address, f"net{number}")
    return node


@pytest.mark.parametrize(("length", "version"), [(31, 4), (30, 4), (28, 4), (32, 4), (127, 6), (126, 6), (124, 6)])
def test_a_network_for_each_link_is_counted(length: int, version: int) -> None:
    one, other = (fields(_links(first, length, version), *MODEL) for first in (0x22, 0x62))
    assert one == other
    assert one["rails"] == f"2x/{length}"
    assert fields(_links(0x22, length - 8, version), *MODEL)["rails"] != one["rails"]


def test_secrets_do_not_enter() -> None:
    assert fields(hgx(), *MODEL, "--api-key", "a") == fields(hgx(), *MODEL, "--api-key", "b")


def _slow(node: Node) -> None:
    for path in node.files:
        if path.endswith("mlx5_3/ports/1/rate"):
            node.files[path] = "200 Gb/sec (4X HDR)\n"


DIFFERENT: dict[str, tuple[Callable[[Node], object], str]] = {
    "mtu": (lambda node: node.facts["interfaces"]["rail2"].update(mtu=1500), "mtu"),
    "rate": (_slow, "gbps"),
    "port": (lambda node: node.facts["verbs"].pop("uverbs3"), "hcas"),
    "nccl": (lambda node: node.facts["versions"].update(nccl="2.27.5"), "nccl"),
    "sglang": (lambda node: node.facts["versions"].update(sglang="0.5.10"), "sglang"),
    "gpus": (lambda node: node.facts.update(gpus=4), "gpus"),
}


@pytest.mark.parametrize("name", sorted(DIFFERENT))
def test_a_node_that_differs_stands_out(name: str) -> None:
    change, field = DIFFERENT[name]
    node = hgx()
    change(node)
    one, other = fields(hgx(), *MODEL), fields(node, *MODEL)
    assert {key for key in one if one[key] != other[key]} >= {field}


def test_other_arguments_and_a_withheld_index() -> None:
    assert fields(hgx(), *MODEL)["args"] != fields(hgx(), "--model-path", "/n")["args"]
    node = hgx()
    node.ports[0].used.clear()
    node.ports[0].pair("fe80::9", "rail4", 0).pair("10.20.4.11", "rail4", 6)
    assert fields(node, *MODEL)["index"] == "withheld"


def test_names_are_folded() -> None:
    assert fields(two_per_gpu(), *MODEL)["hcas"] == "8:mlx5_[0-7]:1"
    assert fields(hgx(), "--hca", "=mlx5_0,mlx5_2,mlx5_3,mlx5_4", *MODEL)["hcas"] == "4:mlx5_[0,2-4]:1"
    assert fields(hgx(), "--hca", "=mlx5_5", *MODEL)["hcas"] == "1:mlx5_5:1"


def test_nothing_to_use() -> None:
    off = fields(hgx(), "--rdma", "off", *MODEL)
    assert (off["hcas"], off["rails"], off["mtu"], off["index"]) == ("0:none", "-", "-", "withheld")
    plugin = fields(hgx(), *MODEL, environ={"NCCL_NET": "gIB"})
    assert plugin["plugin"] == "Google-gIB"


def test_one_line_of_the_launchs_log() -> None:
    lines = decision_lines(plan_of(hgx(), *MODEL))
    assert [line for line in lines if line.startswith("fingerprint: ")] == [lines[-1]]
