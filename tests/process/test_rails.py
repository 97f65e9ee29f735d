"""Real launchers whose libibverbs breaks while they prove their rails: the group starts, and says what was not proven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.command import base_environment, run_entry
from tests.process.group import lws, nodes_of
from tests.process.test_hardware_deviations import SAME
from tests.process.test_meeting_deviations import MEETS_S, MODEL, installed
from tests.verbs.stubs import stub_library

if TYPE_CHECKING:
    from tests.process.nodes import Cluster, Launch

pytestmark = pytest.mark.netns

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def started(cluster: Cluster, standin: Path, folder: Path, *options: str) -> list[Launch]:
    """Start a launch on each of two nodes, each a machine of its own."""
    packages = installed(folder / "packages", standin, {"nvidia-nccl-cu12": "2.28.9"})
    library = {
        "LD_LIBRARY_PATH": str(stub_library(folder)),
        "STUB_VERBS": "mlx5_0,mlx5_1",
        "STUB_OPEN": "crash",
    }
    launches = []
    for index, node in enumerate(nodes_of(cluster, 2)):
        SAME.put_into(node, index + 1, folder / f"tree-{index}")
        machine = folder / f"boot_id-{index}"
        machine.write_text(f"{index}0000000-0000-4000-8000-000000000000\n")
        node.mount_over(BOOT_ID, machine)
        asked = ["--rdma", "required", "--gpus", "8", "--wait-deadline", "60", *options, *MODEL]
        launches.append(node.start(asked, {**lws(index, 2), "PYTHONPATH": packages, **library}))
    return launches


def test_a_provider_that_crashes_stops_no_group(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    for launch in started(cluster, standin, tmp_path):
        assert launch.wait_exit(MEETS_S) == 0, launch.account()
        (warned,) = [line for line in launch.text().splitlines() if "[RAIL_" in line]
        assert "rails 0-1 of nodes 0 (sglang-0), 1 (sglang-0-1): it could not be tried" in warned
        assert "was ended by signal 11 (Segmentation fault)" in warned
        assert "[RAIL_NOT_PROVEN]" in warned


def test_what_came_of_the_rails_is_saved_and_judged_again(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    rehearsals = started(cluster, standin, tmp_path, "--rehearse=json", "--save-meeting", "meeting.json")
    assert [launch.wait_exit(MEETS_S) for launch in rehearsals] == [0, 0], rehearsals[0].account()
    shown = json.loads(rehearsals[0].text("stdout"))
    assert {rail["status"] for rail in shown["rails"]} == {"not_tried"}
    assert "RAIL_NOT_PROVEN" in [problem["code"] for problem in shown["problems"]]
    file = str(cluster.nodes[0].directory / "meeting.json")
    alone = base_environment(tmp_path, sglang=None)
    ran = run_entry(["--meeting-file", file, "--rehearse=json"], alone, cwd=tmp_path, timeout_s=MEETS_S)
    assert (ran.code, ran.json()) == (0, shown)


def test_without_the_proof_libibverbs_opens_nothing(cluster: Cluster, standin: Path, tmp_path: Path) -> None:
    for launch in started(cluster, standin, tmp_path, "--prove-rails", "off"):
        assert launch.wait_exit(MEETS_S) == 0, launch.account()
        assert "RAIL_" not in launch.text()
        assert "proving" not in launch.text()
