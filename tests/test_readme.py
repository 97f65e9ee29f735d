"""The documents are true of the program, of the manifests and of the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sglang_roce_entry.group.evidence import lines_of
from sglang_roce_entry.problems import EXIT_CODES
from tests.readme import BLOCKS, PICTURE, README, ROOT, SHOWN, docker_run, drawn, written
from tests.sources import PACKAGE

if TYPE_CHECKING:
    from pathlib import Path

TEXT = README.read_text(encoding="utf-8")
LINES = TEXT.splitlines()
URL = "https://github.com/sglang-roce-entry/sglang-roce-entry"
MANIFEST = ROOT / "k8s" / "roce-hostnetwork" / "shared-device-plugin" / "sglang.yaml"


def _block(language: str, text: str = TEXT) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def _leads_somewhere(file: Path, heading: str) -> bool:
    """Return whether there is such a file, with such a heading if one is named; its anchor as GitHub makes it."""
    if not heading:
        return file.exists()
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}


def _container() -> Any:
    group = next(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    return group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]


@pytest.mark.parametrize("document", BLOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_are_up_to_date(document: Path) -> None:
    assert document.read_text(encoding="utf-8") == written(document), "run: python -m tests.readme"


def test_the_picture_of_the_first_screen_is_what_the_page_draws() -> None:
    assert "][picture]" in TEXT.partition("\n## ")[0]
    assert PICTURE.read_text(encoding="utf-8") == drawn(), "run: python -m tests.readme"


def test_it_is_short() -> None:
    assert len(LINES) <= 150
    assert [line for line in LINES if len(line) > 120] == []


def test_the_first_screen_has_the_change_the_command_its_output_and_three_links() -> None:
    screen = TEXT.partition("\n## ")[0]
    assert "--snapshot cx7-pod --dry-run" in screen
    assert len(_block("text", screen).splitlines()) == len(SHOWN) == 10
    links = next(line for line in screen.splitlines() if line.startswith("**["))
    assert re.findall(r"\]\[(\w+)\]", links) == ["image", "k8s", "trouble"]


def test_every_link_is_absolute_and_leads_to_a_file_of_the_checkout() -> None:
    targets = dict(re.findall(r"^\[(\w+)\]: (\S+)$", TEXT, re.MULTILINE))
    assert set(re.findall(r"\]\[(\w+)\]", TEXT)) == set(targets)
    assert re.findall(r"\]\(", TEXT) == []
    for target in targets.values():
        path, _, heading = target.removeprefix(f"{URL}/").partition("#")
        assert target.startswith(URL), target
        if path == "issues":
            continue
        assert _leads_somewhere(ROOT / re.sub(r"^(blob|raw)/main/", "", path), heading), target


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docker/README.md", "k8s/README.md", "tests/README.md"])
def test_relative_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert "://" in link or _leads_somewhere(file, heading), link


DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(one for room in ("docker", "k8s", "tests") for one in (ROOT / room).rglob("*.md"))]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_rows_of_a_table_have_as_many_cells_as_its_head(document: Path) -> None:
    """A | inside a cell begins the next one, also between backquotes, unless a backslash is before it."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = lines.splitlines()
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        assert [row for row, number in zip(rows, cells, strict=True) if number != cells[0]] == []


def test_what_the_manifest_gains_is_in_the_manifest() -> None:
    added = [line[1:].split("  #")[0] for line in _block("diff").splitlines() if line.startswith("+")]
    gains = yaml.safe_load("\n".join(added))
    container = _container()
    assert gains["image"] == container["image"]
    assert set(gains["args"]) <= set(container["args"])
    assert gains["resources"] == container["resources"]
    assert gains["securityContext"]["capabilities"]["add"] == container["securityContext"]["capabilities"]["add"]
    assert "command" not in container


