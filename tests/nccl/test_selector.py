"""Our reading of NCCL_IB_HCA against NCCL's own parser and matcher."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.nccl.selector import parse_selector, render_selector
from tests.nccl.nodes import NodePort, build_node, classic
from tests.nccl.tables import random_selector

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nccl.judge import Judge

CASES = 1000

#: 2.20 to 2.23 show two ports of one card as one device; that is not what is asked here.
ALONE = {"NCCL_IB_MERGE_NICS": "0"}

_PORTS: tuple[tuple[str, int], ...] = (
    ("mlx5_0", 1),
    ("mlx5_1", 1),
    ("mlx5_2", 1),
    ("mlx5_10", 1),
    ("mlx5_11", 1),
    ("mlx5_100", 1),
    ("mlx5_bond_0", 1),
    ("mlx4_0", 1),
    ("mlx4_0", 2),
    ("bnxt_re0", 1),
    ("bnxt_re1", 1),
    ("rocep1s0f0", 1),
    ("rocep1s0f0", 2),
    ("x", 1),
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = "10.0.0.1/24"
    ports = [NodePort(device, number, classic(own), 4, (own,)) for device, number in _PORTS]
    ports.append(NodePort("mlx5_3", 1, classic(own), 4, (own,), active=False))
    return build_node(tmp_path_factory.mktemp("selector"), ports, nccl="2.28.9")


def test_our_selector_grammar_is_that_of_the_released_parser(judge: Judge, node: Path) -> None:
    rng = random.Random(20)
    devices = sorted({device for device, _ in _PORTS} | {"mlx5_3"})
    wrong = []
    sizes = set()
    for _ in range(CASES):
        text = random_selector(rng, devices)
        theirs = set(judge.devices(node, {"NCCL_IB_HCA": text, **ALONE}))
        selector = parse_selector(text, nccl=judge.release.number)
        ours = {port for port in _PORTS if selector.matches(*port)}
        sizes.add(len(theirs))
        if theirs != ours:
            wrong.append((text, sorted(theirs ^ ours)))
    # A generator that only ever selects all or nothing would prove little.
    assert len(sizes) > 8
    assert not wrong, f"{len(wrong)} of {CASES} differ, the first: {wrong[:5]}"


def test_what_we_render_selects_exactly_those_ports(judge: Judge, node: Path) -> None:
    rng = random.Random(21)
    for _ in range(100):
        chosen = set(rng.sample(_PORTS, rng.randint(1, len(_PORTS))))
        text = render_selector(chosen)
        assert set(judge.devices(node, {"NCCL_IB_HCA": text, **ALONE})) == chosen, text


def test_the_device_table_names_the_ports_that_connections_use(judge: Judge, node: Path) -> None:
    """The cheap question (``devices``) is as good as the dear one (``connections``)."""
    assert set(judge.connections(node, ALONE)) == set(judge.devices(node, ALONE)) == set(_PORTS)
