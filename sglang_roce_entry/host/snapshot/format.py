"""What a snapshot is: its folders, ``facts.json``, and the error of one that cannot be read.

A snapshot is a folder, or the same as ``.tar.gz``: files of the node below ``sys/ proc/ etc/ dev/``,
and ``facts.json`` for the answers of system calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sglang_roce_entry.problems import ConfigurationError

FORMAT = 1
FACTS = "facts.json"
TOP = ("sys", "proc", "etc", "dev")
#: Where the package keeps the nodes that it carries.
PACKAGED = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "snapshots")
#: Larger than any number of a node (``cap_eff``, a byte count), and not slow to read.
_MAX_DIGITS = 24


_T = TypeVar("_T")


class SnapshotError(ConfigurationError):
    """A snapshot that cannot be read, or that must not be."""

    def __init__(self, name: str, reason: str, hint: str | None = None) -> None:
        known = ", ".join(packaged_names())
        colon = "" if reason.startswith(("is ", "has ", "was ", "unpacks ")) else ":"
        super().__init__(
            "SNAPSHOT",
            f"snapshot {name!r}{colon} {reason}",
            hint or f"give a folder or .tar.gz that --save-snapshot wrote, or one of: {known}",
        )


def packaged_names() -> list[str]:
    """Return the names of the snapshots that the package carries."""
    try:
        entries = os.listdir(PACKAGED)
    except OSError:
        return []
    return sorted(name.removesuffix(".tar.gz") for name in entries if name.endswith(".tar.gz"))


@dataclass(frozen=True, slots=True)
class Document:
    """A ``facts.json``, with the name of its snapshot for what is wrong with it."""

    name: str
    facts: Mapping[str, Any]

    @classmethod
    def parsed(cls, name: str, raw: bytes | None) -> Document:
        """Return the document in ``raw``. Raises :class:`SnapshotError`."""
        if raw is None:
            raise SnapshotError(name, f"has no {FACTS}")
        try:
            facts = json.loads(raw, parse_int=_whole)
            # Half a surrogate pair is not text, and NaN and Infinity are not JSON.
            json.dumps(facts, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogateescape")
        except (ValueError, RecursionError) as error:
            raise SnapshotError(name, f"{FACTS} is not JSON: {error}") from error
        if not isinstance(facts, dict):
            raise SnapshotError(name, f"{FACTS} is not a JSON object")
        version = facts.get("format")
        if isinstance(version, int) and version > FORMAT:
            reason = f"was written by a newer sglang-roce-entry (format {version}, this program reads {FORMAT})"
            raise SnapshotError(name, reason, "replay it with the release that wrote it, or a later one")
        if version != FORMAT:
            raise SnapshotError(name, f"has format {version!r}, this program reads format {FORMAT}")
        return cls(name, facts)

    def malformed(self, reason: str) -> SnapshotError:
        """Return the error for a part that does not have the right form."""
        return SnapshotError(self.name, f"{FACTS}: {reason}")

    def mapping(self, key: str) -> dict[str, Any]:
        """Return the object under ``key``, empty if there is none. Raises :class:`SnapshotError`."""
        value = self.facts.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.malformed(f"{key!r} is not an object")
        return value

    def typed(self, key: str, kind: type[_T]) -> _T | None:
        """Return the value under ``key`` if it is a ``kind``."""
        value = self.facts.get(key)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    def strings(self, key: str) -> dict[str, str]:
        """Return the texts of the object under ``key``. Raises :class:`SnapshotError`."""
        return {entry: value for entry, value in self.mapping(key).items() if isinstance(value, str)}


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
