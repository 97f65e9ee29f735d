"""Name look-ups that cannot hang the caller: getaddrinfo has no time limit of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from time import monotonic

from sglang_roce_entry.group.attempts import within
from sglang_roce_entry.group.endpoint import IpAddress, literal, no_host

Addresses = tuple[IpAddress, ...]

#: An answer older than this is asked for again: a recreated leader has another address.
FRESH_S = 2.0


class NotResolved(Exception):
    """A name gave no address. ``silent``: the resolver has not answered yet."""

    def __init__(self, host: str, reason: str, *, silent: bool = False) -> None:
        super().__init__(f"{host}: {reason}")
        self.host = host
        self.reason = reason
        self.silent = silent


class _Pending:
    """One look-up in flight, in a thread that may outlive the caller's patience."""

    def __init__(self, host: str, query: Callable[[str], Addresses], clock: Callable[[], float]) -> None:
        self.host = host
        self.started = clock()
        self.finished: float | None = None
        self.addresses: Addresses = ()
        self.failure: str | None = None
        self.done = threading.Event()
        self._query = query
        self._clock = clock
        threading.Thread(target=self._run, name=f"resolve {host}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.addresses = self._query(self.host)
        except OSError as error:
            self.failure = error.strerror or str(error)
        except UnicodeError as error:
            self.failure = f"is not a host name ({error})"
        self.finished = self._clock()
        self.done.set()


class Resolver:
    """Looks names up, IPv4 first. One thread at a time: a silent resolver is not asked again and again."""

    def __init__(
        self,
        query: Callable[[str], Addresses] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._query = query or system_addresses
        self._clock = clock
        self._pending: _Pending | None = None

    def addresses(self, host: str, timeout_s: float) -> Addresses:
        """Return the addresses of ``host`` within ``timeout_s``; a literal is its own address.

        Raises :class:`NotResolved`, also when the resolver has not answered in time.
        """
        address = literal(host)
        if address is not None:
            return (address,)
        pending = self._pending
        if pending is None or pending.host != host or self._stale(pending):
            pending = self._pending = _Pending(host, self._query, self._clock)
        if not pending.done.wait(timeout_s):
            waited = self._clock() - pending.started
            raise NotResolved(host, f"the resolver has not answered{within(waited)}", silent=True)
        self._pending = None
        if pending.failure is not None:
            raise NotResolved(host, pending.failure)
        return of_hosts(host, pending.addresses)

    def _stale(self, pending: _Pending) -> bool:
        return pending.finished is not None and self._clock() - pending.finished > FRESH_S


def of_hosts(host: str, addresses: Sequence[IpAddress]) -> Addresses:
    """Return those of a name's addresses that a host can have. Raises :class:`NotResolved` if there is none.

    A DNS server that blocks a name, or a line of ``/etc/hosts``, gives 0.0.0.0; a connect to it reaches this pod.
    """
    kinds = {address: no_host(address) for address in addresses}
    found = tuple(address for address, kind in kinds.items() if kind is None)
    if not found:
        listed = "; ".join(f"resolves to {address}, {kind}" for address, kind in kinds.items())
        raise NotResolved(host, listed or "has no address")
    return found


def system_addresses(host: str) -> Addresses:
    """Return the answers of getaddrinfo, IPv4 first, without duplicates or scopes. Raises ``OSError``."""
    # For a str Python loads its IDNA codec, two milliseconds, also where every character is ASCII.
    plain = host.encode() if host.isascii() else host
    answers = socket.getaddrinfo(plain, None, type=socket.SOCK_STREAM)
    found = dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in answers)
    return tuple(sorted(found, key=lambda address: address.version))
