"""How the tests start the command, and what they put where SGLang would be.

`SGLANG_ROCE_ENTRY` names an installed `sglang-roce-entry` script; without it the package of this
checkout is run by the interpreter that runs the tests.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHECKOUT = Path(__file__).resolve().parents[2]
STANDIN_SOURCE = Path(__file__).resolve().parent / "standin"
STANDIN_VERSION = "0.5.23"

# Start of an interpreter with the package, on a machine that is busy with other things.
START_S = 6.0


def entry_command() -> list[str]:
    """Return the first words of the command under test."""
    installed = os.environ.get("SGLANG_ROCE_ENTRY")
    if installed:
        return [installed]
    return [sys.executable, "-m", "sglang_roce_entry"]


def entry_interpreter() -> str:
    """Return the interpreter that the command runs in, and that it must exec SGLang with."""
    installed = os.environ.get("SGLANG_ROCE_ENTRY")
    if not installed:
        return sys.executable
    return interpreter_of(Path(installed))


def interpreter_of(script: Path) -> str:
    """Return the interpreter that an installed script names."""
    first = script.read_bytes().split(b"\n", 1)[0]
    return os.fsdecode(first.removeprefix(b"#!").strip())


def install_standin(directory: Path, source: Path = STANDIN_SOURCE) -> Path:
    """Install a stand-in `sglang` under `directory`, with metadata; return its PYTHONPATH."""
    target = directory / "standin"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = target / f"sglang-{STANDIN_VERSION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: sglang\nVersion: {STANDIN_VERSION}\n", encoding="utf-8"
    )
    return target


def python_path(*first: Path) -> str:
    """Return PYTHONPATH: `first`, then the checkout unless an installed script is tested."""
    paths = [str(path) for path in first]
    if not os.environ.get("SGLANG_ROCE_ENTRY"):
        paths.append(str(CHECKOUT))
    return os.pathsep.join(paths)


def environment_of_an_interpreter() -> dict[str, str]:
    """Return what a run needs to be like the last one: hashes fixed, and none of this shell's settings."""
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    return {**kept, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": python_path(), "PYTHONHASHSEED": "0"}


#: What somebody who is not root needs for processes of their own. Another user's do not tell their mount namespace.
_OWN_PROCESSES = ("unshare", "--user", "--map-current-user", "--mount", "--pid", "--kill-child", "--mount-proc")


@cache
def _has_user_namespaces() -> bool:
    """Whether somebody who is not root can have namespaces here: distributions and containers differ."""
    return subprocess.run([*_OWN_PROCESSES, "true"], capture_output=True, check=False).returncode == 0


def enclosed(words: Sequence[str], beside: int | None = None) -> list[str]:
    """Return words that run in a mount namespace of their own: other servers of this machine are not theirs."""
    if os.geteuid() == 0:
        return (
            ["unshare", "--mount", *words] if beside is None else ["nsenter", "-t", str(beside), "--mount", *words]
        )
    if not _has_user_namespaces():
        return list(words)
    if beside is None:
        return [*_OWN_PROCESSES, *words]
    processes = f"--pid=/proc/{beside}/ns/pid_for_children"
    return ["nsenter", "-t", str(beside), "--user", "--preserve-credentials", "--mount", processes, *words]


def without_times(log: str) -> str:
    """Return the command's own text log without the time at the head of each line."""
    return re.sub(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (?=sglang-roce-entry: )", "", log, flags=re.MULTILINE)


@cache
def byte_code_directory() -> str:
    """Return where all starts of this test run keep byte code: the first compiles, nothing else."""
    made = tempfile.mkdtemp(prefix="sglang-roce-entry-byte-code-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def base_environment(directory: Path, *, sglang: Path | None) -> dict[str, str]:
    """Return the environment of a bare container, with the stand-in importable if given."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": python_path(*([sglang] if sglang else [])),
        "PYTHONPYCACHEPREFIX": byte_code_directory(),
    }


@dataclass(frozen=True)
class Finished:
    """A run that ended by itself. `code` is what a shell would show: 128+N after signal N."""

    code: int
    stdout: bytes
    stderr: str
    took_s: float

    def json(self) -> Any:
        """Return stdout read as JSON."""
        return json.loads(self.stdout)


def run_entry(
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str] | Mapping[bytes, bytes],
    *,
    cwd: Path,
    timeout_s: float = 30.0,
) -> Finished:
    """Run the command here, outside any namespace, and return what came of it.

    Raises subprocess.TimeoutExpired (the process is killed) if it does not end in `timeout_s`.
    """
    begin_s = time.monotonic()
    done = subprocess.run(
        [*entry_command(), *arguments],
        env=cast("Mapping[str, str]", environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    took_s = time.monotonic() - begin_s
    return Finished(code, done.stdout, done.stderr.decode("utf-8", "backslashreplace"), took_s)
