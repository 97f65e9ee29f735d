"""A leader and two workers on a bridge, with a DNS that learns the leader late."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.container.pods import LEADER, LEADER_ADDRESS, SGLANG_ARGUMENTS, Pod, events, values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.enclosure import Container, Enclosure

pytestmark = pytest.mark.container

SIZE = 3


@pytest.fixture(scope="module")
def group(networks: Enclosure, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Container]]:
    """Return the containers by index; the workers were there first and the name came last."""
    pods = [Pod(tmp_path_factory.mktemp(f"pod{index}"), index, SIZE, slot=3 + 2 * index) for index in range(SIZE)]
    containers: dict[int, Container] = {}

    def start(index: int) -> None:
        options = (*pods[index].options(), "--env=STAND_IN_DELAY_S=2", "--env=STAND_IN_EXIT_CODE=7")
        containers[index] = networks.start(image, SGLANG_ARGUMENTS, *options)

    try:
        for index in (1, 2, 0):
            start(index)
        for index in range(SIZE):
            containers[index].wait_for(LEADER_ADDRESS)
        time.sleep(1.0)
        early = {index: events(containers[index].log()) for index in range(SIZE)}
        assert early == {0: {}, 1: {}, 2: {}}, "somebody did not wait for the leader's name"
        networks.publish(LEADER, pods[0].address)
        for container in containers.values():
            container.wait_for('"serving"')
        yield [containers[index] for index in range(SIZE)]
    finally:
        for container in containers.values():
            container.remove()


def test_every_pod_runs_sglang_with_its_own_rank(group: list[Container]) -> None:
    for index, container in enumerate(group):
        arguments = events(container.log())["started"]["argv"]
        assert values(arguments) == {
            "--model-path": "/models/m",
            "--nnodes": "3",
            "--node-rank": str(index),
            "--dist-init-addr": f"{LEADER_ADDRESS}:20000",
            "--tp-size": "6",  # 2 GPUs on each of 3 nodes
            "--host": "0.0.0.0",
        }
        assert arguments[-len(SGLANG_ARGUMENTS) :] == list(SGLANG_ARGUMENTS)


def test_the_leader_meets_every_worker(group: list[Container]) -> None:
    assert events(group[0].log())["group complete"]["ranks"] == [1, 2]


def test_each_pod_uses_its_own_gid_index(group: list[Container]) -> None:
    for index, container in enumerate(group):
        environment = events(container.log())["started"]["environment"]
        assert environment["NCCL_IB_HCA"] == "=mlx5_0:1"  # mlx5_1 has the GID of another pod
        assert environment["NCCL_IB_GID_INDEX"] == str(3 + 2 * index)


def test_control_traffic_goes_over_the_pod_network(group: list[Container]) -> None:
    for index, container in enumerate(group):
        environment = events(container.log())["started"]["environment"]
        assert environment["NCCL_SOCKET_IFNAME"] == "=eth0"
        assert environment["GLOO_SOCKET_IFNAME"] == "eth0"  # Gloo takes no "="
        assert environment["SGLANG_HOST_IP"] == f"10.89.9.{100 + index}"


def test_the_workers_say_what_they_wait_for(group: list[Container]) -> None:
    for container in group[1:]:
        log = container.log()
        waiting = log[: log.index('{"event"')]
        assert LEADER_ADDRESS in waiting
        assert "resolv" in waiting


def test_sglang_is_pid_1_and_inherits_nothing(group: list[Container]) -> None:
    for container in group:
        started = events(container.log())["started"]
        assert started["pid"] == 1
        assert started["uid"] == 0
        assert started["executable"] == "/usr/bin/python3"  # the interpreter that has SGLang
        assert started["blocked"] == 0
        # CPython ignores SIGPIPE (13) and SIGXFSZ (25) itself before any code of ours runs.
        assert started["ignored"] & ~(1 << 12 | 1 << 24) == 0
        assert started["descriptors"] == [0, 1, 2]


def test_all_go_on_together(group: list[Container]) -> None:
    """They have met, so that the imports of SGLang overlap; nothing of the meeting is left on its port."""
    begun_s = [events(container.log())["started"]["at_s"] for container in group]
    assert max(begun_s) - min(begun_s) < 1.5
    for container in group:
        assert "serving" in events(container.log())
        assert "the group of 3 has met" in container.log()


# The last one: it ends the group.
def test_sigterm_reaches_sglang_and_its_exit_code_is_the_containers(
    group: list[Container],
) -> None:
    for container in group:
        container.stop(grace_s=60)
        assert container.exit_code() == 7  # and not 137
        assert "SIGTERM" in events(container.log())
