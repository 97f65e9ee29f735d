"""The comparison of a group's cards: each key with one deviation, healthy groups, hostile cards, 10,000 nodes."""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.meeting.card import Refusal
from sglang_roce_entry.group.meeting.comparison.compare import Member, Rules, judge
from sglang_roce_entry.group.meeting.comparison.keys import KEYS
from sglang_roce_entry.server.compared.agreement import MAY_DIFFER, MUST_AGREE, SECRETS
from sglang_roce_entry.server.compared.parser import known_options
from tests.group.members import COMMON, NOW, RULES, Group, group, rails

if TYPE_CHECKING:
    from sglang_roce_entry.group.meeting.comparison.verdict import Verdict

#: One deviation for each key of the table: value, code, severity.
DEVIATIONS = {
    "sglang": ("0.5.22", "SGLANG_DIFFERS", "error"),
    "gpus": ("7", "GPUS_DIFFER", "warning"),
    "rdma": ("off", "RDMA_DIFFERS", "error"),
    "family": ("IPv6", "FAMILY_DIFFERS", "error"),
    "roce_mtu": ("1024", "ROCE_MTU_DIFFERS", "error"),
    "rails": ("7", "RAILS_DIFFER", "warning"),
    "rail_rates": ("400 400 200 400", "RAILS_DIFFER", "warning"),
    "gpu_model": ("NVIDIA H200", "GPUS_DIFFER", "warning"),
    "nvlink_domain": ("IMEX channel", "GPUS_DIFFER", "warning"),
    "nccl": ("2.27.3", "VERSION_DIFFERS", "warning"),
    "torch": ("2.9.0", "VERSION_DIFFERS", "warning"),
    "mooncake": ("0.3.13", "VERSION_DIFFERS", "warning"),
    "nvshmem": ("3.4.5", "VERSION_DIFFERS", "warning"),
    "driver": ("570.86", "VERSION_DIFFERS", "warning"),
    "launcher": ("1.1", "VERSION_DIFFERS", "warning"),
    "NCCL_IB_TC": ("96", "VARIABLE_DIFFERS", "warning"),
    "MC_TE_METRIC": ("1", "VARIABLE_DIFFERS", "warning"),
    **dict.fromkeys(sorted(MUST_AGREE), ("other", "ARGUMENT_DIFFERS", "error")),
    "--watchdog-timeout": ("60", "ARGUMENT_DIFFERS", "warning"),
    "--of-a-later-release": ("1", "ARGUMENT_DIFFERS", "warning"),
}


def problems(verdict: Verdict) -> list[tuple[str, str]]:
    return [(one.severity, one.code) for one in verdict.problems]


def test_every_key_of_the_table_deviates_here() -> None:
    assert {key.name for key in KEYS} - {"size"} <= set(DEVIATIONS)


@pytest.mark.parametrize("key", DEVIATIONS)
def test_one_deviation(key: str) -> None:
    value, code, severity = DEVIATIONS[key]
    verdict = group().but(2, {key: value}).verdict()
    assert problems(verdict) == [(severity, code)]
    assert verdict.problems[0].message.count("2 (sglang-0-2)") == 1
    assert value in verdict.problems[0].message
    [difference] = verdict.differences
    assert (difference.key, difference.severity, difference.odd, difference.values[value]) == (
        key,
        severity,
        (2,),
        (2,),
    )
    assert difference.values[COMMON.get(key, "not set") if key != "--nnodes" else "4"] == (0, 1, 3)
    assert verdict.exit_code == (0 if severity == "warning" else 69 if code in SIXTY_NINE else 78)


SIXTY_NINE = {"RDMA_DIFFERS", "FAMILY_DIFFERS", "ROCE_MTU_DIFFERS"}


@pytest.mark.parametrize("key", ["sglang", "--dtype", "NCCL_IB_TC", "rdma"])
def test_of_two_nodes_both_are_shown(key: str) -> None:
    value = DEVIATIONS[key][0]
    verdict = group(2).but(1, {key: value}).verdict()
    [difference] = verdict.differences
    assert difference.odd is None
    assert f"{COMMON[key]} on 0 (sglang-0), {value} on 1 (sglang-0-1)" in verdict.problems[0].message


