"""Nodes that prove their rails with the launcher's own processes, as a leader and its members do, over pipes alone."""

from __future__ import annotations

import selectors
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.proof.errand import Errand
from sglang_roce_entry.group.meeting.proof.relay import Proof
from sglang_roce_entry.launch.proving import judged
from sglang_roce_entry.verbs.proof.prover import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sglang_roce_entry.group.meeting.proof.pairs import Nodes
    from sglang_roce_entry.verbs.messages import Rail


@dataclass
class Provers:
    """``environ`` is that of all processes, ``look`` is shown them again and again. Times are in seconds."""

    nodes: Nodes
    rails: Mapping[int, Sequence[Rail]]
    environ: Mapping[str, str]
    look: Callable[[Collection[Errand]], None] = lambda _errands: None
    said: list[str] = field(default_factory=list)
    start_s: float = 0.0
    seconds: float = 0.0

    def _errand(self, index: int) -> Errand:
        return Errand(lambda: Running(self.rails[index], self.environ, 90.0), self.said.append)

    def run(self) -> Proof:
        """Prove all rails, and return the proof when it is over."""
        proof = Proof(self.nodes, judged)
        errands = {index: self._errand(index) for index in self.rails}
        started = time.monotonic()
        waiting = proof.begin(1, started)
        began: float | None = None
        while not proof.over:
            while waiting:
                index, line = waiting.pop(0)
                began = began or (time.monotonic() if line.startswith(wire.PAIRS) else None)
                for answer in errands[index].told(*wire.split(line)):
                    waiting += proof.took(index, *wire.split(answer), time.monotonic())
            with selectors.DefaultSelector() as select:
                for one in errands.values():
                    if one.fileno() >= 0:
                        select.register(one, selectors.EVENT_READ)
                select.select(0.2)
            for index, one in errands.items():
                for answer in one.heard():
                    waiting += proof.took(index, *wire.split(answer), time.monotonic())
            self.look(errands.values())
            waiting += proof.tick(time.monotonic())
        began = began or started
        self.start_s, self.seconds = began - started, time.monotonic() - began
        for one in errands.values():
            one.close()
        return proof
