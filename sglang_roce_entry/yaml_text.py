"""YAML written by the user: the document, or why it is not YAML, without quoting it."""

from __future__ import annotations

from typing import Any

import yaml


class NotYamlError(ValueError):
    """A text that is not YAML: where and why, but never its content, which can be keys and passwords."""


def yaml_document(text: str) -> Any:
    """Return the document in ``text``. Raises :class:`NotYamlError`."""
    try:
        return yaml.safe_load(text)
    # The constructors of PyYAML raise more than YAMLError: "!!int ''" IndexError, "!!bool x" KeyError.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        why = str(getattr(failure, "problem", None) or failure).replace('"', "'").partition("'")[0].strip(" ,:")
        raise NotYamlError(f"{where}{' '.join(why.split())[:200] or type(failure).__name__}") from None