def test_no_majority_shows_all_sides() -> None:
    verdict = group(4).but(0, {"--dtype": "float16"}).but(1, {"--dtype": "float16"}).verdict()
    assert verdict.differences[0].odd is None
    assert (
        verdict.problems[0].message == "--dtype differs: float16 on 0 (sglang-0), 1 (sglang-0-1), "
        "bfloat16 on 2 (sglang-0-2), 3 (sglang-0-3)"
    )


def test_a_value_that_is_absent_is_a_value() -> None:
    verdict = group(8).but(5, {"--trust-remote-code": None, "--quantization": "fp8"}).verdict()
    assert [one.message for one in verdict.problems] == [
        "--quantization is fp8 on 5 (sglang-0-5), and not set on the other 7",
        "--trust-remote-code is not set on 5 (sglang-0-5), and true on the other 7",
    ]


def test_a_key_of_the_server_is_told_and_no_problem() -> None:
    verdict = group().but(1, {"--api-key": "digest 8899aabbccddeeff"}).verdict()
    assert verdict.problems == ()
    assert [(one.key, one.severity, one.odd) for one in verdict.differences] == [("--api-key", "info", (1,))]


def test_gpus_against_tp() -> None:
    """Computed sizes come from the GPUs: one fault, one problem."""
    verdict = group().but(3, {"gpus": "7", "--tp-size": "28"}).verdict()
    assert problems(verdict) == [("error", "GPUS_DIFFER")]
    assert [one.key for one in verdict.differences] == ["--tp-size", "gpus"]
    given_differently = group().but(3, {"gpus": "7"}).but(1, {"--tp-size": "16"}).verdict()
    assert problems(given_differently) == [("error", "ARGUMENT_DIFFERS"), ("error", "GPUS_DIFFER")]


def test_rdma_off_explains_what_else_is_missing() -> None:
    off = {"rdma": "off", "family": None, "rails": "0", "rail_rates": None, "roce_mtu": None, "NCCL_NET": None}
    verdict = group().but(1, off, rails=()).verdict()
    assert problems(verdict) == [("error", "RDMA_DIFFERS")]
    assert verdict.exit_code == 69


@pytest.mark.parametrize(
    ("nccl", "severity"),
    [("2.28.9", "error"), ("2.20.5", "error"), ("2.29.0", "warning"), ("3.0", "warning"), (None, "warning")],
)
def test_mtus_by_the_release_of_nccl(nccl: str | None, severity: str) -> None:
    common = {key: value for key, value in COMMON.items() if key != "nccl"} | ({"nccl": nccl} if nccl else {})
    assert problems(group(common=common).but(1, {"roce_mtu": "1024"}).verdict()) == [
        (severity, "ROCE_MTU_DIFFERS")
    ]


def test_another_size() -> None:
    verdict = group().but(3, {"--nnodes": "8", "--tp-size": "64"}, size=8).verdict()
    assert problems(verdict) == [("error", "GROUP_SIZE_DIFFERS")]
    assert "8 on 3 (sglang-0-3), and 4 on the other 3" in verdict.problems[0].message


def test_an_index_twice() -> None:
    four = group()
    twin = replace(four.members()[2], address="10.0.0.99")
    verdict = judge([*four.members(), twin], four.commons(), RULES)
    assert problems(verdict)[0] == ("error", "INDEX_TWICE")
    assert verdict.problems[0].message.startswith(
        "worker index 2 is claimed by sglang-0-2 at 10.0.0.3 and by sglang-0-2 at"
    )


def test_a_refusal_decides_alone() -> None:
    refusal = Refusal("NO_USABLE_HCA", "RDMA is required, and no port can be used", "look at the node", 69)
    verdict = group().but(2, {"--dtype": "float16"}, refusal=refusal).verdict()
    [problem] = verdict.problems
    assert (problem.code, problem.exit_code, problem.hint) == ("NO_USABLE_HCA", 69, "look at the node")
    assert problem.message == "2 (sglang-0-2) cannot start: RDMA is required, and no port can be used"


def test_all_that_refuse_alike_are_one_problem() -> None:
    refusal = Refusal("TP_GPUS", "no", "", 78)
    four = group()
    for index in (1, 2, 3):
        four = four.but(index, refusal=refusal)
    [problem] = four.verdict().problems
    assert problem.message.startswith("1 (sglang-0-1), 2 (sglang-0-2), 3 (sglang-0-3) cannot start")


