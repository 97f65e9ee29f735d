"""Witness of its own start, then a group of servers that have nothing to serve.

Prints one JSON line with what it inherited. Rank 0 then listens on the port of --dist-init-addr
(after STAND_IN_DELAY_S, as SGLang does after its imports), every other rank connects to it until it
is there and says its rank; rank 0 prints the ranks it has met. All of them stay until SIGTERM and exit with
STAND_IN_EXIT_CODE. STAND_IN_MODE=exit does not stay, =abort dies of SIGABRT.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

PATIENCE_S = 600.0


def main() -> int:
    """Return the exit code that the test asked for."""
    code = int(os.environ.get("STAND_IN_EXIT_CODE", "0"))
    tell(record())
    mode = os.environ.get("STAND_IN_MODE", "serve")
    if mode == "exit":
        return code
    if mode == "abort":
        os.abort()

    def drain(_number: int, _frame: object) -> None:
        tell({"event": "SIGTERM"})
        sys.exit(code)

    signal.signal(signal.SIGTERM, drain)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--dist-init-addr", default="127.0.0.1:20000")
    arguments, _ = parser.parse_known_args()
    host, _, port = arguments.dist_init_addr.rpartition(":")
    time.sleep(float(os.environ.get("STAND_IN_DELAY_S", "0")))
    if arguments.nnodes > 1 and arguments.node_rank == 0:
        meet_workers(int(port), arguments.nnodes)
    elif arguments.nnodes > 1:
        meet_leader(host, int(port), arguments.node_rank)
    tell({"event": "serving"})
    time.sleep(PATIENCE_S)
    return 99  # nobody ended it: the test has lost sight of it


def record() -> dict[str, object]:
    """Return what this process got from whoever started it."""
    lines = Path("/proc/self/status").read_text(errors="surrogateescape").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "event": "started",
        "at_s": time.time(),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "argv": sys.argv[1:],
        "executable": sys.executable,
        "environment": dict(os.environ),
        "blocked": int(status["SigBlk"], 16),
        "ignored": int(status["SigIgn"], 16),
        "descriptors": inherited_descriptors(),
        "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK),
    }


def inherited_descriptors() -> list[int]:
    """Return the open descriptors, without the one that lists them."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return sorted(number for number in numbers if os.path.exists(f"/proc/self/fd/{number}"))


def meet_workers(port: int, size: int) -> None:
    """Accept connections until every worker has said its rank; idle connections are let go."""
    ranks: set[int] = set()
    with socket.create_server(("", port)) as listener:
        while len(ranks) < size - 1:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10.0)
                said = connection.recv(16)
                if said:  # a probe of a launcher connects and closes silently
                    ranks.add(int(said))
    tell({"event": "group complete", "ranks": sorted(ranks)})


def meet_leader(host: str, port: int, rank: int) -> None:
    """Connect until rank 0 listens, as torch's client does: its imports take as long as ours."""
    until = time.monotonic() + 60.0
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=10.0)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
            continue
        with connection:
            connection.sendall(str(rank).encode())
        return


def tell(event: dict[str, object]) -> None:
    """Print one JSON line."""
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
