"""The sysfs reader: formats, and what it makes of absent, empty, forbidden and moving attributes."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.host.answers import Host, LiveAnswers
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.limits import open_device
from sglang_roce_entry.host.rdma import (
    is_pci_address,
    leading_number,
    parse_gid,
    parse_rate_gbps,
    pci_function_path,
    read_hcas,
)
from sglang_roce_entry.host.snapshot.recorded import MemoryTree
from sglang_roce_entry.host.tree import DiskTree
from tests.trees import V1, V2, Node, gid_text

if TYPE_CHECKING:
    from pathlib import Path


@given(st.ip_addresses())
def test_gid_text_round_trips(address: object) -> None:
    text = str(address)
    parsed = parse_gid(gid_text(text))
    if int(ip_address(text)) == 0 and ":" in text:
        assert parsed is None
    else:
        mapped = getattr(ip_address(text), "ipv4_mapped", None)
        assert parsed == (mapped or ip_address(text))


@pytest.mark.parametrize("text", ["", "::1", "fe80::1", "0000:" * 7 + "00000", "10.0.0.1"])
def test_other_texts_are_no_gid(text: str) -> None:
    with pytest.raises(ValueError):
        parse_gid(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100 Gb/sec (4X EDR)", 100.0),
        ("2.5 Gb/sec (1X SDR)", 2.5),
        ("400 Gb/sec (4X NDR)", 400.0),
        ("", None),
        (None, None),
        ("fast", None),
    ],
)
def test_rate(text: str | None, rate: float | None) -> None:
    assert parse_rate_gbps(text) == rate


@pytest.mark.parametrize(("text", "number"), [("4: ACTIVE", 4), ("1: CA", 1), ("x", None), (None, None)])
def test_leading_number(text: str | None, number: int | None) -> None:
    assert leading_number(text) == number


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("/sys/devices/pci0000:10/0000:10:01.0/0000:18:00.0", "/sys/devices/pci0000:10/0000:10:01.0/0000:18:00.0"),
        ("/sys/devices/pci0000:10/0000:18:00.1/mlx5_core.sf.4", "/sys/devices/pci0000:10/0000:18:00.1"),
        ("/sys/devices/pci10000:00/10000:01:00.0", "/sys/devices/pci10000:00/10000:01:00.0"),
        ("/sys/devices/virtual/net/eth0", None),
    ],
)
def test_pci_function_path(path: str, function: str | None) -> None:
    assert pci_function_path(path) == function


@pytest.mark.parametrize("text", ["pci0000:10", "0000:10", "0000:10:01", "0000:1:01.0", "zzzz:10:01.0"])
def test_not_a_pci_address(text: str) -> None:
    assert not is_pci_address(text)


def test_whole_hca() -> None:
    node = Node()
    hca = node.hca("mlx5_10", pci="0000:18:00.2", numa=1, physfn="0000:18:00.0", netdevs=("net1",))
    port = hca.port(gbps=200, slots=8)
    port.pair("fe80::1", "net1").pair("10.0.0.1", "net1").gid(6, "10.0.0.9", None, None)
    node.hca("mlx5_2", verbs="EPERM").port(state="1: DOWN", slots=4)
    second, first = collect(node.host(), {}).hcas  # natural order: mlx5_2 before mlx5_10
    assert (second.name, second.verbs_answer, second.ports[0].state) == ("mlx5_2", "EPERM", 1)
    assert first.pci_address == "0000:18:00.2"
    assert first.physical_function == "0000:18:00.0"
    assert first.numa_node == 1
    assert first.model == "0x15b3:0x1021"
    assert first.netdevs == ("net1",)
    (read,) = first.ports
    assert read.table_length == 8
    assert [(gid.index, str(gid.ip), gid.type, gid.netdev) for gid in read.gids] == [
        (0, "fe80::1", V1, "net1"),
        (1, "fe80::1", V2, "net1"),
        (2, "10.0.0.1", V1, "net1"),
        (3, "10.0.0.1", V2, "net1"),
        (6, "10.0.0.9", None, None),
    ]


def test_what_may_not_be_read_is_not_known() -> None:
    node = Node()
    node.hca("mlx5_0").port(slots=2)
    node.errno["/sys/class/infiniband/mlx5_0/ports/1/state"] = "EACCES"
    facts = collect(node.host(), {})
    assert facts.hcas[0].ports[0].state is None


def test_errno_by_real_path_counts_too() -> None:
    node = Node()
    node.hca("mlx5_0").port(slots=2)
    node.errno["/sys/devices/virtual/infiniband/mlx5_0/ports/1/rate"] = "EINVAL"
    assert collect(node.host(), {}).hcas[0].ports[0].rate_gbps is None


def test_no_infiniband_class_at_all() -> None:
    assert collect(Node().host(), {}).hcas == ()


def test_stray_files_in_the_classes_are_no_devices() -> None:
    node = Node()
    node.hca("mlx5_0").port(slots=2)
    node.files["/sys/class/infiniband/README"] = "not a device\n"
    node.files["/sys/class/infiniband_verbs/abi_version"] = "6\n"
    assert [hca.name for hca in collect(node.host(), {}).hcas] == ["mlx5_0"]


class _Moving(MemoryTree):
    """A table that changes under the reader: one slot's content is another at every read of its GID."""

    def __init__(self, files: dict[str, bytes], links: dict[str, str], script: list[tuple[str, str]]) -> None:
        super().__init__(files, links, {})
        self._script = script
        self.reads = 0

    def attribute(self, path: str) -> str:
        if path.endswith("/gids/3"):
            self.reads += 1
        step = self._script[min(self.reads, len(self._script)) - 1] if self.reads else self._script[0]
        if path.endswith("/gids/3"):
            return step[0]
        if path.endswith(("types/3", "ndevs/3")):
            return V2 if "types" in path else step[1]
        return super().attribute(path)


