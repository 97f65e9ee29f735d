"""The page of a group: rows that fold what agrees, a cell for each rail, and nothing but text from other nodes."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.group.meeting.comparison.saved import write_saved
from sglang_roce_entry.report.page.rehearsed import group_page
from sglang_roce_entry.report.page.rows import rows_of
from sglang_roce_entry.report.rehearsal import received_document
from tests.group.members import group
from tests.group.test_saved_meeting import saved
from tests.page.groups import UNWELL, proven, rehearsed, unlike, unwell, well
from tests.page.nodes import spoilt
from tests.page.reading import read
from tests.readme import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_small_group_has_a_row_for_each_node(size: int) -> None:
    page = read(group_page(well(size)))
    assert page.classes["row"] == size
    assert page.tags["details"] == 8 * size, "each cell opens by a key"
    assert "The group would start" in page.texts


def test_512_nodes_that_agree_are_one_row_and_each_of_them_is_behind_it() -> None:
    html = group_page(well(512))
    page = read(html)
    assert len(html) < 2_000_000
    assert page.classes["row"] == 1
    assert "each of these 512 nodes" in page.texts
    assert "0: mlx5_0:1 · 10.0.0.4 · in 10.0.0.0/16 · GID index 3 · 400 Gb/s · RoCE MTU 4096; " in page.text
    assert "3 and 4: proven in 0.12 s" in page.text


def test_the_page_of_512_nodes_with_a_failure_each_is_no_larger() -> None:
    shown = well(512)
    for rail in shown["rails"]:
        if rail["position"] == 0:
            rail.update(UNWELL[3], cause=f"CAUSE_{rail['from']}", detail="every rail has its own " * 30)
    html = group_page(shown)
    assert len(html) < 2_000_000
    assert read(html).classes["row"] == 512


def test_what_failed_is_named_with_direction_and_cause() -> None:
    shown = unwell()
    page = read(group_page(shown))
    assert [row.nodes[0]["index"] for row in rows_of(shown)] == [0, 2, 8, 9, 15]
    statuses = {row.nodes[0]["index"]: [cell.status for cell in row.cells[0]] for row in rows_of(shown)}
    assert statuses[8] == statuses[9] == [
        "proven", "lossy", "proven", "failed", "proven", "proven", "not_tried", "proven",
    ]  # fmt: skip
    assert "LARGE_LOST" in page.text
    assert "8 and 9: failed, LARGE_LOST, from 8 to 9 in 12.00 s: small packets arrive" in page.text
    assert "8 and 9: lossy, LOSSY, from 9 to 8 in 9.40 s: 3 of 64 messages were lost" in page.text
    assert "8 and 9: not tried, NO_LIBRARY: libibverbs is missing" in page.text
    assert "rails between two: 101 proven, 1 not tried, 1 lossy, 1 failed" in page.text
    assert {"missing", "refused", "sglang-0-15", "3 does not reach 4: "} <= set(page.texts)


def test_the_odd_one_is_named() -> None:
    page = read(group_page(unlike()))
    assert {"sglang differs", "driver differs", "--dtype differs"} <= set(page.texts)
    assert " on 5, the odd one" in page.texts
    assert " on 7, the odd one" in page.texts
    assert page.texts.count("SGLang's release is 0.5.22 on 5 (sglang-0-5), and 0.5.23 on the other 15") == 1
    assert page.classes["row"] == 3


def test_rails_that_nobody_has_tried_are_not_called_failed() -> None:
    page = read(group_page(rehearsed(group(2))))
    assert page.classes["not_tried"] == 2 * 8 + 1
    assert page.classes["failed"] == page.classes["proven"] == 0
    assert "not tried: compared only: nothing was sent over it" in page.texts


def test_a_member_that_knows_its_own_row_alone_says_that_the_leader_has_all() -> None:
    shown = well(300)
    shown["nodes"] = shown["nodes"][7:8]
    assert "the leader's page has all" in read(group_page(shown)).text


@pytest.mark.parametrize("argv", [("--rehearse=html", "--gpus", "many"), ("--rehearse=html", "--frobnicate")])
def test_what_cannot_begin_has_its_page(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    page = read(ran.out)
    assert f"The group would end with exit code {ran.code}" in page.text
    assert page.classes["problems"] == 1


def test_one_node_rehearses_itself(run: Run) -> None:
    options = ("--rdma", "off", "--linger", "0s")
    html, document = (run(f"--rehearse={form}", *options).out for form in ("html", "json"))
    assert html == group_page(json.loads(document))
    assert "A group of one node" in read(html).texts
    assert "opens its details" not in read(html).text  # it has no rail


@pytest.mark.parametrize("shown", [well(2), unwell(), unlike()], ids=["well", "unwell", "unlike"])
def test_nothing_that_a_peer_says_is_more_than_text(shown: dict[str, Any]) -> None:
    own = proven(rehearsed(group(1)))
    received = received_document(json.dumps({**spoilt(shown), "identity": own["identity"]}).encode(), own)
    assert received is not own
    for one in (received, spoilt(shown)):
        page = read(group_page(one))
        assert "alert(1)" in page.text
        assert page.tags["html"] == page.tags["body"] == page.tags["style"] == 1


def test_a_saved_meeting_has_its_page(run: Run, tmp_path: Path) -> None:
    (tmp_path / "meeting.json").write_bytes(write_saved(saved(group(8).but(5, {"sglang": "0.5.22"}))))
    html, document = (run("--meeting-file", "meeting.json", f"--rehearse={form}") for form in ("html", "json"))
    assert html.out == group_page(document.document)
    assert html.code == document.code == 78
    assert " on 5, the odd one" in read(html.out).texts


WRONG: list[Any] = [None, [1], [{}], {"a": 1}, "text", 10**400, True]


@pytest.mark.parametrize("part", ["nodes", "differences", "reach", "rails", "problems"])
def test_what_has_another_shape_is_not_shown(part: str) -> None:
    """Every part of every entry, one at a time: it is shown in each form, or the own document is."""
    own, whole = rehearsed(group(1)), {**unwell(), "differences": unlike()["differences"]}
    for name in whole[part][0]:
        for value in WRONG:
            changed = {**whole, part: [{**whole[part][0], name: value}]}
            shown = received_document(json.dumps(changed).encode(), own)
            read(group_page(shown))


def test_the_page_is_taken_out_of_a_log_by_the_command_of_the_manifest() -> None:
    """A container's log has both streams of its process."""
    manifest = (ROOT / "k8s" / "rehearsal" / "shared-device-plugin" / "rehearsal.yaml").read_text(encoding="utf-8")
    command = re.search(r"\| (sed -n .*) > group\.html", manifest)
    assert command is not None
    assert command[0] in (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")
    page, log = group_page(unwell()), "2026-01-01T00:00:00 sglang-roce-entry: a line\n"
    done = subprocess.run(
        ["/bin/sh", "-c", command[1]], input=log + page + log, capture_output=True, text=True, check=True
    )
    assert done.stdout == page
    assert max(map(len, page.splitlines())) < 4096
