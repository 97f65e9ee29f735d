"""Our model of NCCL's choice of a GID index against the index that released NCCL connects with.

Every table is that of a device of its own, and all devices of a node are connected by one process, as
in an engine with many HCAs. NCCL 2.32 decides on the index when it lists the devices, earlier releases
at each connection; so the tables stand before NCCL starts.
"""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.gids import user_scan
from sglang_roce_entry.fabric.nccl.files import given_values
from sglang_roce_entry.fabric.nccl.scan import Prediction, predict_gid_index
from sglang_roce_entry.host.facts import Gid
from tests.nccl.judge import NcclDiedError
from tests.nccl.nodes import NodePort, Slot, Table, build_node, classic
from tests.nccl.tables import CRASHING_RANGES, PORTS_PER_NODE, random_steering, random_table
from tests.trees import V1, V2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.nccl.judge import Judge

NODES = 100  # with 30 tables each


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a node of 30 devices whose tables are given with each question."""
    ports = [NodePort(f"mlx5_{n}", 1, {}, 1) for n in range(PORTS_PER_NODE)]
    return build_node(tmp_path_factory.mktemp("scan"), ports, nccl="2.28.9")


def predicted(port: NodePort, steering: Mapping[str, str], nccl: tuple[int, ...]) -> Prediction:
    """Return what our model says, given the variables as our command reads them."""
    gids = [Gid(i, ip_address(s.ip), s.kind, "eth0") for i, s in sorted(port.table.items())]
    settings = user_scan(given_values(steering, ()), nccl).settings()
    return predict_gid_index(gids, port.length, nccl=nccl, settings=settings)


def test_the_model_predicts_the_index_of_generated_tables(judge: Judge, devices: Path) -> None:
    rng = random.Random(7)
    wrong = []
    seen: Counter[int | None] = Counter()
    for _ in range(NODES):
        steering = random_steering(rng, judge.release.number)
        ports = [NodePort(f"mlx5_{n}", 1, *random_table(rng)) for n in range(PORTS_PER_NODE)]
        taken = judge.connections(devices, steering, ports)
        assert len(taken) == len(ports)
        for port in ports:
            theirs = taken[port.device, 1]
            model = predicted(port, steering, judge.release.number)
            seen[theirs] += 1
            if model.index != theirs:
                table = dict(sorted(port.table.items()))
                said = f"NCCL {theirs}, model {model.index} ({model.fatal})"
                wrong.append(f"{said}: {steering} length {port.length} {table}")
    assert not wrong, f"{len(wrong)} of {seen.total()} differ, the first:\n" + "\n".join(wrong[:5])
    if judge.release.number < (2, 21):
        assert set(seen) == {0}
    else:
        # A generator that mostly ends at 0 would prove little.
        assert len(seen) > 10
        assert seen[0] < 0.8 * seen.total()
        # Both sides of the rule on unreadable types are in the sample.
        assert (None in seen) == (judge.release.number < (2, 26))


_LINK_LOCAL: Table = {0: Slot("fe80::1", V1), 1: Slot("fe80::1", V2)}
_ONLY_IPV6: Table = {**_LINK_LOCAL, 2: Slot("fd00::1", V1), 3: Slot("fd00::1", V2)}
_FOREIGN_FIRST: Table = {**_LINK_LOCAL, 2: Slot("10.9.9.9", V2), 5: Slot("10.0.0.1", V2)}

# Variables; then device name: (table, index from 2.26 on, index of 2.21 to 2.25; None: connect fails)
KNOWN: list[tuple[dict[str, str], dict[str, tuple[Table, int, int | None]]]] = [
    (
        {},
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
    (
        {"NCCL_IB_ADDR_FAMILY": "AF_INET6"},
        {
            "only_ipv6": (_ONLY_IPV6, 3, 3),
            # The zero GID of slot 1 counts as IPv6.
            "ipv4_at_0": ({0: Slot("10.0.0.1", V2)}, 1, 1),
        },
    ),
    (
        {"NCCL_IB_ADDR_RANGE": "10.0.0.0/24"},
        {
            "foreign_first": (_FOREIGN_FIRST, 5, 5),
            # The range is not applied to the first slot, from which the scan starts.
            "foreign_at_0": ({0: Slot("10.9.9.9", V2), 1: Slot("10.0.0.1", V2)}, 0, 0),
        },
    ),
    # A range of the other family is none.
    ({"NCCL_IB_ADDR_RANGE": "2001:db8::/32"}, {"foreign_first": (_FOREIGN_FIRST, 2, 2)}),
]


@pytest.mark.parametrize(("steering", "tables"), KNOWN, ids=["plain", "IPv6", "range", "other range"])
def test_the_index_of_known_tables(
    judge: Judge,
    tmp_path: Path,
    steering: dict[str, str],
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
    assert judge.connections(tmp_path, steering) == expected
    model = {(port.device, 1): predicted(port, steering, number).index for port in ports}
    assert model == expected


def test_a_table_given_by_calls_is_the_one_in_files(judge: Judge, tmp_path: Path) -> None:
    """The two ways to serve a table, of which the generated ones take the first, are one to NCCL."""
    rng = random.Random(11)
    ports = [NodePort(f"mlx5_{n}", 1, *random_table(rng)) for n in range(PORTS_PER_NODE)]
    build_node(tmp_path / "files", ports, nccl=judge.release.version)
    bare = [NodePort(port.device, 1, classic("10.7.7.7"), 4) for port in ports]
    build_node(tmp_path / "calls", bare, nccl=judge.release.version)
    from_files = judge.connections(tmp_path / "files", {})
    assert judge.connections(tmp_path / "calls", {}, ports) == from_files
    if judge.release.number >= (2, 21):
        assert len(set(from_files.values())) > 3


@pytest.mark.parametrize("text", CRASHING_RANGES)
def test_a_range_without_a_length_ends_old_releases(judge: Judge, devices: Path, text: str) -> None:
    """What our warning about such a value says."""
    ports = [NodePort(f"mlx5_{n}", 1, classic("10.0.0.1"), 8) for n in range(PORTS_PER_NODE)]
    if (2, 21) <= judge.release.number < (2, 23):
        with pytest.raises(NcclDiedError, match="'signal': 11"):
            judge.connections(devices, {"NCCL_IB_ADDR_RANGE": text}, ports)
    else:
        taken = set(judge.connections(devices, {"NCCL_IB_ADDR_RANGE": text}, ports).values())
        assert taken == ({3} if judge.release.number >= (2, 21) else {0})


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
