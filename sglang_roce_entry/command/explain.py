"""``--explain``: the table of codes as text."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches

from sglang_roce_entry.codes import BY_CODE, GROUPS, Entry, Group
from sglang_roce_entry.problems import UsageError

_COLUMNS = 100


def explained(code: str) -> str:
    """Return the entry of ``code``, of all codes where it is empty. Raises ``UsageError`` for an unknown one."""
    if not code:
        return "\n".join(_group(group) for group in GROUPS)
    entry = BY_CODE.get(code.strip().strip("[]").upper())
    if entry is None:
        close = get_close_matches(code.upper(), list(BY_CODE), n=1)
        hint = f"did you mean {close[0]}?" if close else "all codes: sglang-roce-entry --explain"
        raise UsageError(f"{code!r} is not a code of sglang-roce-entry", hint)
    return _entry(entry)


def _group(group: Group) -> str:
    entries = "\n".join(_entry(entry) for entry in group.entries)
    return f"{group.title.upper()}\n{_wrapped(group.about, '')}\n\n{entries}"


def _entry(entry: Entry) -> str:
    parts = (("", entry.means), ("alone: ", entry.alone), ("see: ", entry.see), ("do: ", entry.do))
    lines = [_wrapped(f"{name}{text}", "  ") for name, text in parts if text]
    return "\n".join([entry.code, *lines]) + "\n"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        _COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
