"""Captured kernels: the reader says what the kernel said, and the decision on it is the right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_roce_entry.fabric import consumers
from sglang_roce_entry.fabric.choice import choose
from sglang_roce_entry.fabric.constraints import Constraints
from sglang_roce_entry.fabric.control import no_interface
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.snapshot.read import load
from sglang_roce_entry.plan.merge import merge

CAPTURES = Path(__file__).parent.parent / "captures"
EXPECTED: dict[str, Any] = json.loads((CAPTURES / "expected-tables.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_reader_says_what_the_kernel_said(name: str) -> None:
    host, _ = load(str(CAPTURES / name))
    facts = collect(host, {})
    expected = EXPECTED[name]
    assert {hca.name for hca in facts.hcas} == set(expected["devices"])
    for hca in facts.hcas:
        device = expected["devices"][hca.name]
        (port,) = hca.ports
        assert f"{hca.node_type}: {device['node_type'].partition(': ')[2]}" == device["node_type"]
        assert f"{port.state}: {port.state_name}" == device["state"]
        assert port.link_layer == device["link_layer"]
        assert port.rate_gbps == float(device["rate"].split()[0])
        assert port.table_length == device["slots"]
        assert hca.netdevs == (() if device["parent"].startswith("!") else (device["parent"],))
        table = [[gid.index, str(gid.ip), gid.type, gid.netdev or "!EINVAL"] for gid in port.gids]
        assert table == device["gids"]
    assert {hca.verbs: hca.name for hca in facts.hcas} == {
        uverbs: device for uverbs, device in expected["verbs"].items() if device in expected["devices"]
    }


#: Per capture and NCCL version: ports used with their index, and ports left out with the reason.
DECISIONS: list[tuple[str, tuple[int, ...] | None, dict[str, int], dict[str, str]]] = [
    ("iwarp.tar.gz", (2, 28, 3), {"mlx5_0:1": 3}, {"siw0:1": "NOT_ROCE", "siw1:1": "NOT_ROCE"}),
    (
        "netns-exclusive-host.tar.gz",
        (2, 28, 3),
        {"mlx5_0:1": 3},
        {"mlx5_1:1": "VERBS_DENIED", "mlx5_x:1": "NO_OWN_GID"},
    ),
    ("netns-exclusive-pod.tar.gz", (2, 28, 3), {}, {}),
    ("netns-exclusive-pod-empty.tar.gz", (2, 28, 3), {}, {}),
    ("netns-shared-host.tar.gz", (2, 28, 3), {"mlx5_0:1": 3}, {"mlx5_1:1": "NO_OWN_GID"}),
    ("netns-shared-pod.tar.gz", (2, 28, 3), {"mlx5_1:1": 3}, {"mlx5_0:1": "NO_OWN_GID"}),
    (
        "v1v2.tar.gz",
        (2, 28, 3),
        {
            "mlx5_0:1": 3,
            "mlx5_1:1": 3,
            "mlx5_2:1": 5,
            "mlx5_bond_0:1": 3,
            "mlx5_bond_1:1": 3,
            "rxe_m:1": 3,
            "rxe_s5:1": 3,
            "rxe_s6:1": 3,
            "rxe_s7:1": 3,
        },
        {"mlx5_3:1": "PORT_NOT_ACTIVE", "rxe_s4:1": "NO_OWN_GID"},
    ),
    (
        "v1v2.tar.gz",
        (2, 20, 5),
        {
            "mlx5_0:1": 3,
            "mlx5_1:1": 3,
            "mlx5_bond_0:1": 3,
            "mlx5_bond_1:1": 3,
            "rxe_m:1": 3,
            "rxe_s5:1": 3,
            "rxe_s6:1": 3,
            "rxe_s7:1": 3,
        },
        {"mlx5_2:1": "INDEX_MISMATCH", "mlx5_3:1": "PORT_NOT_ACTIVE", "rxe_s4:1": "NO_OWN_GID"},
    ),
]


@pytest.mark.parametrize(("name", "nccl", "used", "left"), DECISIONS)
def test_decision_on_captured_kernel(
    name: str, nccl: tuple[int, ...] | None, used: dict[str, int], left: dict[str, str]
) -> None:
    host, _ = load(str(CAPTURES / name))
    facts = collect(host, {})
    decision = choose(facts, Constraints(nccl=nccl), no_interface("no group here"))
    assert {r.decision.label: r.gid_index for r in decision.ports if r.decision.used} == used
    assert {r.decision.label: r.decision.reason for r in decision.ports if not r.decision.used} == left
    chosen = {one.name: one.value for one in merge({}, consumers.wishes(decision, Use()))}
    expected_index = str(next(iter(used.values()))) if len(set(used.values())) == 1 else None
    assert chosen["NCCL_IB_GID_INDEX"] == expected_index
    if used:
        value = chosen["NCCL_IB_HCA"]
        assert value is not None
        assert set(value.removeprefix("=").split(",")) == set(used)
    for row in decision.ports:
        if row.decision.used:
            slot = next(gid for gid in row.decision.port.gids if gid.index == row.gid_index)
            assert slot.type == "RoCE v2"
            assert row.gid == str(slot.ip)


def test_ambiguous_networks_are_said() -> None:
    host, _ = load(str(CAPTURES / "v1v2.tar.gz"))
    decision = choose(collect(host, {}), Constraints(nccl=(2, 28)), no_interface("no group here"))
    messages = [one.message for one in decision.problems if one.code == "AMBIGUOUS_SUBNET"]
    # On mlx5_bond_0 and rxe_s5, and beside these two, there are VLANs: their addresses come after the port's own.
    assert [one.split()[0] for one in messages] == ["mlx5_1"]
    assert "10.1.0.0/24, 192.168.7.0/24" in messages[0]
