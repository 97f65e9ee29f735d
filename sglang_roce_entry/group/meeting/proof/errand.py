"""A member's part in the proof: between the leader's lines and the process that proves this node's rails.

What the two say to each other is told apart by its first word alone, and is read at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import MOST_RAILS, shown

#: Pairs of one member that are begun at once.
_MOST = 4 * MOST_RAILS
_ANSWERS = {b"of": wire.RAIL, b"seen": wire.SEEN}
_WHY_CHARACTERS = 300
#: What the other end of a pair says (``verbs.messages.LINE_BYTES``), with the pair's number.
_SAID_BYTES = 4096 + 16
_BEYOND = 1 << 31


class Prover(Protocol):
    """The process that proves; none of it blocks. ``failed``: why it says no more, as the end of a sentence."""

    failed: str | None

    def fileno(self) -> int:
        """Return what becomes readable when it has said something."""

    def tell(self, line: bytes) -> None:
        """Tell it a line."""

    def heard(self) -> list[bytes]:
        """Return what it has said since."""

    def end(self) -> str | None:
        """End it; return a sentence where it does not end."""


#: Starts it. Raises ``OSError``.
Start = Callable[[], Prover]


class Errand:
    """What a member does for the proof. ``start`` is ``None`` where it proves nothing."""

    def __init__(self, start: Start | None, say: Callable[[str], None]) -> None:
        self._start, self._say = start, say
        self._prover: Prover | None = None
        self._number = b""

    def fileno(self) -> int:
        """Return what becomes readable when :meth:`heard` has lines for the leader, -1 while nothing will."""
        return self._prover.fileno() if self._prover is not None else -1

    @property
    def busy(self) -> bool:
        """Whether :meth:`heard` may have something to do though nothing is readable."""
        return self._prover is not None

    def told(self, word: bytes, rest: bytes) -> list[bytes]:
        """Take a line of the leader's; return what is answered. Raises ``ValueError``."""
        if word == wire.PROVE:
            return self._begin(rest)
        number, said = wire.split(rest)
        if self._prover is None or number != self._number:
            return []
        if word == wire.RAIL:
            self._prover.tell(b"to %s %s" % _of_a_pair(said))
        else:
            for pair, rail, patient in _pairs(said):
                self._prover.tell(b"begin %d %d %s" % (pair, rail, b"patient" if patient else b"first"))
        return []

    def _begin(self, number: bytes) -> list[bytes]:
        self.close()
        self._number = number[:9]
        if self._start is None:
            return [self._unable("it proves none")]
        try:
            self._prover = self._start()
        except OSError as failure:
            return [self._unable(f"the process that proves them could not be started: {failure.strerror}")]
        return []

    def heard(self) -> list[bytes]:
        """Return the lines that are due to the leader."""
        if self._prover is None:
            return []
        lines = []
        for line in self._prover.heard():
            word, rest = wire.split(line)
            if word == b"up":
                lines.append(b"%s %s up" % (wire.PROVER, self._number))
            elif word == b"unable":
                lines.append(self._unable(rest.decode("utf-8", "replace")))
            elif word in _ANSWERS:
                lines.append(b"%s %s %s" % (_ANSWERS[word], self._number, rest))
        if self._prover.failed is not None:
            lines.append(self._unable(f"the process that proves them {self._prover.failed}"))
            self.close()
        return lines

    def _unable(self, why: str) -> bytes:
        text = shown(why, _WHY_CHARACTERS).encode("utf-8", "backslashreplace")
        return b"%s %s no %s" % (wire.PROVER, self._number, text)

    def close(self) -> None:
        """End the process; nothing of it is left."""
        if self._prover is not None:
            stuck = self._prover.end()
            self._prover = None
            if stuck is not None:
                self._say(stuck)


def _of_a_pair(said: bytes) -> tuple[bytes, bytes]:
    key, message = wire.split(said)
    if not key.isdigit() or len(said) > _SAID_BYTES:
        raise ValueError("not of a pair")
    return key, message


def _pairs(text: bytes) -> list[tuple[int, int, int]]:
    rows = json.loads(text)
    if not isinstance(rows, list) or len(rows) > _MOST:
        raise ValueError("no pairs")
    for row in rows:
        if (
            not isinstance(row, list)
            or len(row) != 3
            or not all(type(one) is int and 0 <= one < _BEYOND for one in row)
        ):
            raise ValueError("not a pair")
    return [(pair, rail, patient) for pair, rail, patient in rows]
