"""NCCL's RAS: what its answers mean, that nothing else makes a rank dead, and whose answer counts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.server.probe.ask_ras import CannotAsk, ras_port
from sglang_roce_entry.server.probe.ranks import Group, Ranks, judge
from sglang_roce_entry.server.probe.ras import NotRas, Process, Rank, Status, parse
from sglang_roce_entry.server.probe.sockets import Socket, sockets_at
from tests.process.command import enclosed, entry_command, entry_interpreter, environment_of_an_interpreter
from tests.server.ras_texts import (
    DEAD,
    GREETING,
    HEALTHY,
    KILLED,
    NODE_LOST,
    STOPPED,
    STOPPED_DEAD,
    Comms,
    Job,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parent / "ras"
PODS = Group(16, 2, "sglang-0.sglang.default")
ABORTED = Job((Comms(16, status="ABORT"),))
SET_UP = Job((Comms(16, errors=(("Initialization", "System error", [3]),)),))
ALL_IN_ERROR = Job((Comms(16, errors=(("Asynchronous", "Unhandled CUDA error", range(16)),)),))


RANK_0 = "rank 0 of 16 (node 0, pod sglang-0, process 1000 on 10.0.0.1)"
RANK_9 = "rank 9 of 16 (node 1, pod sglang-0-1, process 1009 on 10.0.0.2)"
ONE_DEAD = "NCCL considers 1 process dead (no word for 60 s or more)"


def answer(job: Job) -> bytes:
    return (GREETING + text(job)).encode()


def verdict_on(job: Job, group: Group = PODS) -> tuple[bool, str]:
    verdict = judge(Ranks(parse(answer(job)), group=group))
    return verdict.passed, verdict.reason


@pytest.mark.parametrize(
    ("job", "passes", "said"),
    [
        (HEALTHY, True, "NCCL 2.28.9 hears from all 16 ranks"),
        (KILLED, False, f"1 rank reported Remote process error: {RANK_0}; no answer from 1 rank: {RANK_9}"),
        (DEAD, False, f"{ONE_DEAD}: {RANK_9}; 1 rank reported Remote process error: {RANK_0}"),
        (STOPPED, True, f"NCCL 2.28.9 holds no rank for dead; no answer from 1 rank: {RANK_9}, as during a long load"),
        (STOPPED_DEAD, False, f"{ONE_DEAD}: {RANK_9}"),
        (ABORTED, True, "NCCL 2.28.9 hears from all 16 ranks"),
        (SET_UP, True, "NCCL 2.28.9 holds no rank for dead; a communicator could not be set up (System error on 1 rank)"),
        (Job(()), True, "cannot tell: NCCL 2.28.9 has no communicator yet"),
    ],
)  # fmt: skip
def test_what_an_answer_means(job: Job, passes: bool, said: str) -> None:
    assert verdict_on(job) == (passes, said)


@pytest.mark.parametrize(
    ("name", "passes", "said"),
    [
        ("killed-healthy", True, "NCCL 2.28.9 hears from all 2 ranks"),
        ("killed-after-5-s", False, "1 rank reported Remote process error: rank 0 of 2 (process 591 on 127.0.0.1); no answer from 1 rank: rank 1 of 2 (process 592 on 127.0.0.1)"),
        ("killed-dead", False, "NCCL considers 1 process dead (no word for 60 s or more): rank 1 of 2 (process 592 on 127.0.0.1); 1 rank"),
        ("stopped-healthy", True, "NCCL 2.28.9 hears from all 2 ranks"),
        ("stopped-after-5-s", True, "NCCL 2.28.9 holds no rank for dead; no answer from 1 rank: rank 1 of 2 (process 1238 on 127.0.0.1)"),
        ("stopped-dead", False, "NCCL considers 1 process dead (no word for 60 s or more): rank 1 of 2 (process 1238 on 127.0.0.1)"),
        ("killed-healthy-2.32.3", True, "NCCL 2.32.3 hears from all 2 ranks"),
        ("killed-after-5-s-2.32.3", True, "NCCL 2.32.3 holds no rank for dead; no answer from 1 rank: rank 1 of 2 (process 482 on 127.0.0.1)"),
        ("killed-dead-2.32.3", False, "NCCL considers 1 process dead (no word for 60 s or more): rank 1 of 2 (process 482 on 127.0.0.1)"),
        ("stopped-after-5-s-2.32.3", True, "NCCL 2.32.3 holds no rank for dead; no answer from 1 rank: rank 1 of 2 (process 747 on 127.0.0.1)"),
    ],
)  # fmt: skip
def test_real_answers(name: str, passes: bool, said: str) -> None:
    """Of H100s (`ras/README.md`)."""
    verdict = judge(Ranks(parse((RECORDED / f"{name}.txt").read_bytes())))
    assert verdict.passed == passes
    assert verdict.reason.startswith(said)


def test_the_written_answers_have_the_lines_of_real_ones() -> None:
    """But for numbers and addresses."""
    written = {_shape(line) for job in (HEALTHY, KILLED, DEAD, STOPPED) for line in text(job).split("\n")}
    for path in RECORDED.glob("*.txt"):
        real = path.read_text().partition("OK\n")[2].partition("Warnings")[0]
        assert {_shape(line) for line in real.split("\n")} <= written, path.name


def _shape(line: str) -> str:
    line = re.sub(r" \(NVML \d+\)", "", line)
    return re.sub(r"[0-9a-f]{16}|\d+(\.\d+)*", "N", " ".join(line.split()))


def test_many_are_counted_and_some_are_named() -> None:
    passed, said = verdict_on(NODE_LOST)
    assert not passed
    assert said.startswith("NCCL considers 8 processes dead (no word for 60 s or more): rank 8 of 16 (node 1, ")
    passed, said = verdict_on(ALL_IN_ERROR)
    assert not passed
    assert said.startswith("16 ranks reported Unhandled CUDA error: rank 0 of 16")
    assert said.endswith(" and 8 more")


@pytest.mark.parametrize(
    ("group", "where"),
    [
        (Group(16, 2, ""), "node 1, process"),
        (Group(16, 2, "sglang-5d4f.sglang"), "node 1, process"),  # a hash in the names of its workers
        (Group(16, 2, "sglang-40917263.sglang"), "node 1, process"),  # a hash too, of digits alone
        (Group(32, 4, "sglang-0.sglang"), "(process"),  # a smaller communicator: its ranks are others'
        (Group(16, 1, "sglang-0.sglang"), "(process"),
        (Group(), "(process"),
    ],
)
def test_a_node_is_named_only_where_the_rank_tells(group: Group, where: str) -> None:
    _, said = verdict_on(STOPPED_DEAD, group)
    assert f"{where} 1009 on 10.0.0.2" in said


def test_elastic_groups_outlive_their_dead() -> None:
    verdict = judge(Ranks(parse(answer(DEAD)), elastic=True))
    assert verdict.passed
    assert verdict.reason.endswith("--elastic-ep-backend lets the others go on")


def test_communicators_in_words() -> None:
    comms = (Comms(16, 3), Comms(16, silent=[1]), Comms(1, nodes=1, status="INIT"))
    assert judge(Ranks(parse(answer(Job(comms))))).details == (
        "3 communicators of 16 ranks on 2 nodes: running",
        "1 communicator of 16 ranks on 2 nodes: running, no data from some ranks",
        "1 communicator of 1 rank on 1 node: being set up",
    )


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SERVER PROTOCOL 3\nOK\n" + text(DEAD).encode(),
        b"SERVER PROTOCOL 2\nERROR: Unknown command VERBOSE STATUS\n",
        answer(DEAD).replace(b"Errors\n======", b"Faults\n======"),
        answer(DEAD).replace(b"RUNNING", b"\x1b[31mX"),
        answer(DEAD).replace(b"considered dead", b"considered dead", 1)[: answer(DEAD).index(b"Warnings")],
    ],
)
def test_what_is_no_answer(spoilt: bytes) -> None:
    with pytest.raises(NotRas) as raised:
        parse(spoilt)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 160


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(noise: bytes) -> None:
    for data in (noise, GREETING.encode() + noise, answer(HEALTHY)[:200] + noise + answer(HEALTHY)[200:]):
        with contextlib.suppress(NotRas):
            parse(data)


_LINES = sorted(
    {line for job in (HEALTHY, KILLED, DEAD, STOPPED, NODE_LOST, SET_UP) for line in text(job).split("\n")}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_LINES) | st.text(max_size=60), max_size=40), st.booleans())
def test_lines_in_any_order(lines: list[str], ends: bool) -> None:
    """Only the sentence that counts the dead makes anybody dead, and what is said is printable."""
    data = (GREETING + "\n".join(lines)).encode("utf-8", "replace") + (b"\nWarnings\n========\n" if ends else b"")
    try:
        status = parse(data)
    except NotRas:
        return
    verdict = judge(Ranks(status, group=PODS))
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 4000
    if not any("considered dead" in line or "Asynchronous error" in line for line in lines):
        assert verdict.passed


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([HEALTHY, STOPPED, SET_UP]), st.data())
def test_a_cut_answer_makes_nobody_dead(job: Job, data: st.DataObject) -> None:
    whole = answer(job)
    cut = data.draw(st.integers(0, len(whole)))
    try:
        assert judge(Ranks(parse(whole[:cut]))).passed
    except NotRas:
        return


def test_numbers_without_end_are_none() -> None:
    with pytest.raises(NotRas):
        parse(answer(DEAD).replace(b"Process 1009", b"Process " + b"9" * 1000))
    assert parse(answer(DEAD).replace(b"Process 1009", b"Process " + b"9" * 5000)).dead == ()


def test_a_host_that_is_no_address_is_not_shown() -> None:
    status = parse(answer(DEAD).replace(b"on node 10.0.0.2", b"on node \x1b[2J;rm"))
    assert {process.host for process in status.dead} == {"?"}


def test_ranks_of_a_process() -> None:
    here = Process(7, "10.0.0.1")
    status = Status(None, silent=(Rank(0, 4, here), Rank(1, 4, here), Rank(2, 4, None)))
    assert [rank.number for rank in status.ranks_of(here)] == [0, 1]


# ----------------------------------------------------------------------------------------- where it listens


@pytest.mark.parametrize(
    ("environ", "port"),
    [
        ({}, 28028),
        ({"NCCL_RAS_ADDR": "localhost:29000"}, 29000),
        ({"NCCL_RAS_ADDR": "[::1]:29000"}, 29000),
        ({"NCCL_RAS_ENABLE": "1"}, 28028),
    ],
)
def test_the_port(environ: dict[str, str], port: int) -> None:
    assert ras_port(environ) == port


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"NCCL_RAS_ENABLE": "0"}, "NCCL_RAS_ENABLE=0 switches"),
        ({"NCCL_RAS_ADDR": "localhost"}, "has no port"),
        ({"NCCL_RAS_ADDR": "localhost:99999"}, "has no port"),
        ({"NCCL_RAS_ADDR": "localhost:" + "9" * 5000}, "has no port"),
    ],
)
def test_no_port(environ: dict[str, str], why: str) -> None:
    with pytest.raises(CannotAsk, match=why):
        ras_port(environ)


def _hex(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(raw) // 4}I", raw))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3"])
def test_the_table_of_sockets(address: str) -> None:
    row = (
        "   0: {}:{:04X} {}:{:04X} {} 00000000:00000000 00:00000000 00000000     0        0 {} 1 0000 100 0 0 10 0"
    )
    here, nowhere = _hex(address), _hex("::" if ":" in address else "0.0.0.0")
    table = "\n".join(
        [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            row.format(here, 28028, nowhere, 0, "0A", 111),
            row.format(here, 28028, here, 40000, "01", 222),
            row.format(here, 40000, here, 28028, "01", 333),
            row.format(here, 28028, here, 40001, "06", 0),
            row.format(here, 28029, nowhere, 0, "0A", 444),
            "garbage",
        ]
    )
    assert sockets_at(28028, [table]) == (
        Socket(address, 28028, 0, True, 111),
        Socket(address, 28028, 40000, False, 222),
    )


# ----------------------------------------------------------------------------------------- against a stand-in

#: SGLang's server with one scheduler, a process of its own as the real ones, that has NCCL's RAS.
_SERVER = r"""
import os, socket, sys, threading, time

