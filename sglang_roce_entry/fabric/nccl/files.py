"""NCCL's configuration files, read as NCCL reads them: line by line, trimming nothing.

Source of the rules: NVIDIA/nccl ``src/misc/param.cc`` (``initEnv``, ``setEnvFile``): each line
``NAME=value`` of the user's file, then of ``/etc/nccl.conf``, is set unless the variable exists. This
program sets environment variables and would win over an administrator's file; so what the files set
counts as decided. ``NCCL_CONF_FILE`` is read from 2.23 on, instead of the home file even if it does
not exist; a carriage return is part of the value up to 2.29; values end after 1023 bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from sglang_roce_entry.fabric.wishes import FILE, USER, Given
from sglang_roce_entry.problems import Problem, config_value

_FIRST_WITH_CONF_FILE = (2, 23)
_FIRST_WITHOUT_CARRIAGE_RETURN = (2, 30)
_LONGEST_VALUE_BYTES = 1023
#: So many faulty lines of one file are shown.
_MOST_LINES = 10


def parse_nccl_file(text: str) -> dict[str, str]:
    """Return the variables of one NCCL configuration file. Nothing is trimmed, as NCCL trims nothing."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        name, equals, value = line.removesuffix("\r").partition("=")
        if equals and name and not line.startswith("#"):
            found.setdefault(name, value)
    return found


def given_values(
    environ: Mapping[str, str], files: Iterable[tuple[str, str]], shell: Container[str] = ()
) -> dict[str, Given]:
    """Return every value that is decided already: the pod's own (an empty one counts as unset), then the files'.

    ``shell`` names the variables that the shell of a replay has set over the recording.
    """
    given = {
        name: Given(name, value, USER, "set in this shell" if name in shell else "the pod's environment")
        for name, value in environ.items()
        if value
    }
    for path, text in files:
        for name, value in parse_nccl_file(text).items():
            if value:
                given.setdefault(name, Given(name, value, FILE, path))
    return given


def check_files(
    files: Iterable[tuple[str, str]], nccl: tuple[int, ...] | None, conf_file: str | None
) -> list[Problem]:
    """Return where NCCL of version ``nccl`` does not read what is written; ``conf_file``: NCCL_CONF_FILE."""
    read = list(files)
    problems = _conf_file({path for path, _ in read}, nccl, conf_file)
    for path, text in read:
        lines = text.split("\n")
        if (
            nccl is not None
            and nccl < _FIRST_WITHOUT_CARRIAGE_RETURN
            and any(line.endswith("\r") for line in lines)
        ):
            version = ".".join(map(str, nccl))
            problems.append(
                config_value(
                    "NCCL_FILE_CRLF",
                    f"{path} has Windows line endings; NCCL {version} reads carriage returns as part of values",
                    f"convert it: sed -i 's/\\r$//' {path}",
                )
            )
        problems += _faulty_lines(path, lines)
    return problems


def _faulty_lines(path: str, lines: Iterable[str]) -> list[Problem]:
    """Return the first faults of a file, and how many more there are: it need not be such a file at all."""
    problems: list[Problem] = []
    more = 0
    for number, line in enumerate(lines, 1):
        fault = _fault(line.removesuffix("\r"))
        if fault is None:
            continue
        if len(problems) == _MOST_LINES:
            more += 1
            continue
        where = f"{path} line {number}: {_shown(line.strip())!r}"
        problems.append(config_value("NCCL_FILE_LINE", f"{where} {fault}", "write NAME=value without spaces"))
    if more:
        message = f"{path} has {more} more lines of this kind: is it a configuration file of NCCL?"
        problems.append(config_value("NCCL_FILE_LINE", message, "write NAME=value without spaces"))
    return problems


def _conf_file(read: set[str], nccl: tuple[int, ...] | None, conf_file: str | None) -> list[Problem]:
    if not conf_file:
        return []
    if nccl is not None and nccl < _FIRST_WITH_CONF_FILE:
        why = f"NCCL {'.'.join(map(str, nccl))} does not read it (2.23 and later do)"
    elif conf_file not in read:
        why = "it cannot be read, and NCCL does not read ~/.nccl.conf instead"
    else:
        return []
    return [
        config_value(
            "NCCL_CONF_FILE", f"NCCL_CONF_FILE={conf_file}: {why}", "mount the file, or remove the variable"
        )
    ]


def _shown(line: str) -> str:
    """Return what may be shown of a line: unless it is NCCL's, the first word only; the rest can be a key."""
    if line.startswith("NCCL_"):
        return line[:60]
    first = line.replace("=", " ").split()[:1]
    return f"{first[0][:60]} ..." if first and first[0] != line else line[:60]


def _fault(line: str) -> str | None:
    if not line or line.startswith("#"):
        return None
    name, equals, value = line.partition("=")
    if not equals:
        return "sets nothing" if line.strip() else None
    if name != name.strip():
        return f"sets a variable whose name has a space in it ({name!r}), which nothing reads"
    if value != value.strip():
        return "sets a value with a space before or after it"
    if len(value.encode("utf-8", "surrogateescape")) > _LONGEST_VALUE_BYTES:
        return f"has a value of more than {_LONGEST_VALUE_BYTES} bytes: the rest is cut off"
    return None