def test_one_machine() -> None:
    together = group().but(1, machine="machine0")
    assert problems(together.verdict()) == [("warning", "MACHINE_SHARED")]
    assert together.verdict().problems[0].message.startswith("0 (sglang-0), 1 (sglang-0-1) are on one machine")
    colliding = together.but(1, namespace="namespace0").verdict()
    assert problems(colliding) == [("error", "MACHINE_SHARED")]
    [problem] = together.but(2, machine="machine0", namespace="namespace1").verdict().problems
    assert problem.message.startswith("1 (sglang-0-1), 2 (sglang-0-2) are on one machine and share its network")
    assert problems(group().but(1, machine=None).but(2, machine=None).verdict()) == []


@pytest.mark.parametrize(
    ("off_s", "said"), [(1.9, ""), (-1.9, ""), (4.0, "4.0 s ahead"), (-60.0, "60.0 s behind")]
)
def test_clocks(off_s: float, said: str) -> None:
    verdict = group().but(3, clock_s=NOW + off_s).verdict()
    assert problems(verdict) == ([("warning", "CLOCK_DIFFERS")] if said else [])
    assert all(said in one.message and "3 (sglang-0-3)" in one.message for one in verdict.problems)


def test_a_leader_that_reads_late_blames_no_clock() -> None:
    members = [replace(member, received_at_s=NOW + 30) for member in group().members()[1:]]
    assert judge([group().members()[0], *members], group().commons(), RULES).problems == ()


def test_the_leader_with_the_wrong_clock_is_the_odd_one() -> None:
    """The leader's clock is what the others are measured by, and it is behind."""
    members = [
        replace(one, greeted_at_s=NOW - 90, received_at_s=NOW - 90)
        for one in group(5).but(0, clock_s=NOW - 90).members()
    ]
    [difference] = judge(members, group(5).but(0, clock_s=NOW - 90).commons(), RULES).differences
    assert (difference.key, difference.odd) == ("clock", (0,))


# ----------------------------------------------------------------------------------------- networks


ISLAND = ("192.168.7.0/24", "192.168.8.0/24")


def test_no_network_in_common() -> None:
    verdict = group().but(1, rails=rails(1, ISLAND)).verdict()
    assert problems(verdict) == [("error", "NO_COMMON_NETWORK")]
    assert "192.168.7.0/24 192.168.8.0/24 on 1 (sglang-0-1)" in verdict.problems[0].message
    assert verdict.exit_code == 69


@pytest.mark.parametrize("routed", [True, None])
def test_a_routed_fabric_is_none_of_that(routed: bool | None) -> None:
    racks = group(of_rails=lambda index: rails(index, (f"10.{index}.1.0/31", f"10.{index}.2.0/31"), routed=routed))
    assert problems(racks.verdict()) == []


def test_links_without_a_gateway_lead_nowhere() -> None:
    links = group(of_rails=lambda index: rails(index, (f"10.{index}.1.0/31",), routed=False))
    assert problems(links.verdict()) == [("error", "NO_COMMON_NETWORK")]


def test_one_rail_in_another_network() -> None:
    moved = [f"10.{rail}.0.0/16" for rail in range(7)] + ["10.99.0.0/16"]
    verdict = group().but(2, rails=rails(2, moved)).verdict()
    assert problems(verdict) == [("warning", "RAILS_DIFFER")]
    assert (
        "the network of rail 7 is 10.99.0.0/16 on 2 (sglang-0-2), and 10.7.0.0/16 on the other 3"
        in verdict.problems[0].message
    )


def test_rails_in_another_order() -> None:
    swapped = [f"10.{rail}.0.0/16" for rail in (1, 0, 2, 3, 4, 5, 6, 7)]
    verdict = group().but(2, rails=rails(2, swapped)).verdict()
    assert problems(verdict) == [("warning", "RAILS_DIFFER")]
    assert (verdict.differences[0].key, verdict.differences[0].odd) == ("rail_order", (2,))


# ----------------------------------------------------------------------------------------- healthy, strict, odd


