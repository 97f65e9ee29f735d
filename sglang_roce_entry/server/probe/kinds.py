"""``--probe``: what startup, readiness and liveness mean for a node of an SGLang group.

startup, readiness
    the node's own ``/health`` answers 200. On the leader that is a token that was really generated, 503
    while it starts or drains. On a worker (rank above 0) it is SGLang's small server, which listens
    as soon as the worker's shards are loaded.
ranks
    none that NCCL considers dead (``ranks.py``).
liveness
    the server's process exists, and if it listens it answers, whatever the status. A node that loads a
    model does not listen yet, and one that drains answers 503: both are alive, and so is a launcher that
    still waits for its leader. A server that accepts and does not answer is dead.

A gRPC server in the place of HTTP (``--grpc-mode``, ``--smg-grpc-mode``) is asked by gRPC's standard health
protocol, which SGLang's has (``srt/grpc/health_servicer.py``): NOT_SERVING while it starts or drains. One that
accepts and gives no word on its health is taken for ready and alive. A worker of 0.5.23 has that service too
(smg-grpc-servicer 0.14.1) or HTTP (``engine.py``), an earlier one nothing.

``/health`` and all that begins so needs no key with ``--api-key``; ``/ping``, which liveness asks, does,
and the refusal is an answer (``srt/utils/auth.py``, ``decide_request_auth``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sglang_roce_entry.named_file import read_in
from sglang_roce_entry.probe_kinds import LIVENESS, RANKS, READINESS, STARTUP
from sglang_roce_entry.problems import EntryError
from sglang_roce_entry.server.arguments import read_arguments
from sglang_roce_entry.server.probe.ask import (
    ANSWERED,
    HUNG,
    NO_HEALTH,
    NOT_HTTP,
    NOTHING_LISTENS,
    Answer,
    Target,
    ask,
)
from sglang_roce_entry.server.running import Found, running_here

_HEALTH, _PING = "/health", "/ping"
_DEFAULT_HOST = "127.0.0.1"  # SGLang's --host
_NOT_SGLANG = "SGLang does not redirect, something else answers here"

#: SGLang's ``/health`` generates a token and gives that 20 s (SGLANG_HEALTH_CHECK_TIMEOUT).
TIMEOUT_S = {STARTUP: 25.0, READINESS: 25.0, LIVENESS: 10.0, RANKS: 10.0}
_NEVER_FOR_THAT = (LIVENESS, RANKS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a probe passes, one line why, and lines that a person may want besides."""

    passed: bool
    reason: str
    details: tuple[str, ...] = ()


def probe(
    kind: str,
    given: Sequence[str],
    found: Found,
    ask: Callable[[Target, str], Answer],
    read_file: Callable[[str | None, str], str],
) -> Verdict:
    """Return the verdict of a probe ``OF_HEALTH``.

    ``given`` are SGLang arguments after ``--``, which replace the command line of the running server.
    ``read_file(folder, path)`` reads a ``--config`` file that a process in ``folder`` (``None``: not known) names.
    """
    if not given and not found.servers:
        if found.launchers:
            waits = f"the launcher (process {found.launchers[0]}) has not started SGLang yet"
            return Verdict(kind == LIVENESS, waits)
        return Verdict(False, "no SGLang server is running here (its arguments can be given after --)")
    try:
        servers = _targets(given, found, read_file)
    except EntryError as failure:
        return cannot_tell(kind, f"{failure.message}; {failure.hint}")
    if len(servers) > 1:
        pids = ", ".join(str(process.pid) for process, _ in found.servers)
        return cannot_tell(
            kind, f"several SGLang servers are running here (processes {pids}): give the arguments of one after --"
        )
    ((target, rank),) = servers.items()
    answer = ask(target, _PING if kind == LIVENESS else _HEALTH)
    who = f"{'leader' if rank == 0 else f'worker {rank}'}: {answer.detail}"
    if kind == LIVENESS:
        return _alive(who, answer, target, found.servers[0][0].pid if found.servers else None)
    return _ready(who, answer, target, rank)


def cannot_tell(kind: str, why: str) -> Verdict:
    """Return the verdict of a probe that could not ask: no container is killed for that."""
    return Verdict(kind in _NEVER_FOR_THAT, f"cannot tell: {why}")


def _targets(given: Sequence[str], found: Found, read_file: Callable[[str | None, str], str]) -> dict[Target, int]:
    """Return where to ask, with the rank of the node that listens there. Raises ``EntryError``."""
    told = [(tuple(given), ".")] if given else [(arguments, process.cwd) for process, arguments in found.servers]
    targets: dict[Target, int] = {}
    for arguments, folder in told:
        user = read_arguments(arguments, partial(read_file, folder))
        host = user.text("host")
        host = _DEFAULT_HOST if host is None else host
        # The native gRPC server of --grpc-port is beside HTTP, these are in its place.
        grpc = "grpc_mode" in user.values or "smg_grpc_mode" in user.values
        target = Target(host, user.http_port, user.text("ssl_certfile") is not None, grpc)
        targets.setdefault(target, user.number("node_rank", 0, lowest=0))
    return targets


def _ready(who: str, answer: Answer, target: Target, rank: int) -> Verdict:
    if answer.kind == ANSWERED and answer.status == 200:
        return Verdict(True, who)
    if answer.kind == ANSWERED and answer.status == 503:
        return Verdict(False, f"{who}: it is starting, draining, or could not generate a token")
    if _redirects(answer):
        return Verdict(False, f"{who}: {_NOT_SGLANG}")
    if answer.kind == NOTHING_LISTENS and target.grpc and rank > 0:
        return Verdict(True, f"cannot tell: {who}: a worker of a gRPC server may listen nowhere")
    if answer.kind == NOTHING_LISTENS:
        return Verdict(False, f"{who}: the model is not loaded yet")
    return _of_grpc(who, answer, target) or Verdict(False, who)


def _alive(who: str, answer: Answer, target: Target, pid: int | None) -> Verdict:
    if _redirects(answer):
        return Verdict(False, f"{who}: {_NOT_SGLANG}")
    if answer.kind == NOTHING_LISTENS:
        runs = f"process {pid} runs" if pid is not None else "its process cannot be seen from here"
        return Verdict(True, f"{who}: it is loading the model ({runs})")
    # A name that does not resolve, no route: a restart of this container would not help.
    return _of_grpc(who, answer, target) or Verdict(answer.kind not in (HUNG, NOT_HTTP), who)


def _of_grpc(who: str, answer: Answer, target: Target) -> Verdict | None:
    """Return the verdict on a gRPC server that accepts and whose health cannot be read: it is no failure."""
    return Verdict(True, f"cannot tell: {who}") if target.grpc and answer.kind in (NO_HEALTH, NOT_HTTP) else None


def _redirects(answer: Answer) -> bool:
    return answer.status is not None and 300 <= answer.status < 400


def run_probe(kind: str, given: Sequence[str], timeout_s: float) -> Verdict:
    """Return the verdict on the server that runs here; the whole answer has ``timeout_s``."""
    return probe(kind, given, running_here(), lambda target, path: ask(target, path, timeout_s), read_in)
