"""Arguments, variables and releases that change who meets whom: joiners, foreign stores, IPv6 traps."""

from __future__ import annotations

import pytest

from tests.planning import codes, message, plan_of
from tests.trees import Node

LWS = {"LWS_LEADER_ADDRESS": "10.9.0.1", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}
MODEL = ("--gpus", "8", "--rdma", "off", "--", "--model-path", "/m")
OVERRIDE = {"SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": "env://"}
DP = ("--enable-dp-attention", "--dp-size", "16")
JOINER = ("--elastic-ep-backend", "mooncake", "--elastic-ep-join-mode", "scale", "--node-rank", "1")


def node(version: str = "0.5.23", *addresses: str) -> Node:
    """Return the worker's node with this release of SGLang."""
    built = Node().interface("eth0", *(addresses or ("10.9.0.2/24",)))
    built.facts["versions"] = {"sglang": version}
    return built


@pytest.mark.parametrize("environ", [{}, LWS])
def test_a_scale_joiner_is_one_node_of_its_own(environ: dict[str, str]) -> None:
    """SGLang wants --node-rank 1 of it and no --nnodes; the group of the pod is not the group that it joins."""
    further = ("--elastic-ep-join-rank-offset", "16", "--tp", "8", "--dist-init-addr", "10.9.0.1:20000")
    plan = plan_of(node(), *MODEL, *JOINER, *further, environ=environ)
    assert codes(plan) == []
    assert plan.wait is None
    assert plan.command is not None
    assert plan.command.added == ("--host", "0.0.0.0")


def test_a_recovered_rank_is_a_member() -> None:
    """It takes its old place: same rank, same size, and D is open."""
    arguments = ("--elastic-ep-backend", "mooncake", "--elastic-ep-join-mode", "recover")
    plan = plan_of(node(), *MODEL, *arguments, environ=LWS)
    assert plan.wait is not None
    assert 20000 in plan.wait.ports


@pytest.mark.parametrize(
    ("version", "further", "ports"),
    [
        ("0.5.23", (), None),
        ("0.5.23", DP, (20001, 20013)),
        ("0.5.6.post2", (), (20000, 20001, 20013)),
    ],
)
def test_nobody_opens_the_port_of_a_foreign_store(
    version: str, further: tuple[str, ...], ports: tuple[int, ...] | None
) -> None:
    plan = plan_of(node(version), *MODEL, *further, environ={**LWS, **OVERRIDE})
    assert (plan.wait.ports if plan.wait else None) == ports
    known = version == "0.5.23"
    assert ("RENDEZVOUS_OVERRIDDEN" in codes(plan)) == known
    if known:
        assert "env://" in message(plan, "RENDEZVOUS_OVERRIDDEN")


@pytest.mark.parametrize(
    ("version", "leader", "further", "refused"),
    [
        ("0.5.4", "[fd00:9::1]", DP, True),
        ("0.5.9", "[fd00:9::1]", DP, True),
        ("0.5.6.post2", "[fd00:9::1]", DP, True),
        ("0.5.3", "[fd00:9::1]", DP, False),
        ("0.5.10", "[fd00:9::1]", DP, False),
        ("0.5.9", "10.9.0.1", DP, False),
        ("0.5.9", "[fd00:9::1]", (), False),
    ],
)
def test_attention_dp_over_ipv6(version: str, leader: str, further: tuple[str, ...], refused: bool) -> None:
    machine = node(version, "10.9.0.2/24", "fd00:9::2/64")
    plan = plan_of(machine, *MODEL, *further, environ={**LWS, "LWS_LEADER_ADDRESS": leader})
    assert ("ATTENTION_DP_IPV6" in codes(plan)) == refused
    assert plan.exit_code == (78 if refused else 0)


def test_attention_dp_over_a_name_that_has_only_ipv6() -> None:
    machine = node("0.5.9", "fd00:9::2/64")
    machine.facts["resolve"] = {"sglang-0.sglang": ["fd00:9::1"]}
    plan = plan_of(machine, *MODEL, *DP, environ={**LWS, "LWS_LEADER_ADDRESS": "sglang-0.sglang"})
    assert plan.first_error is not None
    assert plan.first_error.code == "ATTENTION_DP_IPV6"


def test_a_service_of_any_such_name_makes_a_url_of_a_port() -> None:
    plan = plan_of(node(), *MODEL, environ={"SGLANG_GRPC_PORT": "tcp://10.96.3.4:9000"})
    assert "'sglang-grpc'" in message(plan, "SERVICE_LINK")
