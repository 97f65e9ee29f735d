"""gRPC servers: a real grpcio server with its health service is the judge, and no server can hold or crash a probe."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_roce_entry.probe_kinds import LIVENESS, READINESS, STARTUP
from sglang_roce_entry.server.probe.ask import ANSWERED, HUNG, NO_HEALTH, NOT_HTTP, Answer, Target, ask
from sglang_roce_entry.server.probe.connection import Connection
from sglang_roce_entry.server.probe.grpc import NO_WORD, NOT_SERVING, SERVING, health_of
from sglang_roce_entry.server.probe.kinds import probe
from sglang_roce_entry.server.running import Found
from tests.layers import skip_or_fail
from tests.server.test_probe import _no_file, _run, certificate, http_server, raw_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["certificate"]

#: As SGLang's own: asynchronous, and with what `grpc_health` brings. $1 the port, $2 what it says, $3 a folder with a key.
_SERVER = """
import asyncio, sys
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

async def main(port, says, tls=None):
    server = grpc.aio.server()
    if says != "nothing":
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        await servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(says))
    if tls:
        key, chain = (open(f"{tls}/{name}.pem", "rb").read() for name in ("key", "cert"))
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, chain)]))
    else:
        server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("here", flush=True)
    await server.wait_for_termination()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def grpc_server(says: str, tls: Path | None = None) -> Iterator[int]:
    if importlib.util.find_spec("grpc_health") is None:
        skip_or_fail("server", "needs the Python packages grpcio and grpcio-health-checking")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    words = [sys.executable, "-c", _SERVER, str(port), says, *([str(tls)] if tls else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"here\n"
            yield port
        finally:
            server.kill()


CASES = [
    ("SERVING", ANSWERED, 200),
    ("NOT_SERVING", ANSWERED, 503),
    ("UNKNOWN", NO_HEALTH, None),
    ("nothing", NO_HEALTH, None),
]


@pytest.mark.parametrize(("says", "kind", "status"), CASES)
def test_a_real_server(says: str, kind: str, status: int | None) -> None:
    with grpc_server(says) as port:
        answers = [ask(Target("127.0.0.1", port, grpc=True), "/health", 10) for _ in range(3)]
    assert {(answer.kind, answer.status) for answer in answers} == {(kind, status)}, answers


@pytest.mark.parametrize("told", [True, False])
def test_tls(certificate: Path, told: bool) -> None:
    """SGLang's own has no TLS, whatever its arguments say."""
    with grpc_server("SERVING", certificate if told else None) as port:
        answer = ask(Target("127.0.0.1", port, secure=True, grpc=True), "/health", 10)
    assert (answer.kind, answer.status) == (ANSWERED, 200), answer
    assert answer.detail.startswith("grpcs://" if told else "grpc://")


@pytest.mark.parametrize(
    ("says", "codes"),
    [
        ("SERVING", {STARTUP: 0, READINESS: 0, LIVENESS: 0}),
        ("NOT_SERVING", {STARTUP: 1, READINESS: 1, LIVENESS: 0}),
        ("nothing", {STARTUP: 0, READINESS: 0, LIVENESS: 0}),
    ],
)
@pytest.mark.parametrize("option", ["--grpc-mode", "--smg-grpc-mode"])
def test_the_command(option: str, says: str, codes: dict[str, int]) -> None:
    with grpc_server(says) as port:
        for kind, code in codes.items():
            got, out, err, _ = _run("--probe", kind, "--", "--port", str(port), option)
            assert (got, err) == (code, ""), out
            assert ("cannot tell" in out) == (says == "nothing")


def test_a_worker_of_a_grpc_server_has_http() -> None:
    """``launch_dummy_health_check_server`` of engine.py, 0.5.23."""
    with http_server({"/health": 200}) as server:
        answer = ask(Target("127.0.0.1", server.port, grpc=True), "/health", 5)
    assert (answer.kind, answer.status) == (ANSWERED, 200)


@pytest.mark.parametrize(("rank", "passes"), [("0", False), ("1", True)])
def test_a_worker_of_a_grpc_server_may_listen_nowhere(rank: str, passes: bool) -> None:
    """Up to 0.5.9 (``launch_scheduler_process_only``): no reason for a startup probe to end it."""
    given_ = ("--grpc-mode", "--node-rank", rank)
    verdict = probe(
        READINESS, given_, Found(), lambda target, path: Answer("nothing listens", "refused"), _no_file
    )
    assert verdict.passed == passes


@pytest.mark.parametrize(("kind", "passes"), [(NO_HEALTH, True), (NOT_HTTP, True), (HUNG, False)])
def test_what_cannot_be_read_of_a_grpc_server_is_no_failure(kind: str, passes: bool) -> None:
    """A certificate of the client that it wants, a protocol of its own: it accepts."""
    for which in (STARTUP, READINESS, LIVENESS):
        verdict = probe(which, ("--smg-grpc-mode",), Found(), lambda target, path: Answer(kind, "so"), _no_file)
        assert verdict.passed == passes
        assert verdict.reason.startswith("cannot tell: ") == passes


def test_the_native_server_is_beside_http() -> None:
    asked: list[Target] = []

    def answer(target: Target, path: str) -> Answer:
        asked.append(target)
        return Answer(ANSWERED, "200", 200)

    probe(READINESS, ("--grpc-port", "50051", "--port", "30001"), Found(), answer, _no_file)
    assert asked == [Target("127.0.0.1", 30001)]


# ------------------------------------------------------------------------- what a server should not say

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HEADERS = b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88"


def data(payload: bytes, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([0, flags]) + b"\x00\x00\x00\x01" + payload


YES, NO = b"\x00\x00\x00\x00\x02\x08\x01", b"\x00\x00\x00\x00\x02\x08\x02"


def told(said: bytes) -> str:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(said)
        there.shutdown(socket.SHUT_WR)
        return health_of(Connection(here, "127.0.0.1", 1, time.monotonic() + 2), "http")


@pytest.mark.parametrize(
    ("said", "health"),
    [
        (SETTINGS + HEADERS + data(YES, 1), SERVING),
        (SETTINGS + HEADERS + data(NO) + HEADERS.replace(b"\x01\x04", b"\x01\x05"), NOT_SERVING),
        (SETTINGS + HEADERS + data(YES[:3]) + data(YES[3:], 1), SERVING),
        (SETTINGS + HEADERS + data(b"\x04" + YES + bytes(4), 9), SERVING),  # padded
        (
            SETTINGS + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8) + HEADERS + data(YES, 1),
            SERVING,
        ),  # a ping first
        (SETTINGS + HEADERS.replace(b"\x01\x04", b"\x01\x05"), NO_WORD),  # a status alone: no such service
        (SETTINGS + HEADERS + data(b"", 1), NO_WORD),
        (SETTINGS + HEADERS + data(b"\x00" * 5, 1), NO_WORD),  # UNKNOWN
        (SETTINGS + HEADERS + data(b"\x00\x00\x00\x00\x02\x08\x03", 1), NO_WORD),
        (SETTINGS + HEADERS + data(b"\x01" + YES[1:], 1), NO_WORD),  # compressed
        (SETTINGS + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8), NO_WORD),  # GOAWAY
        (SETTINGS + b"\x00\x00\x04\x03\x00\x00\x00\x00\x01" + bytes(4), NO_WORD),  # RST_STREAM
    ],
)
def test_frames(said: bytes, health: str) -> None:
    assert told(said) == health


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", SETTINGS, SETTINGS + HEADERS]))
def test_any_bytes(noise: bytes, before: bytes) -> None:
    with contextlib.suppress(ValueError, OSError):
        assert told(before + noise) in (SERVING, NOT_SERVING, NO_WORD)


def _for_ever(said: bytes, pause_s: float = 0) -> Callable[[socket.socket], None]:
    def attend(connection: socket.socket) -> None:
        try:
            connection.sendall(SETTINGS)
            while True:
                connection.sendall(said)
                time.sleep(pause_s)
        except OSError:
            return

    return attend


@pytest.mark.parametrize(
    ("attend", "kind"),
    [
        (_for_ever(SETTINGS * 500), NOT_HTTP),
        (_for_ever(SETTINGS, 0.1), HUNG),
        (_for_ever(b"\x00", 0.1), HUNG),
        (_for_ever(b"\xff" * 9), NOT_HTTP),
    ],
    ids=["settings without end", "settings now and then", "drips", "a frame of 16 MiB"],
)
def test_no_server_can_hold_a_probe(attend: Callable[[socket.socket], None], kind: str) -> None:
    with raw_server(attend) as port:
        begun = time.monotonic()
        answer = ask(Target("127.0.0.1", port, grpc=True), "/health", 1.0)
        took_s = time.monotonic() - begun
    assert answer.kind == kind, answer
    assert took_s < 1.5
