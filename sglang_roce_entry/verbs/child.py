"""The inside of a process that uses libibverbs; :mod:`sglang_roce_entry.verbs.supervise` is its outside."""

from __future__ import annotations

import os
import resource
import signal

#: So much later than its supervisor it ends itself, should nobody be left to end it.
_ORPHAN_S = 5.0


class Answers:
    """The lines that this process answers with. It ends by itself some time after ``limit_s``.

    What a library prints goes to stderr, and a crash leaves no core file.
    """

    def __init__(self, limit_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, limit_s + _ORPHAN_S)  # SIGALRM: nobody handles it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def say(self, line: str) -> None:
        """Write one line."""
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]
