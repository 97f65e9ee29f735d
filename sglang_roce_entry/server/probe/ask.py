"""One question to SGLang's server in this pod, with a time limit that no server can stretch."""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, TIMED_OUT, connect_any
from sglang_roce_entry.group.endpoint import IpAddress, bracketed, literal
from sglang_roce_entry.group.names import NotResolved, Resolver

ANSWERED, NOTHING_LISTENS, HUNG, NOT_HTTP, UNREACHABLE = (
    "answered",
    "nothing listens",
    "hung",
    "not http",
    "unreachable",
)
#: Where a server that listens everywhere is asked. With ``::`` the kernel may leave IPv4 out.
_WILDCARDS = {"": ("127.0.0.1",), "0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens, by its command line."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        """Return ``host:port``, an IPv6 address in brackets."""
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of the question; ``status`` only with ``ANSWERED``."""

    kind: str
    detail: str
    status: int | None = None


def ask(target: Target, path: str, timeout_s: float) -> Answer:
    """Return what ``GET path`` gives within ``timeout_s``.

    A timeout of requests bounds each read, not their sum: a server that sends a byte now and then would
    hold it forever. So it is asked in a thread, which may outlive our patience.
    """
    hung = Answer(HUNG, f"{target} accepts but does not answer {path} within {timeout_s:g} s")
    answers: SimpleQueue[Answer | Exception] = SimpleQueue()
    deadline = monotonic() + timeout_s

    def run() -> None:
        try:
            answers.put(_ask(target, path, deadline, hung))
        except Exception as defect:  # noqa: BLE001 - raised again by the caller
            answers.put(defect)

    Thread(target=run, name=f"ask {target}", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except Empty:
        return hung
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ask(target: Target, path: str, deadline: float, hung: Answer) -> Answer:
    try:
        # Half of the time, to tell a resolver that hangs from a server that does.
        addresses = _addresses(target.host, (deadline - monotonic()) / 2)
    except NotResolved as failure:
        return Answer(UNREACHABLE, str(failure))
    address = None
    causes = []
    for candidate in addresses:
        limit_s = 0.9 * (deadline - monotonic())  # leaves time to report that it did not even accept
        probe = connect_any((candidate,), (target.port,), max(0.0, limit_s))
        causes.append(probe.cause)
        if probe.cause == ACCEPTED:
            address = candidate
            break
    if address is None:
        if TIMED_OUT in causes:
            return Answer(
                HUNG, f"{target} does not even accept connections: its queue is full, or packets are filtered"
            )
        if REFUSED in causes:
            return Answer(NOTHING_LISTENS, f"nothing listens on {target}")
        return Answer(UNREACHABLE, f"{target} is unreachable")
    from sglang_roce_entry.server.probe.http import status_of

    schemes = ("https", "http") if target.secure else ("http", "https")
    failures = []
    for scheme in schemes:
        try:
            status = status_of(f"{scheme}://{bracketed(str(address))}:{target.port}{path}", deadline - monotonic())
        except TimeoutError:
            return hung
        except ValueError as failure:
            failures.append(f"{scheme}: {failure}")
        else:
            return Answer(ANSWERED, f"{scheme}://{target}{path} answered {status}", status)
    return Answer(NOT_HTTP, f"{target} accepts, but its answer is not HTTP ({'; '.join(failures)})")


def _addresses(host: str, within_s: float) -> tuple[IpAddress, ...]:
    host = host.removeprefix("[").removesuffix("]")
    if host in _WILDCARDS:
        return tuple(address for text in _WILDCARDS[host] if (address := literal(text)) is not None)
    return Resolver().addresses(host, max(0.0, within_s))
