"""A rail without an address is a problem of the launch; what is no rail is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.report.folding import folded_problems
from tests.decision.conftest import Decide, rail
from tests.healthy import healthy
from tests.planning import codes, message, plan_of
from tests.trees import Node

if TYPE_CHECKING:
    from collections.abc import Callable

LOST = "RAIL_WITHOUT_ADDRESS"


def _pair(second_model: str = "0x1021") -> Node:
    """Return a node with one rail and a second one as fast, of the same model where it is not given."""
    node = rail(Node(), 0, pci="0000:10:00.0")
    return rail(node, 1, pci="0000:20:00.0", device_id=second_model)


def _without_address(node: Node, name: str = "net1") -> Node:
    node.facts["interfaces"][name]["addresses"] = ["fe80::9/64"]
    node.ports[1].used.clear()
    node.ports[1].pair("fe80::9", name)
    return node


def test_a_rail_that_lost_its_address(decide: Decide) -> None:
    outcome = decide(_without_address(_pair()))
    assert outcome.left == {"mlx5_1:1": "NO_OWN_GID"}
    assert outcome.codes == [LOST]
    assert outcome.problem(LOST).startswith(
        "mlx5_1:1 is up and as fast as the used ports, but is not used: only link-"
    )


def test_it_is_in_the_log_of_a_launch_with_a_remedy_in_the_readers_world() -> None:
    node = healthy()
    node.facts["interfaces"]["net1"]["addresses"] = ["fe80::2/64"]
    plan = plan_of(node, "--model-path", "/m")
    problem = next(one for one in plan.problems if one.code == LOST)
    assert (problem.severity, plan.exit_code) == ("warning", 0)
    assert problem.hint == (
        "give net1 an address as the other rails have one (ip -br address), or leave it out on purpose: "
        "--hca ^=mlx5_1:1"
    )
    assert codes(plan_of(node, "--hca", "^=mlx5_1:1", "--model-path", "/m")) == []


def test_several_are_one_line_with_what_leaves_all_of_them_out() -> None:
    node = healthy(rails=4)
    for name in ("net1", "net2", "net3"):
        node.facts["interfaces"][name]["addresses"] = [f"fe80::{int(name[-1]) + 1}/64"]
    problems = plan_of(node, "--model-path", "/m").problems
    assert [one.code for one in problems] == [LOST] * 3
    (folded,) = folded_problems(problems)
    assert folded.message.startswith("mlx5_[1-3]:1 is up and as fast as the used ports")
    assert folded.hint.startswith("give net[1-3] an address")
    assert folded.hint.endswith("--hca ^=mlx5_1:1,mlx5_2:1,mlx5_3:1")


def test_a_rail_with_an_address_of_the_other_family(decide: Decide) -> None:
    node = _pair()
    node.facts["interfaces"]["net1"]["addresses"] = ["fd00::7/64"]
    node.ports[1].used.clear()
    node.ports[1].pair("fd00::7", "net1")
    outcome = decide(node)
    assert outcome.left == {"mlx5_1:1": "FAMILY_MISMATCH"}
    assert outcome.codes == [LOST]
    assert LOST not in decide(node, family="ipv4").codes


def _slower(node: Node) -> None:
    node.files[f"{node.ports[1].base}/rate"] = "50 Gb/sec (4X FDR)"


NO_RAIL: dict[str, Callable[[Node], object]] = {
    "it is down": lambda node: node.files.update({f"{node.ports[1].base}/state": "1: DOWN"}),
    "it is slower": _slower,
    "its interface is the host's": lambda node: node.facts["interfaces"].pop("net1"),
    "its interface is another of that name": lambda node: node.interface("net1", "fe80::77/64", "10.1.1.7/24"),
}


@pytest.mark.parametrize("why", NO_RAIL)
def test_what_is_no_rail(decide: Decide, why: str) -> None:
    node = _without_address(_pair())
    assert LOST in decide(node).codes
    NO_RAIL[why](node)
    assert LOST not in decide(node).codes


def test_the_physical_function_of_a_used_one_is_no_rail(decide: Decide) -> None:
    node = rail(Node(), 0, pci="0000:10:00.0", physfn="0000:20:00.0")
    assert LOST not in decide(_without_address(rail(node, 1, pci="0000:20:00.0"))).codes


def test_a_card_of_another_model_is_no_rail(decide: Decide) -> None:
    assert LOST not in decide(_without_address(_pair("0x1015"))).codes


def test_nothing_is_lost_where_nothing_is_used(decide: Decide) -> None:
    node = _without_address(_pair())
    node.facts["verbs"]["uverbs0"] = "EPERM"
    assert LOST not in decide(node).codes


def test_the_message_is_one_line_for_equal_rails() -> None:
    node = healthy(rails=4)
    for name in ("net1", "net3"):
        kept = [one for one in node.facts["interfaces"][name]["addresses"] if one.startswith("fe80")]
        node.facts["interfaces"][name]["addresses"] = kept
    assert "mlx5_1:1 is up" in message(plan_of(node), LOST)
    assert codes(plan_of(node)).count(LOST) == 2


DOWN = "RAIL_DOWN"


def _unplugged(node: Node, *, address: bool = True, netdev_up: bool = True) -> Node:
    if not address:
        _without_address(node)
    node.facts["interfaces"]["net1"]["up"] = netdev_up
    if netdev_up:
        node.files[f"{node.ports[1].base}/state"] = "1: DOWN"
    return node


@pytest.mark.parametrize("netdev_up", [True, False])
def test_a_rail_whose_link_is_down(decide: Decide, netdev_up: bool) -> None:
    outcome = decide(_unplugged(_pair(), netdev_up=netdev_up))
    assert outcome.codes == [DOWN]
    assert outcome.problem(DOWN).startswith("mlx5_1:1 is a card like the used ones, but is not used: ")
    assert decide(_unplugged(_pair()), hca="^=mlx5_1:1").codes == []
    assert DOWN not in decide(_unplugged(_pair()), environ={"NCCL_IB_HCA": "mlx5"}).codes


def test_a_link_that_is_down_is_a_rail_by_the_gpu_that_lacks_it(decide: Decide) -> None:
    """Whoever manages the network takes the address away with the link; a card's second port is as near as its first."""
    node, bridge = Node(), "pci0000:10/0000:10:01.0/0000:11:00.0"
    for number, (place, pci) in enumerate((("0", "0000:1a:00.0"), ("0", "0000:1a:00.1"), ("1", "0000:2a:00.0"))):
        below = bridge.replace(":1", f":{int(place) + 1}")
        rail(node, number, pci=pci, bridge=f"{below}/{pci[:5]}{pci[5]}0:01.0", netdevs=(f"net{number}",))
        node.gpu(f"0000:{int(place) + 1}b:00.0", f"{below}/{pci[:5]}{pci[5]}0:02.0", answer="ok", minor=int(place))
    for name, port in (("net1", node.ports[1]), ("net2", node.ports[2])):
        node.facts["interfaces"][name]["addresses"] = []
        port.used.clear()
        node.files[f"{port.base}/state"] = "1: DOWN"
    outcome = decide(node)
    assert set(outcome.used) == {"mlx5_0:1"}
    assert outcome.codes == [DOWN]
    assert outcome.problem(DOWN).startswith("mlx5_2:1 is a card like the used ones")


