"""One question to SGLang's server in this pod, with a time limit that no server can stretch."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from sglang_roce_entry.group.endpoint import IpAddress, bracketed, literal
from sglang_roce_entry.server.probe.connection import Connection, connected
from sglang_roce_entry.server.probe.http import status_of

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
    """Return what ``GET path`` gives within ``timeout_s``, which bounds all steps together."""
    deadline = monotonic() + timeout_s
    reached = _reach(target, deadline)
    if isinstance(reached, Answer):
        return reached
    failures: list[str] = []
    for scheme in ("https", "http") if target.secure else ("http", "https"):
        try:
            with reached.again() if failures else reached as connection:
                if scheme == "https":
                    from sglang_roce_entry.server.probe.tls import secure

                    secure(connection)
                status = status_of(connection, path)
        except TimeoutError:
            return Answer(HUNG, f"{target} accepts but does not answer {path} within {timeout_s:g} s")
        except (OSError, ValueError) as failure:
            failures.append(f"{scheme}: {failure}"[:160])
        else:
            return Answer(ANSWERED, f"{scheme}://{target}{path} answered {status}", status)
    return Answer(NOT_HTTP, f"{target} accepts, but its answer is not HTTP ({'; '.join(failures)})")


def _reach(target: Target, deadline: float) -> Connection | Answer:
    """Return a connection to the first address that accepts, or why none does."""
    # Half of the time, to tell a resolver that hangs from a server that does.
    addresses = _addresses(target.host, (deadline - monotonic()) / 2)
    if isinstance(addresses, str):
        return Answer(UNREACHABLE, addresses)
    answer = Answer(UNREACHABLE, f"{target} is unreachable")
    for address in addresses:
        try:
            return connected(str(address), target.port, deadline)
        except TimeoutError:
            return Answer(
                HUNG, f"{target} does not even accept connections: its queue is full, or packets are filtered"
            )
        except (ConnectionRefusedError, ConnectionResetError):
            answer = Answer(NOTHING_LISTENS, f"nothing listens on {target}")
        except OSError:
            continue  # no IPv6 here, no route
    return answer


def _addresses(host: str, within_s: float) -> tuple[IpAddress, ...] | str:
    """Return the addresses of a host, or why there is none."""
    host = host.removeprefix("[").removesuffix("]")
    if host in _WILDCARDS:
        return tuple(address for text in _WILDCARDS[host] if (address := literal(text)) is not None)
    address = literal(host)
    if address is not None:
        return (address,)
    from sglang_roce_entry.server.probe.resolving import resolved

    return resolved(host, max(0.0, within_s))
