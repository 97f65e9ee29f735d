"""YAML written by the user: its mapping, or why there is none, without quoting it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from sglang_roce_entry.problems import ConfigurationError

_TAG = "tag:yaml.org,2002:"
#: What may be left of a scalar that is read as it is written: YAML 1.1 makes 8192 of 020000 and 90 of 1:30.
_PLAIN = frozenset(f"{_TAG}{kind}" for kind in ("bool", "null", "str", "map", "seq"))
#: A kilobyte of aliases of aliases unfolds to gigabytes.
_MOST_VALUES = 100_000
#: What PyYAML quotes in its problems, as ``repr`` does; and what of it is YAML's own, no content.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_OF_YAML = re.compile(r"[,:?\[\]{}-]|\\t|<[a-z ]+>")


def read_mapping(
    path: str,
    read_file: Callable[[str], str],
    *,
    code: str,
    what: str,
    mount: str,
    write: str,
    as_written: bool = False,
) -> dict[Any, Any]:
    """Return the mapping in a YAML file, empty for an empty one. Raises ``ConfigurationError`` with ``code``.

    ``what`` names the file in messages; ``mount`` and ``write`` are what to do if it cannot be read or is
    not a mapping. With ``as_written`` numbers and dates stay texts, and no key may stand there twice.
    """
    try:
        document = _document(read_file(path), _AsWritten if as_written else _Loader)
    except OSError as failure:
        message = f"{what} {path!r} cannot be read: {failure.strerror or failure}"
        raise ConfigurationError(code, message, mount) from failure
    except (_NotYamlError, UnicodeDecodeError) as failure:
        why = failure if isinstance(failure, _NotYamlError) else "it is no text in UTF-8"
        raise ConfigurationError(code, f"{what} {path!r} is not YAML: {why}", "correct the file") from failure
    if not isinstance(document, (dict, type(None))):
        raise ConfigurationError(code, f"{what} {path!r} is not a mapping", write)
    return document or {}


class _NotYamlError(ValueError):
    """A text that is not YAML: where and why, but never its content, which can be keys and passwords."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which SGLang uses, with a place and a word for all that it refuses."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}) > _MOST_VALUES:
            raise _refused(f"its aliases unfold to more than {_MOST_VALUES:,} values", node)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        # "!!int ''" is an IndexError, "!!bool x" a KeyError, "!!timestamp x" an AttributeError.
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as failure:
            raise _refused(f"the value is no {node.tag.removeprefix(_TAG)}", node) from failure


class _AsWritten(_Loader):
    """Reads scalars as they are written, but for yes and no."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, form) for tag, form in resolvers if tag in _PLAIN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _PLAIN:
            raise _refused("the value has a tag (!...); write the value alone", node)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in lines:
                raise _refused(f"this key stands already in line {lines[name]}", key)
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _refused(why: str, node: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)


def _unfolded(node: Any, known: dict[int, float]) -> float:
    """Return how many values a node is with its aliases written out; infinite if it contains itself."""
    size = known.get(id(node))
    if size is None:
        known[id(node)] = float("inf")  # until it is counted: what meets it again is inside it
        children = () if isinstance(node.value, str) else node.value
        pairs = (child if isinstance(child, tuple) else (child,) for child in children)
        size = known[id(node)] = 1 + sum(_unfolded(one, known) for pair in pairs for one in pair)
    return size


def _of_yaml(quoted: re.Match[str]) -> str:
    return quoted[0] if _OF_YAML.fullmatch(quoted[0][1:-1]) else ""


def _document(text: str, loader: type[_Loader]) -> Any:
    try:
        return yaml.load(text, loader)  # noqa: S506 - both are safe loaders
    except RecursionError:
        raise _NotYamlError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = getattr(failure, "problem", None) or getattr(failure, "reason", None)
        why = _QUOTED.sub(_of_yaml, problem) if problem else str(failure)
        why = (why if problem else why.replace('"', "'").partition("'")[0]).strip(" ,:")
        raise _NotYamlError(f"{where}{' '.join(why.split())[:200] or 'it cannot be read'}") from None
