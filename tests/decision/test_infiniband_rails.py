"""Rails of InfiniBand as a plan has them: order, GID, subnet, and what of it the proof is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.host.further.card_facts import CardFacts
from sglang_roce_entry.plan.card import CardMaker
from sglang_roce_entry.plan.inputs import Request, identify, read_request
from sglang_roce_entry.plan.plan import Plan, look_and_plan
from sglang_roce_entry.plan.proof import needed_by_device, verbs_rails
from tests.trees import V1, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sglang_roce_entry.verbs.messages import Rail as VerbsRail

FLID, SUBNET = 0x4001, 0x0005


def node(nccl: str | None = "2.28.9", *, routed: bool = False, lid: str = "0x{:x}") -> Node:
    """Return a node of two GPUs with an InfiniBand HCA beside each, in the other order, and one beside none."""
    made = Node().interface("eth0", "10.0.0.1/24")
    for number, bus in enumerate(("30", "20", "10")):
        bridge = f"pci0000:{bus}/0000:{bus}:01.0"
        port = made.hca(f"mlx5_{number}", pci=f"0000:{bus}:10.0", bridge=bridge, numa=int(bus[0]) % 2).port(
            link_layer="InfiniBand", gbps=400, slots=8
        )
        port.gid(0, f"fe80:0:0:{SUBNET:x}::{number + 1:x}" if routed else f"fe80::{number + 1:x}", V1, None)
        if routed:
            port.gid(1, f"fec0:0:{FLID:x}:{SUBNET:x}::{number + 1:x}", V1, None)
        made.files[f"{port.base}/lid"] = lid.format(number + 0x20) + "\n"
        if bus != "10":
            made.gpu(f"0000:{bus}:11.0", bridge, int(bus[0]) % 2, answer="ok")
    return made.set(versions={"sglang": "0.5.10", "nccl": nccl})


def planned(at: Node, *flags: str, **environ: str) -> tuple[Plan, Request]:
    invocation = parse_command_line(("--rdma", "required", "--dry-run", *flags, "--", "--model-path", "/m"))
    host = at.host()
    request = read_request(invocation, read_settings(invocation.flags, environ, None), environ, host)
    plan, _ = look_and_plan(request, identify(request), host)
    return plan, request


def card(plan: Plan, request: Request, *, imex: bool = False) -> tuple[tuple[Rail, ...], Mapping[str, str]]:
    facts = CardFacts({}, (), imex, "boot", "net:[1]", {})
    made = CardMaker(request, plan, facts, "g", lambda _: False, lambda: 0.0).make("n")
    assert made.common is not None
    return made.own.rails, made.common


def proven(plan: Plan, request: Request) -> VerbsRail:
    """Return what is told of the first rail; all are told alike."""
    rails = verbs_rails(plan)
    first = rails[0]
    assert first is not None
    assert {replace(one, device="", node="") for one in rails if one is not None} == {
        replace(first, device="", node="")
    }
    return first


def test_rails_in_the_order_of_the_gpus() -> None:
    rails, common = card(*planned(node()))
    assert [rail.device for rail in rails] == ["mlx5_1", "mlx5_0", "mlx5_2"]
    assert rails[0] == Rail("mlx5_1", 1, "fe80::/64", "fe80::2", 0, 400.0, None, None, True, 0x21)
    # NCCL opens the third too, and needs it for no GPU.
    assert [rail.proof for rail in rails] == [True, True, False]
    assert (common["rdma"], common["rails"], common["rail_rates"]) == ("InfiniBand", "3", "400")
    assert not {"family", "roce_mtu"} & common.keys()


def test_a_lid_that_is_not_there_yet() -> None:
    rails, _ = card(*planned(node(lid="0x0")))
    assert {rail.lid for rail in rails} == {0}
    rails, _ = card(*planned(node(lid="what")))
    assert {rail.lid for rail in rails} == {None}


@pytest.mark.parametrize(
    ("nccl", "addressing", "index"),
    [("2.21.5", "lid", 0), ("2.22.3", "subnet", 1), ("2.30.4", "subnet", 1), ("2.30.7", "port", 1), (None, "", 1)],
)
def test_a_fabric_with_routers_by_release(nccl: str | None, addressing: str, index: int) -> None:
    plan, request = planned(node(nccl, routed=True))
    rail = proven(plan, request)
    assert (rail.addressing, rail.gid_index, rail.gid) == (addressing, index, "")
    rails, _ = card(plan, request)
    prefix = "fec0" if index else "fe80"
    assert (rails[0].network, rails[0].routed) == (f"{prefix}:0:0:5::/64", True if index else None)
    assert (rails[0].gid or "").startswith("fec0:0:4001:5:" if index else "fe80:0:0:5::")


@pytest.mark.parametrize(("given", "index"), [("0", 0), ("1", 1), ("5", 0), ("-1", 0), ("", 1)])
def test_another_index_for_routers(given: str, index: int) -> None:
    asked = {"NCCL_IB_ROUTABLE_FLID_GID_INDEX": given}
    assert proven(*planned(node(routed=True), **asked)).gid_index == index


@pytest.mark.parametrize(
    ("imex", "environ", "needed"),
    [(False, {}, True), (True, {}, False), (True, {"NCCL_MNNVL_ENABLE": "0"}, True)],
)
def test_inside_an_nvlink_domain_no_rail_is_needed(*, imex: bool, environ: dict[str, str], needed: bool) -> None:
    """They are tried all the same: the group may be larger than the domain."""
    rails, _ = card(*planned(node(), **environ), imex=imex)
    assert any(rail.proof for rail in rails) == needed
    assert all(rail.proof is not None for rail in rails)


def test_what_nccl_hands_to_the_kernel() -> None:
    rail = proven(*planned(node(), NCCL_IB_PKEY="0x3", NCCL_IB_SL="4", NCCL_IB_TC="106"))
    assert (rail.pkey_index, rail.service_level, rail.traffic_class) == (3, 4, 106)
    assert proven(*planned(node(), NCCL_IB_PKEY="-1")).pkey_index == 0xFFFF
    rail = proven(*planned(node(), NCCL_IB_SL="-1", NCCL_IB_TC="-1"))
    assert (rail.service_level, rail.traffic_class) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        (("--prove-rails", "off"), {}),
        (("--rdma", "optional"), {}),
        ((), {"NCCL_IB_PKEY_VALUE": "0x8005"}),
        ((), {"NCCL_NET": "AWS Libfabric"}),
    ],
)
def test_what_is_not_proven(flags: tuple[str, ...], environ: Mapping[str, str]) -> None:
    assert needed_by_device(*planned(node(), *flags, **environ)) == {}


def test_a_plugin_has_no_rails() -> None:
    assert card(*planned(node(), NCCL_NET="AWS Libfabric"))[0] == ()


def test_roce_rails_stay_what_they_were() -> None:
    roce = node()
    roce.interface("net0", "10.1.0.1/24")
    roce.hca("mlx5_9", pci="0000:30:12.0", bridge="pci0000:30/0000:30:01.0", numa=1, netdevs=("net0",)).port(
        gbps=800
    ).pair("fe80::9", "net0").pair("10.1.0.1", "net0")
    rails, common = card(*planned(roce, "--hca", "mlx5_9"))
    assert [(rail.device, rail.lid, rail.network) for rail in rails] == [("mlx5_9", None, "10.1.0.0/24")]
    assert common["rdma"] == "RoCE"


def test_a_port_that_no_subnet_manager_has_brought_up() -> None:
    waiting = node()
    path = next(path for path in waiting.files if path.endswith("mlx5_0/ports/1/state"))
    waiting.files[path] = "2: INIT\n"
    plan, _ = planned(waiting)
    details = {row.decision.label: row.decision.detail for row in plan.choice.ports}
    assert details["mlx5_0:1"].endswith("it is INIT: no subnet manager has brought it up")
    assert "manager" not in details["mlx5_1:1"]
    assert plan.choice.infiniband == ("mlx5_1:1", "mlx5_2:1")