NOT_DOWN: dict[str, Callable[[Node], object]] = {
    "it has no address": _without_address,
    "of another model": lambda node: node.files.update(
        {path: "0x1015" for path in node.files if path.endswith("0000:20:00.0/device")}
    ),
    "its interface is the host's": lambda node: node.facts["interfaces"].pop("net1"),
    "its interface is another of that name": lambda node: node.interface("net1", "fe80::77/64", "10.9.1.7/24"),
}


@pytest.mark.parametrize("why", NOT_DOWN)
def test_a_link_that_is_no_rails(decide: Decide, why: str) -> None:
    node = _unplugged(_pair())
    assert DOWN in decide(node).codes
    NOT_DOWN[why](node)
    assert DOWN not in decide(node).codes


def test_one_address_on_two_interfaces(decide: Decide) -> None:
    node = _pair()
    node.ports[1].used.clear()
    node.ports[1].pair("fe80::2", "net1").pair("10.0.0.1", "net1")
    node.interface("net1", "10.0.0.1/24", "fe80::2/64")
    outcome = decide(node)
    assert set(outcome.used) == {"mlx5_0:1", "mlx5_1:1"}
    assert outcome.codes == ["ADDRESS_TWICE"]
    assert "10.0.0.1 is the address of several ports (mlx5_0:1 on net0, mlx5_1:1 on net1)" in outcome.problem(
        "ADDRESS_TWICE"
    )
