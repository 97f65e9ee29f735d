"""Run on a node by :mod:`tests.benchmarks.rails`: commands by turns, until each has become another or ended.

Reads `{"commands": {name: argv}, "rounds": {name: count}, "memory": {name: argv}}` from stdin and writes
`{"seconds": {name: [...]}, "peak_kib": {name: ...}}`. A command holds the only writing end of a pipe: its end
and its exec close it (see :mod:`tests.benchmarks.exec_watch`). The one named `scan` says itself how long it
took. What has fewer rounds than the others is spread over theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def seconds(argv: list[str], becomes: bool) -> float:
    """Return how long `argv` took; what it became is killed."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    began = time.perf_counter()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False
    )
    os.close(writing)
    os.read(reading, 1)
    took = time.perf_counter() - began
    os.close(reading)
    if becomes:
        process.kill()
    code = process.wait()
    # What it became may have come to its own end, 0, before it was killed; a launch itself never ends with 0.
    if code not in ((0, -9) if becomes else (0,)):
        raise SystemExit(f"{' '.join(argv)} ended with {code}")
    return took


def peak_kib(argv: list[str]) -> int:
    """Return what `argv` says of its peak. A shell between keeps this process's own pages out of it."""
    done = subprocess.run(
        ["sh", "-c", '"$@" & wait $!', "sh", *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return int(done.stdout.split()[-1])


def main() -> None:
    """Take turns."""
    told = json.load(sys.stdin)
    taken: dict[str, list[float]] = {name: [] for name in told["commands"]}
    most = max(told["rounds"].values())
    for turn in range(most):
        for name, argv in told["commands"].items():
            count = told["rounds"][name]
            if turn * count // most == (turn - 1) * count // most:
                continue
            if name == "scan":
                taken[name].append(float(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout))
            else:
                taken[name].append(seconds(argv, becomes=name.startswith("sglang-roce-entry")))
    json.dump(
        {"seconds": taken, "peak_kib": {name: peak_kib(argv) for name, argv in told["memory"].items()}}, sys.stdout
    )


if __name__ == "__main__":
    main()
