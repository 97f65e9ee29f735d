"""The meeting over real sockets: who answers, who is hostile, who dies, and what is left on the port afterwards."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.attempts import Surroundings, WaitPolicy
from sglang_roce_entry.group.connect import port_is_free
from sglang_roce_entry.group.meeting import wire
from sglang_roce_entry.group.meeting.answering import CLOSED, MEETING, OTHER, SGLANG, SILENT, who_answers
from sglang_roce_entry.group.meeting.caller import Called, Caller, Met
from sglang_roce_entry.group.meeting.comparison.compare import judge
from sglang_roce_entry.group.meeting.leader import Leader, enough_descriptors
from sglang_roce_entry.group.meeting.lines import nothing
from sglang_roce_entry.group.meeting.missing import Names
from sglang_roce_entry.group.meeting.proof.holding import MOST_PROOFS
from sglang_roce_entry.group.meeting.proof.relay import PROOF_S
from sglang_roce_entry.group.meeting.ring.door import Door, open_door
from sglang_roce_entry.group.meeting.terms import Concluded, Gathered, Terms
from sglang_roce_entry.group.names import Resolver
from sglang_roce_entry.group.wait import LeaderName
from sglang_roce_entry.problems import DEADLINE, EntryError
from tests.group.meetings import GROUP, NONCE, of_this_meeting
from tests.group.members import RULES, group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from sglang_roce_entry.group.meeting.card import Card
    from sglang_roce_entry.group.meeting.comparison.reach import Edge
    from sglang_roce_entry.group.meeting.proof.errand import Start

HERE = ip_address("127.0.0.1")


def with_door(card: Card, door: Door | None) -> Card:
    own = replace(card.own, reach_address=door.address, reach_port=door.port) if door is not None else card.own
    return replace(card, own=own)


def with_clock(card: Card) -> Card:
    return replace(card, own=replace(card.own, clock_s=time.time()))


class Meeting:
    """A leader on a port of its own, in a thread."""

    def __init__(
        self, size: int, port: int = 0, deadline_s: float = 20.0, starts: Sequence[Start | None] = ()
    ) -> None:
        self.starts = dict(enumerate(starts))
        self.cards = list(of_this_meeting(group(size)))
        self.log: list[str] = []
        listener = wire.listen_on(HERE, port)
        self.port = int(listener.getsockname()[1])
        self.listener = listener
        names = Names(lambda _index: "", lambda _name: "", lambda _names: None)
        terms = Terms(size, GROUP, NONCE, deadline_s, 1.0)
        self.edges: list[Edge] = []
        self.leader_idle = threading.Event()
        self.door = open_door(HERE, NONCE, 0)
        own = with_clock(with_door(self.cards[0], self.door))
        self._leader = Leader(
            *(listener, terms, own, self._conclude, self.log.append, names),
            *(self.door, self.starts.get(0), None, self.leader_idle.set),
        )
        self._pool = ThreadPoolExecutor(size + 8)
        self._held = self._pool.submit(self._leader.hold)

    def call(self, index: int, idle: Callable[[], None] = nothing) -> Met:
        """Return what member `index` is told."""
        around = Surroundings(say=lambda *_words, **_fields: None)

        def make_card(called: Called) -> Card:
            return with_clock(with_door(self.cards[index], called.door))

        name = LeaderName(str(HERE), Resolver(), around, "")
        start = self.starts.get(index)
        caller = Caller(self.port, GROUP, index, make_card, around, start=start, idle=idle)
        return caller.attend(name, WaitPolicy(20.0))

    def _conclude(self, gathered: Gathered) -> Concluded:
        self.edges = list(gathered.edges)
        return Concluded(judge(gathered.members, gathered.commons, RULES))

    def start(self, index: int, idle: Callable[[], None] = nothing) -> Future[Met]:
        return self._pool.submit(self.call, index, idle)

    def meet(self) -> list[Met]:
        calls = [self.start(index) for index in range(1, len(self.cards))]
        met = [call.result(timeout=25) for call in calls]
        self._held.result(timeout=25)
        return met

    def dial(self) -> socket.socket:
        return socket.create_connection((str(HERE), self.port), timeout=5)


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[socket.socket], None]], socket.socket]]:
    """Give what connects to a server that does this with its connection."""
    opened: list[socket.socket] = []

    def serve(attend: Callable[[socket.socket], None]) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)
        connected = threading.Event()  # a reset that comes earlier fails the connect itself (ECONNRESET)

        def run() -> None:
            one, _ = listener.accept()
            opened.append(one)
            connected.wait(5)
            attend(one)

        threading.Thread(target=run, daemon=True).start()
        made = socket.create_connection(listener.getsockname(), timeout=5)
        connected.set()
        opened.append(made)
        return made

    yield serve
    for one in opened:
        one.close()


def store(joined: int | None) -> Callable[[socket.socket], None]:
    """Return what answers as torch's store does, with so many ranks that have joined."""

    def attend(one: socket.socket) -> None:
        start = one.recv(10, socket.MSG_WAITALL)
        assert start[:6] == wire.MAGIC + b"\x0d"
        one.sendall(start[6:])
        one.recv(1 + 8 + 8 + 5, socket.MSG_WAITALL)
        one.sendall(b"\0" if joined is not None else b"\1")
        if joined is not None:
            one.recv(1 + 8 + 5, socket.MSG_WAITALL)
            text = str(joined).encode()
            one.sendall(struct.pack("<Q", len(text)) + text)

    return attend


