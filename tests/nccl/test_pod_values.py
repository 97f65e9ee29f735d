"""Values for NCCL that the pod has set itself: kept, and the plan says what NCCL makes of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.nccl.nodes import NodePort, Slot, build_node, classic, own, rail, scratch
from tests.nccl.plans import assert_nccl_follows, fabric_environment, plan_of, planned_nodes, planned_ports
from tests.nccl.tables import random_node, random_selector
from tests.trees import V1

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nccl.judge import Judge

NODES = 24

#: Values of NCCL_IB_GID_INDEX. -1 comes in from 2.21 on; before, it is used as it is and cannot connect.
INDEX_TEXTS = ("3", "5", "0x3", "03", " 5 ", "3,5", "auto", "0x", "08", "4294967299", "99999999999999999999")

LEFT: dict[str, tuple[list[NodePort], dict[tuple[str, int], int]]] = {
    # name: (ports, what is used, with its index)
    "foreign GIDs first": (
        [
            NodePort("mlx5_0", 1, {**classic("10.9.9.1", first=2), **classic(own(0), first=4)}, 16, (own(0),)),
            NodePort("mlx5_1", 1, {**classic("10.9.9.2", first=2), **classic(own(1), first=4)}, 16, (own(1),)),
        ],
        {("mlx5_0", 1): 5, ("mlx5_1", 1): 5},
    ),
    "foreign GIDs of the own networks first": (
        [
            rail("mlx5_0", 0, first=4),
            NodePort("mlx5_1", 1, {**classic("10.0.1.9", first=2), **classic(own(1), first=4)}, 16, (own(1),)),
        ],
        {("mlx5_0", 1): 5},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_an_index_that_the_pod_leaves_to_nccl(judge: Judge, tmp_path: Path, name: str) -> None:
    """With -1 the same index on all ports does not help: NCCL scans, and may find another pod's GID first."""
    ports, used = LEFT[name]
    node = build_node(tmp_path, ports, nccl=judge.release.version)
    plan = plan_of(node, {"NCCL_IB_GID_INDEX": "-1"})
    if judge.release.number < (2, 21):
        # -1 is an index like any other there, and none that a table has.
        assert set(judge.connections(node, fabric_environment(plan)).values()) == {None}
        assert "GID_INDEX_WRONG" in [problem["code"] for problem in plan["problems"]]
        return
    assert planned_ports(plan) == used
    assert_nccl_follows(judge, node, plan)


def test_a_selector_with_a_port_on_which_our_index_is_empty(judge: Judge, tmp_path: Path) -> None:
    """No index from 2.21 on, so that the port without an address is as it is without this program."""
    bare = NodePort("mlx5_1", 1, {0: Slot("fe80::2", V1), 1: Slot("fe80::2")}, 16, ())
    node = build_node(tmp_path, [rail("mlx5_0", 0), bare], nccl=judge.release.version)
    pod = {"NCCL_IB_HCA": "mlx5_0,mlx5_1"}
    plan = plan_of(node, pod)
    assert planned_ports(plan) == {("mlx5_0", 1): 3}
    taken = judge.connections(node, fabric_environment(plan))
    assert taken["mlx5_0", 1] == 3
    if judge.release.number >= (2, 21):
        assert plan["environment"]["NCCL_IB_GID_INDEX"]["value"] is None
        assert taken == judge.connections(node, pod)


def test_what_the_pod_has_set_itself(judge: Judge) -> None:
    """A selector or an index of the pod is kept: the plan then says what NCCL makes of it."""
    rng = random.Random(41)
    nodes = [random_node(rng) for _ in range(NODES)]
    environments = []
    for ports in nodes:
        devices = [port.device for port in ports]
        # The form whose meaning changed in 2.30.7, and any other.
        selector = random_selector(rng, devices) if rng.random() < 0.7 else f"={rng.choice(devices)}:"
        index = rng.choice((*INDEX_TEXTS, "-1", "-1") if judge.release.number >= (2, 21) else INDEX_TEXTS)
        environments.append({"NCCL_IB_HCA": selector} if rng.random() < 0.7 else {"NCCL_IB_GID_INDEX": index})
    followed = 0
    with scratch() as folder:
        for (node, plan), environment in zip(
            planned_nodes(judge, folder, nodes, environments), environments, strict=True
        ):
            taken = judge.connections(node, fabric_environment(plan))
            for port in plan["ports"]:
                key = (port["device"], port["port"])
                if port["used"]:
                    assert taken[key] == port["gid_index"], (environment, port)
                    followed += 1
                elif environment.get("NCCL_IB_HCA"):
                    # What is left out for another reason is warned about: NCCL will use it.
                    excluded = port["reason"] == "USER_EXCLUDED"
                    assert excluded == (key not in taken), (environment, port)
    assert followed > NODES
