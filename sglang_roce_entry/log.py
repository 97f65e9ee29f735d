"""The log on stderr: one line per fact, with its time; for people as SGLang's, or as JSON for collectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from time import gmtime, localtime, strftime, time
from typing import TextIO

from sglang_roce_entry.output import one_line
from sglang_roce_entry.problems import EntryError, Problem

PREFIX = "sglang-roce-entry:"


class Log:
    """Writes to stderr. ``form`` is ``text`` or ``json``; ``clock`` gives seconds since 1970."""

    def __init__(
        self, form: str = "text", stream: TextIO | None = None, clock: Callable[[], float] = time
    ) -> None:
        self.form = form
        self._clock = clock
        # None where stderr was closed when the interpreter started.
        self._stream: TextIO | None = stream or sys.stderr

    def say(self, message: str, **fields: object) -> None:
        """Write one fact."""
        self._write("info", message, fields)

    def problem(self, problem: Problem | EntryError) -> None:
        """Write what is wrong, and on the next line what to do."""
        severity = getattr(problem, "severity", "error")
        if self.form == "json":
            self._write(severity, problem.message, {"code": problem.code, "hint": problem.hint})
            return
        self._write(severity, f"{severity}: {problem.message} [{problem.code}]", {})
        if problem.hint:
            self._write(severity, f"  fix: {problem.hint}", {})

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if self._stream is None:
            return  # started without a stderr, which must not keep SGLang from starting
        line = one_line(message)
        if self.form == "json":
            document = {"time": _utc(self._clock()), "level": level, "message": line, **fields}
            text = json.dumps(document, ensure_ascii=True)
        else:
            # As SGLang's logging writes it, in local time: both go to one log.
            text = f"[{strftime('%Y-%m-%d %H:%M:%S', localtime(self._clock()))}] {PREFIX} {line}"
        try:
            self._stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # a closed stderr must not keep SGLang from starting


def _utc(now_s: float) -> str:
    """Return a time as RFC 3339 writes it, with milliseconds."""
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(now_s))}.{int(now_s % 1 * 1000):03d}Z"


def warnings_line(problems: Sequence[Problem]) -> str | None:
    """Return how many warnings there were and their codes, each once; ``None`` if there was none."""
    codes = [problem.code for problem in problems if not problem.fatal]
    if not codes:
        return None
    counted = f"{len(codes)} warning{'s' if len(codes) > 1 else ''}"
    return f"{counted}: {', '.join(dict.fromkeys(codes))} (sglang-roce-entry --explain CODE)"
