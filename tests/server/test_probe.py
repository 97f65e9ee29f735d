"""--probe against small real servers: what each answer means, and that no server can hold it."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.probe_kinds import LIVENESS, OF_HEALTH, READINESS, STARTUP
from sglang_roce_entry.server.entry import sglang_arguments
from sglang_roce_entry.server.probe.ask import (
    ANSWERED,
    HUNG,
    NOT_HTTP,
    NOTHING_LISTENS,
    UNREACHABLE,
    Answer,
    Target,
    ask,
)
from sglang_roce_entry.server.probe.kinds import probe
from sglang_roce_entry.server.processes import RunningProcess, process_of, processes_here
from sglang_roce_entry.server.running import Found, is_launcher, pick
from tests.layers import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHORT_S = 1.0


@dataclass
class SmallServer:
    """What SGLang's server says, by path; an unknown path is 404."""

    port: int
    asked: list[str]


def _handler(says: dict[str, int], key: str | None, asked: list[str]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status = says.get(self.path, 404)
            # srt/utils/auth.py: what begins with /health, /ready or /metrics needs no key.
            exempt = self.path.startswith(("/health", "/ready", "/metrics"))
            if key is not None and not exempt and self.headers.get("Authorization") != f"Bearer {key}":
                status = 401
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://192.0.2.1/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    return Handler


@contextmanager
def http_server(
    says: dict[str, int], *, key: str | None = None, address: str = "127.0.0.1", tls: Path | None = None
) -> Iterator[SmallServer]:
    asked: list[str] = []

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            return  # a client that speaks the other scheme

    server = Server((address, 0), _handler(says, key, asked))
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield SmallServer(server.server_address[1], asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def raw_server(attend: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen, and give each connection to ``attend``."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in kept:
                connection.close()


def _silent(connection: socket.socket) -> None:
    return


def _garbage(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"\x00\x01SSH-2.0-nothing\r\n\r\n")
    connection.close()


def _closes(connection: socket.socket) -> None:
    connection.close()


def _drips(connection: socket.socket) -> None:
    """Send a header line now and then, for ever: each read succeeds, the answer never ends."""
    try:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-A: b\r\n")
            time.sleep(0.1)
    except OSError:
        return


def _says(*parts: bytes) -> Callable[[socket.socket], None]:
    def attend(connection: socket.socket) -> None:
        try:
            connection.recv(4096)
            for part in parts:
                connection.sendall(part)
                time.sleep(0.02)
        except OSError:
            return
        connection.close()

    return attend


def _endless(first: bytes, then: bytes) -> Callable[[socket.socket], None]:
    def attend(connection: socket.socket) -> None:
        try:
            connection.recv(4096)
            connection.sendall(first)
            while True:
                connection.sendall(then * 4096)
        except OSError:
            return

    return attend


OK_HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"


@pytest.mark.parametrize(
    ("attend", "kind", "status"),
    [
        pytest.param(_says(*(bytes([one]) for one in OK_HEAD)), ANSWERED, 200, id="byte by byte"),
        pytest.param(_says(b"HTTP/1.1 100 Continue\r\n\r\n", OK_HEAD), ANSWERED, 200, id="100 before 200"),
        pytest.param(_says(b"HTTP/1.0 503\r\n\r\n"), ANSWERED, 503, id="no reason phrase"),
        pytest.param(_endless(OK_HEAD, b"x"), ANSWERED, 200, id="an endless body"),
        pytest.param(_endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), NOT_HTTP, None, id="endless headers"),
        pytest.param(_endless(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"), HUNG, None, id="100 for ever"),
        pytest.param(_says(b"HTTP/1.1 200"), NOT_HTTP, None, id="ends in the first line"),
        pytest.param(_says(b"HTTP/1.1 2000 OK\r\n\r\n"), NOT_HTTP, None, id="four digits"),
        pytest.param(_says(b"HTTP/1.1 \xb2\xb20 OK\r\n\r\n"), NOT_HTTP, None, id="digits of another alphabet"),
        pytest.param(_says(b"HTTP/2.0 200 OK\r\n\r\n"), NOT_HTTP, None, id="another version"),
        pytest.param(_endless(b"\x1b[2J", b"\x00"), NOT_HTTP, None, id="a terminal's escapes"),
    ],
)  # fmt: skip
def test_answers_that_a_server_should_not_give(
    attend: Callable[[socket.socket], None], kind: str, status: int | None
) -> None:
    with raw_server(attend) as port:
        begun = time.monotonic()
        answer = ask(Target("127.0.0.1", port), "/health", SHORT_S)
        took_s = time.monotonic() - begun
    assert (answer.kind, answer.status) == (kind, status), answer
    assert took_s < SHORT_S + 0.5
    assert answer.detail.isprintable()
    assert len(answer.detail) < 500


@pytest.mark.parametrize("status", [200, 301, 401, 404, 500, 503])
def test_a_status_is_an_answer(status: int) -> None:
    with http_server({"/health": status}) as server:
        answer = ask(Target("127.0.0.1", server.port), "/health", SHORT_S)
    assert (answer.kind, answer.status) == (ANSWERED, status)
    assert server.asked == ["/health"], "a redirect is not followed"


@pytest.mark.parametrize("host", ["0.0.0.0", "", "localhost", "127.0.0.1"])
def test_hosts_that_lead_here(host: str) -> None:
    with http_server({"/health": 200}) as server:
        assert ask(Target(host, server.port), "/health", SHORT_S).status == 200


@pytest.mark.parametrize("host", ["::", "::1", "[::1]"])
def test_ipv6(host: str) -> None:
    if not socket.has_dualstack_ipv6():
        skip_or_fail("server", "needs IPv6 on the loopback")
    with http_server({"/health": 200}, address="::1") as server:
        answer = ask(Target(host, server.port), "/health", SHORT_S)
    assert answer.status == 200, answer


@pytest.mark.parametrize(
    ("attend", "kind"),
    [
        pytest.param(_silent, HUNG, id="accepts and never answers"),
        pytest.param(_drips, HUNG, id="drips headers for ever"),
        pytest.param(_garbage, NOT_HTTP, id="garbage"),
        pytest.param(_closes, NOT_HTTP, id="closes"),
    ],
)
def test_servers_that_do_not_answer(attend: Callable[[socket.socket], None], kind: str) -> None:
    with raw_server(attend) as port:
        begun = time.monotonic()
        answer = ask(Target("127.0.0.1", port), "/health", SHORT_S)
        took_s = time.monotonic() - begun
    assert answer.kind == kind, answer
    assert took_s < SHORT_S + 0.5
    assert str(port) in answer.detail


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert ask(Target("127.0.0.1", port), "/health", SHORT_S).kind == NOTHING_LISTENS


def test_a_name_that_does_not_resolve() -> None:
    assert ask(Target("no.such.name.invalid", 1), "/health", SHORT_S).kind in (UNREACHABLE, HUNG)


def test_a_resolver_that_hangs_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hangs(*_: object, **__: object) -> None:
        over.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    answer = ask(Target("leader.invalid", 1), "/ping", 0.6)
    over.set()
    assert answer.kind == UNREACHABLE
    assert "resolver" in answer.detail


def test_a_full_queue_is_told_from_a_server_that_accepts() -> None:
    with socket.socket() as full, ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        answer = ask(Target("127.0.0.1", full.getsockname()[1]), "/health", 1.0)
    assert answer.kind == HUNG
    assert "does not even accept" in answer.detail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        skip_or_fail("server", "needs the program `openssl` for a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2", "-subj", "/CN=sglang"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("told", [True, False], ids=["its command line says TLS", "nothing says TLS"])
def test_tls(certificate: Path, told: bool) -> None:
    with http_server({"/health": 200}, tls=certificate) as server:
        answer = ask(Target("127.0.0.1", server.port, secure=told), "/health", 5)
    assert answer.status == 200, answer
    assert answer.detail.startswith("https://")


def test_no_tls_where_the_command_line_says_so() -> None:
    with http_server({"/health": 200}) as server:
        assert ask(Target("127.0.0.1", server.port, secure=True), "/health", 5).status == 200


def test_proxies_of_the_pod_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    with http_server({"/health": 200}) as server:
        assert ask(Target("127.0.0.1", server.port), "/health", SHORT_S).status == 200


PYTHON = "/usr/bin/python3"
SERVER = (PYTHON, "-m", "sglang.launch_server")


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        ((*SERVER, "--port", "1"), ("--port", "1")),
        ((PYTHON, "-u", "-m", "sglang.launch_server"), ()),
        ((PYTHON, "-u", "-X", "faulthandler", "-W", "error", "-m", "sglang.launch_server", "--a"), ("--a",)),
        (("/opt/conda/bin/python3.12", "-m", "sglang.launch_server"), ()),
        (("/usr/local/bin/sglang", "serve", "--port", "1"), ("--port", "1")),
        ((PYTHON, "-m"), None),
        ((PYTHON, "/opt/sglang/launch_server.py", "--tp", "8"), ("--tp", "8")),
        ((PYTHON, "/usr/local/bin/sglang", "serve", "--port", "1"), ("--port", "1")),
        (("sglang::scheduler_TP0",), None),
        ((PYTHON, "-c", "from multiprocessing.spawn import spawn_main; spawn_main(7)"), None),
        (("sh", "-c", "python3 -m sglang.launch_server --port 1"), None),
        ((PYTHON, "-m", "sglang.bench_serving"), None),
        ((PYTHON, "x.py", "a", "b", "-m", "sglang.launch_server"), None),
        ((), None),
    ],
)
def test_a_server_is_known_by_its_command_line(argv: tuple[str, ...], arguments: tuple[str, ...] | None) -> None:
    assert sglang_arguments(argv) == arguments


@pytest.mark.parametrize(
    ("argv", "launcher"),
    [
        ((PYTHON, "/usr/local/bin/sglang-roce-entry", "--model-path", "/m"), True),
        ((PYTHON, "-m", "sglang_roce_entry", "--rdma", "off"), True),
        (("/usr/local/bin/sglang-roce-entry",), True),
        ((PYTHON, "/usr/local/bin/sglang-roce-entry", "--probe", "liveness"), False),
        ((PYTHON, "/usr/local/bin/sglang-roce-entry", "--check=json"), False),
        ((PYTHON, "/usr/local/bin/sglang-roce-entry", "--explain", "NO_OWN_GID"), False),
        (("sh", "-c", "sglang-roce-entry --model-path /m"), False),
    ],
)
def test_a_launcher_is_known_by_its_command_line(argv: tuple[str, ...], launcher: bool) -> None:
    assert is_launcher(argv) == launcher


def _process(
    pid: int, parent: int = 0, namespace: str | None = "mnt:1", argv: tuple[str, ...] = SERVER
) -> RunningProcess:
    return RunningProcess(pid, parent, argv, None, namespace)


def test_of_a_family_the_parent_counts_and_other_containers_do_not() -> None:
    listed = [_process(1), _process(20, parent=1), _process(30, namespace="mnt:2"), _process(40, namespace=None)]
    assert [process.pid for process, _ in pick(listed, own_pid=99, own_namespace="mnt:1").servers] == [1, 40]
    assert pick([_process(7)], own_pid=7, own_namespace=None).servers == ()


def _found(*argv: str) -> Found:
    return Found(((RunningProcess(1, 0, (*SERVER, *argv)), tuple(argv)),))


def _no_file(folder: str | None, path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory")


REFUSED_TO_SAY = Answer(UNREACHABLE, "no route")
MEANINGS = [
    # answer, startup and readiness, liveness
    (Answer(ANSWERED, "200", 200), True, True),
    (Answer(ANSWERED, "503", 503), False, True),  # it loads or drains: never killed for that
    (Answer(ANSWERED, "401", 401), False, True),
    (Answer(ANSWERED, "404", 404), False, True),
    (Answer(ANSWERED, "302", 302), False, False),
    (Answer(NOTHING_LISTENS, "refused"), False, True),  # the model is being loaded
    (Answer(HUNG, "hung"), False, False),
    (Answer(NOT_HTTP, "garbage"), False, False),
    (REFUSED_TO_SAY, False, True),
]


@pytest.mark.parametrize(("answer", "ready", "alive"), MEANINGS)
def test_meaning_of_each_answer(answer: Answer, ready: bool, alive: bool) -> None:
    for kind, passes in ((STARTUP, ready), (READINESS, ready), (LIVENESS, alive)):
        verdict = probe(kind, (), _found(), lambda target, path: answer, _no_file)
        assert verdict.passed == passes, kind
        assert answer.detail in verdict.reason
        assert "\n" not in verdict.reason


@pytest.mark.parametrize("kind", OF_HEALTH)
def test_only_paths_that_need_no_key_decide_readiness(kind: str) -> None:
    asked: list[str] = []

    def answer(target: Target, path: str) -> Answer:
        asked.append(path)
        return Answer(ANSWERED, "", 200)

    probe(kind, (), _found("--api-key", "s3cr3t"), answer, _no_file)
    assert asked == (["/ping"] if kind == LIVENESS else ["/health"])


@pytest.mark.parametrize(
    ("argv", "target", "role"),
    [
        ((), Target("127.0.0.1", 30000), "leader"),
        (("--host", "0.0.0.0", "--port", "40000"), Target("0.0.0.0", 40000), "leader"),
        (("--po=1", "--ho", "::", "--node-rank", "1"), Target("::", 1), "worker 1"),
        (("--ssl-certfile", "c", "--ssl-keyfile", "k"), Target("127.0.0.1", 30000, secure=True), "leader"),
    ],
)
def test_host_port_and_role_of_a_command_line(argv: tuple[str, ...], target: Target, role: str) -> None:
    seen: list[Target] = []

    def answer(asked: Target, path: str) -> Answer:
        seen.append(asked)
        return Answer(ANSWERED, "200", 200)

    for given, found in (((), _found(*argv)), (argv or ("--port", "30000"), Found())):
        verdict = probe(READINESS, given, found, answer, _no_file)
        assert verdict.passed
        assert verdict.reason.startswith(f"{role}: ")
    assert set(seen) == {target}


def test_a_config_file_is_read_where_the_server_stands() -> None:
    found = Found(((RunningProcess(1, 0, SERVER, "/srv"), ("--config", "c.yaml")),))
    seen: list[Target] = []

    def answer(asked: Target, path: str) -> Answer:
        seen.append(asked)
        return Answer(ANSWERED, "200", 200)

    verdict = probe(
        READINESS, (), found, answer, lambda folder, path: {("/srv", "c.yaml"): "port: 41000"}[folder or "", path]
    )
    assert verdict.passed
    assert seen == [Target("127.0.0.1", 41000)]


def test_a_launcher_that_still_waits_is_alive_and_not_ready() -> None:
    def answer(target: Target, path: str) -> Answer:
        raise AssertionError("nothing is to be asked")

    found = Found((), (1,))
    verdicts = {kind: probe(kind, (), found, answer, _no_file) for kind in OF_HEALTH}
    assert {kind: verdict.passed for kind, verdict in verdicts.items()} == {
        STARTUP: False, READINESS: False, LIVENESS: True,
    }  # fmt: skip
    assert all("has not started SGLang yet" in verdict.reason for verdict in verdicts.values())


def test_no_server_and_several_servers() -> None:
    def answer(target: Target, path: str) -> Answer:
        raise AssertionError("nothing is to be asked")

    two = Found(
        (
            (RunningProcess(5, 0, SERVER), ("--port", "1")),
            (RunningProcess(6, 0, SERVER), ("--port", "2")),
        )
    )
    for kind in OF_HEALTH:
        assert not probe(kind, (), Found(), answer, _no_file).passed
        verdict = probe(kind, (), two, answer, _no_file)
        assert verdict.passed == (kind == LIVENESS), "nobody is killed because a probe cannot tell"
        assert "5, 6" in verdict.reason


def _run(*argv: str) -> tuple[int, str, str, float]:
    begun = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SGLANG_", "LWS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", *argv],
        capture_output=True, text=True, timeout=60, check=False, env=environ,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr, time.monotonic() - begun


@pytest.mark.parametrize(
    ("health", "codes"),
    [(200, {STARTUP: 0, READINESS: 0, LIVENESS: 0}), (503, {STARTUP: 1, READINESS: 1, LIVENESS: 0})],
)
def test_the_command(health: int, codes: dict[str, int]) -> None:
    with http_server({"/health": health, "/ping": 200}, key="s3cr3t") as server:
        for kind, code in codes.items():
            got, out, err, _ = _run("--probe", kind, "--", "--port", str(server.port), "--api-key", "s3cr3t")
            assert got == code
            assert out.count("\n") == 1
            assert out.startswith("ok: " if code == 0 else "failed: ")
            assert err == ""
            assert "s3cr3t" not in out


def test_the_command_against_a_hung_server() -> None:
    with raw_server(_silent) as port:
        for kind in (READINESS, LIVENESS):
            code, out, _, took_s = _run("--probe-timeout", "1", "--probe", kind, "--", "--port", str(port))
            assert code == 1
            assert "does not answer" in out
            assert took_s < 1 + 5, "the time of a start on a busy machine, not the 25 s"


@pytest.mark.parametrize(
    "argv",
    [
        ("--probe", "health"),
        ("--probe", "liveness,health"),
        ("--probe", "liveness,"),
        ("--probe=",),
        ("--probe",),
        ("--snapshot", "h20-roce", "--probe", "liveness"),
        ("--probe", "liveness", "bash"),
    ],
)
def test_usage_errors(argv: tuple[str, ...]) -> None:
    code, out, err, _ = _run(*argv)
    assert (code, out) == (2, "")
    assert "fix: " in err


def test_settings_that_are_wrong_kill_nobody() -> None:
    for kind, code in ((READINESS, 1), (LIVENESS, 0)):
        got, out, err, _ = _run("--policy", "/none.yaml", "--probe", kind)
        assert (got, err) == (code, "")
        assert "cannot tell: policy file '/none.yaml' cannot be read" in out


def test_a_probe_loads_http_only_to_ask_a_server_and_nothing_of_a_launch() -> None:
    code = "import sys, sglang_roce_entry.server.probe.kinds; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"requests", "urllib3", "http.client", "ssl", "yaml", "threading"}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("sglang_roce_entry.")}
    assert rooms == {"server", "group", "problems", "named_file", "probe_kinds"}


def test_a_process_is_read_as_the_kernel_shows_it(tmp_path: Path) -> None:
    code = "import sys, time; sys.stdout.write('here'); sys.stdout.flush(); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, "a b", "", "\udcff"], stdout=subprocess.PIPE, cwd=tmp_path
    ) as one:
        assert one.stdout is not None
        one.stdout.read(4)
        (found,) = [found for found in processes_here(lambda argv: "\udcff" in argv) if found.pid == one.pid]
        one.kill()
    assert found.argv == (sys.executable, "-c", code, "a b", "", "\udcff")
    assert (found.parent, found.cwd) == (os.getpid(), str(tmp_path))
    assert found.mount_namespace == os.readlink("/proc/self/ns/mnt")


def test_a_thread_is_of_its_process() -> None:
    goes_on = threading.Event()
    thread = threading.Thread(target=goes_on.wait)
    thread.start()
    number = thread.native_id or 0
    assert number != os.getpid()
    assert process_of(number) == process_of(os.getpid()) == os.getpid()
    goes_on.set()
    thread.join()
    assert process_of(1 << 22) == 0  # no kernel gives such a number


def test_a_timeout_of_nothing_is_refused() -> None:
    assert _run("--probe-timeout", "0", "--probe", "liveness")[0] == 2
