"""The process that proves a node's rails, over a libibverbs that carries: what passes is proven, and in how much memory."""

from __future__ import annotations

import os
import select
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.meeting.proof.pairs import SECOND_PAIRS
from sglang_roce_entry.verbs.judgement import Verdict, judge
from sglang_roce_entry.verbs.messages import Rail, Seen, read, written
from sglang_roce_entry.verbs.proof.prover import Running
from tests.verbs.hostile import OFFER
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


ETHERNET = replace(OFFER, lid=None)
#: Of a peer that is none, or another; the first have to be refused, the last lead into the void.
HOSTILE = (
    b"", b"{}", b"\xff\x00", b"[" * 4000, b'{"kind":"sent"}', b'{"kind":"offer"}', b'{"kind":"offer","qp_number":1e999}',
    written(replace(OFFER, address=1 << 63)).replace(b"ffff", b"fff\xe9").rstrip(),
    written(ETHERNET).rstrip(), written(replace(ETHERNET, gid="0" * 32, mtu=1, large_bytes=64, address=1, psn=0)).rstrip(),
)  # fmt: skip


def test_whatever_a_peer_says_its_end_reports_and_the_others_go_on(carrying: Path) -> None:
    node = Node(carrying)
    try:
        for number, line in enumerate(HOSTILE, 100):
            node.process.tell(b"begin %d 0 first" % number)
            node.process.tell(b"to %d %s" % (number, line))
            node.process.tell(b'to %d {"kind":"ready"}' % number)
            node.process.tell(b'to %d {"kind":"sent"}' % number)
        seen: list[Seen] = []
        while len(seen) < len(HOSTILE):
            messages = [read(line.split(b" ", 2)[2]) for line in node._heard()]
            seen += [one for one in messages if isinstance(one, Seen)]
        assert sorted(one.cause for one in seen) == ["", "", *["PEER_MALFORMED"] * (len(HOSTILE) - 2)]
        assert {one.got for one in seen} == {(0, 0, 0)}
        assert node.prove([0, 1]) == [Verdict("proven")]
    finally:
        assert node.process.end() is None


def test_eight_rails_in_little_memory(carrying: Path) -> None:
    """As many ends of a port as in the second try; that libibverbs lets less than 1 MiB be registered."""
    node = Node(carrying)
    try:
        rails = list(range(len(RAILS))) * SECOND_PAIRS
        assert node.prove(rails) == [Verdict("proven")] * (len(rails) // 2)
        assert node.peak_kib() < RESIDENT_KIB
    finally:
        assert node.process.end() is None
