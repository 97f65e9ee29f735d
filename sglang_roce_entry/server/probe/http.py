"""One question to an HTTP server of this pod, with a time limit that no server can stretch."""

from __future__ import annotations

from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

import requests
import urllib3

from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, TIMED_OUT, connect_any
from sglang_roce_entry.group.endpoint import IpAddress, bracketed, literal
from sglang_roce_entry.group.names import NotResolved, Resolver
from sglang_roce_entry.server.probe.answer import (
    ANSWERED,
    HUNG,
    NOT_HTTP,
    NOTHING_LISTENS,
    UNREACHABLE,
    Answer,
    Target,
)

#: Where a server that listens everywhere is asked. With ``::`` the kernel may leave IPv4 out.
_WILDCARDS = {"": ("127.0.0.1",), "0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}  # noqa: S104


def ask(target: Target, path: str, timeout_s: float) -> Answer:
    """Return what ``GET path`` gives within ``timeout_s``.

    A timeout of requests bounds each read, not their sum: a server that sends a byte now and then would
    hold it for ever. So it is asked in a thread, which may outlive our patience.
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
    schemes = ("https", "http") if target.secure else ("http", "https")
    failures = []
    for scheme in schemes:
        try:
            status = _status(f"{scheme}://{bracketed(str(address))}:{target.port}{path}", deadline - monotonic())
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


def _status(url: str, timeout_s: float) -> int:
    """Return the status line's code; ``TimeoutError`` without one in time, ``ValueError`` if it is not HTTP."""
    # The certificate is for the Service's name, not for the loopback; kubelet's probes ignore it too.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    with requests.Session() as session:
        session.trust_env = False  # no proxy, no .netrc: the server is in this pod
        try:
            response = session.get(
                url, timeout=max(0.01, timeout_s), verify=False, allow_redirects=False, stream=True
            )
        except requests.Timeout as failure:
            raise TimeoutError from failure
        except (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError) as failure:
            raise ValueError(_innermost(failure)) from failure
        with response:
            return response.status_code


def _innermost(failure: BaseException) -> str:
    while failure.__context__ is not None:
        failure = failure.__context__
    return " ".join(f"{type(failure).__name__}: {failure}".split())[:120]
