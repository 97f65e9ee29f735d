"""What a page costs beside the plan that it shows, in instructions: the same on a busy machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.benchmarks.instructions import counted
from tests.layers import skip_or_fail
from tests.page.nodes import documents
from tests.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Starts of a bare interpreter. The page of a node with 16 HCAs and 8 GPUs takes 2.1, on the node of the README 1.1.
CEILING = 3.0
LOADED = "import json, sys, sglang_roce_entry.report.text; shown = json.load(open(sys.argv[1]))"
DRAWN = f"{LOADED}; from sglang_roce_entry.report.page.node import node_page; node_page(shown)"


def test_a_page_costs_no_more_than_three_starts_of_python(tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        skip_or_fail("instructions", "needs the program `valgrind`")
    document = tmp_path / "plan.json"
    document.write_text(json.dumps(documents()["sixteen"]))
    around = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(CHECKOUT)}

    def run(words: Sequence[str]) -> str:
        done = subprocess.run(words, env=around, capture_output=True, text=True, timeout=300, check=True)
        return done.stdout

    bare, loaded, drawn = (
        counted(run, [sys.executable, "-c", code, str(document)], tmp_path)[0] for code in ("pass", LOADED, DRAWN)
    )
    print(f"a page: {drawn - loaded:,} instructions, {(drawn - loaded) / bare:.2f} starts")
    assert (drawn - loaded) / bare <= CEILING
