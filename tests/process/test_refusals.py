"""A pod that cannot read what it was told ends, and its group hears of it instead of waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.process.command import START_S
from tests.process.group import OPTIONS, SGLANG_ARGUMENTS, lws, nodes_of

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Launch, Node

pytestmark = pytest.mark.netns

#: From the last arrival; the start of a process comes on top.
TOLD_S = 2.0
ENDS_S = 30.0


class Fault(NamedTuple):
    """What is wrong on one pod: further words, further variables; the exit code, and a part of the sentence."""

    words: tuple[str, ...]
    environment: dict[str, str]
    code: int
    named: str


FAULTS = {
    "a value": Fault((), {"SGLANG_ROCE_FAMILY": "both"}, 78, "SGLANG_ROCE_FAMILY='both' is not one of"),
    "a variable": Fault((), {"SGLANG_ROCE_SUBNET": "10.0.0.0/8"}, 78, "SGLANG_ROCE_SUBNET is not a setting"),
    "a policy file": Fault(("--policy", "/none.yaml"), {}, 78, "/none.yaml"),
    "a flag's value": Fault(("--linger", "long"), {}, 2, "--linger 'long' is not a duration"),
    "a flag": Fault(("--wait-deadlin", "9"), {}, 2, "--wait-deadlin is not an option"),
    "SGLang's file": Fault((), {}, 78, "--config '/none.yaml' cannot be read"),
}


def launch(node: Node, index: int, fault: Fault | None = None, size: int = 2) -> Launch:
    words, environment = (fault.words, fault.environment) if fault is not None else ((), {})
    config = ("--config", "/none.yaml") if fault is FAULTS["SGLang's file"] else ()
    arguments = [*OPTIONS, "--wait-deadline", "60", *words, *SGLANG_ARGUMENTS, *config]
    return node.start(arguments, lws(index, size) | environment)


@pytest.mark.parametrize(
    ("name", "deviant"), [*((name, 1) for name in FAULTS), ("a variable", 0), ("a flag", 0)], ids=str
)
def test_what_cannot_be_read_is_everybodys_end(cluster: Cluster, name: str, deviant: int) -> None:
    fault = FAULTS[name]
    nodes = nodes_of(cluster, 2)
    other = launch(nodes[1 - deviant], 1 - deviant)
    other.wait_for_line("calling the leader" if deviant == 0 else "the group of 2 meets", START_S)
    odd = launch(nodes[deviant], deviant, fault)
    for one in (odd, other):
        assert one.wait_exit(ENDS_S) == fault.code, one.account()
        one.assert_not_started()
    told, said = odd.wait_for_line(r"^.*error: .*\[[A-Z_]+\]", 0), other.wait_for_line("cannot start: ", 0)
    assert said.at_s - told.at_s < TOLD_S, other.account()
    assert fault.named in told.text
    named = ("0 (sglang-0)", "1 (sglang-0-1)")[deviant]
    first = nodes[1 - deviant].termination_log().decode().splitlines()[0]
    assert f"{named} cannot start: " in first
    assert fault.named in first
    # Nothing is decided with what is left, so nothing that would come of it is said.
    errors = [line for line in odd.text().splitlines() if "error: " in line]
    assert len(errors) == 1, odd.account()
    assert fault.named in nodes[deviant].termination_log().decode().splitlines()[0]
    assert "was told" in odd.text() or deviant == 0


def test_a_command_that_is_tried_in_a_pod_that_waits_ends_nobody(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    waiting = [launch(nodes[index], index, size=3) for index in (0, 1)]
    waiting[0].wait_for_line("2 of 3 are here", START_S + 35)
    for index in (0, 1):
        tried = launch(nodes[index], index, FAULTS["a flag"], size=3)
        assert tried.wait_exit(ENDS_S) == 2, tried.account()
        assert "the group was not told" in tried.text()
    waiting.append(launch(nodes[2], 2, size=3))
    assert [one.wait_exit(ENDS_S) for one in waiting] == [0, 0, 0], waiting[0].account()
    assert "a second launcher at" in waiting[0].text()


def test_a_rehearsal_hears_of_it(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 2)
    environments = (lws(0), lws(1) | FAULTS["a value"].environment)
    words = [*OPTIONS, "--wait-deadline", "60", "--rehearse=json"]
    launches = [node.start(words, environment) for node, environment in zip(nodes, environments, strict=True)]
    for one in launches:
        assert one.wait_exit(ENDS_S) == 78, one.account()
        assert '"state": "refused"' in one.text("stdout"), one.account()
        assert "1 (sglang-0-1) cannot start: SGLANG_ROCE_FAMILY='both'" in one.text("stdout")


@pytest.mark.parametrize(
    "environment",
    [{"SGLANG_ROCE_WORKER_INDEX": "$(RANK)"}, {"SGLANG_ROCE_DIST_INIT": "high"}, {"LWS_WORKER_INDEX": ""}],
    ids=["index", "port", "half"],
)
def test_who_cannot_be_found_without_it_says_so(cluster: Cluster, environment: dict[str, str]) -> None:
    node = cluster.add_node("gpu-node-7")
    launch = node.start([*OPTIONS, *SGLANG_ARGUMENTS], lws(1) | environment)
    assert launch.wait_exit(START_S) == 78, launch.account()
    assert "the group cannot be told" in launch.text()
    assert cluster.dns.queries() == []


def test_a_mode_with_a_slip_in_it_is_no_launch(cluster: Cluster) -> None:
    """Somebody looks into a pod of a group whose launcher is not there yet."""
    node = cluster.add_node("gpu-node-7")
    launch = node.start(["--dry-rum"], lws(1))
    assert launch.wait_exit(START_S) == 2, launch.account()
    assert "the group" not in launch.text()
    assert cluster.dns.queries() == []


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        ((*SGLANG_ARGUMENTS,), {}),
        (("--meeting", "off", *SGLANG_ARGUMENTS), lws(1)),
        (("bash", "-c", "true"), lws(1)),
        (("--dry-run", *SGLANG_ARGUMENTS), lws(1)),
    ],
    ids=["one node", "no meeting", "another program", "a mode"],
)
def test_nobody_else_is_called(cluster: Cluster, words: tuple[str, ...], environment: dict[str, str]) -> None:
    node = cluster.add_node("gpu-node-7")
    for odd in (("--rdma", "off"), ("--rdma", "off", "--linger", "long")):
        wrong = {} if "--linger" in odd else FAULTS["a value"].environment
        launch = node.start([*odd, *words], environment | wrong)
        assert launch.wait_exit(START_S) == (2 if "--linger" in odd else 78), launch.account()
        assert "the group" not in launch.text()
    assert cluster.dns.queries() == []
