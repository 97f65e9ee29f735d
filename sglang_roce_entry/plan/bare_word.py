"""Another program than SGLang, the bare word: what can be shown of it, and why it cannot be started."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from sglang_roce_entry import MODES
from sglang_roce_entry.problems import CANNOT_EXECUTE, NOT_FOUND, EntryError, Problem, config_value
from sglang_roce_entry.server.entry import starts_sglang

_MODE_NAMES = sorted(mode.removeprefix("--") for mode in MODES)
#: What a reader of SGLang's or another server's manual takes for a command of this program.
_LAUNCHES = ("serve", "launch", "launch_server", "start", "run")


def shown_program(word: str) -> str:
    """Return the program; what follows a ``=`` in it is a value: ``TOKEN=x prog`` without a shell."""
    name, equals, _ = word.partition("=")
    return f"{name}=***" if equals and name.isidentifier() else word


def taken_as_launch(words: Sequence[str]) -> str:
    """Return the line on a command that starts SGLang itself: its arguments are launched like any others."""
    return (
        f"{shlex.join(words)} starts SGLang itself: taken as a launch of its arguments, with this interpreter; "
        "these words can be left out"
    )


def not_executed(program: str, number: int, reason: str) -> EntryError:
    """Return the failure to execute ``program`` with errno ``number``, whose text is ``reason``."""
    name = repr(shown_program(program))
    if number in (errno.ENOENT, errno.ENOTDIR):
        return EntryError("EXEC_NOT_FOUND", f"cannot execute {name}: not found", _meant(program), NOT_FOUND)
    if number == errno.E2BIG:
        hint = "arguments and environment are larger than the kernel allows"
    else:
        hint = "check the file's mode and architecture"
    return EntryError("EXEC", f"cannot execute {name}: {reason}", hint, CANNOT_EXECUTE)


def _meant(program: str) -> str:
    close = get_close_matches(program.replace("_", "-"), _MODE_NAMES, n=1, cutoff=0.8)
    if close:
        return f"did you mean --{close[0]}?"
    if program in _LAUNCHES:
        return "a launch has no word of its own: give SGLang's arguments alone (--model-path ...)"
    if program == "exec":
        return "exec is a word of the shell: leave it out"
    if shown_program(program) != program:
        return "write the variable in the container's env; NAME=value before a command is a word of the shell"
    return "check the spelling, the PATH of the image, and the interpreter line of a script"


def check_wrapped(words: Sequence[str], nodes: int | None) -> Iterator[Problem]:
    """Return a warning on a program that is told to start SGLang, where this pod is one of several ``nodes``."""
    if nodes == 1 or not starts_sglang(words):
        return
    option = words[1] if words[1].startswith("-") and words[1].endswith("c") else ""
    name = " ".join(word for word in (shown_program(words[0]), option) if word)
    group = f"a group of {nodes}" if nodes is not None else "a group"
    yield config_value(
        "SGLANG_WRAPPED",
        f"{name!r} starts SGLang in {group}, so that the launcher fills in no ranks and waits for nobody",
        f"leave out {name!r} and all up to SGLang's arguments; variables that it sets belong into env",
    )
