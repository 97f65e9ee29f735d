"""Run the benchmarks: `python -m tests.benchmarks [--short] [--json FILE] [--figures FOLDER] [NAME...]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.benchmarks import (
    against,
    group_start,
    guest,
    instructions,
    meeting,
    probe,
    scale,
    startup,
    wait_latency,
)
from tests.benchmarks.figures import NEEDED, write_figures

if TYPE_CHECKING:
    from collections.abc import Sequence


class Benchmark(Protocol):
    """What a module of this folder has to offer."""

    def measure(self, short: bool) -> dict[str, Any]:
        """Return figures, or `{"skipped": sentence}` where this machine lacks something."""

    def table(self, result: dict[str, Any]) -> str:
        """Return the figures as text."""


#: In the order in which they run.
BENCHMARKS: dict[str, Benchmark] = {
    "instructions": instructions,
    "probe": probe,
    "startup": startup,
    "against": against,
    "guest": guest,
    "wait-latency": wait_latency,
    "scale": scale,
    "meeting": meeting,
    "group-start": group_start,
}


def machine() -> dict[str, Any]:
    """Return on what, and how busy, the figures were taken."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def main(argv: Sequence[str]) -> int:
    """Run what is asked for; tables to stdout, figures to a file. Times never decide the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none is given"
    )
    parser.add_argument("--short", action="store_true", help="a minute instead of many: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help=f"write table and chart of {' and '.join(NEEDED)} there"
    )
    told = parser.parse_args(argv)
    unknown = sorted(set(told.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if told.figures and not set(NEEDED) <= set(told.names or BENCHMARKS):
        parser.error(f"--figures needs {' and '.join(NEEDED)}")
    report: dict[str, Any] = {"machine": machine(), "short": told.short, "benchmarks": {}}
    print("  ".join(f"{key} {value}" for key, value in report["machine"].items()), flush=True)
    for name in told.names or BENCHMARKS:
        began_s = time.monotonic()
        result = BENCHMARKS[name].measure(told.short)
        result["took_s"] = round(time.monotonic() - began_s, 1)
        report["benchmarks"][name] = result
        shown = f"skipped: {result['skipped']}" if "skipped" in result else BENCHMARKS[name].table(result)
        print(f"\n== {name} ({result['took_s']} s)\n{shown}", flush=True)
        if told.json:
            told.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if told.figures:
        skipped = [name for name in NEEDED if "skipped" in report["benchmarks"][name]]
        written = [] if skipped else write_figures(report, told.figures)
        print(
            f"\nno figures without {', '.join(skipped)}" if skipped else f"\nwrote {', '.join(map(str, written))}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
