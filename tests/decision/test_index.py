"""One index for all, or NCCL's own choice, checked with the model of its scan."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sglang_roce_entry.fabric.nccl.scan import ScanSettings, predict_gid_index
from sglang_roce_entry.host.facts import Gid
from sglang_roce_entry.host.rdma import parse_gid
from tests.decision.conftest import Decide, rail
from tests.trees import V1, V2, Node, gid_text


def _table(*rows: tuple[int, str, str | None]) -> tuple[Gid, ...]:
    gids = []
    for index, ip, kind in rows:
        address = parse_gid(gid_text(ip))
        assert address is not None
        gids.append(Gid(index, address, kind, "net0"))
    return tuple(gids)


LL = ((0, "fe80::1", V1), (1, "fe80::1", V2))
#: The tables of discovery prior art: name, rows, index by default, index with AF_INET6.
TABLES: list[tuple[str, tuple[tuple[int, str, str | None], ...], int, int]] = [
    ("classic", (*LL, (2, "10.0.0.1", V1), (3, "10.0.0.1", V2)), 3, 0),
    (
        "unique local before v4",
        (*LL, (2, "fd00::1", V1), (3, "fd00::1", V2), (4, "10.0.0.1", V1), (5, "10.0.0.1", V2)),
        5,
        3,
    ),
    ("IPv6 only", (*LL, (2, "fd00::1", V1), (3, "fd00::1", V2)), 0, 3),
    ("v2 only", ((0, "fe80::1", V2), (1, "10.0.0.1", V2)), 1, 0),
    ("v2 before v1", ((0, "fe80::1", V2), (1, "fe80::1", V1), (2, "10.0.0.1", V2), (3, "10.0.0.1", V1)), 2, 0),
    ("169.254 first", (*LL, (2, "169.254.1.1", V1), (3, "169.254.1.1", V2), (5, "10.0.0.1", V2)), 3, 0),
    ("link-local only", LL, 0, 0),
    ("only v1", (*LL, (2, "10.0.0.1", V1)), 2, 0),
    ("holes", ((5, "10.0.0.1", V1), (6, "10.0.0.1", V2)), 6, 0),
    ("empty", (), 0, 0),
]


@pytest.mark.parametrize(("name", "rows", "default", "inet6"), TABLES, ids=[row[0] for row in TABLES])
@pytest.mark.parametrize("nccl", [(2, 21, 5), (2, 27, 5), (2, 32, 3)])
def test_scan(
    name: str, rows: tuple[tuple[int, str, str | None], ...], default: int, inet6: int, nccl: tuple[int, ...]
) -> None:
    gids = _table(*rows)
    assert predict_gid_index(gids, 16, nccl=nccl).index == default
    settings = ScanSettings(family="AF_INET6")
    assert predict_gid_index(gids, 16, nccl=nccl, settings=settings).index == inet6


def test_before_the_scan_existed_it_is_zero() -> None:
    assert predict_gid_index(_table(*TABLES[0][1]), 16, nccl=(2, 20, 5)).index == 0


def test_range_keeps_the_own_address_and_misses_to_zero() -> None:
    gids = _table(*LL, (2, "10.0.0.7", V1), (3, "10.0.0.7", V2), (4, "10.0.9.1", V1), (5, "10.0.9.1", V2))
    inside = ScanSettings(address_range=ip_network("10.0.9.1/32"))
    outside = ScanSettings(address_range=ip_network("192.168.0.0/16"))
    assert predict_gid_index(gids, 16, nccl=(2, 28), settings=inside).index == 5
    assert predict_gid_index(gids, 16, nccl=(2, 28), settings=outside).index == 0


def test_a_range_of_the_other_family_is_ignored() -> None:
    """NCCL reads the range as an address of the family that it looks for (``envIbAddrRange``)."""
    gids = _table(*LL, (2, "10.0.0.7", V1), (3, "10.0.0.7", V2), (4, "fd00::1", V1), (5, "fd00::1", V2))
    six = ScanSettings(address_range=ip_network("2001:db8::/32"))
    four = ScanSettings(family="AF_INET6", address_range=ip_network("192.168.0.0/16"))
    assert predict_gid_index(gids, 16, nccl=(2, 28), settings=six).index == 3
    assert predict_gid_index(gids, 16, nccl=(2, 28), settings=four).index == 5


def test_an_empty_slot_counts_as_ipv6_and_can_be_taken() -> None:
    """A zero GID is of the wanted family to NCCL, and the first slot of that family is taken untested."""
    first_is_ipv4 = _table((0, "10.0.0.1", V2), (3, "fd00::1", V1))
    six = ScanSettings(family="AF_INET6")
    assert predict_gid_index(first_is_ipv4, 8, nccl=(2, 28), settings=six).index == 1
    assert predict_gid_index(first_is_ipv4, 8, nccl=(2, 21, 5), settings=six).index is None
    # A range shuts the zero GID out, and a v2 entry replaces it.
    ranged = ScanSettings(family="AF_INET6", address_range=ip_network("fd00::/8"))
    assert predict_gid_index(first_is_ipv4, 8, nccl=(2, 28), settings=ranged).index == 3
    both = _table((0, "10.0.0.1", V2), (3, "fd00::1", V1), (4, "fd00::1", V2))
    assert predict_gid_index(both, 8, nccl=(2, 28), settings=six).index == 4


def test_unreadable_type_is_fatal_up_to_2_25() -> None:
    gids = _table(*LL, (2, "10.0.0.7", None), (3, "10.0.0.1", V1), (4, "10.0.0.1", V2))
    assert predict_gid_index(gids, 16, nccl=(2, 25, 1)).index is None
    assert predict_gid_index(gids, 16, nccl=(2, 26, 2)).index == 4


def _three_and_five() -> Node:
    """Two HCAs whose right indices differ: the second got an IPv6 address first."""
    node = rail(Node(), 0)
    port = node.hca("mlx5_1").port(gbps=200)
    port.pair("fe80::2", "net1", 0).pair("fd00::2", "net1", 2).pair("10.1.0.1", "net1", 4)
    return node.interface("net1", "10.1.0.1/24", "fd00::2/64")


def test_different_indices_are_left_to_nccl(decide: Decide) -> None:
    outcome = decide(_three_and_five())
    assert outcome.used == {"mlx5_0:1": 3, "mlx5_1:1": 5}
    for name in ("NCCL_IB_GID_INDEX", "MC_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX"):
        assert outcome.variables[name].value is None
        assert outcome.variables[name].source == "withheld"
        assert "mlx5_0:1 3, mlx5_1:1 5" in outcome.variables[name].reason
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_0:1,mlx5_1:1"
    assert "NCCL_IB_ADDR_RANGE" not in outcome.variables
    assert outcome.codes == []


@pytest.mark.parametrize("nccl", [(2, 20, 5), None])
def test_a_version_that_cannot_choose_keeps_the_largest_group(
    decide: Decide, nccl: tuple[int, ...] | None
) -> None:
    node = rail(_three_and_five(), 2)
    outcome = decide(node, nccl=nccl)
    assert outcome.used == {"mlx5_0:1": 3, "mlx5_2:1": 3}
    assert outcome.left == {"mlx5_1:1": "INDEX_MISMATCH"}
    assert outcome.value("NCCL_IB_GID_INDEX") == "3"
    assert outcome.codes == ["INDEX_MISMATCH"]
    (problem,) = outcome.problems
    assert problem.value
    assert problem.exit_code == 69


def test_an_index_that_every_port_owns_is_taken_when_the_lowest_differ(decide: Decide) -> None:
    node = Node().interface("net0", "10.0.0.1/24", "10.0.0.2/24").interface("net1", "10.1.0.1/24")
    node.hca("mlx5_0").port().pair("10.0.0.1", "net0", 2).pair("10.0.0.2", "net0", 4)
    node.hca("mlx5_1").port().pair("10.1.0.1", "net1", 4)
    outcome = decide(node, nccl=(2, 19, 3))
    assert outcome.used == {"mlx5_0:1": 5, "mlx5_1:1": 5}
    assert outcome.value("NCCL_IB_GID_INDEX") == "5"
    assert outcome.codes == []


def test_ipv6_only_needs_the_family(decide: Decide) -> None:
    node = Node().interface("net0", "fd00::1/64").interface("net1", "fd00:1::1/64")
    node.hca("mlx5_0").port().pair("fe80::1", "net0", 0).pair("fd00::1", "net0", 2)
    node.hca("mlx5_1").port().pair("fe80::2", "net1", 0).pair("fd00:1::1", "net1", 4)
    outcome = decide(node)
    assert outcome.used == {"mlx5_0:1": 3, "mlx5_1:1": 5}
    assert outcome.value("NCCL_IB_ADDR_FAMILY") == "AF_INET6"
    assert outcome.value("NVSHMEM_IB_ADDR_FAMILY") == "AF_INET6"


def test_foreign_gids_first_are_shut_out_by_a_range(decide: Decide) -> None:
    node = Node().interface("net0", "10.8.0.1/24").interface("net1", "10.8.1.1/24")
    first = node.hca("mlx5_0").port()
    first.pair("fe80::1", "net0", 0).pair("10.0.0.9", "ens0", 2).pair("10.8.0.1", "net0", 4)
    second = node.hca("mlx5_1").port()
    second.pair("fe80::2", "net1", 0).pair("10.0.1.9", "ens1", 2).pair("10.8.1.1", "net1", 6)
    outcome = decide(node)
    assert outcome.used == {"mlx5_0:1": 5, "mlx5_1:1": 7}
    assert outcome.value("NCCL_IB_ADDR_RANGE") == "10.8.0.0/23"


def test_no_range_can_say_it(decide: Decide) -> None:
    node = Node().interface("net0", "10.8.0.1/24").interface("net1", "10.8.2.1/24")
    first = node.hca("mlx5_0").port()
    first.pair("fe80::1", "net0", 0).pair("10.8.1.9", "ens0", 2).pair("10.8.0.1", "net0", 4)
    second = node.hca("mlx5_1").port()
    second.pair("fe80::2", "net1", 0).pair("10.8.1.8", "ens1", 2).pair("10.8.2.1", "net1", 6)
    outcome = decide(node)
    assert outcome.codes == ["INDEX_MISMATCH"]
    assert outcome.used == {"mlx5_0:1": 5}


def test_the_users_range_stays_and_counts(decide: Decide) -> None:
    environ = {"NCCL_IB_ADDR_RANGE": "192.168.0.0/16"}
    outcome = decide(_three_and_five(), environ=environ)
    assert outcome.value("NCCL_IB_ADDR_RANGE") == "192.168.0.0/16"
    assert outcome.variables["NCCL_IB_ADDR_RANGE"].source == "user"
    assert outcome.left == {"mlx5_1:1": "INDEX_MISMATCH"}


def test_unreadable_types_cannot_be_left_to_an_old_nccl(decide: Decide) -> None:
    node = _three_and_five()
    node.ports[1].gid(8, "10.1.0.9", None, None)
    assert decide(node, nccl=(2, 23, 4)).left == {"mlx5_1:1": "INDEX_MISMATCH"}
    assert decide(node, nccl=(2, 26, 2)).used == {"mlx5_0:1": 3, "mlx5_1:1": 5}


@pytest.mark.parametrize(("nccl", "newer_helps"), [((2, 20, 5), True), (None, True), ((2, 28, 9), False)])
def test_a_newer_nccl_is_only_advised_where_it_helps(
    decide: Decide, nccl: tuple[int, ...] | None, newer_helps: bool
) -> None:
    # Foreign GIDs of the same networks in front: no release chooses right here.
    node = Node().interface("net0", "10.0.0.7/24").interface("net1", "10.1.0.7/24")
    node.hca("mlx5_0").port().pair("10.0.0.1", "net0", 2).pair("10.0.0.7", "net0", 4)
    node.hca("mlx5_1").port().pair("10.1.0.1", "net1", 2).pair("10.1.0.7", "net1", 6)
    problem = decide(node, nccl=nccl).decision.problems[0]
    assert problem.code == "INDEX_MISMATCH"
    assert ("use an image with NCCL" in problem.hint) == newer_helps
    assert "reload the driver on the node" in problem.hint
