"""Torch's own store as the judge of the meeting: it answers our question, and binds the port that we have left."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.group.meeting.answering import SGLANG, who_answers
from tests.group.test_meeting_sockets import Meeting, unused_port
from tests.process.command import entry_interpreter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

BACK_ENDS = pytest.mark.parametrize("libuv", [True, False], ids=["libuv", "legacy"])

#: Binds the port as soon as it is told to; joins as many ranks as the next lines say.
STORE = """
import json, sys, threading, time
from torch._C._distributed_c10d import TCPStore
from datetime import timedelta
port, libuv = int(sys.argv[1]), sys.argv[2] == "True"
print(json.dumps("loaded"), flush=True)
sys.stdin.readline()
begin = time.monotonic()
store = TCPStore("127.0.0.1", port, 8, True, timedelta(seconds=30), False, use_libuv=libuv)
print(json.dumps(time.monotonic() - begin), flush=True)
for line in sys.stdin:
    for _ in range(int(line)):  # each counts itself, then waits for the rest
        client = ("127.0.0.1", port, 8, False, timedelta(seconds=30), True)
        threading.Thread(target=TCPStore, args=client, kwargs={"use_libuv": libuv}, daemon=True).start()
    time.sleep(1)
    print(json.dumps("added"), flush=True)
"""


class Store:
    """A process that is torch's store on `port` from the first `tell` on."""

    def __init__(self, torch_packages: Path, port: int, *, libuv: bool) -> None:
        self._process = subprocess.Popen(
            [entry_interpreter(), "-c", STORE, str(port), str(libuv)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(torch_packages)},
        )  # fmt: skip
        assert self.hear() == "loaded"

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def tell(self, line: str = "") -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.hear()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@BACK_ENDS
def test_a_store_says_how_many_ranks_have_joined(torch_packages: Path, libuv: bool) -> None:
    port = unused_port()
    store = Store(torch_packages, port, libuv=libuv)
    try:
        store.tell()
        for joined, said in ((0, "0 ranks joined"), (1, "1 rank joined"), (6, "7 ranks joined")):
            if joined:
                store.tell(str(joined))
            with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
                answer = who_answers(one)
            assert answer.kind == SGLANG
            assert said in answer.detail
    finally:
        store.close()


@BACK_ENDS
def test_the_port_of_a_meeting_is_bound_within_a_tenth_of_a_second(torch_packages: Path, libuv: bool) -> None:
    """Callers that have just closed, callers that never do, and strangers still connected: nothing holds it."""
    port = unused_port()
    store = Store(torch_packages, port, libuv=libuv)
    meeting = Meeting(16, port)
    strangers = [meeting.dial() for _ in range(8)]
    try:
        meeting.meet()
        took_s = store.tell()
        assert took_s < 0.1
        for one in strangers:
            one.close()
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            assert who_answers(one).kind == SGLANG
    finally:
        store.close()
