"""Rails proven in a meeting over real sockets: what the ends say passes the leader, whatever a process does."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.meeting.comparison.compare import judge
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.proof import relay
from sglang_roce_entry.group.meeting.proof.found import judge_proof, status_of
from sglang_roce_entry.group.meeting.proof.relay import Proof
from sglang_roce_entry.group.meeting.terms import Concluded, Gathered
from sglang_roce_entry.launch.proving import judged
from sglang_roce_entry.problems import OK, RDMA_UNUSABLE
from sglang_roce_entry.verbs.exchange import exchange
from sglang_roce_entry.verbs.loading import VerbsError
from sglang_roce_entry.verbs.messages import Rail as VerbsRail
from sglang_roce_entry.verbs.messages import Seen, read
from sglang_roce_entry.verbs.proof.prover import Running
from tests.group.members import RULES
from tests.group.proof.fabric import nodes
from tests.group.test_meeting_sockets import Meeting
from tests.verbs.stubs import stub_library
from tests.verbs.test_exchange import StandIn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sglang_roce_entry.group.meeting.proof.errand import Start


class InThreads:
    """What a launcher's process does, with ends that need no HCA; ``fails``: none of them connects."""

    def __init__(self, *, fails: bool = False) -> None:
        self.failed: str | None = None
        self._fails, self._inboxes = fails, dict[bytes, queue.SimpleQueue[bytes]]()
        self._readable, self._answers = os.pipe()
        os.set_blocking(self._readable, False)
        os.write(self._answers, b"up\n")

    def fileno(self) -> int:
        return self._readable

    def tell(self, line: bytes) -> None:
        word, pair, rest = line.split(b" ", 2)
        if word == b"begin":
            self._inboxes[pair] = queue.SimpleQueue()
            threading.Thread(target=self._prove, args=(pair,), daemon=True).start()
        else:
            self._inboxes[pair].put(rest)

    def _prove(self, pair: bytes) -> None:
        def say(line: bytes) -> None:
            word = b"seen" if isinstance(read(line), Seen) else b"of"
            os.write(self._answers, b"%s %s %s" % (word, pair, line))

        def hear(seconds: float) -> bytes | None:
            with suppress(queue.Empty):
                return self._inboxes[pair].get(timeout=seconds)
            return None

        exchange(StandIn("connect", VerbsError("rtr", 22)) if self._fails else StandIn(), say, hear, 20.0)

    def heard(self) -> list[bytes]:
        try:
            return os.read(self._readable, 1 << 16).splitlines()
        except BlockingIOError:
            return []

    def end(self) -> str | None:
        return None


class Proving(Meeting):
    """A meeting that proves one rail of each member before its verdict."""

    def _conclude(self, gathered: Gathered) -> Concluded:
        self.gathered = gathered
        problems = judge(gathered.members, gathered.commons, RULES).problems
        if gathered.proven is None:
            return Concluded(Verdict(problems), proof=Proof(nodes(len(self.cards)), judged))
        return Concluded(Verdict((*judge_proof(gathered.proven, {}), *problems)))

    def proven(self) -> dict[tuple[int, int], tuple[str, str]]:
        """Meet, and return what came of each pair of members."""
        self.met = self.meet()
        self._leader.end()  # who is late is told why the group does not start
        assert self.gathered.proven is not None
        return {(pair.near, pair.far): status_of(outcome) for pair, outcome in self.gathered.proven}


def meeting(*starts: Start | None) -> Proving:
    return Proving(len(starts), starts=starts)


def stubbed(folder: Path, **told: str) -> Start:
    """Return what starts a launcher's own process before a libibverbs of the tests' own."""
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder), **told}
    return lambda: Running((VerbsRail("mlx5_0", 1, 3),), environ, 60.0)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_library(tmp_path_factory.mktemp("verbs"))


@pytest.mark.parametrize("size", [2, 5])
def test_the_ends_of_a_group_that_is_whole(size: int) -> None:
    one = meeting(*[InThreads] * size)
    assert set(one.proven().values()) == {("proven", "")}
    assert all(met.verdict.exit_code == OK and met.verdict.problems == () for met in one.met)


def test_what_the_kernel_refuses_is_the_end_of_all() -> None:
    one = meeting(InThreads, InThreads, lambda: InThreads(fails=True))
    assert one.proven() == {
        (0, 1): ("proven", ""),
        (1, 2): ("failed", "GID_REFUSED"),
        (2, 0): ("failed", "GID_REFUSED"),
    }
    assert [met.verdict.exit_code for met in one.met] == [RDMA_UNUSABLE] * 2
    assert "rail 0 of node 2 mlx5_0:1 10.0.0.3, tried with 0, 1" in one.met[0].verdict.problems[0].message


@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"STUB_VERBS": "mlx5_0", "STUB_OPEN": "crash"}, "was ended by signal 11"),
        ({"STUB_VERBS": "crash"}, "was ended by signal 6"),
        ({"STUB_VERBS": "leave"}, "ended with exit code 3"),
        ({"STUB_VERBS": "refuse"}, "ibv_get_device_list: EIO"),
        ({"STUB_VERBS": "hang"}, "did not come up within"),
        ({"STUB_VERBS": "mlx5_0", "STUB_OPEN": "lie"}, "state 77, MTU 99"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_the_launch_goes_on_whatever_a_provider_does(
    stub: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], said: str, where: int
) -> None:
    monkeypatch.setattr(relay, "START_S", 6.0 if told["STUB_VERBS"] == "hang" else 30.0)
    starts: list[Start | None] = [InThreads] * 3
    starts[where] = stubbed(stub, **told)
    one = meeting(*starts)
    found = one.proven()
    assert found.pop((0, 1) if where == 2 else (1, 2)) == ("proven", "")
    assert {status for status, _ in found.values()} <= {"not_tried", "failed"}
    for met in one.met:
        ((severity, message),) = [(problem.severity, problem.message) for problem in met.verdict.problems]
        assert (severity, met.verdict.exit_code) == ("warning", OK)
        assert said in message


def test_who_cannot_start_one_says_so() -> None:
    def fails() -> Running:
        raise OSError(11, "Resource temporarily unavailable")

    one = meeting(InThreads, fails)
    assert one.proven() == {(0, 1): ("not_tried", "CHILD_FAILED")}
    assert "could not be started" in one.met[0].verdict.problems[0].message


def test_no_process_is_left(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FIRST_S", 3.0)
    starts: Sequence[Start] = [stubbed(stub, STUB_VERBS="mlx5_0", STUB_OPEN="hang"), InThreads]
    running: list[Running] = []

    def start() -> Running:
        one = starts[0]()
        assert isinstance(one, Running)
        running.append(one)
        return one

    assert meeting(start, InThreads).proven() == {(0, 1): ("not_tried", "CHILD_FAILED")}
    assert running[0].fileno() == -1
