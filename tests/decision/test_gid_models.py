"""The GID that each library takes by itself, on twelve tables: NCCL, UCX, Mooncake, and what is this pod's own.

The tables and the expected indices were worked out from the libraries' sources. ``hidden`` slots are those
of another namespace under NVIDIA's driver: sysfs refuses their type, the driver's ioctl does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.fabric.candidates import view_gids
from sglang_roce_entry.fabric.consumers import mooncake, ucx
from sglang_roce_entry.fabric.nccl.files import given_values
from sglang_roce_entry.fabric.nccl.scan import AF_INET6, ScanSettings, predict_gid_index
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.facts import ROCE_V1, ROCE_V2, Gid, Port
from tests.trees import Node

LL, LL2, LL3 = "fe80::1", "fe80::2", "fe80::3"


@dataclass(frozen=True)
class Table:
    """Pairs of v1 and v2 (``v2_only``: v2 alone) from ``start`` on: (address, netdev, hidden)."""

    pairs: tuple[tuple[str, str, bool], ...]
    own: tuple[str, ...]
    start: int = 0
    v2_only: bool = False

    def gids(self, *, as_sysfs: bool) -> tuple[Gid, ...]:
        found = []
        index = self.start
        for address, netdev, hidden in self.pairs:
            for kind in (ROCE_V2,) if self.v2_only else (ROCE_V1, ROCE_V2):
                shown = None if hidden and as_sysfs else kind
                found.append(Gid(index, ip_address(address), shown, None if hidden else netdev))
                index += 1
        return tuple(found)

    def mine(self) -> list[int]:
        node = Node().interface("net1", *(f"{address}/24" for address in self.own))
        interfaces = {one.name: one for one in collect(node.host(), {}).interfaces}
        port = Port("mlx5_0", 1, 4, "ACTIVE", "Ethernet", 100.0, 32, self.gids(as_sysfs=True))
        return [own.gid.index for own in view_gids(port, interfaces).own]


def _ours(*addresses: str) -> tuple[tuple[str, str, bool], ...]:
    return tuple((address, "net1", False) for address in addresses)


def _hidden(*addresses: str) -> tuple[tuple[str, str, bool], ...]:
    return tuple((address, "ens1", True) for address in addresses)


TABLES = {
    "T1 classic PF": Table(_ours(LL, "10.0.0.1"), ("10.0.0.1",)),
    "T2 ULA before IPv4": Table(_ours(LL, "fd00::1", "10.0.0.1"), ("fd00::1", "10.0.0.1")),
    "T3 IPv6 only": Table(_ours(LL, "fd00::1"), ("fd00::1",)),
    "T4 macvlan, inbox driver": Table(
        (
            (LL, "ens1", False), ("10.0.0.9", "ens1", False), (LL2, "net1", False), ("10.0.0.8", "net1", False),
            *_ours(LL3, "10.0.0.1"),
        ),
        ("10.0.0.1",),
    ),
    "T5 macvlan, hidden": Table((*_hidden(LL, "10.0.0.9"), *_ours(LL2, "10.0.0.1")), ("10.0.0.1",)),
    "T6 v2 only": Table(_ours(LL, "10.0.0.1"), ("10.0.0.1",), v2_only=True),
    "T7 base and VLAN": Table(_ours(LL, "192.168.1.1", "10.1.0.1"), ("192.168.1.1", "10.1.0.1")),
    "T8 169.254 first": Table(_ours(LL, "169.254.3.4", "10.1.0.1"), ("169.254.3.4", "10.1.0.1")),
    "T9 IPv4 and SLAAC": Table(_ours(LL, "10.1.0.1", "2001:db8::1"), ("10.1.0.1", "2001:db8::1")),
    "T10 link-local only": Table(_ours(LL), (LL,)),
    "T11 holes": Table(_ours(LL, "10.0.0.1"), ("10.0.0.1",), start=4),
    "T12 hidden public": Table((*_hidden(LL, "192.168.0.9"), *_ours(LL2, "10.0.0.1")), ("10.0.0.1",)),
}  # fmt: skip

#: NCCL, NCCL with AF_INET6, UCX, Mooncake by generation, this pod's own.
EXPECTED: dict[str, tuple[int, int, int, tuple[int | None, int | None, int | None], list[int]]] = {
    "T1 classic PF": (3, 0, 3, (3, 3, 3), [3]),
    "T2 ULA before IPv4": (5, 3, 5, (5, 5, 3), [3, 5]),
    "T3 IPv6 only": (0, 3, 3, (0, 1, 3), [3]),
    "T4 macvlan, inbox driver": (3, 0, 3, (3, 3, 3), [11]),
    "T5 macvlan, hidden": (7, 0, 7, (7, 7, 7), [7]),
    "T6 v2 only": (1, 0, 1, (1, 1, 1), [1]),
    "T7 base and VLAN": (3, 0, 3, (3, 3, 3), [3, 5]),
    "T8 169.254 first": (3, 0, 3, (3, 3, 3), [5]),
    "T9 IPv4 and SLAAC": (3, 5, 3, (3, 3, 5), [3, 5]),
    "T10 link-local only": (0, 0, 1, (0, 1, 1), []),
    "T11 holes": (7, 0, 7, (7, None, 7), [7]),
    "T12 hidden public": (7, 0, 7, (7, 7, 3), [7]),
}

NCCL = (2, 28, 3)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_what_each_library_takes(name: str) -> None:
    table = TABLES[name]
    nccl, nccl_ipv6, by_ucx, by_mooncake, mine = EXPECTED[name]
    shown, asked = table.gids(as_sysfs=True), table.gids(as_sysfs=False)
    assert predict_gid_index(shown, 32, nccl=NCCL).index == nccl
    assert predict_gid_index(shown, 32, nccl=NCCL, settings=ScanSettings(AF_INET6)).index == nccl_ipv6
    assert ucx.predict_index(shown) == by_ucx
    assert tuple(mooncake.predict_index(asked, one) for one in mooncake.GENERATIONS) == by_mooncake
    assert table.mine() == mine


@pytest.mark.parametrize("name", ["T5 macvlan, hidden", "T12 hidden public"])
def test_an_old_nccl_fails_on_hidden_types(name: str) -> None:
    prediction = predict_gid_index(TABLES[name].gids(as_sysfs=True), 32, nccl=(2, 23, 4))
    assert prediction.index is None
    assert prediction.fatal is not None


@pytest.mark.parametrize(
    ("name", "network", "index"),
    [
        ("T4 macvlan, inbox driver", "10.0.0.1/32", 11),
        ("T5 macvlan, hidden", "10.0.0.1/32", 7),
        ("T7 base and VLAN", "10.1.0.1/32", 5),
        ("T8 169.254 first", "10.1.0.1/32", 5),
        ("T4 macvlan, inbox driver", "10.0.0.0/16", 3),
    ],
)
def test_a_range_steers_nccl_and_ucx_alike(name: str, network: str, index: int) -> None:
    gids = TABLES[name].gids(as_sysfs=True)
    subnet = ip_network(network)
    assert predict_gid_index(gids, 32, nccl=NCCL, settings=ScanSettings(address_range=subnet)).index == index
    assert ucx.predict_index(gids, (subnet,)) == index


def test_mooncake_demotes_overlay_names_and_private_addresses() -> None:
    def taken(first: tuple[str, str | None], second: tuple[str, str | None]) -> int | None:
        gids = [Gid(i, ip_address(ip), ROCE_V2, netdev) for i, (ip, netdev) in enumerate((first, second))]
        return mooncake.predict_index(gids)

    assert taken(("172.20.0.1", "docker0"), ("10.0.0.1", "net1")) == 1
    assert taken(("192.168.0.1", "cni0"), ("fe80::1", "net1")) == 0
    assert taken(("172.32.0.1", "net1"), ("192.168.0.1", "net1")) == 0
    assert taken(("10.0.0.1", "net1"), ("172.32.0.1", "net1")) == 1
    assert taken(("10.0.0.1", "net1"), ("172.32.0.1", None)) == 1
    assert taken(("100.64.0.1", "net1"), ("100.128.0.1", "net1")) == 1
    assert taken(("169.254.0.1", "tunl0"), ("10.0.0.1", None)) == 0


GIDS = st.lists(
    st.builds(
        lambda index, ip, kind, netdev: Gid(index, ip_address(ip), kind, netdev),
        st.integers(0, 31),
        st.sampled_from([LL, "10.0.0.1", "192.168.0.1", "169.254.0.1", "2001:db8::1"]),
        st.sampled_from([ROCE_V1, ROCE_V2, None]),
        st.sampled_from(["net1", "docker0", None]),
    ),
    max_size=12,
    unique_by=lambda gid: gid.index,
)


@given(GIDS)
def test_every_model_takes_a_slot_that_is_there_or_says_so(gids: list[Gid]) -> None:
    indices = {gid.index for gid in gids}
    assert ucx.predict_index(gids) in indices | {0}
    for generation in mooncake.GENERATIONS:
        assert mooncake.predict_index(gids, generation) in indices | {0, None}


@given(GIDS)
def test_the_order_of_reading_changes_nothing(gids: list[Gid]) -> None:
    backwards = gids[::-1]
    assert ucx.predict_index(gids) == ucx.predict_index(backwards)
    for generation in mooncake.GENERATIONS:
        assert mooncake.predict_index(gids, generation) == mooncake.predict_index(backwards, generation)


@given(GIDS, st.integers(0, 31))
def test_a_lower_equal_of_what_ucx_takes_is_taken_instead(gids: list[Gid], index: int) -> None:
    taken = ucx.predict_index(gids)
    chosen = next((gid for gid in gids if gid.index == taken), None)
    if chosen is None or any(gid.index == index for gid in gids) or index > taken:
        return
    assert ucx.predict_index([*gids, Gid(index, chosen.ip, chosen.type, chosen.netdev)]) == index


@pytest.mark.parametrize(
    ("version", "known"),
    [
        (None, mooncake.GENERATIONS),
        ((0, 3, 7), (mooncake.TO_0_3_9,)),
        ((0, 3, 9), (mooncake.TO_0_3_9,)),
        ((0, 3, 10), (mooncake.TO_0_3_11,)),
        ((0, 3, 11), (mooncake.TO_0_3_11,)),
        ((0, 3, 12), (mooncake.FROM_0_3_12,)),
    ],
)
def test_generations_by_release(version: tuple[int, ...] | None, known: tuple[str, ...]) -> None:
    assert mooncake.generations(version) == known


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({}, None),
        ({"NCCL_IB_GID_INDEX": "5"}, 5),
        ({"NCCL_IB_GID_INDEX": "-1"}, None),
        ({"NCCL_IB_GID_INDEX": "5", "MC_GID_INDEX": "7"}, 7),
        ({"MC_GID_INDEX": "256"}, None),
    ],
)
def test_mooncake_inherits_nccls_index(environ: dict[str, str], index: int | None) -> None:
    assert mooncake.forced_index(given_values(environ, ())) == index
