"""The process that proves a node's rails, over a libibverbs that carries: what passes is proven, and in how much memory."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.meeting.proof.pairs import SECOND_PAIRS
from sglang_roce_entry.verbs.judgement import Verdict, judge
from sglang_roce_entry.verbs.messages import Rail, Seen, read
from sglang_roce_entry.verbs.proof.prover import Running
from tests.verbs.stubs import carrying_library

if TYPE_CHECKING:
    from collections.abc import Sequence

RAILS = tuple(Rail(f"mlx5_{number}", 1, 3) for number in range(8))
#: Less than the 25 MB that it may have: the card's own provider is not in it.
RESIDENT_KIB = 20 << 10
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carrying_library(tmp_path_factory.mktemp("verbs"))


class Node:
    """That process, with both ends of each exchange in it."""

    def __init__(self, library: Path) -> None:
        self.process = Running(RAILS, {**os.environ, "LD_LIBRARY_PATH": str(library)}, PATIENCE_S)
        self._poller = select.poll()
        self._poller.register(self.process, select.POLLIN)
        (up,) = self._heard()
        assert up == b"up"

    def _heard(self) -> list[bytes]:
        while not (lines := self.process.heard()):
            assert self.process.failed is None, self.process.failed
            assert self._poller.poll(1000 * PATIENCE_S)
        return lines

    def prove(self, rails: Sequence[int]) -> list[Verdict]:
        """Return the verdicts on exchanges of each two neighbours of ``rails``: none goes on before all have begun."""
        for end, rail in enumerate(rails):
            self.process.tell(b"begin %d %d patient" % (end, rail))
        kept: list[bytes] = []
        while len(kept) < len(rails):
            kept += self._heard()
        seen: dict[int, Seen] = {}
        while len(seen) < len(rails):
            for line in kept:
                word, number, said = line.split(b" ", 2)
                message = read(said)
                if word == b"seen":
                    assert isinstance(message, Seen)
                    seen[int(number)] = message
                self.process.tell(b"to %d %s" % (int(number) ^ 1, said))
            kept = self._heard() if len(seen) < len(rails) else []
        return [judge(seen[end], seen[end + 1]) for end in range(0, len(rails), 2)]

    def peak_kib(self) -> int:
        """Return how much of it has been in memory at most; ``ru_maxrss`` would be that of who started it, if more."""
        status = Path(f"/proc/{self.process._pid}/status").read_text(encoding="utf-8")
        (peak,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(peak.split()[1])


def test_eight_rails_in_little_memory(carrying: Path) -> None:
    """As many ends of a port as in the second try; that libibverbs lets less than 1 MiB be registered."""
    node = Node(carrying)
    try:
        rails = list(range(len(RAILS))) * SECOND_PAIRS
        assert node.prove(rails) == [Verdict("proven")] * (len(rails) // 2)
        assert node.peak_kib() < RESIDENT_KIB
    finally:
        assert node.process.end() is None