@st.composite
def healthy_groups(draw: st.DrawFn) -> Group:
    """Draw a group in which nothing is wrong: any arguments and variables, all the same; what may differ, differs."""
    size = draw(st.integers(2, 12))
    names = st.sampled_from(sorted(MUST_AGREE | {"--watchdog-timeout", "NCCL_IB_TC", "MC_X"}))
    common = {**COMMON, **draw(st.dictionaries(names, st.text(max_size=20), max_size=12))}
    kind = draw(st.sampled_from(["flat", "one network", "routed links", "routed racks", "no rails"]))
    number = draw(st.integers(1, 8))
    offsets = draw(st.lists(st.floats(-0.9, 0.9), min_size=size, max_size=size))

    def of(index: int) -> tuple[object, ...]:
        networks = {
            "flat": [f"10.{rail}.0.0/16" for rail in range(number)],
            "one network": ["10.0.0.0/8"] * number,
            "routed links": [f"10.{rail}.{index}.0/31" for rail in range(number)],
            "routed racks": [f"10.{rail}.{index // 2}.0/24" for rail in range(number)],
            "no rails": [],
        }[kind]
        return rails(index, networks, routed=kind.startswith("routed")) if networks else ()

    healthy = group(size, common, of)  # type: ignore[arg-type]
    for index, offset in enumerate(offsets):
        healthy = healthy.but(index, clock_s=NOW + offset, interface=f"eth{index}", address=f"10.9.{index}.1")
    return healthy


@settings(max_examples=200, deadline=None, derandomize=True)
@given(healthy_groups())
def test_healthy_groups_have_no_problem(healthy: Group) -> None:
    verdict = healthy.verdict()
    assert verdict.problems == ()
    assert verdict.differences == ()
    assert len({card.digest for card in healthy.cards}) == 1


def test_strict_makes_wrong_values_errors() -> None:
    strict = Rules(MUST_AGREE, SECRETS, strict=True)
    assert problems(group().but(1, {"NCCL_IB_TC": "1"}).verdict(strict)) == [("error", "VARIABLE_DIFFERS")]
    assert group().but(1, {"NCCL_IB_TC": "1"}).verdict(strict).exit_code == 78
    assert problems(group().but(1, {"driver": "1"}).verdict(strict)) == [("warning", "VERSION_DIFFERS")]


def test_what_only_a_newer_launcher_knows_is_said() -> None:
    verdict = group().but(1, {"launcher": "9.0", "colour": "blue"}).verdict()
    assert problems(verdict) == [("warning", "VERSION_DIFFERS"), ("warning", "COMPARISON_INCOMPLETE")]
    assert "colour" in verdict.problems[1].message


def test_more_kinds_than_are_asked_for() -> None:
    cards = group(100)
    for index in range(100):
        cards = cards.but(index, {"NCCL_IB_TC": str(index)})
    commons = dict(list(cards.commons().items())[:64])
    verdict = judge(cards.members(), commons, RULES)
    assert problems(verdict) == [("warning", "VARIABLE_DIFFERS"), ("warning", "COMPARISON_INCOMPLETE")]
    assert len(verdict.problems[0].message) < 400


def test_the_tables_name_options_once() -> None:
    listed = {f"--{option.name}" for option in known_options().values()}
    assert not MUST_AGREE & MAY_DIFFER
    assert listed >= MAY_DIFFER
    assert listed >= MUST_AGREE - {"--enable-deepep-moe"}  # of 0.5.2 and before


def test_ten_thousand_nodes() -> None:
    """Equal but for one: the cost is that of the difference, in time and in memory."""
    equal, other = group(2).members(), group(2).but(1, {"--dtype": "float16"})
    members = [
        Member(replace(equal[1].card, index=index, own=replace(equal[1].card.own, machine=f"m{index}", rails=rails(index))),
               "10.0.0.1", NOW, NOW)
        for index in range(9_999)
    ]  # fmt: skip
    members.append(replace(members[0], card=replace(other.members()[1].card, index=9_999)))
    commons = {**group(2).commons(), **other.commons()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    verdict = judge(members, commons, RULES)
    assert time.process_time() - started < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
    assert problems(verdict) == [("error", "ARGUMENT_DIFFERS")]
    assert verdict.differences[0].odd == (9_999,)
