"""The log on stderr: one line per fact, with its time; for people as SGLang's, or as JSON for collectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        self._write(self._line("info", message, fields))

    def say_all(self, messages: Iterable[str]) -> None:
        """Write several facts at once."""
        self._write(*(self._line("info", message, {}) for message in messages))

    def problem(self, problem: Problem | EntryError) -> None:
        """Write what is wrong, and on the next line what to do."""
        severity = getattr(problem, "severity", "error")
        if self.form == "json":
            fields = {"code": problem.code, "hint": problem.hint}
            self._write(self._line(severity, problem.message, fields))
            return
        lines = [f"{severity}: {problem.message} [{problem.code}]"]
        if problem.hint:
            lines.append(f"  fix: {problem.hint}")
        self._write(*(self._line(severity, line, {}) for line in lines))

    def _line(self, level: str, message: str, fields: Mapping[str, object]) -> str:
        line = one_line(message)
        if self.form == "json":
            document = {"time": _utc(self._clock()), "level": level, "message": line, **fields}
            return json.dumps(document, ensure_ascii=True)
        # As SGLang's logging writes it, in local time: both go to one log.
        return f"[{strftime('%Y-%m-%d %H:%M:%S', localtime(self._clock()))}] {PREFIX} {line}"

    def _write(self, *lines: str) -> None:
        if self._stream is None:
            return  # started without a stderr, which must not keep SGLang from starting
        text = "".join(f"{line}\n" for line in lines)
        try:
            self._stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))
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
