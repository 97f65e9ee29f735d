"""YAML written by the user: its mapping, or why there is none, without quoting it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from sglang_roce_entry.problems import ConfigurationError


def read_mapping(
    path: str, read_file: Callable[[str], str], *, code: str, what: str, mount: str, write: str
) -> dict[Any, Any]:
    """Return the mapping in a YAML file, empty for an empty one. Raises ``ConfigurationError`` with ``code``.

    ``what`` names the file in messages; ``mount`` and ``write`` are what to do if it cannot be read or is
    not a mapping.
    """
    try:
        document = _document(read_file(path))
    except OSError as failure:
        message = f"{what} {path!r} cannot be read: {failure.strerror or failure}"
        raise ConfigurationError(code, message, mount) from failure
    except (_NotYamlError, UnicodeDecodeError) as failure:
        raise ConfigurationError(code, f"{what} {path!r} is not YAML: {failure}", "correct the file") from failure
    if not isinstance(document, (dict, type(None))):
        raise ConfigurationError(code, f"{what} {path!r} is not a mapping", write)
    return document or {}


class _NotYamlError(ValueError):
    """A text that is not YAML: where and why, but never its content, which can be keys and passwords."""


def _document(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    # The constructors of PyYAML raise more than YAMLError: "!!int ''" IndexError, "!!bool x" KeyError.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        why = str(getattr(failure, "problem", None) or failure).replace('"', "'").partition("'")[0].strip(" ,:")
        raise _NotYamlError(f"{where}{' '.join(why.split())[:200] or type(failure).__name__}") from None
