"""The page of a node: it is its JSON, drawn; nothing that a node says becomes more than text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.report.json import as_document
from sglang_roce_entry.report.page.drawing import cells_of, folded
from sglang_roce_entry.report.page.node import node_page
from sglang_roce_entry.report.page.places import domains_of
from tests.healthy import healthy
from tests.packaged import PACKAGED, h20_roce
from tests.page.nodes import HOSTILE, MODEL, spoilt
from tests.page.reading import Page, read
from tests.planning import plan_of
from tests.trees import Node

if TYPE_CHECKING:
    from tests.command.conftest import Run


def page_of(node: Node, *argv: str, **environ: str) -> tuple[Page, dict[str, Any]]:
    document = as_document(plan_of(node, *argv, environ=environ))
    return read(node_page(document)), document


def place(*types: str) -> dict[str, Any]:
    return {"type": [*types, "null"]}


PATH = {"type": ["array", "null"], "items": {"type": "string"}}
PLACE = {"pci_address": place("string"), "numa_node": place("integer"), "path": PATH, "model": place("string")}


def strict(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


NODE = strict(
    gpu_count=place("integer"),
    gpu_count_source={"type": "string"},
    gpus={"type": "array", "items": strict(index={"type": "integer"}, **PLACE)},
    hcas={"type": "array", "items": strict(device={"type": "string"}, **PLACE)},
    control=strict(interface=place("string"), address=place("string"), reason={"type": "string"}),
    rdma={"enum": ["required", "optional", "off"]},
    notes={"type": "array", "items": {"type": "string"}},
    versions=strict(sglang=place("string"), nccl={"type": ["array", "null"], "items": {"type": "string"}}),
)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_page_is_made_of_the_json_alone(run: Run, name: str) -> None:
    page = run("--snapshot", name, "--dry-run=html", *MODEL)
    document = run("--snapshot", name, "--dry-run=json", *MODEL).document
    assert page.out == node_page(document)
    assert page.code == document["exit_code"]
    assert len(page.out) < 150_000
    read(page.out)
    import_module("jsonschema").validate(document["node"], NODE)


@pytest.mark.parametrize(
    "argv",
    [("--dry-run=html", "--gpus", "many"), ("--dry-run=html", "--hca", "x", "--frobnicate"), ("--family", "x", "--dry-run=html")],
)  # fmt: skip
def test_what_cannot_be_planned_has_its_page(run: Run, argv: tuple[str, ...]) -> None:
    ran = run("--snapshot", "h20-roce", *argv)
    page = read(ran.out)
    assert ran.code != 0
    assert f"A launch would end with exit code {ran.code}" in page.text
    assert page.classes["error"] >= 2


def test_the_drawing_has_every_gpu_and_port_where_it_sits() -> None:
    page, document = page_of(h20_roce(), *MODEL)
    domains = domains_of(document)
    assert [domain.number for domain in domains] == [0, 1]
    assert [[len(switch.gpus) for switch in domain.switches] for domain in domains] == [[2, 2], [2, 2]]
    for device in range(4):
        assert page.texts.count(f"mlx5_bond_{device}:1") >= 2, "in the wide and in the narrow drawing"
        assert f"bond{device} · 10.20.{device}.11 · GID index 3 · MTU 4200" in page.texts
        assert f"rail {device} · 200 Gb/s" in page.texts
    assert {f"GPU {index}" for index in range(8)} <= set(page.texts)
    assert page.classes["line"] == 2 * 8 + 1, "eight lines in each drawing, one in the legend"
    assert "eth0 10.0.0.11" in page.texts
    assert not page.classes["across"]
    assert "Not known" not in page.texts


def test_a_line_across_numa_domains_looks_it() -> None:
    node = healthy()
    for number in range(2):
        node.gpu(f"0000:{number + 0x80:02x}:00.0", numa=1, answer="ok")
    for rail in range(2):
        node.files[f"{node.pci_path(f'0000:{rail + 0x18:02x}:00.0')}/numa_node"] = "0\n"
    page, document = page_of(node.set(gpus=2), *MODEL)
    assert {pair["class"] for pair in document["affinity"]} == {"SYS"}
    assert page.classes["across"] == 2 * 2 + 1
    assert "a GPU and its nearest HCA, across NUMA domains" in page.texts


def test_an_unused_port_is_drawn_with_its_reason() -> None:
    node = healthy(rails=3)
    node.facts["verbs"]["uverbs2"] = "EPERM"
    page, _ = page_of(node, *MODEL)
    assert page.classes["used"] == 2 * 2 + 1
    assert page.classes["unused"] == 2 * 1 + 1
    assert "VERBS_DENIED" in page.texts
    assert any("cgroup" in text for text in page.texts)


def test_what_is_not_known_is_left_out_and_said() -> None:
    node = Node()
    node.hca("rxe0").port(gbps=None).pair("10.0.0.1", "eth0")
    node.interface("eth0", "10.0.0.1/24").set(memlock="unlimited")
    page, document = page_of(node, *MODEL)
    assert document["ports"][0]["used"]
    assert "NUMA nodes are not known" in page.texts
    assert "PCI place not known" in page.texts
    assert "Gb/s" not in page.text
    assert "rail 0" in page.texts
    said = page.texts[page.texts.index("Not known") :]
    assert "where the GPUs sit, and so which HCA is nearest to each" in said
    assert "the NUMA node of rxe0" in said
    assert "the rate of rxe0:1" in said


def test_ports_that_are_not_used_for_one_cause_are_one_box() -> None:
    node = Node()
    for number in range(34):
        name = f"mlx5_{number}"
        node.hca(name, pci=f"0000:18:{number // 8:02x}.{number % 8}").port(state="1: DOWN")
    page, _ = page_of(node.set(memlock="unlimited"), *MODEL)
    assert page.classes["unused"] == 2 * 2 + 1, "the control interface too"
    assert "34 ports" in page.texts


def test_nothing_that_a_node_says_is_more_than_text() -> None:
    node = h20_roce()
    text = HOSTILE.replace("\n", "").replace("\udce9", "")
    for path in node.files:
        if path.endswith(("/information", "/link_layer", "/state")) and "bond_0" not in path:
            node.files[path] = node.files[path].replace("NVIDIA H20", text).replace("ACTIVE", text)
    environ = dict.fromkeys(("NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG"), HOSTILE)
    leader = {"LWS_LEADER_ADDRESS": HOSTILE}
    for more in ({}, leader):
        page, _ = page_of(node, "--model-path", HOSTILE, **environ, **more)
        assert "<script>" in page.text
        assert page.tags["script"] == 0


def test_every_text_of_a_document_may_be_hostile() -> None:
    node = healthy(rails=3)
    node.facts["verbs"]["uverbs2"] = "EPERM"
    document = spoilt(as_document(plan_of(node, *MODEL)))
    page = read(node_page(document))
    assert "alert(1)" in page.text
    assert page.tags["html"] == page.tags["body"] == page.tags["style"] == 1


def test_secrets_are_masked() -> None:
    argv = ("--model-path", "/m", "--api-key", "sesame-1", "--served-model-name", "https://me:sesame-2@host/")
    html = node_page(as_document(plan_of(h20_roce(), *argv)))
    texts = read(html).texts
    assert texts[texts.index("--api-key") + 1] == "'***'"
    assert "sesame" not in html


def test_a_bare_word_shows_no_argument() -> None:
    html = node_page(as_document(plan_of(h20_roce(), "bash", "-c", "curl -H sesame")))
    assert "sesame" not in html


@pytest.mark.parametrize(
    ("words", "cells", "most", "lines"),
    [
        (["a", "b"], 3, 2, ["a b"]),
        (["abc", "de"], 4, 2, ["abc", "de"]),
        (["abcdefgh"], 3, 3, ["abc", "def", "gh"]),
        (["abcdefgh"], 3, 2, ["abc", "de…"]),
        (["abc", "def", "g"], 3, 2, ["abc", "de…"]),
        (["日本語"], 4, 2, ["日本", "語"]),
        ([], 4, 2, []),
    ],
)
def test_words_are_folded_into_cells(words: list[str], cells: int, most: int, lines: list[str]) -> None:
    assert folded(words, cells, most) == lines
    assert all(cells_of(line) <= cells for line in lines)
