"""The process that proves the rails of a node: its end of every exchange that it is told to begin.

On stdin ``begin PAIR RAIL first|patient``, and ``to PAIR LINE``, what the peer says. It answers ``up`` as soon as
libibverbs is loaded, then ``of PAIR LINE`` and at last ``seen PAIR LINE``, both for the peer; or ``unable WHY``.
"""

from __future__ import annotations

import json
import os
import queue
import sys
from collections.abc import Sequence
from threading import Lock, Thread

from sglang_roce_entry.verbs.child import Answers
from sglang_roce_entry.verbs.device import Device, Verbs
from sglang_roce_entry.verbs.end import FIRST, PATIENT, End, Times, stopped
from sglang_roce_entry.verbs.exchange import exchange
from sglang_roce_entry.verbs.loading import NotLoadedError, VerbsError
from sglang_roce_entry.verbs.messages import LINE_BYTES, Rail, Seen, read, written

#: Of one exchange, from the opening of its device to both views: its retries and a margin for a busy machine.
_FIRST_S, _PATIENT_S = 8.0, 20.0


class _Ends:
    """The ends of this node, each in a thread: ctypes lets others run while the kernel waits for a neighbour."""

    def __init__(self, verbs: Verbs, rails: Sequence[Rail | None], answers: Answers) -> None:
        self._verbs, self._rails, self._answers = verbs, rails, answers
        self._inboxes: dict[str, queue.SimpleQueue[bytes]] = {}
        self._devices: dict[str, Device] = {}
        self._locks = {rail.device: Lock() for rail in rails if rail is not None}
        self._saying = Lock()

    def begin(self, pair: str, number: int, times: Times) -> None:
        """Begin an exchange over the rail of this number."""
        inbox = self._inboxes[pair] = queue.SimpleQueue()
        rail = self._rails[number] if 0 <= number < len(self._rails) else None
        if rail is None:
            self._say("seen", pair, written(Seen("", cause="NO_GID", detail="no rail of this number")))
        else:
            Thread(target=self._prove, args=(pair, rail, times, inbox), daemon=True).start()

    def hear(self, pair: str, line: bytes) -> None:
        """Take what the peer of an exchange says."""
        if pair in self._inboxes:
            self._inboxes[pair].put(line)

    def _prove(self, pair: str, rail: Rail, times: Times, inbox: queue.SimpleQueue[bytes]) -> None:
        def hear(seconds: float) -> bytes | None:
            try:
                return inbox.get(timeout=seconds)
            except queue.Empty:
                return None

        def say(line: bytes) -> None:
            self._say("seen" if isinstance(read(line), Seen) else "of", pair, line)

        try:
            end = End(self._device(rail), rail, times)
            try:
                exchange(end, say, hear, _FIRST_S if times is FIRST else _PATIENT_S)
            finally:
                end.close()
        except VerbsError as failure:
            say(written(stopped(Seen(rail.device, rail.port), failure)))
        except Exception as failure:  # noqa: BLE001 - what a provider returns may be anything
            strange = VerbsError(type(failure).__name__, 0)
            say(written(stopped(Seen(rail.device, rail.port), strange)))

    def _device(self, rail: Rail) -> Device:
        with self._locks[rail.device]:
            if rail.device not in self._devices:
                self._devices[rail.device] = Device(self._verbs, rail.device, rail.node)
            return self._devices[rail.device]

    def _say(self, word: str, pair: str, line: bytes) -> None:
        with self._saying:
            self._answers.say(f"{word} {pair} {line.decode().rstrip()}")


def main(arguments: list[str]) -> None:
    """Be that process for the rails of ``arguments[1]``, a JSON list, for ``arguments[0]`` seconds at most."""
    answers = Answers(float(arguments[0]))
    try:
        verbs = Verbs.unlocked()
    except (NotLoadedError, VerbsError) as error:
        answers.say(f"unable {error}")
        return
    answers.say("up")
    ends = _Ends(verbs, [values and Rail(**values) for values in json.loads(arguments[1])], answers)
    while line := sys.stdin.buffer.readline(2 * LINE_BYTES):
        word, pair, rest = line.rstrip(b"\n").split(b" ", 2)
        if word == b"begin":
            number, _, times = rest.partition(b" ")
            ends.begin(pair.decode(), int(number), PATIENT if times == b"patient" else FIRST)
        else:
            ends.hear(pair.decode(), rest)
    os._exit(0)  # the supervisor is gone: threads may wait for peers still
