"""The real parser of one release, as a process that is asked."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.server.spellings import OPTIONS
from tests.sglang.environment import INSIDE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.sglang.environment import Environment
    from tests.sglang.releases import Release

# The import takes 5 s of CPU, the answer to a command line 1 ms; the rest is for a busy machine.
IMPORT_S = 300.0
ANSWER_S = 120.0

TABLE = {option.dest: [spelling for spelling, _ in option.spellings] for option in OPTIONS}


class JudgeError(Exception):
    """The judge itself does not work; says nothing about what it was asked."""


class Judge:
    """One release's parser, from `start` to `close`."""

    def __init__(self, environment: Environment, release: Release, directory: Path) -> None:
        self.release = release
        self._directory = directory
        self._said = directory / f"judge-{release.version}.log"
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        with self._said.open("wb") as log:
            self._process = subprocess.Popen(
                [environment.python, INSIDE / "parser.py"],
                env={**kept, **environment.variables(release)},
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._received = b""

    def start(self) -> None:
        """Wait until the parser is loaded; raises JudgeError with the end of the log if it never is."""
        answered = self.ask({"table": TABLE}, IMPORT_S)
        if answered["version"] != self.release.version:
            raise JudgeError(f"asked for {self.release.version}, answered by {answered['version']}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def ask(self, question: dict[str, Any], within_s: float = ANSWER_S) -> dict[str, Any]:
        """Return the answer; raises JudgeError with the end of the log if none comes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is seen, and said, by the read
        answer = json.loads(self._read_line(within_s))
        assert isinstance(answer, dict)
        return answer

    def _read_line(self, within_s: float) -> bytes:
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        end_s = time.monotonic() + within_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([handle], [], [], max(0.0, end_s - time.monotonic()))
            chunk = os.read(handle, 1 << 16) if ready else b""
            if not chunk:
                why = "ended" if ready else f"did not answer in {within_s:.0f} s"
                tail = self._said.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise JudgeError(f"SGLang {self.release.version} {why}; its log ends:\n{tail}")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def parse(self, argv: Sequence[str], files: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the options of the table that the real parser finds, or why it refuses.

        `files` are all that lie in its working directory.
        """
        written = [self._directory / name for name in files or {}]
        for path in written:
            path.write_text((files or {})[path.name], encoding="utf-8")
        try:
            return self.ask({"parse": list(argv)})
        finally:
            for path in written:
                path.unlink()

    def resolve(self, argv: Sequence[str], directory: Path) -> dict[str, Any]:
        """Return what the real SGLang goes on with when started in `directory`, or why it refuses."""
        return self.ask({"resolve": list(argv), "directory": str(directory)})

    def means(self, tokens: Sequence[str]) -> list[str | None]:
        """Return the full spelling that each token stands for, None where it is refused."""
        found = self.ask({"means": list(tokens)})["means"]
        assert isinstance(found, list)
        return found

    def options(self) -> list[dict[str, Any]]:
        """Return every option of the parser: spellings, action, type, nargs, default."""
        found = self.ask({"options": True})["options"]
        assert isinstance(found, list)
        return found

    def values(self, argv: Sequence[str]) -> dict[str, str]:
        """Return what the parser makes of a command line, where it is not the default."""
        found = self.ask({"values": list(argv)})["values"]
        assert isinstance(found, dict)
        return found

    def spellings(self) -> dict[str, str | int | None]:
        """Return every long spelling with how many values it takes."""
        found = self.ask({"spellings": True})["spellings"]
        assert isinstance(found, dict)
        return found
