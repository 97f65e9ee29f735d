"""The installed command, and ``python -m sglang_roce_entry``: a signal ends it from its first line on.

As PID 1 a process has no default actions: the kernel drops a SIGTERM that comes before a handler. And a Ctrl-C
in an import would be a traceback.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> int:
    """Run the command with this process's arguments; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & have it
            signal.signal(number, _end)
    from sglang_roce_entry.command import cli

    return cli.main()


def _end(number: int, _frame: FrameType | None) -> None:
    """End at once: nothing has been started or written yet. A launch has handlers of its own from then on."""
    os._exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
