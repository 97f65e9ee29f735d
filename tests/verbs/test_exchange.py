"""The driver of an exchange, where the peer does what it likes; the end itself is a stand-in without an HCA."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from threading import Thread

import pytest

from sglang_roce_entry.verbs.end import End, StoppedError, stopped
from sglang_roce_entry.verbs.exchange import exchange
from sglang_roce_entry.verbs.loading import VerbsError
from sglang_roce_entry.verbs.messages import READY, SENT, Offer, Seen, read, written

ALL = (64, 8256, 8256)
OFFER = Offer(1, 2, f"{3:032x}", 5, 4, 5, 8256, f"{6:032x}")


class StandIn(End):
    """An end that finds everything as it should be, but for the step that ``fails``."""

    def __init__(self, fails: str = "", failure: VerbsError | StoppedError | None = None) -> None:
        self.step, self.done = "", list[str]()
        self._fails, self._failure = fails, failure

    def _do(self, step: str) -> None:
        self.step = step
        self.done.append(step)
        if step == self._fails and self._failure is not None:
            raise self._failure

    def offer(self) -> Offer:
        self._do("offer")
        return OFFER

    def connect(self, own: Offer, peer: Offer) -> None:
        self._do("connect")

    def send(self, own: Offer, peer: Offer) -> None:
        self._do("send")

    def collect(self) -> bool:
        self._do("collect")
        return True

    def look(self, own: Offer, peer: Offer) -> None:
        self._do("look")

    def seen(self, failure: VerbsError | StoppedError | None = None) -> Seen:
        found = Seen("mlx5_0", step=self.step, sent=(0, 0, 0), got=ALL, want=ALL, state_after=4)
        return found if failure is None else stopped(found, failure)


def against(lines: Sequence[bytes | None], end: End) -> tuple[Seen, Seen | None, list[bytes]]:
    """Return what an exchange gives, and what was said, with a peer that says ``lines`` and then nothing."""
    left, said = list(lines), list[bytes]()
    ours, theirs = exchange(end, said.append, lambda _seconds: left.pop(0) if left else None, 5.0)
    return ours, theirs, said


THEIRS = Seen("mlx5_7", sent=(0, 0, 0), got=ALL, want=ALL, state_after=4)
WHOLE = [written(OFFER), written(READY), written(SENT), written(THEIRS)]


def test_a_peer_that_does_as_we_do() -> None:
    ours, theirs, said = against(WHOLE, StandIn())
    assert (ours.cause, theirs) == ("", THEIRS)
    assert [read(line) for line in said] == [OFFER, READY, SENT, ours]


@pytest.mark.parametrize("heard", range(4))
def test_a_peer_that_falls_silent(heard: int) -> None:
    end = StandIn()
    ours, theirs, said = against(WHOLE[:heard], end)
    assert theirs is None
    assert ours.cause == ("PEER_SILENT" if heard < 3 else "")
    assert read(said[-1]) == ours
    # What has arrived is looked at as soon as something was sent.
    assert ("look" in end.done) == (heard >= 2)


@pytest.mark.parametrize("heard", range(3))
@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"\xff" * 10, "PEER_MALFORMED"),
        (b"[" * 5000, "PEER_MALFORMED"),
        (b'{"kind": "go"}', "PEER_MALFORMED"),
        (written(Seen("mlx5_7", cause="MEMLOCK")), "PEER_STOPPED"),
    ],
)
def test_a_peer_that_says_something_else(heard: int, line: bytes, cause: str) -> None:
    ours, theirs, _ = against([*WHOLE[:heard], line], StandIn())
    assert ours.cause == cause
    assert (theirs is not None) == (cause == "PEER_STOPPED")


def test_messages_out_of_turn() -> None:
    assert against([written(SENT)], StandIn())[0].cause == "PEER_MALFORMED"
    assert against([written(OFFER), written(OFFER)], StandIn())[0].cause == "PEER_MALFORMED"


@pytest.mark.parametrize(
    ("step", "failure", "cause"),
    [
        ("offer", VerbsError("ibv_reg_mr", 12), "MEMLOCK"),
        ("offer", VerbsError("ibv_reg_mr", 1), "MEMLOCK"),
        ("offer", VerbsError("ibv_create_qp", 95), "QP_REFUSED"),
        ("offer", VerbsError("ibv_query_gid", 0), "NO_GID"),
        ("offer", StoppedError("PORT_DOWN"), "PORT_DOWN"),
        ("connect", VerbsError("rtr", 110), "NO_NEIGHBOUR"),
        ("connect", VerbsError("rtr", 101), "NO_ROUTE"),
        ("connect", VerbsError("rtr", 22), "GID_REFUSED"),
        ("connect", VerbsError("rtr", 5), "VERBS_FAILED"),
        ("collect", VerbsError("ibv_poll_cq", 5), "VERBS_FAILED"),
    ],
)
def test_two_ends_hold_both_views(step: str, failure: VerbsError | StoppedError, cause: str) -> None:
    inboxes: tuple[queue.Queue[bytes], queue.Queue[bytes]] = (queue.Queue(), queue.Queue())
    views: dict[int, tuple[Seen, Seen | None]] = {}

    def work(number: int, end: End) -> None:
        hear: Callable[[float], bytes | None] = lambda seconds: inboxes[number].get(timeout=seconds)  # noqa: E731
        views[number] = exchange(end, inboxes[1 - number].put, hear, 20.0)

    ends = (StandIn(step, failure), StandIn())
    threads = [Thread(target=work, args=(number, end)) for number, end in enumerate(ends)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert views[0] == views[1][::-1]
    assert views[0][0].cause == cause
    assert views[1][0].cause in {"PEER_STOPPED", ""}
