"""``--probe``: one line on stdout, and 0 or 1.

It runs every few seconds as long as the pod lives, so it loads nothing of the launch, plan or fabric.
"""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.log import squeezed, write_stdout
from sglang_roce_entry.problems import OK, UNHEALTHY, EntryError
from sglang_roce_entry.server.probe.kinds import Verdict, cannot_tell, run_probe


def give_verdict(invocation: Invocation, environ: Mapping[str, str]) -> int:
    """Print the verdict of the probe that ``invocation`` names and return its exit code."""
    verdict = _verdict(invocation, environ)
    line = f"{'ok' if verdict.passed else 'failed'}: {squeezed(verdict.reason)}\n"
    code = OK if verdict.passed else UNHEALTHY
    try:
        write_stdout(line)
    except (EntryError, OSError):
        return code  # it is the answer by itself
    return code


def _verdict(invocation: Invocation, environ: Mapping[str, str]) -> Verdict:
    kind = invocation.mode_value
    try:
        settings = read_settings(invocation.flags, environ, invocation.policy)
        return run_probe(kind, invocation.rest, settings.probe_timeout)
    except EntryError as failure:
        return cannot_tell(kind, f"{failure.message}; {failure.hint}")
    except Exception as defect:  # noqa: BLE001 - a defect of ours must not have a server killed
        return cannot_tell(kind, f"internal error: {type(defect).__name__}: {defect}")
