"""Compares what the real parser makes of a command line with what our reader makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.server.arguments import UserArguments, read_arguments
from sglang_roce_entry.server.redaction import redacted
from sglang_roce_entry.server.spellings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.sglang.command_lines import CommandLine

SECRET = "s3cr3t"  # in every secret value that is generated as one
LOWEST = -(10**12)


def read_from(files: Mapping[str, str]) -> Callable[[str], str]:
    """Return a reader of exactly these files."""

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return read


def disagreements(
    line: CommandLine,
    real: Mapping[str, Any],
    reader: Callable[[Sequence[str], Callable[[str], str]], UserArguments] = read_arguments,
) -> list[str]:
    """Return a sentence for each difference; nothing is asked of a line that SGLang refuses."""
    try:
        ours = reader(line.argv, read_from(line.files))
    except EntryError as failure:
        return [] if "refused" in real else [f"accepted by SGLang, refused by us: {failure}"]
    if "refused" in real:
        return []
    given = real["given"]
    found = []
    for option in OPTIONS:
        if (option.dest in given) != (option.dest in ours.values):
            found.append(f"{option.dest}: SGLang reads {given.get(option.dest)!r}, we {ours.text(option.dest)!r}")
        elif option.dest in given:
            found += _other_value(option.dest, given[option.dest], ours)
    # A file of --config that is given but not read reaches the namespace.
    said = any(problem.code == "CONFIG_IGNORED" for problem in ours.problems)
    if said != (real["unread_config"] is not None):
        found.append(f"config file: SGLang leaves {real['unread_config']!r} unread, we say so: {said}")
    return found + _shown_secrets(line, given)


def _other_value(dest: str, real: object, ours: UserArguments) -> list[str]:
    if isinstance(real, bool):
        return [] if real else [f"{dest}: given, but false"]
    try:
        read = ours.number(dest, 0, lowest=LOWEST) if isinstance(real, int) else ours.text(dest)
    except EntryError as failure:
        return [f"{dest}: SGLang reads {real!r}, we refuse: {failure}"]
    return [] if read == real else [f"{dest}: SGLang reads {real!r}, we {read!r}"]


def _shown_secrets(line: CommandLine, given: Mapping[str, Any]) -> list[str]:
    shown = redacted(line.argv)
    secrets = [given[option.dest] for option in OPTIONS if option.secret and option.dest in given]
    return [
        f"the secret {secret!r} is shown in {token!r}"
        for secret in secrets
        for token in shown
        if isinstance(secret, str) and SECRET in secret and secret in token
    ]
