"""What a variable, a file or an argument holds is shown on its line, and nothing else comes of it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.command.conftest import clean_environment
from tests.healthy import healthy
from tests.process.command import without_times

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

ESCAPES = "a\nEVIL: 1\r\x1b[2J\x1b]0;x\x07\x9b2J\u2028EVIL\x85"
#: Not UTF-8: the escape (CSI) and the next line (NEL) of an 8-bit terminal, and a letter of Latin-1.
BYTES = "a\udc9b2J\udc85EVIL\udce9"
NAMES = ("NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "SGLANG_HOST_IP", "HOST_IP", "NCCL_DEBUG")


@pytest.mark.parametrize("mode", ["--dry-run", "--check", "--print-env"])
def test_a_value_cannot_add_a_line_or_steer_the_terminal(run: Run, mode: str) -> None:
    node = healthy()
    for path in node.files:
        if "mlx5_1" in path and path.endswith(("/link_layer", "/fw_ver")):
            node.files[path] = ESCAPES
    environ = dict.fromkeys(NAMES, ESCAPES)
    ran = run(mode, "--model-path", f"/m{ESCAPES}", node=node, environ=environ)
    shown = ran.err if mode == "--print-env" else ran.out
    assert "EVIL" in shown
    for line in shown.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.strip().startswith("EVIL"), line


@pytest.mark.parametrize("mode", ["--dry-run", "--check"])
def test_bytes_that_steer_a_terminal_are_shown_as_numbers(run: Run, mode: str) -> None:
    ran = run(mode, "--model-path", f"/m{BYTES}", node=healthy(), environ={"NCCL_SOCKET_IFNAME": BYTES})
    assert r"a\x9b2J\x85EVIL" in ran.out
    assert not set(ran.out) & {chr(0xDC00 + byte) for byte in range(0x80, 0xA0)}
    assert "EVIL\udce9" in ran.out, "other bytes stay as they are"


def test_digits_without_end_are_no_defect(run: Run) -> None:
    digits = "9" * 5000
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NCCL_IB_GID_INDEX", "LWS_WORKER_INDEX")
    for name in names:
        ran = run("--dry-run=json", "--model-path", "/m", node=healthy(), environ={name: digits})
        assert ran.document["exit_code"] in (0, 69, 78)


def test_digits_without_end_in_the_files_of_a_node_are_no_defect(run: Run) -> None:
    digits, node = "9" * 5000, healthy()
    for path in node.files:
        if path.endswith(("/state", "/rate", "/numa_node", "/node_type")) and "mlx5_1" in path:
            node.files[path] = digits
    node.files["/proc/driver/nvidia/gpus/0000:01:00.0/information"] = f"Device Minor: {digits}\n"
    node.files["/proc/self/status"] = f"CapEff:\t{'f' * 5000}\n"
    for mode in ("--dry-run=json", "--check=json"):
        assert run(mode, "--model-path", "/m", node=node).document["exit_code"] in (0, 69, 78)


@pytest.mark.parametrize("key", ["9" * 5000, "\u0663", "0" * 40])
def test_a_gpu_of_the_transfer_without_end_is_no_defect(run: Run, key: str) -> None:
    arguments = ("--disaggregation-mode", "prefill", "--disaggregation-ib-device", f'{{"{key}": "mlx5_0"}}')
    ran = run("--dry-run=json", "--model-path", "/m", *arguments, node=healthy())
    assert ran.document["exit_code"] in (0, 69, 78)
    assert "IB_DEVICE" in ran.codes


def _closed(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell that closes or fills its standard streams."""
    return subprocess.run(
        ["/bin/sh", "-c", script.replace("ENTRY", f"{sys.executable} -m sglang_roce_entry")],
        capture_output=True,
        text=True,
        env={**clean_environment(), "SGLANG_ROCE_RDMA": "off"},
        cwd=tmp_path,
        timeout=60,
        check=False,
    )


MODES = ("--version", "--print-env", "--dry-run", "--check", "--save-snapshot -")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_an_output_that_cannot_be_written_is_said(tmp_path: Path, mode: str, stdout: str) -> None:
    ran = _closed(f"ENTRY {mode} {stdout}", tmp_path)
    assert ran.returncode == 2
    first, second = without_times(ran.stderr).splitlines()[-2:]
    assert first.startswith("sglang-roce-entry: error: stdout cannot be written: ")
    assert second.startswith("sglang-roce-entry:   fix: ")


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_a_probe_tells_by_its_exit_code_alone(tmp_path: Path, stdout: str) -> None:
    nothing_listens = "--probe {} {} -- --port 1 --model-path /m"
    assert _closed(f"ENTRY {nothing_listens.format('liveness', '')} {stdout}", tmp_path).returncode == 0
    ran = _closed(f"ENTRY {nothing_listens.format('readiness', '')} {stdout}", tmp_path)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr


def test_closed_streams_do_not_keep_a_command_from_starting(tmp_path: Path) -> None:
    assert _closed("ENTRY sh -c 'echo started >there' <&- >&- 2>&-", tmp_path).returncode == 0
    assert (tmp_path / "there").read_text() == "started\n"
    assert _closed("ENTRY --dry-run 2>&- | grep -c Environment", tmp_path).stdout == "1\n"


def test_half_a_character_beside_a_key_is_no_defect(run: Run) -> None:
    """JSON may escape half of a surrogate pair, and is written anew where a key in it is hidden."""
    text = '{"token": "s3cr3tvalue", "stop": "\\ud83d"}'
    for mode in ("--dry-run=json", "--dry-run", "--check=json", "--dry-run=html"):
        ran = run("--snapshot", "cx7-pod", mode, "--model-path", "/m", "--chat-template-kwargs", text)
        assert ran.code == 0, ran.err
        assert "s3cr3tvalue" not in ran.out
        assert "ud83d" in ran.out
