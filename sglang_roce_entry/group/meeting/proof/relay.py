"""The leader's side of the proof as a machine of states: lines and time in, lines out. It touches no socket.

First every member's process comes up. Then wave after wave: each pair is begun at both ends, what they say to each
other is handed on unread, and their reports are judged together, so that there is one name for a fault. Whoever is
silent, says too much or is lost costs its own pairs, and a bounded time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.card import shown
from sglang_roce_entry.group.meeting.proof.pairs import (
    BOTH,
    FAR,
    NEAR,
    NOT_TRIED,
    Judge,
    Nodes,
    Outcome,
    Pair,
    first_waves,
    second_wave,
)

#: For an interpreter and its libraries to start on a busy machine: what listing the devices, which starts the same
#: ones, has had before (``verbs.listed``). For the exchanges of a wave.
START_S, FIRST_S, PATIENT_S = 10.0, 12.0, 24.0
#: Nothing new is begun after this.
LONGEST_S = 60.0
#: A member waits for the next line of a proof as long as this.
PROOF_S = START_S + LONGEST_S + PATIENT_S
#: What an end says to its peer in an exchange, and how long it may be (``verbs.messages.LINE_BYTES``).
_MESSAGES, _MESSAGE_BYTES = 4, 4096
#: No message of an exchange: whoever hears it stops waiting for its peer.
_GONE = b"{}"
CHILD_FAILED, NO_TIME = "CHILD_FAILED", "NO_TIME"

#: Lines by the index of the member that they are for.
Lines = list[tuple[int, bytes]]


@dataclass(slots=True)
class _Running:
    """A pair that has been begun: how much each end has said, and what it saw."""

    pair: Pair
    said: dict[int, int]
    seen: dict[int, bytes | None] = field(default_factory=dict)

    def other(self, index: int) -> int:
        return self.pair.far if index == self.pair.near else self.pair.near


class Proof:
    """One proof of a group's rails, of the number by which its lines are known."""

    def __init__(self, nodes: Nodes, judge: Judge) -> None:
        self.outcomes: dict[Pair, Outcome] = {}
        self.trials: dict[Pair, Outcome] = {}
        self.number = 0
        self.over = False
        #: Why a member proves nothing any more.
        self.unable: dict[int, str] = {}
        self._nodes, self._judge = nodes, judge
        self._waves = first_waves(nodes)
        self._second = False
        self._starting = {
            index for wave in self._waves for pair in wave for one in pair.ports for index in one[:1]
        }
        self._running: dict[int, _Running] = {}
        self._pair_number = 0
        self._began = self._limit = 0.0

    @property
    def pairs(self) -> int:
        """How many pairs there are to try."""
        return sum(map(len, self._waves))

    @property
    def members(self) -> int:
        """How many members are awaited."""
        return len(self._starting)

    def begin(self, number: int, now: float) -> Lines:
        """Begin; return what the members are told."""
        self.number, self._began, self._limit = number, now, now + START_S
        return [(index, b"%s %d" % (wire.PROVE, number)) for index in sorted(self._starting)]

    def took(self, index: int, word: bytes, rest: bytes, now: float) -> Lines:
        """Take a line of a member's; one that makes no sense costs it its proof, and not its place."""
        number, said = wire.split(rest)
        if number != b"%d" % self.number or self.over:
            return []  # of a proof that was given up
        if word == wire.PROVER:
            return [] if index in self.unable else self._up_or_not(index, said, now)
        key, message = wire.split(said)
        number_of_pair = int(key[:9]) if key.isdigit() else -1
        running = self._running.get(number_of_pair)
        if running is None or index not in running.said or index in running.seen:
            return []
        running.said[index] += 1
        if running.said[index] > _MESSAGES or len(message) > _MESSAGE_BYTES:
            return self._up_or_not(index, b"no it says more than an exchange takes", now)
        to = running.other(index)
        lines = [] if to in self.unable else [(to, self._handed_on(number_of_pair, message))]
        if word != wire.SEEN:
            return lines
        running.seen[index] = message
        return [*lines, *self._next(now)]

    def tick(self, now: float) -> Lines:
        """Do what is due; return what the members are told."""
        if self.over or now < self._limit:
            return []
        for index in sorted(self._starting):
            self.unable[index] = f"the process that proves them did not come up within {START_S:.0f} s"
        self._starting.clear()
        for running in self._running.values():
            for index in running.said.keys() - running.seen.keys():
                self.unable.setdefault(index, "the process that proves them hangs: it has not reported in time")
                running.seen[index] = None
        return self._next(now)

    def _handed_on(self, key: int, message: bytes) -> bytes:
        return b"%s %d %d %s" % (wire.RAIL, self.number, key, message)

    def _up_or_not(self, index: int, said: bytes, now: float) -> Lines:
        word, why = wire.split(said)
        lines: Lines = []
        if word != b"up":
            self.unable.setdefault(index, shown(why.decode("utf-8", "replace")))
            for key, running in self._running.items():
                if index in running.said and index not in running.seen:
                    running.seen[index] = None
                    lines.append((running.other(index), self._handed_on(key, _GONE)))
        self._starting.discard(index)
        return [*lines, *self._next(now)]

    def _next(self, now: float) -> Lines:
        """Go on where all that is awaited has come."""
        lines: Lines = []
        while not self.over and not self._starting and all(len(one.seen) == 2 for one in self._running.values()):
            self._judged()
            if not self._waves and not self._second:
                self._second = True
                again = second_wave(self.outcomes, self._nodes)
                self._waves = [again] if again else []
            if now > self._began + LONGEST_S:
                self._give_up()
            if self._waves:
                lines += self._wave(self._waves.pop(0), now)
            else:
                self.over = True
        return lines

    def _give_up(self) -> None:
        for pair in [pair for wave in self._waves for pair in wave]:
            self._keep(pair, Outcome(NOT_TRIED, NO_TIME, detail=f"{LONGEST_S:.0f} s had passed before its turn"))
        self._waves.clear()

    def _wave(self, pairs: Sequence[Pair], now: float) -> Lines:
        told: dict[int, list[list[int]]] = {}
        for pair in pairs:
            unable = [index for index in (pair.near, pair.far) if index in self.unable]
            if unable:
                self._keep(pair, self._not_tried(pair, unable))
                continue
            self._pair_number += 1
            self._running[self._pair_number] = _Running(pair, {pair.near: 0, pair.far: 0})
            for index, position in pair.ports:
                told.setdefault(index, []).append([self._pair_number, position, int(self._second)])
        self._limit = now + (PATIENT_S if self._second else FIRST_S)
        return [
            (index, b"%s %d %s" % (wire.PAIRS, self.number, json.dumps(rows, separators=(",", ":")).encode()))
            for index, rows in told.items()
        ]

    def _judged(self) -> None:
        for running in self._running.values():
            pair, unable = running.pair, [index for index in running.said if index in self.unable]
            near, far = running.seen[pair.near], running.seen[pair.far]
            if unable and None in (near, far):
                self._keep(pair, self._not_tried(pair, unable))
            else:
                self._keep(pair, self._judge(near, far))
        self._running.clear()

    def _not_tried(self, pair: Pair, unable: Sequence[int]) -> Outcome:
        end = BOTH if len(unable) > 1 else NEAR if unable[0] == pair.near else FAR
        return Outcome(NOT_TRIED, CHILD_FAILED, end, detail=self.unable[unable[0]])

    def _keep(self, pair: Pair, outcome: Outcome) -> None:
        if not self._second:
            self.outcomes[pair] = outcome
        elif pair not in self.outcomes:
            self.trials[pair] = outcome
        elif outcome.status != NOT_TRIED:
            self.outcomes[pair] = replace(outcome, again=True)

    def results(self) -> Proven:
        """Return what all of it came to."""
        return Proven(self.outcomes, self.trials, self._nodes)


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof came to: each pair of the ring, and of the trials that tell whose a fault is.

    It yields the rails; those that were tried across are apart.
    """

    outcomes: dict[Pair, Outcome]
    trials: dict[Pair, Outcome]
    nodes: Nodes

    def __iter__(self) -> Iterator[tuple[Pair, Outcome]]:
        return iter(sorted((pair, one) for pair, one in self.outcomes.items() if not pair.across))

    @property
    def across(self) -> list[tuple[Pair, Outcome]]:
        """What came of rails of other positions, where they were tried."""
        return sorted((pair, one) for pair, one in self.outcomes.items() if pair.across)
