"""The whole decision: released NCCL, given the environment that our command prints for a node."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.fabric.gid_scan import predict_gid_index
from sglang_roce_entry.host.collect import read_fabric
from sglang_roce_entry.host.snapshot import load
from sglang_roce_entry.natural import natural_key
from tests.nccl.nodes import NodePort, build_node, classic, replay_of, served_tree
from tests.nccl.plans import Plan, assert_nccl_follows, plan_of, planned_ports
from tests.nccl.tables import random_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sglang_roce_entry.host.facts import Port
    from tests.nccl.judge import Judge

CAPTURES = sorted((Path(__file__).resolve().parents[1] / "captures").glob("*.tar.gz"))

GENERATED_CONNECTIONS = 500


def own(number: int) -> str:
    return f"10.0.{number}.1/24"


def rail(device: str, number: int, *, first: int = 2, **more: Any) -> NodePort:
    """Return a port with its own address, its IPv4 GIDs at ``first`` and the next."""
    table = classic(own(number), first=first)
    return NodePort(device, 1, table, 16, (own(number),), **more)


NODES: dict[str, tuple[list[NodePort], set[str]]] = {
    # name: (ports, devices that must be used)
    "mlx5_1 beside mlx5_10": (
        [
            rail("mlx5_1", 1),
            # Prefixes of one another; these are the host's, so none of them is ours.
            NodePort("mlx5_10", 1, classic("10.0.10.1"), 16, ()),
            NodePort("mlx5_11", 1, classic("10.0.11.1"), 16, ()),
        ],
        {"mlx5_1"},
    ),
    "mlx5_10 beside mlx5_1": (
        [rail("mlx5_1", 1, active=False), rail("mlx5_10", 10), rail("mlx5_100", 100)],
        {"mlx5_10", "mlx5_100"},
    ),
    "16 HCAs": ([rail(f"mlx5_{n}", n) for n in range(16)], {f"mlx5_{n}" for n in range(16)}),
    "16 HCAs, one denied": (
        [rail(f"mlx5_{n}", n, verbs="EPERM" if n == 1 else "ok") for n in range(16)],
        {f"mlx5_{n}" for n in range(16)} - {"mlx5_1"},
    ),
    "other names": (
        [
            rail("bnxt_re0", 0),
            rail("bnxt_re1", 1, active=False),
            rail("rocep65s0f0", 2),
            rail("rocep65s0f0v1", 3, active=False),
            rail("irdma0", 4),
            rail("mlx5_bond_0", 5),
        ],
        {"bnxt_re0", "rocep65s0f0", "irdma0", "mlx5_bond_0"},
    ),
    "index 5 everywhere": (
        [rail(f"mlx5_{n}", n, first=4) for n in range(4)],
        {f"mlx5_{n}" for n in range(4)},
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_nccl_uses_exactly_the_planned_ports_and_index(judge: Judge, tmp_path: Path, name: str) -> None:
    ports, devices = NODES[name]
    node = build_node(tmp_path, ports, nccl=judge.release.version)
    plan = plan_of(node)
    assert {device for device, _ in planned_ports(plan)} == devices
    assert_nccl_follows(judge, node, plan)
    assert plan["environment"]["NCCL_IB_GID_INDEX"]["value"] is not None


def test_ports_with_different_indices(judge: Judge, tmp_path: Path) -> None:
    """From 2.21 on the index is withheld and both are used, before that only the ports that agree."""
    ports = [rail("mlx5_0", 0), rail("mlx5_1", 1, first=4), rail("mlx5_2", 2, first=4)]
    node = build_node(tmp_path, ports, nccl=judge.release.version)
    plan = plan_of(node)
    index = plan["environment"]["NCCL_IB_GID_INDEX"]["value"]
    if judge.release.number >= (2, 21):
        assert planned_ports(plan) == {("mlx5_0", 1): 3, ("mlx5_1", 1): 5, ("mlx5_2", 1): 5}
        assert index is None
    else:
        assert planned_ports(plan) == {("mlx5_1", 1): 5, ("mlx5_2", 1): 5}
        assert index == "5"
    assert_nccl_follows(judge, node, plan)


@pytest.fixture(scope="session")
def served() -> Iterator[dict[str, Path]]:
    """Return the recorded nodes as trees for the verbs library, by file name."""
    with tempfile.TemporaryDirectory(prefix="nccl-served-") as folder:
        yield {path.name: served_tree(path, Path(folder) / path.stem) for path in CAPTURES}


def test_recorded_nodes(judge: Judge, served: dict[str, Path], tmp_path: Path) -> None:
    """Sysfs of real kernels: where the plan uses ports, NCCL uses these with the planned index."""
    connections = 0
    for archive in CAPTURES:
        plan = plan_of(replay_of(archive, tmp_path / archive.name, nccl=judge.release.version))
        if planned_ports(plan):
            connections += assert_nccl_follows(judge, served[archive.name], plan)
        else:
            # Nothing of this node is ours; then nothing may be selected for NCCL either.
            hca = plan["environment"].get("NCCL_IB_HCA", {"value": None})
            assert hca["value"] is None, archive.name
    assert connections >= 4


def test_the_scan_of_recorded_tables(judge: Judge, served: dict[str, Path]) -> None:
    """With nothing set: NCCL's index on every active port of the recorded nodes is the model's."""
    compared = 0
    for archive in CAPTURES:
        taken = judge.connections(served[archive.name], {})
        for port in recorded_ports(archive):
            if (port.device, port.number) in taken:
                model = predict_gid_index(port.gids, port.table_length, nccl=judge.release.number)
                assert taken[port.device, port.number] == model.index, (archive.name, port)
                compared += 1
    assert compared >= 8


def recorded_ports(archive: Path) -> list[Port]:
    """Return the ports of a recorded node as our reader sees them."""
    host, _ = load(str(archive))
    hcas, _, _ = read_fabric(host)
    return [port for hca in hcas for port in hca.ports]


def test_generated_nodes(judge: Judge) -> None:
    rng = random.Random(40)
    wrong: list[str] = []
    connections = 0
    withheld = 0
    number = 0
    while connections < GENERATED_CONNECTIONS and len(wrong) < 5:
        number += 1
        assert number < 400, "the generator makes too few usable ports"
        with tempfile.TemporaryDirectory(prefix="nccl-node-") as folder:
            node = build_node(Path(folder), random_node(rng), nccl=judge.release.version)
            plan = plan_of(node)
            if planned_ports(plan):
                withheld += plan["environment"]["NCCL_IB_GID_INDEX"]["value"] is None
                try:
                    connections += assert_nccl_follows(judge, node, plan)
                except AssertionError as error:
                    wrong.append(f"node {number}: {error}")
    assert not wrong, "\n".join(wrong)
    # Both ways of saying it were tried.
    assert (withheld > 5) == (judge.release.number >= (2, 21))


def test_the_selector_is_in_natural_order(tmp_path: Path) -> None:
    node = build_node(tmp_path, [rail(f"mlx5_{n}", n) for n in range(12)], nccl="2.28.9")
    plan: Plan = plan_of(node)
    value = plan["environment"]["NCCL_IB_HCA"]["value"]
    names = value.removeprefix("=").split(",")
    assert names == sorted(names, key=natural_key)
    assert len(names) == 12
