"""``--probe``: what startup, readiness and liveness mean for a node of an SGLang group.

startup, readiness
    the node's own ``/health`` answers 200. On the leader that is a token that was really generated, 503
    while it starts or drains. On a worker (rank above 0) it is SGLang's small server, which listens
    as soon as the worker's shards are loaded.
liveness
    the server's process exists, and if it listens it answers, whatever the status. A node that loads a
    model does not listen yet, and one that drains answers 503: both are alive, and so is a launcher that
    still waits for its leader. A server that accepts and does not answer is dead.

``/health`` and all that begins so needs no key with ``--api-key``; ``/ping``, which liveness asks, does,
and the refusal is an answer (``srt/utils/auth.py``, ``decide_request_auth``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglang_roce_entry.named_file import read_named
from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.server.arguments import read_arguments
from sglang_roce_entry.server.probe.ask import ANSWERED, HUNG, NOT_HTTP, NOTHING_LISTENS, Answer, Target, ask
from sglang_roce_entry.server.running import Found, running_here

STARTUP, READINESS, LIVENESS = "startup", "readiness", "liveness"
KINDS = (STARTUP, READINESS, LIVENESS)
_HEALTH, _PING = "/health", "/ping"
_DEFAULT_HOST = "127.0.0.1"  # SGLang's --host

#: SGLang's ``/health`` generates a token and gives that 20 s (SGLANG_HEALTH_CHECK_TIMEOUT).
TIMEOUT_S = {STARTUP: 25.0, READINESS: 25.0, LIVENESS: 10.0}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a probe passes, and one line why."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Server:
    target: Target
    rank: int
    pid: int | None

    @property
    def role(self) -> str:
        return "leader" if self.rank == 0 else f"worker {self.rank}"


def probe(
    kind: str,
    given: Sequence[str],
    found: Found,
    ask: Callable[[Target, str], Answer],
    read_file: Callable[[str | None, str], str],
) -> Verdict:
    """Return the verdict of a probe.

    ``given`` are SGLang arguments after ``--``, which replace the command line of the running server.
    ``read_file(folder, path)`` reads a ``--config`` file.
    """
    if not given and not found.servers:
        if found.launchers:
            waits = f"the launcher (process {found.launchers[0]}) has not started SGLang yet"
            return Verdict(kind == LIVENESS, waits)
        return Verdict(False, "no SGLang server is running here (its arguments can be given after --)")
    try:
        server = _server(given, found, read_file)
    except EntryError as failure:
        return cannot_tell(kind, f"{failure.message}; {failure.hint}")
    if server is None:
        pids = ", ".join(str(process.pid) for process, _ in found.servers)
        return cannot_tell(
            kind, f"several SGLang servers are running here (processes {pids}): give the arguments of one after --"
        )
    if kind == LIVENESS:
        return _alive(server, ask(server.target, _PING))
    return _ready(server, ask(server.target, _HEALTH))


def cannot_tell(kind: str, why: str) -> Verdict:
    """Return the verdict of a probe that could not ask: no container is killed for that."""
    return Verdict(kind == LIVENESS, f"cannot tell: {why}")


def _server(given: Sequence[str], found: Found, read_file: Callable[[str | None, str], str]) -> _Server | None:
    """Return the server to ask, ``None`` if several run at different places. Raises ``EntryError``."""
    pid = found.servers[0][0].pid if found.servers else None
    if given:
        return _described(tuple(given), None, pid, read_file)
    servers = [_described(arguments, process.cwd, process.pid, read_file) for process, arguments in found.servers]
    first = servers[0]
    return first if all(other.target == first.target for other in servers) else None


def _described(
    arguments: tuple[str, ...], folder: str | None, pid: int | None, read_file: Callable[[str | None, str], str]
) -> _Server:
    user = read_arguments(arguments, lambda path: read_file(folder, path))
    host = user.text("host")
    secure = user.text("ssl_certfile") is not None
    target = Target(_DEFAULT_HOST if host is None else host, user.http_port, secure)
    return _Server(target, user.number("node_rank", 0, lowest=0), pid)


def _ready(server: _Server, answer: Answer) -> Verdict:
    who = f"{server.role}: {answer.detail}"
    if answer.kind == ANSWERED and answer.status == 200:
        return Verdict(True, who)
    if answer.kind == ANSWERED and answer.status == 503:
        return Verdict(False, f"{who}: it is starting, draining, or could not generate a token")
    if answer.kind == ANSWERED and answer.status is not None and 300 <= answer.status < 400:
        return Verdict(False, f"{who}: SGLang does not redirect, something else answers here")
    if answer.kind == NOTHING_LISTENS:
        return Verdict(False, f"{who}: the model is not loaded yet")
    return Verdict(False, who)


def _alive(server: _Server, answer: Answer) -> Verdict:
    who = f"{server.role}: {answer.detail}"
    if answer.kind == ANSWERED and answer.status is not None:
        redirects = 300 <= answer.status < 400
        return Verdict(
            not redirects, f"{who}: SGLang does not redirect, something else answers here" if redirects else who
        )
    if answer.kind == NOTHING_LISTENS:
        runs = f"process {server.pid} runs" if server.pid is not None else "its process cannot be seen from here"
        return Verdict(True, f"{who}: it is loading the model ({runs})")
    if answer.kind in (HUNG, NOT_HTTP):
        return Verdict(False, who)
    # A name that does not resolve, no route: a restart of this container would not help.
    return Verdict(True, who)


def run_probe(kind: str, given: Sequence[str], timeout_s: float | None) -> Verdict:
    """Return the verdict on the server that runs here; the whole answer has ``timeout_s``."""
    limit_s = TIMEOUT_S[kind] if timeout_s is None else timeout_s

    def read_file(folder: str | None, path: str) -> str:
        return read_named(os.path.join(folder or ".", path))

    return probe(kind, given, running_here(), lambda target, path: ask(target, path, limit_s), read_file)
