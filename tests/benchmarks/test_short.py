"""The suite runs, and what a simulation must hold whatever the machine: nothing here asks for a time."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.chart import HEIGHT, WIDTH, Line, line_chart
from tests.benchmarks.figures import write_figures
from tests.benchmarks.instructions import BUDGET
from tests.benchmarks.simulation import (
    SOMAXCONN,
    Scenario,
    busiest_second,
    expected,
    summary,
    torch_alone,
    with_the_wait,
)
from tests.layers import is_required, skip_or_fail
from tests.process.command import CHECKOUT, entry_interpreter
from tests.process.nodes import missing_requirement
from tests.torch.environment import Recipe, ready

if TYPE_CHECKING:
    from pathlib import Path


@cache
def waiting(size: int) -> dict[str, float | None]:
    return summary(Scenario(size), with_the_wait(Scenario(size)))


def figure(size: int, name: str) -> float:
    value = waiting(size)[name]
    assert value is not None
    return value


@pytest.mark.netns
def test_short_form(tmp_path: Path) -> None:
    missing = missing_requirement()
    if missing:
        skip_or_fail("netns", missing)
    if is_required("torch"):
        ready(Recipe.for_torch(entry_interpreter()), build=True)
    written = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--short", "--json", str(written)],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["short"] is True
    assert set(report["machine"]) >= {"date", "processor", "cores", "kernel", "python"}
    assert list(report["benchmarks"]) == list(BENCHMARKS)
    for name in BENCHMARKS:
        assert f"== {name} (" in done.stdout
    latency = report["benchmarks"]["wait-latency"]["rows"]
    assert {row["way"] for row in latency} == {"sglang-roce-entry", "every 1 s"}
    ours = next(row for row in latency if row["way"] == "sglang-roce-entry")
    assert ours["samples"] == 2
    assert 0 < ours["lookups_of_allowed"] <= 1
    (row,) = report["benchmarks"]["instructions"]["rows"]
    assert 1 < row["starts"] <= BUDGET
    rows = {row["way"]: row for row in report["benchmarks"]["probe"]["rows"]}
    assert rows["python3 -c pass"]["starts"] == 1 < rows["--probe liveness"]["starts"]
    (row,) = report["benchmarks"]["startup"]["rows"]
    assert row["start_ms"] > row["bare_ms"] > 0
    assert 1 < row["memory"] < 3
    (row,) = report["benchmarks"]["against"]["rows"]
    assert min(row["show_gids_ms"], row["block_ms"]) > row["scan_ms"] > 0
    scale = report["benchmarks"]["scale"]
    assert ("without_processes" not in scale) or not is_required("torch")
    for row in scale["rows"]:
        assert row.get("lost_connections", 0) == 0


def test_an_unknown_name_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "wait-latancy"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"no benchmark wait-latancy; there are {', '.join(BENCHMARKS)}" in done.stderr


def test_figures_need_both_benchmarks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "startup", "--figures", "/nowhere"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--figures needs startup and against" in done.stderr


# ------------------------------------------------------------------------- table and chart


def _report(skipped_slot: bool = False) -> dict[str, Any]:
    shell = {"start_ms": 40.0, "scan_ms": 4.0, "bare_ms": 8.0, "show_gids_ms": 2600.0, "block_ms": 9000.0}
    against = [{"hcas": 8, "slots": 256, "gids": 2048, **shell}, {"hcas": 1, "slots": 256, "gids": 256, **shell}]
    startup = [
        {"hcas": 8, "slots": slots, "start_ms": 40.0, "starts": 5.4, "memory": 1.88} for slots in (256, 1024)
    ]
    machine = {key: f"<{key}>" for key in ("date", "processor", "cores", "kernel", "python", "load")}
    return {
        "machine": machine,
        "benchmarks": {
            "startup": {"rows": startup, **({} if skipped_slot else {"empty_slot_us": {"start": 2.04}})},
            "against": {"rows": against},
        },
    }


@pytest.mark.parametrize("skipped_slot", [False, True])
def test_the_figures_are_those_of_the_run(tmp_path: Path, skipped_slot: bool) -> None:
    table, chart = write_figures(_report(skipped_slot), tmp_path / "made")
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[2] == "| 8 × 256 | 40 ms | 5.4 | 1.9 | 2.6 s | 9.0 s |"
    assert lines[3] == "| 8 × 1,024 | 40 ms | 5.4 | 1.9 |  |  |"
    assert lines[5].startswith("<date>" if skipped_slot else "An empty slot costs 2.0 µs. <date>")
    root = ElementTree.fromstring(chart.read_text(encoding="utf-8"))
    drawn = root.findall("{*}polyline")
    assert len(drawn) == 4
    for line in drawn:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 < x < WIDTH
            assert 0 < y < HEIGHT


def test_a_chart_keeps_its_scale() -> None:
    drawn = line_chart("a < b", "x", "y", [Line("one", "red", [(1, 0.01), (2, 0.1), (4, 1)])])
    (line,) = ElementTree.fromstring(drawn).findall("{*}polyline")
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert x1 < x2
    assert y1 > y2


# ------------------------------------------------------------------------- the simulated policy


def test_a_simulation_is_deterministic() -> None:
    scenario = Scenario(65)
    assert with_the_wait(scenario) == with_the_wait(scenario)
    assert torch_alone(scenario) == torch_alone(scenario)


@pytest.mark.parametrize("size", [9, 65, 257, 1000, 10_000])
def test_formula(size: int) -> None:
    """What the documentation says of a group is what the real policy does."""
    formula = expected(size)
    assert figure(size, "connects") == pytest.approx(formula["connects"], rel=0.12)
    if size <= 1000:  # pauses of 10,000 still grow when the name comes
        assert figure(size, "queries_unresolved") == pytest.approx(formula["queries_unresolved"], rel=0.12)
    assert figure(size, "queries") <= formula["queries"] * 1.05
    assert 0.5 * formula["last_s"] < figure(size, "found_last_s") <= formula["last_s"]


def test_the_leader_and_its_dns_server_see_no_more_of_a_larger_group() -> None:
    for size in (257, 1000, 10_000):
        assert figure(size, "connects") < 420
        assert figure(size, "queries") < 560
    # Starts of pods come on top: 333 a second here.
    assert figure(10_000, "connects_busiest") < 3 * (333 + 133) * 1.25


@pytest.mark.parametrize("size", [257, 1000, 10_000])
def test_no_queue_of_the_leader_overflows(size: int) -> None:
    """Nobody comes back after an accepted probe, so arrivals are spread over one cap."""
    full_s = waiting(size)["queue_full_s"]
    assert full_s is None or full_s > 20
    assert figure(size, "accepted_busiest") < SOMAXCONN / 10


def test_torch_alone_comes_late_where_the_wait_does_not() -> None:
    """After three minutes torch's own pauses have grown to a minute."""
    alone = summary(Scenario(50), torch_alone(Scenario(50)))
    assert alone["found_last_s"] is not None
    assert alone["found_last_s"] > 50 * figure(50, "found_last_s")


def test_busiest_second() -> None:
    assert busiest_second([]) == 0
    assert busiest_second([3.5, 0.0, 0.5, 0.99, 1.0]) == 3
    assert busiest_second([0.0, 0.5, 2.0], [1, 8, 4]) == 9
