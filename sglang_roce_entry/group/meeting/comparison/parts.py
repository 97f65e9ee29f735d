"""A saved meeting as JSON: bounded before it is parsed, and read key by key with its types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sglang_roce_entry.group.meeting.card import shown
from sglang_roce_entry.problems import ConfigurationError

#: A group of 10,000 with eight rails takes 35 MB and 300,000 objects and lists.
MOST_BYTES, _MOST_OBJECTS = 64 << 20, 1_000_000
_LARGEST_GROUP, _MOST_DIGITS = 1_000_000, 24

_T = TypeVar("_T")


class MeetingFileError(ConfigurationError):
    """A file that holds no meeting, or must not be read."""

    def __init__(
        self, name: str, reason: str, hint: str = "name a file that --rehearse --save-meeting wrote"
    ) -> None:
        super().__init__("MEETING_FILE", f"the meeting {name!r} {reason}", hint)


def read_file(name: str, data: bytes) -> Part:
    """Return the content of the file ``name``. Raises :class:`MeetingFileError`."""
    if len(data) > MOST_BYTES or data.count(b"{") + data.count(b"[") > _MOST_OBJECTS:
        raise MeetingFileError(name, "is larger than any meeting")
    try:
        document = json.loads(data, parse_int=_whole, parse_constant=_no_number)
    except (ValueError, RecursionError) as failure:
        raise MeetingFileError(name, f"is not JSON: {shown(str(failure), 100)}") from failure
    if not isinstance(document, dict):
        raise MeetingFileError(name, "is not a JSON object")
    return Part(name, "the file", document)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(name)  # NaN, Infinity


@dataclass(frozen=True, slots=True)
class Part:
    """One object of the file, read key by key; ``what`` is how an error calls it.

    What is absent or null is not known; what is of another kind raises :class:`MeetingFileError`.
    """

    name: str
    what: str
    values: Mapping[str, Any]

    def value(self, key: str) -> Any:
        """Return whatever is there."""
        return self.values.get(key)

    def bad(self, key: str) -> MeetingFileError:
        """Return the error of a key that does not have the right value."""
        return MeetingFileError(self.name, f"is damaged: {key!r} of {self.what} is missing, or of another kind")

    def typed(self, key: str, kind: type[_T]) -> _T | None:
        """Return the value if it is a ``kind``."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kind):
            raise self.bad(key)
        return value

    def text(self, key: str) -> str:
        """Return a text that is safe to show, empty where there is none."""
        return shown(self.typed(key, str) or "")

    def choice(self, key: str, of: Sequence[str]) -> str:
        """Return one of these texts."""
        text = self.text(key)
        if text not in of:
            raise self.bad(key)
        return text

    def number(self, key: str, most: float) -> float | None:
        """Return a number from 0 to ``most``."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise self.bad(key)
        return float(value)

    def whole(self, key: str, lowest: int = 0) -> int:
        """Return a whole number, which must be there."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _LARGEST_GROUP:
            raise self.bad(key)
        return value

    def part(self, key: str) -> Part | None:
        """Return an object."""
        value: dict[str, Any] | None = self.typed(key, dict)
        return Part(self.name, key, value) if value is not None else None

    def parts(self, key: str, most: int) -> list[Part]:
        """Return the objects of a list of ``most`` at most."""
        values: list[Any] = self.typed(key, list) or []
        if len(values) > most or not all(isinstance(one, dict) for one in values):
            raise self.bad(key)
        return [Part(self.name, f"{key}[{place}]", one) for place, one in enumerate(values)]
