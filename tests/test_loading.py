"""What a run loads: a third-party package only in the stage that needs it, and for a probe as little as can be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.process.command import install_standin

NAME = "sglang_roce_entry"
THIRD_PARTY = {"psutil", "pyudev", "requests", "tenacity", "yaml"}  # requests: of the tests alone
NOT_FOR_A_PROBE = ("launch", "plan", "fabric", "check", "report", "host.snapshot", "host.further")
#: What settings are made of, whoever reads them.
VALUES = {
    *("plan", "plan.settings", "fabric", "fabric.constraints", "fabric.wishes"),
    *("fabric.nccl", "fabric.nccl.selector", "fabric.nccl.numbers"),
}
#: A launch ends where it would exec.
CODE = """
import os, runpy, sys

def end(*_):
    print("comes to its exec", file=sys.stderr)
    raise SystemExit

os.execvpe = end
try:
    runpy.run_module("sglang_roce_entry", run_name="__main__", alter_sys=True)
finally:
    print("LOADED", *sorted(sys.modules), file=sys.stderr)
"""


def loaded(*argv: str, standin: Path | None = None, **variables: str) -> tuple[set[str], str]:
    """Return the modules that a run has loaded when it ends, and its log."""
    ours = ("LWS_", "SGLANG_", "NCCL_")
    environ = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    if standin:
        environ["PYTHONPATH"] = os.pathsep.join([str(standin), environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CODE, *argv],
        capture_output=True, text=True, env={**environ, **variables}, timeout=60, check=False,
    )  # fmt: skip
    log, _, names = done.stderr.rpartition("LOADED ")
    assert names, done.stderr
    return set(names.split()), log


@contextmanager
def web_server() -> Iterator[int]:
    """Give the port of a server that answers 404 to everything."""
    with HTTPServer(("127.0.0.1", 0), type("Nothing", (BaseHTTPRequestHandler,), {})) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("argv", "needed"),
    [
        (("--version",), set()),
        (("--help",), set()),
        (("--snapshot", "h20-roce", "--print-env"), set()),
        (("--snapshot", "h20-roce", "--check"), set()),
        (("--snapshot", "h20-roce", "--dry-run=html"), set()),
        (("--dry-run", "--model-path", "/m"), {"psutil"}),
        (("--dry-run", "--policy", "POLICY", "--model-path", "/m"), {"psutil", "yaml"}),
        (("--dry-run", "--model-path", "/m", "--config", "CONFIG"), {"psutil", "yaml"}),
        (("--check", "--model-path", "/m"), {"psutil"}),
        (("--probe", "liveness"), set()),
        (("--probe", "liveness", "--", "--port", "1"), set()),  # nothing listens there
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mode_loads_only_what_it_needs(tmp_path: Path, argv: tuple[str, ...], needed: set[str]) -> None:
    files = {"POLICY": "linger: 0s\n", "CONFIG": "tp-size: 1\n"}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    names, log = loaded(*(str(tmp_path / f"{word}.yaml") if word in files else word for word in argv))
    assert names & THIRD_PARTY == needed, log


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_only_a_page_loads_what_draws_it(form: str) -> None:
    names, _ = loaded("--snapshot", "h20-roce", f"--dry-run={form}")
    assert any(name.startswith(f"{NAME}.report.page") for name in names) == (form == "html")


def test_a_probe_that_asks_a_server_loads_a_socket_and_no_more() -> None:
    with web_server() as port:
        names, log = loaded("--probe", "liveness", "--", "--port", str(port))
    assert not names & {*THIRD_PARTY, "ssl", "http.client", "threading", "urllib.request"}, log


def test_a_probe_as_kubernetes_writes_it_reads_no_settings() -> None:
    names, _ = loaded("--probe", "liveness")
    assert not names & {
        f"{NAME}.command.forms",
        f"{NAME}.command.settings",
        f"{NAME}.invocation",
        "json",
        "typing",
    }


@pytest.mark.parametrize("kind", ["startup", "readiness", "liveness"])
def test_a_probe_has_its_own_short_path(kind: str) -> None:
    names, _ = loaded("--probe", kind, "--", "--port", "1")
    ours = {name.removeprefix(f"{NAME}.") for name in names if name.startswith(f"{NAME}.")}
    assert "server.probe.kinds" in ours
    assert not {name for name in ours if name.startswith(NOT_FOR_A_PROBE)} - VALUES


def _worker(tmp_path: Path, port: int, *options: str, rdma: str = "off") -> tuple[set[str], str]:
    address = {"LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}
    return loaded(
        *("--rdma", rdma, "--gpus", "8", "--linger", "0s", "--dist-init", str(port), "--meeting", "off"),
        *(*options, "--model-path", "/m"),
        standin=install_standin(tmp_path),
        **address,
    )  # fmt: skip


def test_only_a_wait_that_goes_on_loads_tenacity(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        names, log = _worker(tmp_path, server.getsockname()[1])
        assert "comes to its exec" in log, log
        assert "tenacity" not in names
        port = server.getsockname()[1]
    names, log = _worker(tmp_path / "again", port, "--wait-deadline", "1s")
    assert "LEADER" in log
    assert "tenacity" in names


def test_a_launch_asks_libibverbs_and_loads_nothing_of_it(tmp_path: Path) -> None:
    names, log = _worker(tmp_path, 1, "--hca-wait", "0s", rdma="required")
    assert "NO_USABLE_HCA" in log or "no RDMA device" in log, log
    ours = {name.removeprefix(f"{NAME}.") for name in names if name.startswith(f"{NAME}.verbs.")}
    assert ours == {"verbs.listed", "verbs.supervise"}
    assert "ctypes" not in names
    assert not names & {f"{NAME}.host.further.queue_pairs", f"{NAME}.host.further.traffic"}, "of --check alone"


def test_only_hardware_that_is_awaited_loads_pyudev(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        names, _ = _worker(tmp_path, port, "--hca-wait", "0s", "--hca", "=nothing_0", rdma="required")
        assert "pyudev" not in names
        names, log = _worker(tmp_path / "again", port, "--hca-wait", "1s", "--hca", "=nothing_0", rdma="required")
    assert "pyudev" in names, log