@pytest.mark.parametrize("rank", [0, 1])
def test_docker_without_kubernetes_makes_a_group(rank: int) -> None:
    """The block's variables and SGLang's arguments give both machines their rank; tests/process launches them."""
    variables, arguments = docker_run(rank)
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", "--snapshot", "gb10", "--dry-run=json", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    argv = json.loads(done.stdout)["argv"]
    assert argv[argv.index("--node-rank") + 1] == str(rank)
    assert argv[argv.index("--nnodes") + 1] == "2"
    assert argv[argv.index("--dist-init-addr") + 1] == f"{variables['SGLANG_ROCE_LEADER_ADDRESS']}:20000"


def test_contributing_names_files_that_are_there() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| change |")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(named) >= 6
    assert [path for path in named if not (PACKAGE / path).is_file()] == []


def test_the_flow_has_every_exit_code_of_a_failed_start() -> None:
    shown = set(re.findall(r"\d+", " ".join(re.findall(r'\(\["(.*?)"\]\)', _block("mermaid")))))
    not_of_a_start = {"0", "1", "70", "141"}  # fine, a probe's, a defect, a mode's
    assert shown == {code for codes, _ in EXIT_CODES for code in codes.split("/")} - not_of_a_start


def test_the_probes_are_those_of_the_manifests() -> None:
    """What is shown as exec probes has the period and the patience of the manifests' HTTP probes."""
    shown = yaml.safe_load(_block("yaml", (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")))
    container = _container()
    assert "livenessProbe" not in container
    for probe in ("startupProbe", "readinessProbe"):
        for key in ("periodSeconds", "failureThreshold"):
            assert shown[probe][key] == container[probe][key], probe
        assert container[probe]["httpGet"]["path"] == "/health"
    for probe, does in shown.items():
        kind = "ranks" if probe == "livenessProbe" else probe.removesuffix("Probe")
        assert does["exec"]["command"] == ["sglang-roce-entry", "--probe", kind]


@pytest.mark.parametrize(
    "manifest", sorted((ROOT / "k8s").rglob("sglang.yaml")), ids=lambda path: path.parent.name
)
def test_the_liveness_probe_that_is_commented_out(manifest: Path) -> None:
    """It is the one that k8s/README.md shows, beside every readiness probe of a server."""
    shown = yaml.safe_load(_block("yaml", (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")))
    text = manifest.read_text(encoding="utf-8")
    found = re.findall(r"^( +)# livenessProbe:\n(?:\1#   .*\n)+", text, flags=re.MULTILINE)
    blocks = re.findall(r"^ +# livenessProbe:\n(?: +#   .*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == len(found) == text.count("path: /health\n") // 2 > 0
    for block in blocks:
        probe = yaml.safe_load(re.sub(r"^ +# ", "", block, flags=re.MULTILINE))
        assert probe == {"livenessProbe": shown["livenessProbe"]}


SCHEDULERS = {
    "Slurm": {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1"},
    "SkyPilot": {"SKYPILOT_NODE_IPS": "n1\nn2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"},
    "dstack": {"DSTACK_MASTER_NODE_IP": "n1", "DSTACK_NODES_NUM": "2", "DSTACK_NODE_RANK": "1"},
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_flags_under_a_scheduler(scheduler: str, tmp_path: Path) -> None:
    """A shell fills them; the warning of a launch without them has the same line."""
    page = (ROOT / "docker" / "README.md").read_text(encoding="utf-8")
    block = _block("text", page.partition("## Under a scheduler")[2]).replace("\\\n", " ")
    (line,) = [line.partition(" ")[2] for line in block.splitlines() if line.startswith(scheduler)]
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf '%s\\n' n1 n2\n")
    (tmp_path / "scontrol").chmod(0o755)
    environ = {**SCHEDULERS[scheduler], "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], env=environ, capture_output=True, text=True, check=True
    )
    flags = ["--leader-address", "n1", "--group-size", "2", "--worker-index", "1"]
    assert done.stdout.split() == flags
    assert " ".join(line.split()) in (lines_of(environ) or "")
