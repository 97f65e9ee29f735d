"""Our model of NCCL's choice of a GID index against the index that released NCCL connects with.

Every table is that of a device of its own, and all devices of a node are connected by one process, as
in an engine with many HCAs. NCCL 2.32 decides on the index when it lists the devices, earlier releases
at each connection; so the tables stand before NCCL starts.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.gid_scan import Prediction, ScanSettings, predict_gid_index
from sglang_roce_entry.host.facts import Gid
from tests.nccl.nodes import NodePort, Slot, Table, build_node
from tests.nccl.tables import PORTS_PER_NODE, Steering, random_steering, random_table
from tests.trees import V1, V2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nccl.judge import Judge

NODES = 70  # with 30 tables each


@dataclass(frozen=True, slots=True)
class ScanNode:
    """A node of generated tables, and the settings that NCCL scans them with."""

    tree: Path
    ports: tuple[NodePort, ...]
    steering: Steering


@pytest.fixture(scope="session")  # a session goes through this file once per release
def nodes() -> Iterator[list[ScanNode]]:
    rng = random.Random(7)
    made = []
    # Tens of thousands of files: not left behind, as pytest's own folders are.
    with tempfile.TemporaryDirectory(prefix="nccl-scan-") as folder:
        for number in range(NODES):
            ports = []
            for index in range(PORTS_PER_NODE):
                table, length = random_table(rng)
                ports.append(NodePort(f"mlx5_{index}", 1, table, length))
            tree = build_node(Path(folder) / str(number), ports, nccl="2.28.9")
            made.append(ScanNode(tree, tuple(ports), random_steering(rng)))
        yield made


def predicted(port: NodePort, steering: Steering, nccl: tuple[int, ...]) -> Prediction:
    gids = [Gid(i, ip_address(s.ip), s.kind, "eth0") for i, s in sorted(port.table.items())]
    network = steering.address_range
    settings = ScanSettings(
        steering.family or "AF_INET",
        ip_network(network, strict=False) if network else None,
        2 if steering.roce_version is None else steering.roce_version,
    )
    return predict_gid_index(gids, port.length, nccl=nccl, settings=settings)


def test_the_model_predicts_the_index_of_generated_tables(judge: Judge, nodes: list[ScanNode]) -> None:
    wrong = []
    seen: set[int | None] = set()
    total = 0
    for node in nodes:
        taken = judge.connections(node.tree, node.steering.environment)
        assert len(taken) == len(node.ports)
        for port in node.ports:
            theirs = taken[port.device, 1]
            model = predicted(port, node.steering, judge.release.number)
            seen.add(theirs)
            total += 1
            if model.index != theirs:
                table = dict(sorted(port.table.items()))
                wrong.append(
                    f"NCCL {theirs}, model {model.index} ({model.fatal}): "
                    f"{node.steering} length {port.length} {table}"
                )
    assert total >= 2000
    assert not wrong, f"{len(wrong)} of {total} differ, the first:\n" + "\n".join(wrong[:5])
    if judge.release.number < (2, 21):
        assert seen == {0}
    else:
        assert len(seen) > 10
        # Both sides of the rule on unreadable types are in the sample.
        assert (None in seen) == (judge.release.number < (2, 26))


_LINK_LOCAL: Table = {0: Slot("fe80::1", V1), 1: Slot("fe80::1", V2)}
_ONLY_IPV6: Table = {**_LINK_LOCAL, 2: Slot("fd00::1", V1), 3: Slot("fd00::1", V2)}
_FOREIGN_FIRST: Table = {**_LINK_LOCAL, 2: Slot("10.9.9.9", V2), 5: Slot("10.0.0.1", V2)}

# Steering; then device name: (table, index from 2.26 on, index of 2.21 to 2.25; None: connect fails)
KNOWN: list[tuple[Steering, dict[str, tuple[Table, int, int | None]]]] = [
    (
        Steering(),
        {
            "classic": ({**_LINK_LOCAL, 2: Slot("10.0.0.1", V1), 3: Slot("10.0.0.1", V2)}, 3, 3),
            "late_address": ({**_LINK_LOCAL, 4: Slot("10.0.0.1", V1), 5: Slot("10.0.0.1")}, 5, 5),
            "only_ipv6": (_ONLY_IPV6, 0, 0),
            "only_link_local": (_LINK_LOCAL, 0, 0),
            "only_v1": ({**_LINK_LOCAL, 2: Slot("10.0.0.1", V1)}, 2, 2),
            "zeroconf_first": (
                {**_LINK_LOCAL, 2: Slot("169.254.3.4", V2), 3: Slot("10.0.0.1", V2)},
                2,
                2,
            ),
            "foreign_first": (_FOREIGN_FIRST, 2, 2),
            "unreadable_between": (
                {
                    **_LINK_LOCAL,
                    2: Slot("10.0.0.1", V1),
                    3: Slot("10.9.9.9", None),
                    4: Slot("10.0.0.1", V2),
                },
                4,
                None,
            ),
            "unreadable_first": ({2: Slot("10.9.9.9", None), 4: Slot("10.0.0.1", V2)}, 4, None),
        },
    ),
    (Steering(family="AF_INET6"), {"only_ipv6": (_ONLY_IPV6, 3, 3)}),
    (
        Steering(address_range="10.0.0.0/24"),
        {
            "foreign_first": (_FOREIGN_FIRST, 5, 5),
            # The range is not applied to the first slot, from which the scan starts.
            "foreign_at_0": ({0: Slot("10.9.9.9", V2), 1: Slot("10.0.0.1", V2)}, 0, 0),
        },
    ),
]


@pytest.mark.parametrize(("steering", "tables"), KNOWN, ids=["plain", "IPv6", "range"])
def test_the_index_of_known_tables(
    judge: Judge,
    tmp_path: Path,
    steering: Steering,
    tables: dict[str, tuple[Table, int, int | None]],
) -> None:
    """What NCCL does with tables that nodes have: the facts that our decisions rest on."""
    number = judge.release.number
    expected: dict[tuple[str, int], int | None] = {}
    for device, (_, recent, first) in tables.items():
        choosing = recent if number >= (2, 26) else first
        expected[device, 1] = choosing if number >= (2, 21) else 0
    ports = [NodePort(device, 1, table, 16) for device, (table, _, _) in tables.items()]
    build_node(tmp_path, ports, nccl=judge.release.version)
    assert judge.connections(tmp_path, steering.environment) == expected
    model = {(port.device, 1): predicted(port, steering, number).index for port in ports}
    assert model == expected


def test_a_type_does_not_leak_from_one_port_into_the_next(judge: Judge, tmp_path: Path) -> None:
    """From 2.26 on the type of an unreadable current slot is an uninitialised variable in NCCL.

    The port before may leave its own type there. If it counted, the index on one port would depend on
    its neighbour, and no model could say it.
    """
    if judge.release.number < (2, 21):
        expected: list[int | None] = [0]
    else:
        expected = [4] if judge.release.number >= (2, 26) else [None]
    ports = []
    for pair in range(15):
        kind = (V1, V2)[pair % 2]
        before = {0: Slot("10.0.0.1", kind), 1: Slot("10.0.0.2", V1), 2: Slot("10.0.0.3", V2)}
        ports.append(NodePort(f"mlx5_{2 * pair}", 1, before, 8))
        unreadable = {0: Slot("10.9.9.9", None), 4: Slot("10.0.0.1", V2)}
        ports.append(NodePort(f"mlx5_{2 * pair + 1}", 1, unreadable, 8))
    build_node(tmp_path, ports, nccl=judge.release.version)
    taken = judge.connections(tmp_path, {})
    assert [taken[port.device, 1] for port in ports[1::2]] == expected * 15