def reset(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def late_leader(one: socket.socket) -> None:
    time.sleep(wire.GREETING_S + 0.3)
    one.sendall(wire.greeting("g", "n").line())


@pytest.mark.parametrize(
    ("attend", "kind", "detail"),
    [
        (lambda one: one.sendall(wire.greeting("g", "n").line()), MEETING, "meeting"),
        (lambda one: one.sendall(b"sgl"), MEETING, "meeting"),
        (late_leader, MEETING, "meeting"),
        (lambda one: one.sendall(b"\xff" + bytes(8) + b"\x7f"), SGLANG, "ZeroMQ"),
        (lambda one: one.sendall(b"SSH-2.0-x\r\n"), OTHER, "SSH-2.0"),
        (lambda one: one.sendall(b"\x1b[2J\n"), OTHER, "x1b"),
        (lambda one: one.close(), CLOSED, "a proxy"),
        (reset, CLOSED, "a proxy"),
        (lambda one: (one.recv(64), one.sendall(b"HTTP/1.1 400 Bad Request\r\n")), OTHER, "HTTP/1.1 400"),
        (lambda one: (one.recv(64), one.close()), CLOSED, "a proxy"),
        (lambda one: None, SILENT, "neither a launcher nor SGLang"),
        (store(None), SGLANG, "0 ranks joined"),
        (store(1), SGLANG, "1 rank joined"),
        (store(16), SGLANG, "16 ranks joined"),
    ],
    ids=["greeting", "half", "late", "ZeroMQ", "SSH", "terminal", "EOF", "RST", "HTTP", "EOF-later", "silent", "store-0", "store-1", "store-16"],
)  # fmt: skip
def test_who_answers(
    serving: Callable[..., socket.socket], attend: Callable[[socket.socket], None], kind: str, detail: str
) -> None:
    answer = who_answers(serving(attend))
    assert answer.kind == kind, answer
    assert detail in answer.detail
    assert answer.detail.isprintable()


def test_a_group_meets_and_its_port_is_free_at_once() -> None:
    """Also where others never close: what was accepted must not hold the port against SGLang's bind."""
    meeting = Meeting(6)
    with meeting.dial(), meeting.dial():
        met = meeting.meet()
        assert [one.verdict.problems for one in met] == [()] * 5
        for host in ("127.0.0.1", ""):
            assert port_is_free(host, meeting.port)
        wire.listen_on(HERE, meeting.port).close()


def test_who_waits_has_time_for_other_things_until_the_last_one_comes() -> None:
    meeting, idle = Meeting(3), threading.Event()
    early = meeting.start(1, idle.set)
    assert idle.wait(20)
    assert meeting.leader_idle.wait(20)
    late = meeting.start(2)
    assert [one.result(timeout=25).verdict.problems for one in (early, late)] == [(), ()]


def test_no_child_inherits_the_listener() -> None:
    meeting = Meeting(2)
    assert not meeting.listener.get_inheritable()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], close_fds=False)
    try:
        meeting.meet()
        assert port_is_free("", meeting.port)
    finally:
        child.kill()
        child.wait()


def test_hostile_peers_disturb_nobody() -> None:
    """A scanner, garbage, long lines and a caller of another group, all before the first member calls."""
    with enough_descriptors(300):
        meeting = Meeting(4)
        scanner = [meeting.dial() for _ in range(300)]
        for junk in (b"x" * 200_000, b"GET / HTTP/1.1\r\n\r\n", b"CARD []\n", b"CARD " + b"[" * 60_000 + b"\n"):
            with meeting.dial() as one:
                try:
                    one.sendall(junk)
                    while one.recv(4096):
                        pass
                except OSError:
                    pass
        started = time.monotonic()
        assert len(meeting.meet()) == 3
        assert time.monotonic() - started < 2.5
        for one in scanner:
            one.close()
    assert all(line.isprintable() for line in meeting.log)
    assert len(meeting.log) < 8


