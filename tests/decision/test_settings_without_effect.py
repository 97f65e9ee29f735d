"""A setting that nothing on the node answers to says so, whether RDMA is required or not."""

from __future__ import annotations

import pytest

from tests.healthy import healthy
from tests.planning import codes, message, plan_of
from tests.trees import Node

CODE = "SETTING_MATCHES_NOTHING"


def one_node() -> Node:
    """Return a healthy node without a group: RDMA is optional there."""
    return healthy().set(environ={})


@pytest.mark.parametrize("node", [healthy, one_node])
@pytest.mark.parametrize(
    ("subnets", "said"),
    [
        ("192.0.2.0/24", True),
        ("192.0.2.0/24,198.51.100.0/24", True),
        ("fd00::/8", True),
        ("10.0.0.0/24", True),  # the management network: no used port is in it
        ("10.1.0.0/16", False),
        ("192.0.2.0/24,10.1.1.0/24", False),  # one list for several sites
        ("10.0.0.0/8,fd00::/8", False),
    ],
)
def test_subnets(node: type[Node], subnets: str, said: bool) -> None:
    for argv, environ in ((("--subnets", subnets), {}), ((), {"SGLANG_ROCE_SUBNETS": subnets})):
        plan = plan_of(node(), *argv, environ=environ)
        assert (CODE in codes(plan)) == said
        if said:
            where = "--subnets" if argv else "SGLANG_ROCE_SUBNETS"
            assert message(plan, CODE).startswith(f"{where} {subnets} has no effect")
            assert plan.exit_code == 0
            assert plan_of(node(), "--strict", *argv, environ=environ).exit_code == 69


def test_subnets_where_rdma_is_off() -> None:
    assert CODE not in codes(plan_of(healthy(), "--rdma", "off", "--subnets", "192.0.2.0/24"))


def test_a_family_that_no_port_has() -> None:
    plan = plan_of(one_node(), "--family", "ipv6")
    assert message(plan, CODE).startswith("--family ipv6 leaves no port: none of mlx5_0:1, mlx5_1:1")
    from_nccl = plan_of(one_node(), environ={"NCCL_IB_ADDR_FAMILY": "AF_INET6"})
    assert message(from_nccl, CODE).startswith("NCCL_IB_ADDR_FAMILY (the pod's environment) ipv6")
    assert CODE not in codes(plan_of(one_node(), "--family", "ipv4"))
    required = plan_of(healthy(), "--family", "ipv6")
    assert (codes(required).count("NO_USABLE_HCA"), required.exit_code) == (1, 69)


def test_a_selector_that_selects_nothing() -> None:
    assert "SELECTOR_MATCHES_NOTHING" in codes(plan_of(one_node(), "--hca", "mlx9"))
    bare = plan_of(healthy(rails=0).set(environ={}), "--hca", "=mlx5_0:1")
    assert message(bare, CODE).startswith("--hca '=mlx5_0:1' selects nothing")


def test_an_interface_that_is_not_there() -> None:
    plan = plan_of(one_node(), "--interface", "eth9")
    assert message(plan, CODE).startswith("--interface names the interface 'eth9'")
    assert plan.exit_code == 0
    assert CODE not in codes(plan_of(one_node(), "--interface", "eth0"))
    assert plan_of(healthy(), "--interface", "eth9").exit_code == 78
