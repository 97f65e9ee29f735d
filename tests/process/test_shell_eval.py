"""`eval "$(sglang-roce-entry --print-env)"` in real shells gives the plan's very bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.layers import skip_or_fail
from tests.process.command import base_environment, entry_command, run_entry

if TYPE_CHECKING:
    from pathlib import Path

SHELLS = ("sh", "dash", "bash", "busybox", "zsh")

# Every value would create the file `canary` if a shell ever looked inside it.
HOSTILE: dict[str, bytes] = {
    "GLOO_SOCKET_IFNAME": b"/tmp/a b\tc'd\"e\\f",
    "MC_GID_INDEX": b"$(touch canary)",
    "NCCL_IB_DISABLE": b"`touch canary`",
    "NCCL_IB_GID_INDEX": b"3\ntouch canary\n#",
    "NCCL_IB_HCA": b"x'; touch canary; '",
    "NCCL_SOCKET_IFNAME": b"first\nsecond\n touch canary\n",
    "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": b"$HOME ${HOME} ~ * ? [a] # ! !! {a,b} && || ; & | < > ( )",
    "NVSHMEM_IB_GID_INDEX": b"106\r\n`touch canary`",
    "SGLANG_HOST_IP": b"\x81\x82\x83\x84\x85\x86\x87\x88'\x81",
    "UCX_IB_GID_INDEX": "/\N{LATIN SMALL LETTER E WITH ACUTE} \N{CJK UNIFIED IDEOGRAPH-65E5}".encode()
    + b"\xff\xfe\x80caf\xe9\x01\x1b[31m\x7f",
    # Empty is unset.
    "NCCL_NET": b"",
}
PLANS = [
    pytest.param(("--rdma", "off"), id="this-host"),
    pytest.param(("--snapshot", "h20-roce"), id="h20-roce"),
    pytest.param(("--snapshot", "cx7-pod"), id="cx7-pod"),
]

# A plan with errors is printed anyway, so its exit code is not checked.
# The plan is taken with the hostile values, then they are forgotten; only eval brings them back.
SCRIPT = """
out=$("$@" --print-env)
[ -n "$out" ] || exit 70
for name in $FORGET; do unset "$name"; done
eval "$out" || exit 71
unset out name FORGET
exec env -0
"""
# zsh alone does not split what $FORGET gives.
SCRIPT_OF = {"zsh": f"setopt shwordsplit\n{SCRIPT}"}
# The form in the documentation, in one go.
DIRECT_SCRIPT = """
eval "$("$@" --print-env)"
exec env -0
"""


def shell_command(shell: str) -> list[str]:
    """Return the words that run a script given after `-c` in this shell."""
    return {"busybox": ["busybox", "sh", "-c"], "zsh": ["zsh", "-f", "-c"]}.get(shell, [shell, "-c"])


def variables_after(
    shell: str, script: str, options: tuple[str, ...], environment: dict[bytes, bytes], cwd: Path
) -> dict[str, bytes]:
    """Return the exported variables at the end of `script`; fails if the shell does."""
    done = subprocess.run(
        [*shell_command(shell), script, "sh", *entry_command(), *options],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "backslashreplace")
    pairs = (pair.partition(b"=") for pair in done.stdout.split(b"\0")[:-1])
    return {os.fsdecode(name): value for name, _, value in pairs}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Return each shell; one that is not here skips, or fails where the layer that needs it is required."""
    name = str(request.param)
    if shutil.which(name) is None:
        skip_or_fail("netns", f"the shell {name} is not installed")
    return name


@pytest.mark.parametrize("options", PLANS)
def test_eval_gives_the_plan(shell: str, options: tuple[str, ...], tmp_path: Path) -> None:
    environment = {
        os.fsencode(name): os.fsencode(value) for name, value in base_environment(tmp_path, sglang=None).items()
    } | {name.encode(): value for name, value in HOSTILE.items()}
    plan_run = run_entry([*options, "--print-env=json"], environment, cwd=tmp_path)
    plan = plan_run.json()
    assert plan, plan_run.stderr
    environment[b"FORGET"] = " ".join(sorted({*plan, *HOSTILE})).encode()

    after = variables_after(shell, SCRIPT_OF.get(shell, SCRIPT), options, environment, tmp_path)

    wanted = {name: os.fsencode(entry["value"]) for name, entry in plan.items() if entry["value"] is not None}
    assert {name: after.get(name) for name in wanted} == wanted
    withheld = {name for name, entry in plan.items() if entry["value"] is None}
    assert withheld.isdisjoint(after)
    assert not (tmp_path / "canary").exists()
    # It was all there to be broken. `--rdma off` has decided one of them itself.
    decided = {"NCCL_IB_DISABLE"} if "off" in options else set()
    kept = {name: value for name, value in HOSTILE.items() if value and name not in decided}
    assert {name: wanted.get(name) for name in kept} == kept


def test_eval_in_one_go(shell: str, tmp_path: Path) -> None:
    """As documented; the node's values arrive exported, the caller's others stay."""
    environment = {
        os.fsencode(name): os.fsencode(value) for name, value in base_environment(tmp_path, sglang=None).items()
    } | {b"KEPT": b"as it was"}
    options = ("--snapshot", "h20-roce")
    plan = run_entry([*options, "--print-env=json"], environment, cwd=tmp_path).json()
    after = variables_after(shell, DIRECT_SCRIPT, options, environment, tmp_path)
    wanted = {name: os.fsencode(entry["value"]) for name, entry in plan.items() if entry["value"] is not None}
    assert b"mlx5_bond_0:1" in wanted["NCCL_IB_HCA"]
    assert {name: after.get(name) for name in wanted} == wanted
    assert after["KEPT"] == b"as it was"


#: zsh takes a word behind = or : of an assignment for a command or a home where it begins with = or ~.
EXPANDED = {
    "GLOO_SOCKET_IFNAME": "=no-such-command",
    "MC_GID_INDEX": "a:=ls",
    "NCCL_IB_GID_INDEX": "=",
    "NCCL_SOCKET_IFNAME": "=ls:1",
    "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": "a:~root:=ls",
    "NVSHMEM_IB_GID_INDEX": "~root",
    "SGLANG_HOST_IP": "a==b",
    "UCX_IB_GID_INDEX": "%1",
}


def test_a_value_that_a_shell_would_expand(shell: str, tmp_path: Path) -> None:
    environment = {
        os.fsencode(name): os.fsencode(value) for name, value in base_environment(tmp_path, sglang=None).items()
    } | {name.encode(): text.encode() for name, text in EXPANDED.items()}
    environment[b"FORGET"] = " ".join(EXPANDED).encode()
    after = variables_after(shell, SCRIPT_OF.get(shell, SCRIPT), ("--rdma", "off"), environment, tmp_path)
    assert {name: after.get(name) for name in EXPANDED} == {name: text.encode() for name, text in EXPANDED.items()}


def test_shell_form_is_sorted_and_reasoned(tmp_path: Path) -> None:
    """One assignment a line in the order of the names, each with its reason as a comment."""
    environment = base_environment(tmp_path, sglang=None)
    done = run_entry(["--snapshot", "h20-roce", "--print-env"], environment, cwd=tmp_path)
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith("export ")]
    names = [line.removeprefix("export ").partition("=")[0] for line in lines]
    assert len(names) >= 5
    assert names == sorted(names)
    assert all(" # " in line for line in lines), done.stdout.decode()
