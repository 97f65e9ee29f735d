"""Where the command begins: a probe as Kubernetes writes it goes the short way, everything else by its form.

A probe runs every few seconds as long as the pod lives, and what it imports is most of what it costs.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from sglang_roce_entry.probe_kinds import TIMEOUT_VARIABLE, kinds_of

_PROBE = "--probe"
_GARBAGE_AFTER = 50_000  # objects; a long wait gets there in the end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (the process's own by default); return the exit code."""
    # What a start makes stays until its end: to look for garbage in it costs a twentieth and finds none.
    gc.set_threshold(_GARBAGE_AFTER)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _fill_standard_descriptors()
    arguments = tuple(sys.argv[1:] if argv is None else argv)
    environ = dict(os.environ)
    kinds = kinds_of(_plain(arguments)) if not environ.get(TIMEOUT_VARIABLE) else None
    if kinds is not None:
        from sglang_roce_entry.command.probing import give_verdict

        return give_verdict(kinds)
    from sglang_roce_entry.command.forms import run

    return run(arguments, environ)


def _plain(arguments: tuple[str, ...]) -> str:
    """Return ``KINDS`` of ``--probe KINDS`` alone, else an empty text: it is to be read in full."""
    if len(arguments) == 1:
        arguments = tuple(arguments[0].split("=", 1))
    return arguments[1] if len(arguments) == 2 and arguments[0] == _PROBE else ""


def _fill_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2, before a socket or a device gets that number and is written to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
