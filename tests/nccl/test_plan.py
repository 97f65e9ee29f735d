"""The whole decision: released NCCL, given the environment that our command prints for a node."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.nccl.scan import predict_gid_index
from sglang_roce_entry.host.collect import read_fabric
from sglang_roce_entry.host.snapshot.read import load
from tests.nccl.nodes import (
    NodePort,
    Served,
    Slot,
    Table,
    build_node,
    classic,
    environment_of,
    own,
    rail,
    rail6,
    replay_of,
    scratch,
    serve,
)
from tests.nccl.plans import Plan, assert_nccl_follows, plan_of, planned_nodes, planned_ports
from tests.nccl.tables import random_node
from tests.trees import V1, V2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sglang_roce_entry.host.facts import Port
    from tests.nccl.judge import Judge

CAPTURES = sorted((Path(__file__).resolve().parents[1] / "captures").glob("*.tar.gz"))

GENERATED_CONNECTIONS = 500
BATCH = 24


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
    "more HCAs than NCCL's table holds": (
        [rail(f"mlx5_{n}", n) for n in range(40)],
        {f"mlx5_{n}" for n in range(32)},
    ),
    "IPv6 only": ([rail6(f"mlx5_{n}", n) for n in range(4)], {f"mlx5_{n}" for n in range(4)}),
    "two machines on one cable, the second function without an address": (
        [
            NodePort("rocep1s0f1", 1, classic("169.254.35.62"), 16, ("169.254.35.62/16",)),
            NodePort("roceP2p1s0f1", 1, {0: Slot("fe80::2", V1), 1: Slot("fe80::2")}, 16, ()),
        ],
        {"rocep1s0f1"},
    ),
    "IPv6 rails beside a management card with IPv4": (
        [*(rail6(f"mlx5_{n}", n) for n in range(4)), rail("mlx5_9", 9)],
        {f"mlx5_{n}" for n in range(4)},
    ),
    "index 5 everywhere": (
        [rail(f"mlx5_{n}", n, first=4) for n in range(4)],
        {f"mlx5_{n}" for n in range(4)},
    ),
}


# Nodes on which the index is withheld and NCCL's scan must be steered: (ports, variable and its value).
FOREIGN: Table = {**classic("10.9.9.1", first=2), **classic("10.0.0.1", first=4)}
FOREIGN_TOO: Table = {**classic("10.9.9.2", first=2), **classic("10.0.1.1", first=6)}
STEERED: dict[str, tuple[list[NodePort], tuple[str, str]]] = {
    "IPv6 only": ([rail6("mlx5_0", 0), rail6("mlx5_1", 1, first=4)], ("NCCL_IB_ADDR_FAMILY", "AF_INET6")),
    "foreign GIDs first": (
        [
            NodePort("mlx5_0", 1, FOREIGN, 16, (own(0),)),
            NodePort("mlx5_1", 1, FOREIGN_TOO, 16, (own(1),)),
        ],
        ("NCCL_IB_ADDR_RANGE", "10.0.0.0/23"),
    ),
}


def assert_own_v2(ports: Sequence[NodePort], plan: Plan) -> None:
    """Fail unless every planned index holds a RoCE v2 GID with an address of that port's interface."""
    for (device, number), index in planned_ports(plan).items():
        (port,) = [one for one in ports if (one.device, one.number) == (device, number)]
        slot = port.table.get(-1 if index is None else index)
        assert slot is not None, (device, index)
        assert slot.kind == V2, (device, index, slot)
        assert slot.ip in [address.partition("/")[0] for address in port.own], (device, index, slot)


@pytest.mark.parametrize("name", NODES)
def test_nccl_uses_exactly_the_planned_ports_and_index(judge: Judge, tmp_path: Path, name: str) -> None:
    ports, devices = NODES[name]
    node = build_node(tmp_path, ports, nccl=judge.release.version)
    plan = plan_of(node)
    assert {device for device, _ in planned_ports(plan)} == devices
    assert_own_v2(ports, plan)
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


