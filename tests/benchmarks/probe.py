"""What a probe costs each time it runs, in starts of a bare interpreter; beside `curl` and bash's `/dev/tcp`.

A stand-in for SGLang's server runs beside it and is found as the real one is. Instructions (callgrind) are the same
on a busy machine, and held to a ceiling; CPU time is what the kernel counted for the process.
"""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.instructions import counted
from tests.benchmarks.text_table import text_table
from tests.process.command import enclosed, entry_command, entry_interpreter, environment_of_an_interpreter

#: CPU time of a plain HTTP probe, in starts of a bare interpreter (measured: 3.9).
TARGET = 5
#: Its instructions, in the same unit: 4.8 with Python 3.11, 5.01 with 3.12. They are the same on a busy machine.
CEILING = 5.3
_SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""
_BASH = 'exec 3<>/dev/tcp/127.0.0.1/$0; printf "GET /health HTTP/1.0\\r\\n\\r\\n" >&3; read -r line <&3; case $line in *200*) ;; *) exit 1;; esac'


def measure(short: bool) -> dict[str, Any]:
    """Return CPU and instructions of each kind of probe."""
    if shutil.which("valgrind") is None:
        return {"skipped": "needs the program `valgrind`"}
    with (
        tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory,
        server(Path(directory)) as (port, pid),
    ):
        ways: dict[str, list[str]] = {
            "python3 -c pass": [entry_interpreter(), "-c", "pass"],
            **{f"--probe {kind}": [*entry_command(), "--probe", kind] for kind in ("readiness", "liveness")},
            "--probe ranks": [*entry_command(), "--probe", "ranks"],
            "curl": ["curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}/health"],
            "bash, /dev/tcp": ["bash", "-c", _BASH, str(port)],
        }
        ways = {name: words for name, words in ways.items() if shutil.which(words[0])}

        def run(words: Sequence[str]) -> str:
            return _run(enclosed(words, pid))

        cpu_s = _cpu_s(ways, run, 5 if short else 40)
        rows: list[dict[str, Any]] = []
        for name, words in ways.items():
            number, _ = counted(run, words, Path(directory))
            rows.append({"way": name, "cpu_ms": 1000 * cpu_s[name], "instructions": number})
    bare = rows[0]
    for row in rows:
        row["starts_cpu"] = row["cpu_ms"] / bare["cpu_ms"]
        row["starts"] = row["instructions"] / bare["instructions"]
    return {"rows": rows, "targets": {"starts_cpu": TARGET}}


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    keys = ("way", "cpu_ms", "starts_cpu", "starts")
    rows = text_table(
        ("way", "CPU ms", "in bare starts", "by instructions"),
        [[row[key] for key in keys] for row in result["rows"]],
    )
    return f"{rows}\nwanted: at most {result['targets']['starts_cpu']:g} bare starts of CPU for a plain HTTP probe"


@contextmanager
def server(folder: Path) -> Iterator[tuple[int, int]]:
    """Run a stand-in of SGLang's server that answers 200 to everything; give its port and process."""
    (folder / "sglang").mkdir()
    (folder / "sglang" / "__init__.py").touch()
    (folder / "sglang" / "launch_server.py").write_text(_SERVER, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [entry_interpreter(), "-m", "sglang.launch_server", "--port", str(port)]
    running = subprocess.Popen(enclosed(words), cwd=folder)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield port, running.pid
    finally:
        running.kill()
        running.wait()


def _run(words: Sequence[str]) -> str:
    around = environment_of_an_interpreter()
    done = subprocess.run(words, capture_output=True, text=True, env=around, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _cpu_s(ways: Mapping[str, list[str]], run: Callable[[Sequence[str]], str], times: int) -> dict[str, float]:
    """Return the median CPU time of each; all take turns, so that other load hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times + 1):
        for name, words in ways.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            run(words)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken[name].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return {name: median(all_s[1:]) for name, all_s in taken.items()}
