"""``--probe``: one line on stdout for each kind, and 0 or 1.

It runs every few seconds as long as the pod lives, so it loads nothing of the launch, plan or fabric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sglang_roce_entry.output import squeezed, write_stdout
from sglang_roce_entry.probe_kinds import RANKS
from sglang_roce_entry.problems import OK, UNHEALTHY, EntryError
from sglang_roce_entry.server.probe.kinds import TIMEOUT_S, Verdict, cannot_tell, run_probe


def give_verdict(
    kinds: Sequence[str], given: Sequence[str] = (), limit_s: Callable[[], float | None] = lambda: None
) -> int:
    """Print the verdict of the probes and return the exit code.

    ``given`` are SGLang arguments after ``--``; ``limit_s`` returns the time limit that was set.
    """
    lines = []
    code = OK
    try:
        for kind, verdict in _verdicts(kinds, given, limit_s):
            which = f"{kind}: " if len(kinds) > 1 else ""
            lines.append(f"{'ok' if verdict.passed else 'failed'}: {which}{squeezed(verdict.reason)}\n")
            lines += [f"  {squeezed(detail)}\n" for detail in verdict.details if len(kinds) == 1]
            code = code if verdict.passed else UNHEALTHY
    except KeyboardInterrupt:
        return 128 + 2
    try:
        # An event of the pod shows the beginning.
        write_stdout("".join(reversed(lines) if code != OK and len(kinds) > 1 else lines))
    except (EntryError, OSError):
        return code  # it is the answer by itself
    return code


def _verdicts(
    kinds: Sequence[str], given: Sequence[str], limit_s: Callable[[], float | None]
) -> Iterator[tuple[str, Verdict]]:
    """Yield each kind's verdict, to the first that has failed: no kind can make the others late.

    The ranks first, which takes milliseconds: they have four tenths of the time if there are others.
    """
    share = 0.4 if len(kinds) > 1 and RANKS in kinds else 1.0
    try:
        set_s = limit_s()
    except EntryError as failure:
        yield from ((kind, cannot_tell(kind, f"{failure.message}; {failure.hint}")) for kind in kinds)
        return
    whole_s = max(TIMEOUT_S[kind] for kind in kinds) if set_s is None else set_s
    for kind in sorted(kinds, key=lambda kind: kind != RANKS):
        part = share if kind == RANKS else 1 - share if RANKS in kinds else 1.0
        verdict = _verdict(kind, given, whole_s * part)
        yield kind, verdict
        if not verdict.passed:
            return


def _verdict(kind: str, given: Sequence[str], timeout_s: float) -> Verdict:
    try:
        if kind == RANKS:
            from sglang_roce_entry.server.probe.ranks import run_ranks

            return run_ranks(timeout_s)
        return run_probe(kind, given, timeout_s)
    except EntryError as failure:
        return cannot_tell(kind, f"{failure.message}; {failure.hint}")
    except Exception as defect:  # noqa: BLE001 - a defect of ours must not have a server killed
        return cannot_tell(kind, f"internal error: {type(defect).__name__}: {defect}")