@pytest.mark.parametrize("name", STEERED)
def test_the_scan_is_steered(judge: Judge, tmp_path: Path, name: str) -> None:
    """With the variable NCCL takes the own GID on both ports, without it on none."""
    ports, (variable, value) = STEERED[name]
    node = build_node(tmp_path, ports, nccl=judge.release.version)
    plan = plan_of(node)
    if judge.release.number < (2, 21):
        assert plan["environment"].get(variable) is None
        assert len(planned_ports(plan)) == 1
        assert_nccl_follows(judge, node, plan)
        return
    assert plan["environment"]["NCCL_IB_GID_INDEX"]["value"] is None
    assert plan["environment"][variable]["value"] == value
    assert assert_nccl_follows(judge, node, plan) == 2
    unsteered = judge.connections(node, {"NCCL_IB_HCA": plan["environment"]["NCCL_IB_HCA"]["value"]})
    assert all(unsteered[port] != index for port, index in planned_ports(plan).items())


@pytest.fixture(scope="session")
def served() -> Iterator[dict[Path, Served]]:
    """Return the recorded nodes for the verbs library."""
    with tempfile.TemporaryDirectory(prefix="nccl-served-") as folder:
        yield {path: serve(path, Path(folder) / path.stem) for path in CAPTURES}


def test_recorded_nodes(judge: Judge, served: dict[Path, Served], tmp_path: Path) -> None:
    """Sysfs of real kernels: where the plan uses ports, NCCL uses these with the planned index."""
    connections = 0
    for archive, node in served.items():
        plan = plan_of(replay_of(archive, tmp_path / archive.name, nccl=judge.release.version))
        if planned_ports(plan):
            connections += assert_nccl_follows(judge, node.tree, plan, node.tables)
        else:
            # Nothing of this node is ours; then nothing may be selected for NCCL either.
            hca = plan["environment"].get("NCCL_IB_HCA", {"value": None})
            assert hca["value"] is None, archive.name
    assert connections >= 4


def test_the_scan_of_recorded_tables(judge: Judge, served: dict[Path, Served]) -> None:
    """With nothing set: NCCL's index on every active port of the recorded nodes is the model's."""
    compared = 0
    for archive, node in served.items():
        taken = judge.connections(node.tree, {}, node.tables)
        for port in recorded_ports(archive):
            if (port.device, port.number) in taken:
                model = predict_gid_index(port.gids, port.table_length, nccl=judge.release.number)
                assert taken[port.device, port.number] == model.index, (archive.name, port)
                compared += 1
    assert compared >= 8


@functools.cache
def recorded_ports(archive: Path) -> tuple[Port, ...]:
    """Return the ports of a recorded node as our reader sees them."""
    host, _ = load(str(archive))
    hcas, _ = read_fabric(host)
    return tuple(port for hca in hcas for port in hca.ports)


def test_generated_nodes(judge: Judge) -> None:
    rng = random.Random(40)
    wrong: list[str] = []
    connections = 0
    withheld = 0
    steered: set[str] = set()
    while connections < GENERATED_CONNECTIONS:
        with scratch() as folder:
            nodes = [random_node(rng) for _ in range(BATCH)]
            for ports, (node, plan) in zip(nodes, planned_nodes(judge, folder, nodes, [{}] * BATCH), strict=True):
                if not planned_ports(plan):
                    continue
                assert_own_v2(ports, plan)
                values = environment_of(plan)
                withheld += "NCCL_IB_GID_INDEX" not in values
                steered |= {"NCCL_IB_ADDR_FAMILY", "NCCL_IB_ADDR_RANGE"} & set(values)
                try:
                    connections += assert_nccl_follows(judge, node, plan)
                except AssertionError as error:
                    wrong.append(f"node {node.name}: {error}")
        assert not wrong, "\n".join(wrong)
    # Every way of saying it was tried.
    if judge.release.number >= (2, 21):
        assert withheld > 5
        assert len(steered) == 2
    else:
        assert (withheld, steered) == (0, set())
