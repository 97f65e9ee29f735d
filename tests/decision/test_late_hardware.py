"""How long a launch waits for ports that are not there yet: for what is coming, and for nothing else."""

from __future__ import annotations

import pytest

from sglang_roce_entry.fabric.constraints import Constraints
from sglang_roce_entry.group.attempts import Surroundings
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.launch.hardware import await_hardware
from tests.decision.conftest import rail
from tests.packaged import gb10, h20_roce, spark
from tests.trees import Node

DEADLINE_S = 60.0
SPARKS = ("192.168.100.10/24", "192.168.100.11")


def _waited_s(node: Node) -> float:
    """Return how long a launch waits for the ports of a node on which nothing changes."""
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    facts = collect(node.host(), {})
    around = Surroundings(say=lambda *_, **__: None, clock=lambda: now[0], pause=pause)
    await_hardware(lambda: facts, Constraints(rdma="required"), DEADLINE_S, around)
    return now[0]


def _beside_rails(*, gbps: float = 200, model: str = "0x1021", state: str = "4: ACTIVE") -> Node:
    """Return two rails of 200 Gb/s, and a card whose interface is up without an address."""
    node = Node()
    for number in range(2):
        rail(node, number, pci=f"0000:{number + 1}0:00.0")
    port = node.hca("mlx5_9", pci="0000:90:00.0", device_id=model, netdevs=("eth9",)).port(gbps=gbps, state=state)
    port.pair("fe80::9", "eth9")
    return node.interface("eth9", "fe80::9/64")


def _infiniband() -> Node:
    """Return an Azure ND: InfiniBand rails, and the accelerated-networking function of the same chip."""
    node = Node()
    for number in range(2):
        hca = node.hca(f"mlx5_ib{number}", pci=f"010{number}:00:00.0", device_id="0x101e")
        hca.port(gbps=400, link_layer="InfiniBand").gid(0, f"fe80::{number + 1}", None)
    side = node.hca("mlx5_an0", pci="1ee2:00:02.0", device_id="0x101e", netdevs=("eth0",)).port(gbps=50)
    side.pair("fe80::9", "eth0")
    return node.interface("eth0", "fe80::9/64")


@pytest.mark.parametrize(
    "node",
    [h20_roce(), _beside_rails(gbps=100, model="0x101d"), _infiniband()],
    ids=["healthy", "slower", "InfiniBand"],
)
def test_what_would_be_left_out_with_an_address_as_well_is_not_waited_for(node: Node) -> None:
    assert _waited_s(node) == 0


@pytest.mark.parametrize(
    "node",
    [
        _beside_rails(),
        _beside_rails(gbps=400, model="0x1023"),
        _beside_rails(gbps=40, model="0x1023", state="2: INIT"),  # whose rate says nothing yet
        spark(*SPARKS, index=1),
    ],
    ids=["rail", "faster", "initialising", "twin"],
)
def test_a_rail_without_an_address_is_waited_for(node: Node) -> None:
    assert _waited_s(node) == pytest.approx(DEADLINE_S, abs=0.1)


def test_an_address_that_a_host_gives_itself_is_there_in_seconds_or_never() -> None:
    """The other function of a cable, as NVIDIA's playbook leaves it, costs no minute at each start."""
    assert 10 < _waited_s(gb10()) < 11
