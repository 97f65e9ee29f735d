"""How many instructions a start takes (callgrind): the same on a busy machine, so it can be held to a ceiling.

callgrind cannot see past an `execve`: the run ends in its stead. `python -m tests.benchmarks instructions` prints what
`test_instructions.py` holds under its ceiling.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.rails import ARGUMENTS, Leader, environment, missing_here, standin
from tests.benchmarks.text_table import text_table
from tests.process.command import CHECKOUT, entry_command, entry_interpreter

#: In starts of a bare interpreter: plain modules and dataclasses are worth that much, before minutes of loading.
BUDGET = 17
HCAS, SLOTS = 8, 256

_EXECUTED = "became "
_SITECUSTOMIZE = f"""
import os

def _end(name, arguments, environment):
    os.write(1, ({_EXECUTED!r} + " ".join(arguments)).encode())
    os._exit(0)

os.execvpe = _end
"""


def measure(short: bool) -> dict[str, Any]:
    """Return the instructions of a leader's start, and of `python3 -c pass`; the short form is the same."""
    missing = missing_here() if shutil.which("valgrind") else "needs the program `valgrind`"
    if missing:
        return {"skipped": missing}
    with tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory:
        folder = Path(directory)
        leader = Leader(folder / "leader", HCAS, SLOTS)
        # Without an installed command the checkout is run, and is looked for first.
        checkout = [CHECKOUT] if len(entry_command()) > 1 else []
        around = environment(ending_at_exec(folder), standin(folder), *checkout)
        bare = instructions(leader, [entry_interpreter(), "-c", "pass"], around, becomes=False)
        start = instructions(leader, [*entry_command(), *ARGUMENTS], around, becomes=True)
    row = {"hcas": HCAS, "slots": SLOTS, "start": start, "bare": bare, "starts": start / bare}
    return {"rows": [row], "targets": {"starts": BUDGET}}


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    head = ("HCAs", "slots", "instructions of a start", "of python3 -c pass", "starts")
    keys = ("hcas", "slots", "start", "bare", "starts")
    rows = text_table(head, [[row[key] for key in keys] for row in result["rows"]])
    return f"{rows}\nwanted: at most {result['targets']['starts']} starts of a bare interpreter"


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
    fixed = {**environment, "PYTHONHASHSEED": "0"}
    number, said = counted(lambda words: leader.run(words, fixed), command, leader.folder)
    if becomes != said.startswith(_EXECUTED):
        raise RuntimeError(f"{' '.join(command)} said {said!r}")
    return number


def counted(run: Callable[[Sequence[str]], str], command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Return the instructions of ``command`` and what it says, when ``run`` runs it once more."""
    log = folder / "valgrind.log"
    run(command)
    said = run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}", *command])
    found = [line.rpartition(":")[2] for line in log.read_text().splitlines() if "Collected" in line]
    return int(found[-1].split()[0]), said