def _moving(script: list[tuple[str, str]]) -> _Moving:
    node = Node()
    node.hca("mlx5_0").port(slots=4).gid(3, "10.0.0.1", V2, "eth0")
    files, links, _ = node.content()
    return _Moving(files, links, script)


def test_a_changing_slot_is_read_until_two_readings_agree() -> None:
    one, two = (gid_text("10.0.0.1"), "eth0"), (gid_text("10.0.9.9"), "eth0.10")
    tree = _moving([one, two, two, two])
    (hca,) = read_hcas(tree, lambda _name, _numbers: "ok")
    (gid,) = hca.ports[0].gids
    assert (str(gid.ip), gid.netdev) == ("10.0.9.9", "eth0.10")
    assert tree.reads == 3


def test_a_slot_that_never_settles_is_left_out() -> None:
    steps = [(gid_text(f"10.0.0.{i}"), f"eth{i}") for i in range(1, 40)]
    (hca,) = read_hcas(_moving(steps), lambda _name, _numbers: "ok")
    assert hca.ports[0].gids == ()


def test_disk_and_memory_read_the_same(tmp_path: Path) -> None:
    node = Node()
    node.hca("mlx5_0", pci="0000:18:00.0", bridge="pci0000:10").port(slots=6).pair("10.0.0.1", "eth0")
    node.hca("mlx5_1").port(2, slots=4)
    in_memory = node.host()
    node.write(tmp_path)

    def answer(uverbs: str, _numbers: str | None) -> str:
        return in_memory.answers.open_verbs(uverbs, None)

    from_disk = read_hcas(DiskTree(str(tmp_path)), answer)
    assert from_disk == read_hcas(in_memory.tree, answer)


def test_open_of_a_plain_file_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "dev/infiniband").mkdir(parents=True)
    (tmp_path / "dev/infiniband/uverbs0").write_text("")
    answers = LiveAnswers(str(tmp_path))
    assert answers.open_verbs("uverbs0", None) == "ENOTTY"
    assert answers.open_verbs("uverbs1", None) == "ENOENT"


def test_open_of_a_device_node_compares_its_number() -> None:
    assert open_device("/dev/null", "1:3") == "ok"
    assert open_device("/dev/null", "231:192") == "ENODEV"


def test_sysfs_of_another_namespace_is_seen() -> None:
    node = Node().interface("eth0", "10.244.0.5/24")
    node.netdev("ens1np0")
    facts = collect(node.host(), {})
    assert facts.foreign_netdevs == ("ens1np0",)


def test_an_interface_list_without_sysfs_claims_nothing() -> None:
    host = Host(MemoryTree({}, {}, {}), Node().interface("eth0", "10.0.0.1/24").host().answers)
    facts = collect(host, {})
    assert facts.foreign_netdevs == ()


def test_default_route_of_both_families() -> None:
    node = Node().default_route("eth0")
    node.files["/proc/net/ipv6_route"] = (
        "0" * 32 + " 00 " + "0" * 32 + " 00 " + "0" * 32 + " 00000400 00000001 00000000 00450003 net1\n"
        + "0" * 32 + " 00 " + "0" * 32 + " 00 " + "0" * 32 + " ffffffff 00000001 00000000 00200200 lo\n"
    )  # fmt: skip
    assert collect(node.host(), {}).default_route_interfaces == ("eth0", "net1")


def test_interfaces_with_a_route_beyond_their_own_link() -> None:
    """A next hop that is an IPv6 address has no gateway in /proc/net/route (fib_route_seq_show)."""
    node = Node().default_route("eth0").interface("eth0", "10.0.0.5/24")
    for name, address in (("net0", "10.50.0.2/31"), ("net1", "10.50.1.2/31"), ("net2", "10.50.2.2/31")):
        node.interface(name, address)
    node.gateway_route("net1")
    node.files["/proc/net/route"] += (
        "net0\t0200320A\t00000000\t0001\t0\t0\t0\tFEFFFFFF\t0\t0\t0\n"  # its own link
        "net2\t0000320A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"  # 10.50.0.0/16 via inet6
        "net0\tXYZ\t00000000\t0000\t0\t0\t0\tFEFFFFFF\t0\t0\t0\n"
    )
    assert collect(node.host(), {}).routed_interfaces == ("eth0", "net1", "net2")


def test_reading_through_the_root_raises_what_the_kernel_says(tmp_path: Path) -> None:
    tree = DiskTree(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        tree.attribute("/sys/none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        tree.attribute("/folder")
    assert caught.value.errno == errno.EISDIR
    assert tree.real("/folder") == "/folder"
    assert tree.real("/none") is None


def test_a_gid_that_is_none_is_left_out() -> None:
    node = Node()
    node.hca("mlx5_0").port(slots=4).gid(1, "10.0.0.1", V2, "eth0")
    files, links, _ = node.content()
    files["/sys/devices/virtual/infiniband/mlx5_0/ports/1/gids/1"] = b"garbage\n"
    (hca,) = read_hcas(MemoryTree(files, links, {}), lambda _name, _numbers: "ok")
    assert hca.ports[0].gids == ()
