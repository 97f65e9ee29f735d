"""How many instructions a start takes (callgrind): the same on a busy machine, so it can be held to a ceiling.

callgrind cannot see past an `execve`: the run ends in its stead.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.benchmarks.rails import Leader

_EXECUTED = "became "
_SITECUSTOMIZE = f"""
import os

def _end(name, arguments, environment):
    os.write(1, ({_EXECUTED!r} + " ".join(arguments)).encode())
    os._exit(0)

os.execvpe = _end
"""


def missing_valgrind() -> str | None:
    """Return one sentence if it is not installed."""
    return None if shutil.which("valgrind") else "needs the program `valgrind`"


def ending_at_exec(folder: Path) -> Path:
    """Write the hook that ends a run where it would exec; return its PYTHONPATH."""
    made = folder / "ending-at-exec"
    made.mkdir()
    (made / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
    return made


def instructions(leader: Leader, command: Sequence[str], environment: dict[str, str], *, becomes: bool) -> int:
    """Return the instructions of ``command`` on ``leader``, byte code compiled and hashes fixed.

    ``becomes``: it must come to its exec, else RuntimeError.
    """
    log = leader.folder / "valgrind.log"
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}"]
    fixed = {**environment, "PYTHONHASHSEED": "0"}
    leader.run(command, fixed)
    said = leader.run([*valgrind, *command], fixed)
    if becomes != said.startswith(_EXECUTED):
        raise RuntimeError(f"{' '.join(command)} said {said!r}")
    found = [line.rpartition(":")[2] for line in log.read_text().splitlines() if "Collected" in line]
    return int(found[-1].split()[0])
