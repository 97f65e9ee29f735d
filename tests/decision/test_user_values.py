"""Values of the pod and of NCCL's files: kept, checked against the hardware, said."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.fabric import consumers
from sglang_roce_entry.fabric.choice import choose
from sglang_roce_entry.fabric.constraints import Constraints
from sglang_roce_entry.fabric.control import no_interface
from sglang_roce_entry.fabric.gids import user_scan
from sglang_roce_entry.fabric.nccl.files import given_values, parse_nccl_file
from sglang_roce_entry.fabric.nccl.numbers import parse_address_range, parse_c_integer
from sglang_roce_entry.fabric.nccl.selector import parse_selector, render_selector
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.problems import hardened
from tests.decision.conftest import Decide, rail
from tests.decision.golden import hgx
from tests.trees import V1, Node


def _with_slot(index: int, ip: str | None, kind: str | None = "RoCE v2", netdev: str = "net0") -> Node:
    node = Node().interface("net0", "10.0.0.1/24", "fe80::1/64")
    port = node.hca("mlx5_0").port()
    port.pair("fe80::1", "net0", 0).pair("10.0.0.1", "net0", 6)
    if ip is not None:
        port.gid(index, ip, kind, netdev)
    return node


WRONG = {
    "RoCE v1": (_with_slot(3, "10.0.0.1", V1), "index 3 is RoCE v1"),
    "foreign": (_with_slot(3, "10.9.9.9", "RoCE v2", "eth9"), "10.9.9.9"),
    "foreign on our name": (_with_slot(3, "10.0.0.77"), "10.0.0.77"),
    "empty": (_with_slot(3, None), "index 3 is empty"),
    "hidden": (_with_slot(3, "10.0.0.2", None), "hidden"),
    "link-local": (_with_slot(3, "fe80::2"), "link-local"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_index_is_kept_and_said(decide: Decide, name: str) -> None:
    node, words = WRONG[name]
    outcome = decide(node, environ={"NCCL_IB_GID_INDEX": "3"})
    assert outcome.variables["NCCL_IB_GID_INDEX"].value == "3"
    assert outcome.variables["NCCL_IB_GID_INDEX"].source == "user"
    assert outcome.codes == ["GID_INDEX_WRONG"]
    message = outcome.problem("GID_INDEX_WRONG")
    assert "NCCL_IB_GID_INDEX=3" in message
    assert words in message
    assert "here: 7" in outcome.problems[0].hint
    assert outcome.value("MC_GID_INDEX") == "7"
    (strict,) = hardened(outcome.problems, strict=True)
    assert (strict.severity, strict.exit_code) == ("error", 69)


def test_a_wrong_index_on_eight_rails_is_one_sentence(decide: Decide) -> None:
    """The usual one, 1, is a link-local address: another one on each rail."""
    outcome = decide(hgx(), environ={"NCCL_IB_GID_INDEX": "1"})
    assert outcome.codes == ["GID_INDEX_WRONG"]
    labels = ", ".join(f"mlx5_{number}:1" for number in range(8))
    message = outcome.problem("GID_INDEX_WRONG")
    assert message.endswith(f" is wrong on {labels}: index 1 is a link-local address")


def test_a_right_index_is_kept_without_a_word(decide: Decide) -> None:
    outcome = decide(_with_slot(3, None), environ={"NCCL_IB_GID_INDEX": "7"})
    assert outcome.codes == []
    assert outcome.variables["NCCL_IB_GID_INDEX"].source == "user"


@pytest.mark.parametrize(("text", "index"), [("auto", 0), ("3x", 3), ("", None)])
def test_an_index_that_is_no_number(decide: Decide, text: str, index: int | None) -> None:
    outcome = decide(_with_slot(3, None), environ={"NCCL_IB_GID_INDEX": text})
    if index is None:
        assert outcome.variables["NCCL_IB_GID_INDEX"].source == "discovered"
    else:
        assert outcome.codes[0] == "GID_INDEX_NOT_A_NUMBER"
        assert f"reads it as {index}" in outcome.problem("GID_INDEX_NOT_A_NUMBER")


def test_an_index_beyond_the_table(decide: Decide) -> None:
    outcome = decide(_with_slot(3, None), environ={"NCCL_IB_GID_INDEX": "99"})
    assert "table ends at index 31" in outcome.problem("GID_INDEX_WRONG")


def test_an_index_that_is_no_number_is_no_index_to_nccl_2_32(decide: Decide) -> None:
    outcome = decide(_with_slot(3, None), environ={"NCCL_IB_GID_INDEX": "auto"}, nccl=(2, 32, 3))
    assert outcome.codes == ["GID_INDEX_NOT_A_NUMBER"]
    assert "as if it were not set" in outcome.problem("GID_INDEX_NOT_A_NUMBER")
    assert outcome.used == {"mlx5_0:1": 7}


def test_an_index_left_to_nccl_is_the_one_of_its_scan(decide: Decide) -> None:
    """Two addresses of this pod: NCCL takes the first in the table, not the numerically lowest."""
    node = Node().interface("net0", "10.0.0.9/24", "10.0.0.1/24")
    node.hca("mlx5_0").port().pair("fe80::1", "net0", 0).pair("10.0.0.1", "net0", 6).pair("10.0.0.9", "net0", 4)
    assert decide(node).used == {"mlx5_0:1": 5}
    node.interface("net0", "10.0.0.1/24")
    foreign_first = decide(node, environ={"NCCL_IB_GID_INDEX": "-1"})
    assert foreign_first.used == {"mlx5_0:1": 7}
    assert foreign_first.value("NCCL_IB_ADDR_RANGE") == "10.0.0.1/32"


def test_an_index_left_to_nccl_that_would_choose_wrong(decide: Decide) -> None:
    node = rail(Node(), 0).interface("net1", "10.8.0.1/24").interface("net2", "10.8.2.1/24")
    for number, own in ((1, "10.8.0.1"), (2, "10.8.2.1")):
        port = node.hca(f"mlx5_{number}").port(gbps=200)
        port.pair("10.8.1.9", "ens0", 2).pair(own, f"net{number}", 4)
    outcome = decide(node, environ={"NCCL_IB_GID_INDEX": "-1"})
    assert outcome.used == {"mlx5_0:1": 3}
    assert set(outcome.left.values()) == {"INDEX_MISMATCH"}
    assert "mlx5_1:1, mlx5_2:1" in outcome.problem("INDEX_MISMATCH")


def test_an_index_left_to_an_nccl_that_cannot_choose(decide: Decide) -> None:
    old = decide(rail(Node(), 0), environ={"NCCL_IB_GID_INDEX": "-1"}, nccl=(2, 20, 5))
    assert old.value("NCCL_IB_GID_INDEX") == "-1"
    assert old.codes == ["GID_INDEX_WRONG"]
    assert "before 2.21" in old.problem("GID_INDEX_WRONG")
    default = decide(rail(Node(), 0), environ={"NCCL_IB_GID_INDEX": "9" * 20}, nccl=(2, 20, 5))
    assert default.used == {"mlx5_0:1": 0}
    assert "index 0 is" in default.problem("GID_INDEX_WRONG")


def test_a_range_of_the_other_family_is_said_where_nccl_scans(decide: Decide) -> None:
    node = rail(rail(Node(), 0), 1)
    environ = {"NCCL_IB_ADDR_RANGE": "fd00::/8"}
    assert decide(node, environ=environ).codes == []
    scanning = decide(node, environ={**environ, "NCCL_IB_GID_INDEX": "-1"})
    assert scanning.codes == ["ADDR_RANGE_OTHER_FAMILY"]
    assert scanning.used == {"mlx5_0:1": 3, "mlx5_1:1": 3}


def test_a_malformed_range_is_said_as_nccl_reads_it(decide: Decide) -> None:
    node = rail(Node(), 0)
    for text, words in (("10.0.0.0", "ignores it"), ("10.0.0.0/16,10.1.0.0/16", "reads it as 10.0.0.0/16")):
        outcome = decide(node, environ={"NCCL_IB_ADDR_RANGE": text})
        assert words in outcome.problem("ADDR_RANGE_MALFORMED")


def test_the_pods_selector_is_read_as_its_nccl_reads_it(decide: Decide) -> None:
    """An empty port is port 0 up to 2.30.4 and any port from 2.30.7 on."""
    environ = {"NCCL_IB_HCA": "=mlx5_0:"}
    assert decide(rail(Node(), 0), environ=environ, nccl=(2, 32, 3)).used == {"mlx5_0:1": 3}
    assert decide(rail(Node(), 0), environ=environ, nccl=(2, 28, 3)).used == {}


def test_a_negative_index_leaves_it_to_nccl(decide: Decide) -> None:
    outcome = decide(_with_slot(3, None), environ={"NCCL_IB_GID_INDEX": "-1"})
    assert outcome.codes == []
    assert outcome.value("NCCL_IB_GID_INDEX") == "-1"


def test_an_nccl_hca_is_kept_verbatim_and_limits_the_rest(decide: Decide) -> None:
    node = rail(rail(Node(), 1), 10)
    outcome = decide(node, environ={"NCCL_IB_HCA": "=mlx5_1"})
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_1"
    assert outcome.variables["NCCL_IB_HCA"].source == "user"
    assert outcome.left == {"mlx5_10:1": "USER_EXCLUDED"}


def test_an_explicit_flag_beats_the_pods_nccl_hca(decide: Decide) -> None:
    node = rail(rail(Node(), 1), 2)
    outcome = decide(node, environ={"NCCL_IB_HCA": "=mlx5_1"}, hca="=mlx5_2", hca_origin="--hca")
    assert outcome.value("NCCL_IB_HCA") == "=mlx5_2:1"
    assert "overrides '=mlx5_1'" in outcome.variables["NCCL_IB_HCA"].reason
    weaker = decide(node, environ={"NCCL_IB_HCA": "=mlx5_1"}, hca="=mlx5_2")
    assert weaker.value("NCCL_IB_HCA") == "=mlx5_1"


def test_an_nccl_hca_that_matches_nothing(decide: Decide) -> None:
    outcome = decide(rail(Node(), 0), environ={"NCCL_IB_HCA": "=mlx5_7"})
    assert outcome.codes == ["HCA_UNKNOWN", "SELECTOR_MATCHES_NOTHING"]
    assert "'mlx5_7'" in outcome.problem("HCA_UNKNOWN")
    assert [one.exit_code for one in outcome.problems if one.fatal] == [69]


def test_an_nccl_hca_that_takes_a_port_without_gid(decide: Decide) -> None:
    node = rail(Node(), 0)
    node.hca("mlx5_1").port().pair("fe80::9", "net9", 0)
    outcome = decide(node, environ={"NCCL_IB_HCA": "mlx5"})
    assert outcome.codes == ["HCA_UNUSABLE"]
    assert "mlx5_1:1" in outcome.problem("HCA_UNUSABLE")


def test_the_pods_disable_switches_rdma_off(decide: Decide) -> None:
    outcome = decide(rail(Node(), 0), environ={"NCCL_IB_DISABLE": "1"})
    assert outcome.left == {"mlx5_0:1": "RDMA_OFF"}
    assert outcome.codes == ["RDMA_DISABLED"]
    assert decide(rail(Node(), 0), environ={"NCCL_IB_DISABLE": "1"}, rdma="optional").codes == []
    flagged = decide(rail(Node(), 0), environ={"NCCL_IB_DISABLE": "1"}, rdma_explicit=True)
    assert flagged.value("NCCL_IB_DISABLE") == "0"
    assert flagged.used == {"mlx5_0:1": 3}


def test_a_net_that_rdma_off_leaves_nothing_of_is_said(decide: Decide) -> None:
    assert decide(rail(Node(), 0), environ={"NCCL_NET": "IB"}, rdma="off").codes == ["NCCL_NET_IB"]
    assert decide(rail(Node(), 0), environ={"NCCL_NET": "Socket"}, rdma="off").codes == []


def test_nccl_net_socket_under_required(decide: Decide) -> None:
    node = rail(Node(), 0)
    outcome = decide(node, environ={"NCCL_NET": "Socket"})
    assert outcome.value("NCCL_NET") == "Socket"


def test_files_count_as_decided_and_the_environment_beats_them(decide: Decide) -> None:
    files = (
        ("/root/.nccl.conf", "NCCL_IB_GID_INDEX=3\n"),
        ("/etc/nccl.conf", "NCCL_IB_GID_INDEX=5\nNCCL_IB_HCA=mlx5\n"),
    )
    outcome = decide(_with_slot(3, None), files=files)
    assert outcome.variables["NCCL_IB_GID_INDEX"].source == "file"
    assert outcome.value("NCCL_IB_GID_INDEX") == "3"
    assert outcome.value("NCCL_IB_HCA") == "mlx5"
    assert "/root/.nccl.conf" in outcome.problem("GID_INDEX_WRONG")
    both = decide(_with_slot(3, None), files=files, environ={"NCCL_IB_GID_INDEX": "7"})
    assert both.variables["NCCL_IB_GID_INDEX"].source == "user"


def test_a_file_is_read_as_nccl_reads_it() -> None:
    text = "# NCCL_A=1\nNCCL_B=2\n NCCL_C=3\nNCCL_D =4\nNCCL_E=a=b\nno equals\nNCCL_B=9\r\n"
    assert parse_nccl_file(text) == {"NCCL_B": "2", " NCCL_C": "3", "NCCL_D ": "4", "NCCL_E": "a=b"}


def test_empty_values_count_as_unset() -> None:
    assert "NCCL_IB_HCA" not in given_values({"NCCL_IB_HCA": ""}, ())


@pytest.mark.parametrize(
    ("text", "value", "whole"),
    [
        ("3", 3, True),
        ("0x3", 3, True),
        ("010", 8, True),
        ("auto", 0, False),
        ("3,3", 3, False),
        ("-1", -1, True),
        (" 5 ", 5, True),
        ("0x", 0, False),
        ("08", 0, False),
        ("4294967299", 3, True),
        ("9" * 20, None, False),
        ("9" * 5000, None, False),
        ("", None, True),
    ],
)
def test_c_integers(text: str, value: int | None, whole: bool) -> None:
    assert parse_c_integer(text) == (value, whole)


@pytest.mark.parametrize("text", ["auto", "x3", "-", "true"])
def test_a_text_that_is_no_number_is_the_default_from_2_32_on(text: str) -> None:
    assert parse_c_integer(text, (2, 31, 2)) == (0, False)
    assert parse_c_integer(text, (2, 32, 3)) == (None, False)
    assert parse_c_integer("0x", (2, 32, 3)) == (0, False)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/16", "10.0.0.0/16"),
        ("10.0.3.4/16", "10.0.0.0/16"),
        ("fd00::/8", "fd00::/8"),
        ("10.0.0.0/16,10.1.0.0/16", "10.0.0.0/16"),
        ("10.0.0.0/ 16 ", "10.0.0.0/16"),
        ("10.0.0.0/", "0.0.0.0/0"),
        ("10.0.0.0/x", "0.0.0.0/0"),
        ("10.0.0.0/0.0.255.255", "0.0.0.0/0"),
        # All of these NCCL ignores.
        ("10.0.0.0/255.255.0.0", None),
        ("10.0.0.0/33", None),
        ("10.0.0.0", None),
        (" 10.0.0.0/16", None),
        ("10.0.0.1,10.1.0.0/16", None),
        ("fe80::1%eth0/64", None),
        ("eth0", None),
    ],
)
def test_an_address_range_is_read_as_nccl_reads_it(text: str, network: str | None) -> None:
    assert parse_address_range(text) == (ip_network(network) if network else None)


def test_a_roce_version_of_zero_is_no_default() -> None:
    decided = given_values({"NCCL_IB_ROCE_VERSION_NUM": "0"}, ())
    assert user_scan(decided, (2, 28)).settings().roce_version == 0


@given(st.text())
def test_parsers_of_user_values_never_raise(text: str) -> None:
    parse_c_integer(text)
    parse_address_range(text)
    parse_nccl_file(text)
    parse_selector(text).matches("mlx5_0", 1)


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
PAIRS = st.sets(st.tuples(NAMES, st.integers(1, 4)), min_size=1, max_size=32)


@given(PAIRS, NAMES, st.integers(1, 4))
def test_a_rendered_selector_selects_just_its_ports(ports: set[tuple[str, int]], device: str, port: int) -> None:
    selector = parse_selector(render_selector(ports))
    assert all(selector.matches(*pair) for pair in ports)
    assert selector.matches(device, port) == ((device, port) in ports)


@given(st.lists(st.tuples(NAMES, st.none() | st.integers(1, 4)), min_size=1, max_size=5), NAMES, st.integers(1, 4))
def test_exclusion_is_the_opposite(entries: list[tuple[str, int | None]], device: str, port: int) -> None:
    body = ",".join(name if number is None else f"{name}:{number}" for name, number in entries)
    for mark in ("", "="):
        assert parse_selector(mark + body).matches(device, port) != parse_selector(f"^{mark}{body}").matches(
            device, port
        )


@pytest.mark.parametrize(
    ("text", "device", "port", "hit"),
    [
        ("mlx5_1", "mlx5_10", 1, True),
        ("=mlx5_1", "mlx5_10", 1, False),
        ("=mlx5_1:2", "mlx5_1", 1, False),
        ("mlx5_1, mlx5_2", "mlx5_2", 1, False),
        ("^mlx5_1", "mlx5_2", 1, True),
        ("=^mlx5_1", "mlx5_1", 1, False),
        ("", "mlx5_0", 1, True),
        ("=", "mlx5_0", 1, True),
        ("^", "mlx5_0", 1, False),
        ("=mlx5_0:1:2", "mlx5_0", 1, True),
        ("=mlx5_0:", "mlx5_0", 1, False),
        ("=mlx5_0:4294967297", "mlx5_0", 1, True),
        ("=mlx5_0:99999999999999999999", "mlx5_0", 2, True),
        ("=mlx5_0:" + "9" * 5000, "mlx5_0", 2, True),
        ("=mlx5_0:-99999999999999999999", "mlx5_0", 1, False),
    ],
)
def test_selector_grammar(text: str, device: str, port: int, hit: bool) -> None:
    assert parse_selector(text).matches(device, port) is hit


def test_an_empty_port_means_any_from_2_30_7_on() -> None:
    assert parse_selector("=mlx5_0:", nccl=(2, 30, 7)).matches("mlx5_0", 1)


@pytest.mark.parametrize(
    ("environ", "code"),
    [
        ({"NCCL_SOCKET_IFNAME": "=eth9"}, "SOCKET_IFNAME_MATCHES_NOTHING"),
        ({"NCCL_SOCKET_IFNAME": "=eth0"}, None),
        ({"NCCL_SOCKET_IFNAME": "eth"}, None),
        ({"GLOO_SOCKET_IFNAME": "=eth0"}, "GLOO_IFNAME_UNKNOWN"),
        ({"NCCL_SOCKET_FAMILY": "AF_INET6"}, "SOCKET_FAMILY"),
        ({"NVSHMEM_BOOTSTRAP_UID_SOCK_FAMILY": "AF_INET6"}, "SOCKET_FAMILY"),
        ({"NCCL_SOCKET_FAMILY": "AF_INET"}, None),
        ({"GLOO_SOCKET_IFNAME": "eth0"}, None),
        ({"HOST_IP": "10.9.9.9"}, "HOST_IP_FOREIGN"),
        ({"HOST_IP": "10.0.0.1"}, None),
        ({"SGLANG_HOST_IP": "10.9.9.9"}, "HOST_IP_FOREIGN"),
    ],
)
def test_socket_values(environ: dict[str, str], code: str | None) -> None:
    facts = collect(Node().interface("eth0", "10.0.0.1/24").host(), {})
    choice = choose(facts, Constraints(), no_interface("no group here"))
    problems = consumers.check(given_values(environ, ()), choice, Use())
    assert [problem.code for problem in problems] == ([code] if code else [])