LEADER = """
import sys
from tests.group.test_meeting_sockets import Meeting
meeting = Meeting(int(sys.argv[2]), int(sys.argv[1]))
print("holds", flush=True)
meeting._held.result()
"""


def test_a_leader_that_is_killed_is_called_again() -> None:
    """Before the verdict: the same callers, still dialling, meet the next one on the same port."""
    port = unused_port()
    size = 4
    first = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(port), str(size)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds\n"
        first.stdout.close()
        members = Meeting(size)  # only its cards and its threads are used
        leading, members.port = members.port, port
        calls = [members._pool.submit(members.call, index) for index in range(1, size - 1)]
        time.sleep(0.5)
    finally:
        first.kill()
        first.wait()
    second = Meeting(size, port)
    calls.append(members._pool.submit(members.call, size - 1))
    assert [call.result(timeout=25).verdict.problems for call in calls] == [()] * (size - 1)
    second._held.result(timeout=25)
    members.port = leading
    members.meet()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def test_one_that_begins_to_greet_is_called_again_until_the_deadline() -> None:
    with socket.create_server((str(HERE), 0)) as server:
        opened: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    opened.append(server.accept()[0])
                    opened[-1].sendall(wire.GREETING[:9])

        threading.Thread(target=serve, daemon=True).start()
        around = Surroundings(say=lambda *_words, **_fields: None)
        name = LeaderName(str(HERE), Resolver(), around, "")
        cards = of_this_meeting(group(2))
        caller = Caller(int(server.getsockname()[1]), GROUP, 1, lambda _called: cards[1], around)
        begin = time.monotonic()
        with pytest.raises(EntryError) as caught:
            caller.attend(name, WaitPolicy(3.0))
        assert time.monotonic() - begin < 4.0
        server.shutdown(socket.SHUT_RDWR)
        for one in opened:
            one.close()
    assert caught.value.exit_code == DEADLINE
    assert "begins to greet like a launcher and stays silent" in caught.value.message


def test_proofs_that_go_on_and_on_are_borne_so_often() -> None:
    """Beyond its deadline a member stays for the proofs of one meeting, from the first line of each on."""
    moved_s, rounds = [0.0], 0

    def clock() -> float:
        return time.monotonic() + moved_s[0]

    with socket.create_server((str(HERE), 0)) as server:

        def serve() -> None:
            nonlocal rounds
            one, _ = server.accept()
            with one, suppress(OSError), one.makefile("rwb") as lines:
                lines.write(wire.greeting(GROUP, NONCE).line())
                lines.flush()
                while lines.readline() and rounds < 20:
                    rounds, moved_s[0] = rounds + 1, moved_s[0] + PROOF_S / 4 * (rounds > 0)
                    lines.write(b"%s %d\n" % (wire.PROVE, rounds))
                    lines.flush()

        leader = threading.Thread(target=serve)
        leader.start()
        around = Surroundings(say=lambda *_words, **_fields: None, clock=clock)
        name = LeaderName(str(HERE), Resolver(), around, "")
        cards = of_this_meeting(group(2))
        caller = Caller(int(server.getsockname()[1]), GROUP, 1, lambda _called: cards[1], around)
        with pytest.raises(EntryError) as caught:
            caller.attend(name, WaitPolicy(10.0))
        leader.join()
    assert caught.value.exit_code == DEADLINE
    assert 4 <= rounds <= MOST_PROOFS + 6


def test_who_answers_is_known_in_time(serving: Callable[[Callable[[socket.socket], None]], socket.socket]) -> None:
    one = serving(lambda _one: None)
    begin = time.monotonic()
    assert who_answers(one, 0.2).kind == SILENT
    assert time.monotonic() - begin < wire.GREETING_S


def test_a_caller_without_a_leader_ends_at_its_deadline() -> None:
    around = Surroundings(say=lambda *_words, **_fields: None)
    name = LeaderName(str(HERE), Resolver(), around, "")
    begin = time.monotonic()
    with pytest.raises(EntryError, match=r"did not meet within 1 s: .* refuses connections") as ended:
        Caller(unused_port(), GROUP, 1, lambda _called: group(2).cards[1], around).attend(name, WaitPolicy(1.0))
    assert ended.value.exit_code == 124
    assert 0.9 < time.monotonic() - begin < 1.5


def test_the_limit_on_open_files_is_raised_and_set_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with enough_descriptors(500):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], 2024)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_that_is_too_low_is_said() -> None:
    """In a child, since a hard limit can only be lowered."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "from sglang_roce_entry.group.meeting.leader import enough_descriptors\n"
        "try:\n    enough_descriptors(64).__enter__()\n"
        "except Exception as failure:\n    print(failure.code, failure)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert said.stdout == "NOFILE a leader of 64 nodes needs 128 open files at once, the limit here is 100\n"
