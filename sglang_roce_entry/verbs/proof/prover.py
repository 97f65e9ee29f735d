"""The process of :mod:`sglang_roce_entry.verbs.proof.ends` from outside: lines in and out, blocking nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from time import monotonic

from sglang_roce_entry.verbs.messages import LINE_BYTES, Rail
from sglang_roce_entry.verbs.supervise import end_now, how_it_ended, spawn, status_by

_READ_BYTES = 1 << 16
#: What it is told and does not read: that of 64 rails, three times.
_UNREAD_BYTES = 1 << 20
#: It has closed its answers and may still be ending.
_ENDING_S = 1.0
_STUCK = "the process that proves the rails cannot be ended: it hangs in the kernel"


class Running:
    """That process. Raises ``OSError`` where it cannot be started.

    ``failed`` is why no more lines will come, as the end of a sentence on it.
    """

    def __init__(self, rails: Sequence[Rail | None], environ: Mapping[str, str], limit_s: float) -> None:
        self.failed: str | None = None
        self._inbox, self._unsent = bytearray(), bytearray()
        orders, self._orders = os.pipe()
        try:
            self._answers, answers = os.pipe()
        except OSError:
            os.close(orders)
            os.close(self._orders)
            raise
        wiring = [
            (os.POSIX_SPAWN_DUP2, orders, 0),
            (os.POSIX_SPAWN_DUP2, answers, 1),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        work = json.dumps([asdict(rail) if rail is not None else None for rail in rails])
        self._pid: int | None = None
        try:
            self._pid = spawn("proof.ends", [str(limit_s), work], environ, wiring)
        except OSError:
            self.end()
            raise
        finally:
            os.close(orders)
            os.close(answers)
        os.set_blocking(self._orders, False)
        os.set_blocking(self._answers, False)

    def fileno(self) -> int:
        """Return what becomes readable when it has said something, or has ended."""
        return self._answers

    def tell(self, line: bytes) -> None:
        """Tell it one line, sooner or later."""
        self._unsent += line + b"\n"
        if len(self._unsent) > _UNREAD_BYTES:
            self.failed = self.failed or "does not read what it is told"
        self._flush()

    def heard(self) -> list[bytes]:
        """Return the lines that it has said since."""
        self._flush()
        if self.failed is not None:
            return []
        try:
            data = os.read(self._answers, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            self.failed = self._ending()
        self._inbox += data
        *lines, rest = self._inbox.split(b"\n")
        self._inbox = bytearray(rest)
        if len(rest) > 2 * LINE_BYTES or any(len(line) > 2 * LINE_BYTES for line in lines):
            self.failed = "answered with what makes no sense"
            return []
        return [bytes(line) for line in lines]

    def _ending(self) -> str:
        if self._pid is None:
            return "ended"
        status = status_by(self._pid, monotonic() + _ENDING_S)
        if status is None:
            return "closed its answers"
        self._pid = None
        return how_it_ended(status) or "ended"

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._orders, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has ended; its answers tell how
            self._unsent.clear()

    def end(self) -> str | None:
        """End it, with all that it holds; return a sentence where that cannot be done."""
        stuck = self._pid is not None and end_now(self._pid) is None
        self._pid = None
        for descriptor in (self._orders, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._orders = self._answers = -1
        return _STUCK if stuck else None