def attend(one, how, said):
    with one:
        while b"\n" not in one.recv(4096):
            pass
        if how == "silent":
            time.sleep(60)
        if how == "closes":
            return
        if how == "garbage":
            one.sendall(os.urandom(5000))
            return
        if how == "endless":
            try:
                while True:
                    one.sendall(b"SERVER PROTOCOL 2\n" * 4096)
            except OSError:
                return
        head, rest = said.split(b"\n", 1)
        one.sendall(head + b"\n")
        if not head.endswith(b" 2"):
            return
        asked = b""
        while b"VERBOSE STATUS\n" not in asked:
            asked += one.recv(4096)
        if how == "slow":
            for byte in rest:
                one.sendall(bytes([byte]))
                time.sleep(0.2)
        one.sendall(rest)

with open(os.environ["STANDIN_TEXT"], "rb") as file:
    said = file.read()
how = os.environ["STANDIN_HOW"]
port = 0 if how == "elsewhere" else int(os.environ["NCCL_RAS_ADDR"].rpartition(":")[2])
if os.fork() == 0:
    here = socket.socket()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    here.bind(("127.0.0.1", port))
    here.listen()
    print("here", flush=True)
    while True:
        threading.Thread(target=attend, args=(here.accept()[0], how, said), daemon=True).start()
