"""The proofs of one meeting: one at a time, before the verdict, and begun again where a member was lost in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sglang_roce_entry.group.meeting.proof.relay import Lines, Proof
from sglang_roce_entry.group.meeting.terms import Conclude, Concluded, Gathered
from sglang_roce_entry.problems import OK

#: A group that loses a member in each of them starts without.
MOST_PROOFS = 3


class Proofs:
    """Stands between the table and ``conclude``; ``deliver`` brings a line to a member, by its index."""

    def __init__(
        self,
        conclude: Conclude,
        deliver: Callable[[int, bytes], None],
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._conclude, self._deliver, self._say, self._clock = conclude, deliver, say, clock
        self._proof: Proof | None = None
        self._number = 0
        self._began = 0.0

    def conclude(self, gathered: Gathered) -> Concluded | None:
        """Return what ``gathered`` comes to; ``None``: not yet, its rails are being proven."""
        if self._proof is not None:
            proof, self._proof = self._proof, None
            self._say(f"the rails were tried in {self._clock() - self._began:.1f} s")
            return self._conclude(replace(gathered, proven=proof.results()))
        concluded = self._conclude(gathered)
        if concluded is None or concluded.proof is None or concluded.verdict.exit_code != OK:
            return concluded
        if self._number == MOST_PROOFS:
            self._say(f"a member was lost in each of {MOST_PROOFS} proofs of the rails: they are not proven")
            return concluded
        self._number += 1
        self._proof, self._began = concluded.proof, self._clock()
        count = concluded.proof.pairs
        self._say(
            f"proving {count} pair{'s' if count != 1 else ''} of rails between {concluded.proof.members} nodes"
        )
        self._deliver_all(self._proof.begin(self._number, self._began))
        return None

    @property
    def going_on(self) -> bool:
        """Whether rails are being proven."""
        return self._proof is not None and not self._proof.over

    def took(self, index: int, word: bytes, rest: bytes) -> None:
        """Take a line of a member's."""
        if self._proof is not None:
            self._deliver_all(self._proof.took(index, word, rest, self._clock()))

    def tick(self) -> None:
        """Do what is due."""
        if self._proof is not None:
            self._deliver_all(self._proof.tick(self._clock()))

    def lost(self) -> None:
        """Give a proof up: a member of it is gone."""
        self._proof = None

    def _deliver_all(self, lines: Lines) -> None:
        for index, line in lines:
            self._deliver(index, line)
