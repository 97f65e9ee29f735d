"""Scenarios in the guest: a server with queue pairs on two rails, on one, on none, and `--check` beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel.fabrics import lay_routed_fabric
from tests.kernel.node import INFINIBAND, OUT, ip, is_listening, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.kernel.node import Command

Result = dict[str, Any]
WRITE_PORT = 18600
# perftest's own, for as long as it is let. Few packets at a time and long timeouts, since both ends share a slow CPU.
WRITE = ("ib_write_bw", "-F", "-D", "600", "-q", "2", "-t", "2", "-s", "512", "-u", "18", "-p", str(WRITE_PORT))
PING = ("rping", "-a", "10.0.1.1", "-p", "18700", "-S", "64", "-C", "1000000")
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
IN_ANOTHER_NETWORK = ("ip", "netns", "exec", "pod")
ARGUMENTS = ("--model-path", "m", "--nnodes", "2", "--node-rank", "0", "--dist-init-addr", "10.0.1.1:20000")
SERVER = """\
import json, subprocess, sys
for line in sys.stdin:
    subprocess.Popen(json.loads(line), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
"""


def in_use(command: Command) -> Result:
    """Check beside a server whose processes write over both rails, over one, and over none; and by rdma_cm."""
    lay_routed_fabric()
    ip("netns add pod")
    near, far = (*WRITE, "-d", "mlx5_0", "-x", "3"), (*WRITE, "-d", "mlx5_1", "-x", "5", "127.0.0.1")
    result: Result = {}
    with _server(command) as server:
        _start(server, near)
        until(lambda: is_listening(WRITE_PORT), "ib_write_bw listens")
        with _running(far):
            _until_both_rails_are_used()
            result["one rail"] = _checked(command, server)
    with _server(command) as server:
        _start(server, near)
        until(lambda: is_listening(WRITE_PORT), "ib_write_bw listens")
        _start(server, far)
        _until_both_rails_are_used()
        result["both rails"] = _checked(command, server, *UNPRIVILEGED)
        result["another network"] = _read(command, *IN_ANOTHER_NETWORK, *UNPRIVILEGED)
    with _server(command) as server:
        _start(server, (*PING, "-s"))
        until(lambda: "LISTEN" in run("rdma", "resource", "show", "cm_id"), "rping listens")
        _start(server, (*PING, "-c", "-I", "10.0.2.1"))
        _until_both_rails_are_used()
        result["rdma_cm"] = _read(command)
    with _server(command) as server:
        result["sockets"] = _checked(command, server)
    return result


def in_use_by_nccl(command: Command) -> Result:
    """Check beside a server whose NCCL has sent a message each way between the two HCAs."""
    lay_routed_fabric()
    release = json.loads((OUT / "nccl-releases.json").read_text())[-1]
    plan = command.dry_run(nccl=release["version"])
    ours = {name: row["value"] for name, row in plan["environment"].items() if row["value"] is not None}
    words = (_python(command), "-m", "tests.kernel.nccl_transfer", json.dumps(release), "stay")
    with _server(command, **{**ours, "NCCL_SOCKET_IFNAME": "=lo", "NCCL_CONF_FILE": "/dev/null"}) as server:
        _start(server, words)
        until((OUT / "nccl-stays").exists, "NCCL has sent its messages", 60)
        return _checked(command, server)


def in_use_by_threads(command: Command) -> Result:
    """Check beside a server whose queue pairs were made by a thread that goes on, and by one that has ended."""
    lay_routed_fabric()
    words = (_python(command), "-c", "from tests.kernel.traffic import make_queue_pairs; make_queue_pairs()")
    with _server(command) as server:
        _start(server, words)
        _until_both_rails_are_used()
        return _checked(command, server)


def make_queue_pairs() -> None:
    """Make one queue pair by a thread that stays on mlx5_0, one by a thread that ends on mlx5_1, and wait."""
    from sglang_roce_entry.verbs.device import Device, QueuePair, Verbs

    verbs, for_ever, kept = Verbs(), threading.Event(), []

    def make(device: str, stays: bool) -> None:
        pair = QueuePair(Device(verbs, device))
        kept.append(pair)
        pair.to_init(1, 0)
        if stays:
            for_ever.wait()

    made = [threading.Thread(target=make, args=one) for one in (("mlx5_0", True), ("mlx5_1", False))]
    for thread in made:
        thread.start()
    for_ever.wait()


READ = """
import json
from dataclasses import asdict
from sglang_roce_entry.host.further.queue_pairs import read_devices, read_port_counters, read_queue_pairs
devices = read_devices()
print(json.dumps({
    "pairs": [asdict(pair) for pair in read_queue_pairs(devices)],
    "counters": {name: read_port_counters(index, 1) for name, index in devices.items()},
}, default=str))
"""


def _read(command: Command, *inside: str) -> Result:
    """Return what the launcher's own reader says, what `rdma` says, and the counters of /sys before and after."""
    before = _all_counters()
    read = json.loads(run(*inside, _python(command), "-c", READ))
    return {"read": read, "kernel": _kernel(), "before": before, "after": _all_counters()}


def _checked(command: Command, server: subprocess.Popen[bytes], *inside: str) -> Result:
    before = _all_counters()
    document = command("--check=json", inside=inside).plan()
    return {
        "document": document,
        "kernel": _kernel(),
        "before": before,
        "after": _all_counters(),
        "processes": _family(server.pid),
    }


def _python(command: Command) -> str:
    return str(command.path.parent / "python")


def _kernel() -> list[Result]:
    rows: list[Result] = json.loads(run("rdma", "-j", "resource", "show", "qp"))
    return rows


def _all_counters() -> dict[str, dict[str, int]]:
    return {device: _counters(device) for device in ("mlx5_0", "mlx5_1")}


def _counters(device: str) -> dict[str, int]:
    folder = INFINIBAND / device / "ports" / "1" / "hw_counters"
    return {path.name: int(path.read_text()) for path in folder.iterdir() if path.name != "lifespan"}


def _pairs(device: str) -> int:
    return sum(row["ifname"] == device for row in _kernel())


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def _until_both_rails_are_used() -> None:
    until(lambda: _pairs("mlx5_0") > 1 and _pairs("mlx5_1") > 1, "both HCAs have a queue pair beside the kernel's")


def _start(server: subprocess.Popen[bytes], words: Sequence[str]) -> None:
    """Let the server start a program as its child."""
    assert server.stdin is not None
    server.stdin.write(json.dumps(words).encode() + b"\n")
    server.stdin.flush()


@contextmanager
def _server(command: Command, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a stand-in SGLang of a group of two that starts what it is told to."""
    package = OUT / "serving" / "sglang"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "launch_server.py").write_text(SERVER)
    environment = command.environment(**variables)
    checkout = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = f"{package.parent}:{checkout}:{environment['PYTHONPATH']}"
    words = (_python(command), "-m", "sglang.launch_server", *ARGUMENTS)
    server = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE)
    try:
        yield server
    finally:
        for pid in reversed(_family(server.pid)):
            subprocess.run(("kill", "-KILL", str(pid)), check=False)
        server.wait()
        until(lambda: _pairs("mlx5_0") <= 1 and _pairs("mlx5_1") <= 1, "its queue pairs are gone")


@contextmanager
def _running(words: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