os.wait()
"""


@contextmanager
def standin(folder: Path, said: bytes, how: str = "", *arguments: str, **variables: str) -> Iterator[int]:
    """Run it; give its process's number."""
    package = folder / "server" / "sglang"
    if not package.exists():
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "launch_server.py").write_text(_SERVER)
    (folder / "said").write_bytes(said)
    environ = {
        **environment_of_an_interpreter(),
        "STANDIN_TEXT": str(folder / "said"),
        "STANDIN_HOW": how,
        "NCCL_RAS_ADDR": f"localhost:{free_port()}",
        **variables,
    }
    words = [entry_interpreter(), "-m", "sglang.launch_server", *arguments]
    with subprocess.Popen(
        enclosed(words), cwd=package.parent, env=environ, stdout=subprocess.PIPE, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"here\n"
        try:
            yield server.pid
        finally:
            os.killpg(server.pid, 9)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def probed(server: int, kinds: str = "ranks", *options: str) -> tuple[int, list[str], float]:
    begun = time.monotonic()
    done = subprocess.run(
        [*enclosed([*entry_command(), *options, "--probe", kinds], server)],
        capture_output=True, text=True, timeout=60, check=False, env=environment_of_an_interpreter(),
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines(), time.monotonic() - begun


LWS = {"LWS_LEADER_ADDRESS": "sglang-0.sglang.default"}
TWO_NODES = ("--tp-size", "16", "--nnodes", "2", "--node-rank", "0")


@pytest.mark.parametrize(
    ("job", "code", "first"),
    [
        (HEALTHY, 0, "ok: NCCL 2.28.9 hears from all 16 ranks"),
        (STOPPED, 0, "ok: NCCL 2.28.9 holds no rank for dead; no answer from 1 rank: rank 9"),
        (KILLED, 1, "failed: 1 rank reported Remote process error: rank 0 of 16 (node 0, pod sglang-0, "),
        (DEAD, 1, "failed: NCCL considers 1 process dead (no word for 60 s or more): rank 9 of 16 (node 1, pod sglang-0-1, "),
    ],
)  # fmt: skip
def test_the_command(tmp_path: Path, job: Job, code: int, first: str) -> None:
    with standin(tmp_path, answer(job), "", *TWO_NODES, **LWS) as server:
        got, lines, took_s = probed(server)
    assert got == code
    assert lines[0].startswith(first)
    assert lines[1].startswith("  ")
    assert "communicator" in lines[1]
    assert took_s < 6


@pytest.mark.parametrize(
    ("how", "said", "why"),
    [
        ("silent", b"", "does not answer in time"),
        ("closes", b"", "closes the connection"),
        ("garbage", b"", "is no RAS that is known: the answer begins with"),
        ("endless", b"", "is no RAS that is known"),
        ("", b"SERVER PROTOCOL 3\n" + text(DEAD).encode(), "its protocol is 3, and 2 is known"),
        ("", answer(DEAD)[: answer(DEAD).index(b"Warnings")], "the answer ends early"),
        ("slow", answer(DEAD), "does not answer in time"),
    ],
)
def test_what_cannot_be_told_is_no_failure(tmp_path: Path, how: str, said: bytes, why: str) -> None:
    with standin(tmp_path, said or answer(DEAD), how) as server:
        code, lines, took_s = probed(server, "ranks", "--probe-timeout", "2")
    assert code == 0, lines
    assert lines[0].startswith("ok: cannot tell: ")
    assert why in lines[0]
    assert len(lines) == 1
    assert took_s < 2 + 6


def test_switched_off(tmp_path: Path) -> None:
    with standin(tmp_path, answer(DEAD), NCCL_RAS_ENABLE="0") as server:
        assert probed(server)[:2] == (0, ["ok: cannot tell: NCCL_RAS_ENABLE=0 switches NCCL's RAS off"])


def test_another_jobs_port_is_left_alone(tmp_path: Path) -> None:
    """With the host network it may be that of another job of the node."""
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        with standin(tmp_path, answer(HEALTHY), "elsewhere", NCCL_RAS_ADDR=f"localhost:{port}") as server:
            code, lines, _ = probed(server)
        foreign.setblocking(False)
        with pytest.raises(BlockingIOError):
            foreign.accept()
    assert code == 0
    assert lines[0].startswith(f"ok: cannot tell: port {port} belongs to another process: NCCL's RAS is not in ")


def test_nothing_listens(tmp_path: Path) -> None:
    port = free_port()
    with standin(tmp_path, answer(HEALTHY), "elsewhere", NCCL_RAS_ADDR=f"localhost:{port}") as server:
        code, lines, _ = probed(server)
    assert code == 0
    assert lines[0].startswith(f"ok: cannot tell: nothing listens on port {port}: ")


@contextmanager
def stranger(port: int, folder: Path) -> Iterator[None]:
    """Answer on a port as the RAS of a dying job that is not the server's."""
    (folder / "stranger").write_bytes(answer(DEAD))
    told = {"STANDIN_TEXT": str(folder / "stranger"), "STANDIN_HOW": "", "NCCL_RAS_ADDR": f":{port}"}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, **told}
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"here\n"
        try:
            yield
        finally:
            os.killpg(other.pid, 9)


def test_a_port_that_is_shared_with_another_job(tmp_path: Path) -> None:
    """Processes of one user may (SO_REUSEPORT), and the kernel picks who answers."""
    port = free_port()
    with (
        standin(tmp_path, answer(HEALTHY), NCCL_RAS_ADDR=f"localhost:{port}") as server,
        stranger(port, tmp_path),
    ):
        answers = [probed(server)[:2] for _ in range(4)]
    for code, lines in answers:
        assert code == 0
        assert "hears from all" in lines[0] or "is shared with processes that are not this server's" in lines[0]
    assert any("hears from all" in lines[0] for _, lines in answers)


@pytest.mark.parametrize(
    ("kinds", "job", "lines"),
    [
        ("liveness,ranks", HEALTHY, ["ok: ranks: NCCL", "ok: liveness: leader: nothing listens on"]),
        ("ranks,liveness", HEALTHY, ["ok: ranks: NCCL", "ok: liveness: leader: nothing listens on"]),
        ("readiness,ranks", HEALTHY, ["failed: readiness: leader: nothing", "ok: ranks: NCCL"]),
        ("liveness,ranks", DEAD, ["failed: ranks: NCCL considers 1 process dead"]),
    ],
)
def test_joined_kinds(tmp_path: Path, kinds: str, job: Job, lines: list[str]) -> None:
    with standin(tmp_path, answer(job), "", "--port", str(free_port())) as server:
        code, said, _ = probed(server, kinds)
    assert code == any(line.startswith("failed") for line in lines)
    assert [said_line[: len(line)] for said_line, line in zip(said, lines, strict=True)] == lines


# ----------------------------------------------------------------------------------------- for a person


@pytest.mark.parametrize(
    ("job", "status", "evidence"),
    [
        (HEALTHY, "ok", "NCCL 2.28.9 hears from all 16 ranks; 3 communicators of 16 ranks on 2 nodes: running; "),
        (STOPPED, "warn", f"NCCL 2.28.9 holds no rank for dead; no answer from 1 rank: {RANK_9}"),
        (DEAD, "warn", f"{ONE_DEAD}: {RANK_9}"),
    ],
)
def test_the_line_of_check(tmp_path: Path, job: Job, status: str, evidence: str) -> None:
    with standin(tmp_path, answer(job), "", *TWO_NODES, **LWS) as server:
        words = enclosed([*entry_command(), "--check=json"], server)
        said = subprocess.run(words, capture_output=True, check=False, env=environment_of_an_interpreter()).stdout
    (item,) = [item for item in json.loads(said)["items"] if item["name"] == "ranks"]
    assert item["status"] == status
    assert item["evidence"].startswith(evidence)
    assert bool(item["remedy"]) == (status != "ok")


def test_the_line_of_check_where_nothing_can_be_asked(tmp_path: Path) -> None:
    with standin(tmp_path, answer(DEAD), NCCL_RAS_ENABLE="0") as server:
        words = enclosed([*entry_command(), "--check=json"], server)
        said = subprocess.run(words, capture_output=True, check=False, env=environment_of_an_interpreter()).stdout
    (item,) = [item for item in json.loads(said)["items"] if item["name"] == "ranks"]
    assert (item["status"], item["evidence"]) == ("skip", "NCCL_RAS_ENABLE=0 switches NCCL's RAS off")
