"""``--probe``: one line on stdout, and 0 or 1.

It runs every few seconds as long as the pod lives, so it loads nothing of the launch, plan or fabric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_roce_entry.output import squeezed, write_stdout
from sglang_roce_entry.problems import OK, UNHEALTHY, EntryError
from sglang_roce_entry.server.probe.kinds import KINDS, Verdict, cannot_tell, run_probe

#: The only setting of a probe; where it is set all are read.
TIMEOUT_VARIABLE = "SGLANG_ROCE_PROBE_TIMEOUT"


def kinds_of(text: str) -> tuple[str, ...] | None:
    """Return the kinds of ``liveness`` or ``liveness,ranks``; ``None`` if one of them is none."""
    kinds = tuple(text.split(","))
    return kinds if all(kind in KINDS for kind in kinds) else None


def give_verdict(
    kinds: Sequence[str], given: Sequence[str] = (), limit_s: Callable[[], float | None] = lambda: None
) -> int:
    """Print the verdict of the probes and return the exit code.

    ``given`` are SGLang arguments after ``--``; ``limit_s`` returns the time limit that was set.
    """
    try:
        verdict = _verdict(kinds[0], given, limit_s)
    except KeyboardInterrupt:
        return 128 + 2
    line = f"{'ok' if verdict.passed else 'failed'}: {squeezed(verdict.reason)}\n"
    code = OK if verdict.passed else UNHEALTHY
    try:
        write_stdout(line)
    except (EntryError, OSError):
        return code  # it is the answer by itself
    return code


def _verdict(kind: str, given: Sequence[str], limit_s: Callable[[], float | None]) -> Verdict:
    try:
        return run_probe(kind, given, limit_s())
    except EntryError as failure:
        return cannot_tell(kind, f"{failure.message}; {failure.hint}")
    except Exception as defect:  # noqa: BLE001 - a defect of ours must not have a server killed
        return cannot_tell(kind, f"internal error: {type(defect).__name__}: {defect}")
