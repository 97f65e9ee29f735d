"""Wrong values on purpose: a judge that accepts everything would be noticed here."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from tests.nccl.nodes import NodePort, build_node, classic
from tests.nccl.plans import Plan, assert_nccl_follows, plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nccl.judge import Judge


@pytest.fixture
def node(judge: Judge, tmp_path: Path) -> Path:
    """Return a node whose own GID is at index 5, with mlx5_10 of somebody else beside mlx5_1."""
    own = "10.0.1.1/24"
    ports = [
        NodePort("mlx5_1", 1, classic(own, first=4), 16, (own,)),
        NodePort("mlx5_10", 1, classic("10.0.9.1", first=4), 16, ()),
    ]
    return build_node(tmp_path, ports, nccl=judge.release.version)


def with_value(plan: Plan, name: str, value: str | None) -> Plan:
    changed = copy.deepcopy(plan)
    changed["environment"].setdefault(name, {})["value"] = value
    return changed


def test_the_plan_itself_is_accepted(judge: Judge, node: Path) -> None:
    assert assert_nccl_follows(judge, node, plan_of(node)) == 1


def test_index_3_is_noticed(judge: Judge, node: Path) -> None:
    wrong = with_value(plan_of(node), "NCCL_IB_GID_INDEX", "3")
    with pytest.raises(AssertionError, match=r"'mlx5_1', 1\): 3.*'mlx5_1', 1\): 5"):
        assert_nccl_follows(judge, node, wrong)


def test_a_prefix_instead_of_a_name_is_noticed(judge: Judge, node: Path) -> None:
    wrong = with_value(plan_of(node), "NCCL_IB_HCA", "mlx5_1")
    with pytest.raises(AssertionError, match=r"NCCL takes.*mlx5_10.*planned was"):
        assert_nccl_follows(judge, node, wrong)


def test_a_selector_with_a_space_is_noticed(judge: Judge, node: Path) -> None:
    wrong = with_value(plan_of(node), "NCCL_IB_HCA", "= mlx5_1:1")
    with pytest.raises(AssertionError, match=r"NCCL takes \{\}"):
        assert_nccl_follows(judge, node, wrong)


def test_a_forgotten_index_is_noticed_where_nccl_cannot_choose(judge: Judge, node: Path) -> None:
    unset = with_value(plan_of(node), "NCCL_IB_GID_INDEX", None)
    if judge.release.number >= (2, 21):
        assert assert_nccl_follows(judge, node, unset) == 1  # its own scan finds it
        return
    with pytest.raises(AssertionError, match=r"'mlx5_1', 1\): 0"):
        assert_nccl_follows(judge, node, unset)


def test_a_wrong_prediction_is_noticed(judge: Judge, node: Path) -> None:
    plan = plan_of(node)
    plan["ports"][0]["gid_index"] = 4
    with pytest.raises(AssertionError, match=r"planned was \{\('mlx5_1', 1\): 4\}"):
        assert_nccl_follows(judge, node, plan)
